"""Waveform transforms of a split: the random stream of each utterance, and what follows the waveform (targets, labels)."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from wavlm_lightning.augment.transforms import Draw, WaveformTransform
from wavlm_lightning.data.split import Split
from wavlm_lightning.system.errors import UserError


class Augmentation:
    """Transforms of the utterances of a split, in order, each with a random stream of its own.

    A stream depends on `seed`, the number of the utterance, its place in the run and the place of the transform in the list,
    so that a resumed run, other processes and other numbers of workers draw alike, and a transform that is appended
    changes no draw of the others. Without a seed a stream depends on the key of the utterance alone, so that an
    evaluation hears the same every time, whatever else it evaluates.

    Args:
        split: the utterances, among which a transform may draw another.
        transforms: applied in this order.
        seed: of the streams; None for evaluation.
        factor: gain of every waveform that is read.
        key: name of the option that lists the transforms, for messages.
    """

    def __init__(
        self, split: Split, transforms: Sequence[WaveformTransform], seed: int | None, factor: float, key: str
    ) -> None:
        self.split, self.transforms, self.seed, self.factor, self.key = split, list(transforms), seed, factor, key

    def __call__(
        self, number: int, place: int, waveform: np.ndarray, aligned: dict[str, np.ndarray]
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Transform an utterance, float32 `(samples,)`.

        `place` is that of the draw in the run, see `BatchPlan`. The `aligned` waveforms, such as a clean reference, go
        through those transforms alone that change lengths, with the same draws, so that they stay aligned.
        """
        for order, transform in enumerate(self.transforms):
            if not transform.keeps_length:
                for name, other in aligned.items():
                    aligned[name] = self._apply(transform, other, number, place, order)
            waveform = self._apply(transform, waveform, number, place, order)
        for name, other in aligned.items():
            if len(other) != len(waveform):
                raise UserError(
                    f"{self.key}: after the transforms {name!r} of an utterance has {len(other)} samples and the utterance "
                    f"{len(waveform)}; a transform that changes lengths must draw from the length and its stream alone"
                )
        return waveform, aligned

    def _apply(
        self, transform: WaveformTransform, waveform: np.ndarray, number: int, place: int, order: int
    ) -> np.ndarray:
        result = transform(waveform, self._draw(number, place, order))
        most = len(waveform) if transform.keeps_length else transform.longest(len(waveform))
        fits = len(result) == most if transform.keeps_length else 0 < len(result) <= most
        if result.dtype != np.float32 or result.ndim != 1 or not fits:
            said = "as long as its input" if transform.keeps_length else f"of 1 to {most} samples"
            raise UserError(
                f"{self.key}: {type(transform).__name__} must return a float32 waveform {said}, not {result.dtype} "
                f"{result.shape} for {len(waveform)} samples"
            )
        return result

    def meta(self, number: int, place: int, meta: dict[str, Any]) -> dict[str, Any]:
        """The metadata of an utterance after the transforms, from which its target is read."""
        for order, transform in enumerate(self.transforms):
            meta = transform.labels(meta, self._draw(number, place, order))
        return meta

    @property
    def relabels(self) -> bool:
        """Whether a transform changes metadata, so that the target of an utterance differs from draw to draw."""
        return any(type(transform).labels is not WaveformTransform.labels for transform in self.transforms)

    def longest(self, samples: np.ndarray) -> np.ndarray:
        """The most samples that waveforms of these lengths can have after the transforms, int64 `(utterances,)`."""
        for transform in self.transforms:
            if not transform.keeps_length:
                samples = np.array([transform.longest(length) for length in samples.tolist()], dtype=np.int64)
        return samples

    def _draw(self, number: int, place: int, order: int) -> Draw:
        if self.seed is None:
            shard, where = self.split.locate(number)
            entropy = [int.from_bytes(hashlib.sha256(shard.keys[where].encode()).digest()[:8], "little"), 1 + order]
        else:
            entropy = [self.seed, place, number, 1 + order]  # with [seed, place, number] the crop is drawn
        rng = np.random.default_rng(entropy)
        return Draw(rng, partial(self._another, rng, number))

    def _another(self, rng: np.random.Generator, number: int) -> np.ndarray:
        """The waveform of an utterance of the split that is not `number`."""
        if len(self.split) < 2:
            raise UserError(f"{self.key}: split {self.split.name} has no second utterance to mix with the first")
        drawn = int(rng.integers(len(self.split) - 1))
        shard, where = self.split.locate(drawn + (drawn >= number))
        return shard.waveform(where) * np.float32(self.factor)


def described(value: Any) -> Any:
    """The class of a transform and its arguments, JSON-like: two transforms that draw differently differ here."""
    if isinstance(value, WaveformTransform):
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        given = (
            {field.name: getattr(value, field.name) for field in dataclasses.fields(value) if field.init}
            if dataclasses.is_dataclass(value)
            else {name: each for name, each in vars(value).items() if not name.startswith("_")}
        )
        return [kind, described(given)]
    if isinstance(value, dict):
        return {str(name): described(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [described(each) for each in value]
    return str(value) if isinstance(value, Path) else value
