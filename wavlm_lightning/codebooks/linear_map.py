"""The linear map between features and codes: PCA (plain or whitened) or a random projection, with unit norm for random codes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

SMALLEST_NORM = 1e-12  # a frame of digital silence may be mapped to zero


@dataclass(frozen=True)
class LinearMap:
    """Features to what a codebook compares: `(x - mean) @ matrix`, divided by its norm if `unit_norm`.

    Attributes:
        kind: `pca` or `random`.
        mean: of the features, float32 `(inputs,)`.
        matrix: float32 `(inputs, dim)`.
        whitened: whether the outputs have variance 1 over the corpus.
        unit_norm: whether outputs are divided by their Euclidean norm (BEST-RQ).
        explained: share of the variance of the features that the outputs keep; None for a random projection.
    """

    kind: str
    mean: np.ndarray
    matrix: np.ndarray
    whitened: bool
    unit_norm: bool
    explained: float | None

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Float32 `(frames, inputs)` to float32 `(frames, dim)`."""
        mapped = (features - self.mean) @ self.matrix
        if self.unit_norm:
            mapped /= np.maximum(np.linalg.norm(mapped, axis=1, keepdims=True), SMALLEST_NORM)
        return mapped

    @property
    def dim(self) -> int:
        return int(self.matrix.shape[1])

    @cached_property
    def sha256(self) -> str:
        digest = hashlib.sha256(self.mean.tobytes() + self.matrix.tobytes())
        digest.update(b"unit norm" if self.unit_norm else b"as it is")
        return digest.hexdigest()

    def describe(self) -> dict[str, Any]:
        """What `codebook.json` says of it; the tensors lie beside the centroids."""
        described = {"kind": self.kind, "inputs": len(self.mean), "dim": self.dim, "whitened": self.whitened}
        return described | {"unit_norm": self.unit_norm, "explained": self.explained}

    def tensors(self) -> dict[str, np.ndarray]:
        return {"map.mean": np.ascontiguousarray(self.mean), "map.matrix": np.ascontiguousarray(self.matrix)}

    @classmethod
    def of(cls, description: dict[str, Any], tensors: dict[str, np.ndarray]) -> LinearMap:
        """The map of a description and its tensors.

        Raises:
            ValueError, KeyError: they are not what `describe` and `tensors` give.
        """
        mean, matrix = tensors["map.mean"], tensors["map.matrix"]
        if mean.ndim != 1 or matrix.ndim != 2 or len(mean) != len(matrix):
            raise ValueError(f"a map of shape {matrix.shape} with a mean of shape {mean.shape}")
        if not (np.isfinite(mean).all() and np.isfinite(matrix).all()):
            raise ValueError("its map is not finite")
        unit_norm, explained = description["unit_norm"], description["explained"]
        return cls(description["kind"], mean, matrix, description["whitened"], bool(unit_norm), explained)
