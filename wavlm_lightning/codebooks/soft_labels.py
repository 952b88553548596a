"""Soft labels: the nearest clusters of each frame and their posteriors, and the temperature that fits a corpus."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from wavlm_lightning.codebooks.codebook import Codebook
from wavlm_lightning.codebooks.extraction import features_of
from wavlm_lightning.codebooks.features import FeatureSource
from wavlm_lightning.codebooks.phones import KIND
from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.reading import shown

SEEN = 200  # utterances from which the temperature is taken: its standard error is below 3 % on the mini corpus


@dataclass(frozen=True)
class SoftSetting:
    """How soft labels are made.

    Attributes:
        labels: clusters a frame.
        temperature: T of the posteriors, softmax of -distance^2 / T over all clusters.
    """

    labels: int
    temperature: float

    def about(self) -> dict[str, Any]:
        """As `labels.json` and checkpoints hold it."""
        return {"labels": self.labels, "temperature": self.temperature}

    @classmethod
    def read(cls, head: dict[str, Any]) -> SoftSetting | None:
        """From the content of a checked `labels.json`; None if its labels are hard alone."""
        return cls(**head["soft"]) if "soft" in head else None


def check_soft(soft: Any, size: int) -> str | None:
    """What is wrong with the entry `soft` of `labels.json` for a codebook of `size`; None if it is whole."""
    if not isinstance(soft, dict) or set(soft) != {"labels", "temperature"}:
        return f"its soft labels are {shown(soft)}, not labels and temperature"
    labels, temperature = soft["labels"], soft["temperature"]
    if not isinstance(labels, int) or isinstance(labels, bool) or not 2 <= labels <= size:
        return f"it has {shown(labels)} soft labels a frame, not from 2 to {size}"
    if not isinstance(temperature, int | float) or isinstance(temperature, bool) or not _positive(temperature):
        return f"its temperature is {shown(temperature)}, not a number above 0"
    return None


def check_wanted(codebook: Codebook, labels: int | None, temperature: float | None) -> None:
    """Refuse what `--soft` and `--temperature` cannot be for this codebook."""
    if labels is None:
        if temperature is not None:
            raise UserError("--temperature belongs to soft labels; give --soft K with it")
        return
    if codebook.kind == KIND:
        raise UserError("--soft: a codebook of phones has no distances to its classes; leave it out, or take k-means")
    if not 2 <= labels <= codebook.size:
        raise UserError(f"--soft must be from 2 to {codebook.size}, the clusters of the codebook, not {labels}")
    if temperature is not None and not _positive(temperature):
        raise UserError(f"--temperature must be above 0, not {temperature:g}")


def soft_labels(codebook: Codebook, features: np.ndarray, setting: SoftSetting) -> tuple[np.ndarray, np.ndarray]:
    """The nearest clusters of each frame, nearest first, and their posteriors.

    The first is the hard label, `Codebook.assign`. The posterior of cluster k is softmax(-|x - C_k|^2 / T) over *all* clusters:
    that of a mixture of equal, spherical Gaussians with 2 variance = T, as soft k-means has them (MacKay, Information Theory,
    Inference, and Learning Algorithms, chapter 20). What the other clusters hold is missing from the sum of a row.

    Args:
        features: float32 `(frames, dim)`.

    Returns:
        uint16 and float16 `(frames, setting.labels)`.
    """
    distances = codebook.distances(features)
    order = distances.copy()
    # Before all others, also where several are equally near: it is the hard label.
    np.put_along_axis(order, distances.argmin(1)[:, None], -np.inf, 1)
    nearest = np.argpartition(order, setting.labels - 1, axis=1)[:, : setting.labels]
    nearest = np.take_along_axis(nearest, np.take_along_axis(order, nearest, 1).argsort(1), 1)
    logits = (distances.min(1, keepdims=True) - distances).astype(np.float64) / setting.temperature
    posteriors = np.exp(logits)
    posteriors /= posteriors.sum(1, keepdims=True)
    return nearest.astype(np.uint16), np.take_along_axis(posteriors, nearest, 1).astype(np.float16)


def fitting_temperature(codebook: Codebook, corpus: Corpus, split: str) -> float:
    """The mean margin of a corpus: how much larger the squared distance to the second nearest cluster is than to the nearest.

    At the mean margin the second cluster has 1/e of the posterior of the first, whatever scale and dimension of the features:
    the mean squared distance to the nearest cluster grows with the dimension, and posteriors at that temperature are flat for
    MFCC. From up to `SEEN` utterances, drawn with a fixed seed, and rounded to four digits, so that parts on different machines
    find the same. Not evenly spaced ones: the order of a corpus may have a period, as rooms and levels of the mini corpus do.

    Raises:
        UserError: all frames are as far from two clusters.
    """
    source, opened = FeatureSource.from_description(codebook.features), corpus.split(split)
    margins = []
    for number in sorted(np.random.default_rng(0).permutation(len(opened))[:SEEN]):
        shard, place = opened.locate(int(number))
        nearest = np.partition(codebook.distances(features_of(source, shard, place)), 1, axis=1)[:, :2]
        margins.append((nearest[:, 1] - nearest[:, 0]).astype(np.float64))
    temperature = float(f"{np.concatenate(margins).mean():.4g}")
    if not _positive(temperature):
        raise UserError(
            f"{corpus.directory}: the frames of split {split!r} lie as near to their second cluster as to the first, so no "
            "temperature fits them; give --temperature T"
        )
    return temperature


def _positive(value: float) -> bool:
    return math.isfinite(value) and value > 0
