"""Waveform transforms of a split: the random stream of each utterance, and what follows the waveform (targets, labels)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from wavlm_lightning.augment.transforms import Draw, WaveformTransform, with_parts
from wavlm_lightning.data.split import Split
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks.contract import Needs

Meta = dict[str, Any]


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
        self, number: int, place: int, waveform: np.ndarray, meta: Meta, aligned: dict[str, np.ndarray]
    ) -> tuple[np.ndarray, Meta, dict[str, np.ndarray]]:
        """Transform an utterance, float32 `(samples,)`, its metadata, and waveforms that must stay aligned with it.

        `place` is that of the draw in the run, see `BatchPlan`. The `aligned` waveforms, such as a clean reference, go
        only through those transforms that change lengths, with the same draws. The same `meta` comes back if it still holds.
        """
        for order, transform in enumerate(self.transforms):
            if not transform.keeps_length:
                aligned = {
                    name: transform.apply(other, meta, self._draw(number, place, order))[0]
                    for name, other in aligned.items()
                }
            most = transform.longest(len(waveform))
            waveform, meta = transform.apply(waveform, meta, self._draw(number, place, order))
            kind = type(transform).__name__
            if waveform.dtype != np.float32 or waveform.ndim != 1 or not 0 < len(waveform) <= most:
                raise UserError(
                    f"{self.key}: {kind} must return float32 samples, 1 to {most} of them here, and returned "
                    f"{waveform.dtype} {waveform.shape}; correct its `change` or its `longest`"
                )
            if any(len(other) != len(waveform) for other in aligned.values()):
                raise UserError(
                    f"{self.key}: {kind} made an utterance and its reference of different lengths; a transform that changes "
                    "lengths must depend on the number of samples and its draws alone"
                )
        return waveform, meta, aligned

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


def check_transforms(transforms: Sequence[WaveformTransform], needs: Sequence[Needs], key: str) -> None:
    """Refuse transforms after which a target would no longer fit the waveform; `key` names their option.

    Raises:
        UserError: a transform changes the length of a waveform whose target has one entry a frame, cuts a waveform whose
            target is all that was said in it, adds talkers where the target is all who speak, or cannot be applied alike
            to a target that is audio.
    """
    for transform in transforms:
        kind, parts = type(transform).__name__, [part for part in with_parts([transform]) if not part.parts()]
        for task in needs:
            if task.framewise and not transform.keeps_length:
                raise UserError(
                    f"{key}: {kind} changes the length of a waveform, which the targets of {task.name}, one for each frame, "
                    "would not follow; remove it"
                )
            if task.transcribes and not transform.keeps_content:
                raise UserError(
                    f"{key}: {kind} cuts a waveform, and the targets of {task.name} are all that was said in it; remove it"
                )
            if task.every_talker and not transform.keeps_talkers:
                raise UserError(
                    f"{key}: {kind} adds talkers without their turns, and the targets of {task.name} are all who speak; "
                    "remove it"
                )
            if task.target_audio and not transform.keeps_length and any(part.keeps_length for part in parts):
                raise UserError(
                    f"{key}: {kind} holds transforms that change lengths beside some that do not, so the target of "
                    f"{task.name} could not follow; list those that change lengths apart"
                )
