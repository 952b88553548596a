"""Fit the linear map of a codebook (PCA, or a standardised random projection) to some frames of a corpus."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save

from wavlm_lightning.codebooks.budget import default_budget_gib
from wavlm_lightning.codebooks.extraction import UtteranceSample
from wavlm_lightning.codebooks.linear_map import LinearMap
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.files import atomic_write
from wavlm_lightning.system.reading import reading

# Frames of which mean and covariance are taken: over an hour at 50 Hz, which is plenty for a covariance of 280 or 768 numbers.
STATISTICS_FRAMES = 200_000


@dataclass(frozen=True)
class Projection:
    """A map that is yet to be fitted.

    Attributes:
        kind: `pca`, or `random` (Xavier-uniform, of features that are standardised over the corpus, as in BEST-RQ).
        dim: numbers that it puts out.
        whiten: give every output of a PCA variance 1.
        unit_norm: divide by the norm.
    """

    kind: str
    dim: int
    whiten: bool = False
    unit_norm: bool = False

    def fit(self, frames: np.ndarray, seed: int) -> LinearMap:
        """From some frames of the corpus, float32 `(frames, inputs)`; `seed` is that of a random projection.

        Source: `sklearn.decomposition.PCA`; BEST-RQ (arXiv 2202.01855, section 3.1) for the random projection.

        Raises:
            UserError: more outputs are wanted than inputs or frames are there.
        """
        inputs, explained = frames.shape[1], None  # a random projection has no share of the variance to name
        if not 1 <= self.dim <= inputs:
            raise UserError(f"--dim {self.dim}: these features have {inputs} numbers a frame; give 1 to {inputs}")
        if len(frames) <= self.dim:
            raise UserError(
                f"--dim {self.dim}: a fit needs more than {self.dim} frames, not {len(frames)}; use more audio"
            )
        if self.kind == "random":
            mean, deviation = frames.mean(0, dtype=np.float64), frames.std(0, dtype=np.float64)
            bound = np.sqrt(6 / (inputs + self.dim))
            drawn = np.random.default_rng([seed, 1]).uniform(-bound, bound, (inputs, self.dim))
            # A feature that is constant says nothing, whatever it is divided by.
            matrix = drawn / np.where(deviation > 0, deviation, 1.0)[:, None]
        else:
            from sklearn.decomposition import PCA

            model = PCA(self.dim, whiten=self.whiten, svd_solver="covariance_eigh").fit(frames.astype(np.float64))
            mean, matrix = model.mean_, model.components_.T
            if self.whiten:
                smallest = np.finfo(np.float32).eps * model.explained_variance_.max()
                matrix = matrix / np.sqrt(np.maximum(model.explained_variance_, smallest))
            explained = round(float(np.sum(model.explained_variance_ratio_)), 4)
        one, two = np.ascontiguousarray(mean, np.float32), np.ascontiguousarray(matrix, np.float32)
        return LinearMap(self.kind, one, two, self.whiten, self.unit_norm, explained)


def statistics_sample(draw: UtteranceSample, memory_gib: float | None) -> UtteranceSample:
    """The first utterances of a draw that hold `STATISTICS_FRAMES` frames or, if that is less, fill the memory."""
    held = default_budget_gib() if memory_gib is None else memory_gib
    most = min(STATISTICS_FRAMES, held * 2**30 / (4 * draw.source.describe()["dim"]))
    count = max(1, int(np.searchsorted(np.cumsum(draw.frames), most, side="right")))
    return replace(draw, numbers=draw.numbers[:count], frames=draw.frames[:count])


def fit_map(
    projection: Projection, sample: UtteranceSample, seed: int, jobs: int | None, keep: Path | None
) -> LinearMap:
    """Fit a projection to a sample; parts of one job that find a map in `keep` take it, so that all have the same bits."""
    if keep is None:
        return projection.fit(sample.features(jobs), seed)
    name = (
        f"map-{sample.fingerprint}-{projection.kind}-{projection.dim}-{projection.whiten}-{projection.unit_norm}-{seed}"
    )
    path = keep / f"{name}.safetensors"
    if not path.exists():
        found = projection.fit(sample.features(jobs), seed)
        keep.mkdir(parents=True, exist_ok=True)
        share = np.array([np.nan if found.explained is None else found.explained])
        mine = keep / f"{name}.{os.getpid()}"
        with atomic_write(mine, durable=True) as temporary:
            temporary.write_bytes(save({**found.tensors(), "explained": share}))
        try:
            os.link(mine, path)  # unlike a rename, it does not replace the map of a part that was faster
        except FileExistsError:
            pass
        except OSError:  # a file system without links: there the later of two maps counts
            mine.replace(path)
        finally:
            mine.unlink(missing_ok=True)
    with reading(path, "the map of a codebook", "remove it and run the same command again"):
        tensors = load_file(path)
        explained = float(tensors["explained"][0])
        described = {"kind": projection.kind, "whitened": projection.whiten, "unit_norm": projection.unit_norm}
        return LinearMap.of(described | {"explained": None if np.isnan(explained) else explained}, tensors)
