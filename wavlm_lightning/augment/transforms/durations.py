"""Transforms that change the number of samples: another speed, and crops."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from wavlm_lightning.augment.transforms.base import Draw, Meta, WaveformTransform
from wavlm_lightning.encoder.config import SAMPLE_RATE
from wavlm_lightning.system.errors import UserError

TIMED = ("phones", "words", "turns")  # metadata of [name, start, end] in seconds


@dataclass(kw_only=True)
class ChangeSpeed(WaveformTransform):
    """Another speed and pitch, by resampling, as `sox speed` and Kaldi's speed perturbation do.

    Speed 0.9 makes an utterance 1 / 0.9 times as long and lowers all frequencies to 0.9 of what they were. Times of
    phones, words and turns in the metadata follow.

    Args:
        probability: share of the utterances for which a speed is drawn.
        speeds: speeds to draw from, equally often, as multiples of 0.01 between 0.5 and 2.
        new_speakers: the speaker of an utterance at speed 0.9 is `sp0.9-SPEAKER`, a class of its own in training, as in
            Kaldi's x-vector recipes for speaker recognition.
    """

    keeps_length: ClassVar[bool] = False

    speeds: list[float] = field(default_factory=lambda: [0.9, 1.0, 1.1])
    new_speakers: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.speeds:
            raise UserError("ChangeSpeed.speeds is empty; list at least one, such as [0.9, 1.0, 1.1]")
        for speed in self.speeds:
            # Hundredths keep the resampling kernel small: 16,000 to 17,600 Hz is 10 to 11.
            if not 0.5 <= speed <= 2 or abs(speed * 100 - round(speed * 100)) > 1e-6:
                raise UserError(f"ChangeSpeed.speeds: {speed:g} is not a multiple of 0.01 between 0.5 and 2")

    def apply(self, waveform: np.ndarray, meta: Meta, draw: Draw) -> tuple[np.ndarray, Meta]:
        if draw.rng.random() >= self.probability:
            return waveform, meta
        speed = self._drawn(draw)
        return at_speed(waveform, speed), self.labels(meta, speed)

    def change(self, waveform: np.ndarray, draw: Draw) -> np.ndarray:
        """The faster or slower utterance, float32 `(ceil(samples / speed),)`."""
        return at_speed(waveform, self._drawn(draw))

    def longest(self, samples: int) -> int:
        slowest = min(self.speeds)
        return max(samples, math.ceil(samples / slowest))

    def labels(self, meta: Meta, speed: float) -> Meta:
        """The metadata of an utterance at a speed: times, and with `new_speakers` the speaker."""
        if speed == 1:
            return meta
        changed: Meta = {
            name: [[*entry[:1], *(time / speed for time in entry[1:])] for entry in meta[name]]
            for name in TIMED
            if name in meta
        }
        if self.new_speakers and "speaker" in meta:
            changed["speaker"] = new_speaker(meta["speaker"], speed)
        return {**meta, **changed}

    def inventories(self, inventories: dict[str, Any]) -> dict[str, Any]:
        """With `new_speakers`, the speakers at every other speed, behind those of the corpus, whose numbers stay."""
        if not self.new_speakers:
            return inventories
        if not (speakers := inventories.get("speakers")):
            raise UserError("ChangeSpeed.new_speakers: the corpus has no list of speakers; set it to false")
        others = sorted({speed for speed in self.speeds if speed != 1})

        def extended(names: list[str]) -> list[str]:
            return [*names, *(new_speaker(name, speed) for speed in others for name in names)]

        if isinstance(speakers, dict):  # of each split
            return {**inventories, "speakers": {split: extended(names) for split, names in speakers.items()}}
        return {**inventories, "speakers": extended(speakers)}

    def _drawn(self, draw: Draw) -> float:
        return self.speeds[int(draw.rng.integers(len(self.speeds)))]


def new_speaker(speaker: str, speed: float) -> str:
    """The name of a speaker at another speed."""
    return f"sp{speed:g}-{speaker}"


def at_speed(waveform: np.ndarray, speed: float) -> np.ndarray:
    """A waveform at another speed and pitch: float32 `(ceil(samples / speed),)`."""
    if speed == 1:
        return waveform
    import torch
    from torchaudio.functional import resample

    # `torchaudio.functional.speed` truncates 16,000 * 1.15 to 18,399, whose kernel is a thousand times as large.
    rate = round(speed * SAMPLE_RATE)
    return resample(torch.tensor(waveform), rate, SAMPLE_RATE).numpy()


@dataclass(kw_only=True)
class RandomCrop(WaveformTransform):
    """A stretch from a random place, such as 3 s after a change of speed; shorter utterances stay whole.

    `data.max_seconds` crops before all transforms, together with the targets, and decodes no more than it needs; prefer
    it where one crop suffices.

    Args:
        probability: share of the utterances that are cropped.
        seconds: length of the stretch.
    """

    keeps_length: ClassVar[bool] = False
    keeps_content: ClassVar[bool] = False

    seconds: float

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.seconds * SAMPLE_RATE >= 1:
            raise UserError(f"RandomCrop.seconds must be above 0, not {self.seconds:g}")

    def change(self, waveform: np.ndarray, draw: Draw) -> np.ndarray:
        """The stretch, float32 `(at most seconds * 16,000,)`."""
        samples = round(self.seconds * SAMPLE_RATE)
        start = int(draw.rng.integers(max(0, len(waveform) - samples) + 1))
        return waveform[start : start + samples]

    def longest(self, samples: int) -> int:
        return samples if self.probability < 1 else min(samples, round(self.seconds * SAMPLE_RATE))
