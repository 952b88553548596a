"""`Codebook`: centroids (or random codes) and the map before them in safetensors, and a JSON file with their origin."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save

from wavlm_lightning.codebooks.linear_map import LinearMap
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.files import sweep_leftovers, write_bytes
from wavlm_lightning.system.reading import check_file, read_json, reading, shown

FORMAT = "wavlm_lightning/codebook/1"
KINDS = ("kmeans", "random", "pca", "phones")
AGAIN = "fit the codebook again"


@dataclass(frozen=True)
class Codebook:
    """A tokeniser: features, mapped if it has a map, get the number of the nearest centroid.

    Attributes:
        centroids: float32 `(size, dim)`; random codes for the quantisers that need no k-means.
        rate: labels per second.
        features: description of the features (see `FeatureSource.describe`).
        fitted: how it was fitted (corpus, split, utterances, frames, seed); `labelled` if labels of people had a part in it.
        kind: `kmeans`, `random` (BEST-RQ), `pca`, or `phones` of alignments (`codebooks/phones.py`).
        map: between features and centroids: PCA or a random projection.

    Example:
        >>> codebook = Codebook.load("runs/demo/codebook")
        >>> labels = codebook.assign(features)   # (frames, 39) -> (frames,)
    """

    centroids: np.ndarray
    rate: float
    features: dict[str, Any]
    fitted: dict[str, Any]
    kind: str = "kmeans"
    map: LinearMap | None = None

    @property
    def classes(self) -> list[str] | None:
        """The name of each label of a codebook of phones; None for other kinds, whose clusters have none."""
        return self.features.get("classes")

    @property
    def size(self) -> int:
        return len(self.centroids)

    @cached_property
    def sha256(self) -> str:
        """Hash of centroids, rate, features and, if there is one, the map; label files carry it."""
        digest = hashlib.sha256(self.centroids.tobytes())
        digest.update(json.dumps([self.rate, self.features], sort_keys=True).encode())
        if self.map is not None:
            digest.update(self.map.sha256.encode())
        return digest.hexdigest()

    def assign(self, features: np.ndarray) -> np.ndarray:
        """Nearest centroid of each frame: float32 `(frames, inputs)` to uint16 `(frames,)`."""
        return self.distances(features).argmin(1).astype(np.uint16)

    def distances(self, features: np.ndarray) -> np.ndarray:
        """Squared distance of each mapped frame to each centroid, less the frame's squared norm, float32 `(frames, size)`."""
        if self.map is not None:
            features = self.map(features)
        # |x|^2 - 2 x.C + |C|^2; |x|^2 is the same for all centroids.
        return np.square(self.centroids).sum(1) - 2.0 * (features @ self.centroids.T)

    def save(self, directory: Path | str) -> None:
        """Write `centroids.safetensors`, then `codebook.json`."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        sweep_leftovers(directory)
        tensors = {"centroids": np.ascontiguousarray(self.centroids)}
        body = {"format": FORMAT, "kind": self.kind, "size": self.size, "rate": self.rate, "features": self.features}
        if self.map is not None:
            tensors |= self.map.tensors()
            body |= {"map": self.map.describe()}
        body |= {"fitted": self.fitted, "sha256": self.sha256}
        write_bytes(directory / "centroids.safetensors", save(tensors), durable=True)
        write_bytes(directory / "codebook.json", json.dumps(body, indent=1).encode(), durable=True)

    @classmethod
    def load(cls, directory: Path | str) -> Codebook:
        """Read a codebook folder; a UserError says if there is none, or if its files do not belong together."""
        directory = Path(directory)
        for name in ("codebook.json", "centroids.safetensors"):
            check_file(directory / name, "a file of a codebook")
        about, weights = directory / "codebook.json", directory / "centroids.safetensors"
        if not about.is_file() or not weights.is_file():
            raise UserError(f"{directory}: no codebook here; make one with `wavlm codebook fit` or `phones`")
        body = read_json(about, "the description of a codebook", AGAIN)
        if body.get("format") != FORMAT:
            raise UserError(f"{directory}: its format is not {FORMAT!r}; fit the codebook again")
        kind = body.get("kind", KINDS[0])
        if kind not in KINDS:
            known = ", ".join(KINDS)
            raise UserError(
                f"{directory}: a codebook of kind {shown(kind)}, and this version knows {known}; update wavlm_lightning"
            )
        with reading(weights, "the centroids of a codebook", AGAIN):
            tensors = load_file(weights)
            centroids = tensors["centroids"]
        with reading(about, "the description of a codebook", AGAIN):
            _check(body)
            found = LinearMap.of(body["map"], tensors) if "map" in body else None
            codebook = cls(centroids, body["rate"], body["features"], body["fitted"], kind, found)
            expected = body["sha256"], body.get("size", codebook.size)
        if (codebook.sha256, codebook.size) != expected:
            raise UserError(f"{directory}: centroids and codebook.json do not belong together; fit the codebook again")
        if centroids.ndim != 2 or not np.isfinite(centroids).all():
            raise UserError(f"{directory}: its centroids are not a matrix of finite numbers; fit the codebook again")
        if found is not None and found.dim != centroids.shape[1]:
            raise UserError(f"{directory}: its map and its centroids do not fit together; fit the codebook again")
        return codebook


def _check(body: dict[str, Any]) -> None:
    """Raise `TypeError` or `ValueError` if the content of a `codebook.json` has not the form that `Codebook.save` writes."""
    for name, kind in (("sha256", str), ("features", dict), ("fitted", dict)):
        if not isinstance(body[name], kind):
            raise TypeError(f"`{name}` is {shown(body[name])}, not a {kind.__name__}")
    rate = body["rate"]
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not (math.isfinite(rate) and rate > 0):
        raise ValueError(f"`rate` is {shown(rate)}, not labels a second")
