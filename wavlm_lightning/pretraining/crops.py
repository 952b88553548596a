"""The dataset of pre-training: batches of crops of one length, labels on the encoder's frame grid, noise clips."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from wavlm_lightning.audio import SAMPLE_RATE
from wavlm_lightning.codebooks import LabelSet
from wavlm_lightning.data.batch import PretrainingBatch, SoftLabels, Waveforms
from wavlm_lightning.data.noise import CorpusNoise
from wavlm_lightning.data.split import Split
from wavlm_lightning.encoder import WavLMConfig


class Crops(Dataset[PretrainingBatch]):
    """Batches of crops of one length; an item is a whole batch, because all crops are as long as its shortest utterance.

    `numbers` are the utterances in use; an item is a list of (position in `numbers`, seed) or, where crops grow over the
    updates, (position, seed, longest crop in samples), of which the batch has one. Crops lie at random places if `random`
    (training), else at the beginning. `noise_clips` noise clips are drawn per crop, rounded up.
    """

    def __init__(
        self,
        split: Split,
        labels: dict[str, LabelSet],
        numbers: np.ndarray,
        max_seconds: float,
        grid: WavLMConfig,
        noise: Split | None,
        noise_clips: float,
        seed: int,
        random: bool,
    ) -> None:
        self.split, self.labels, self.numbers, self.grid = split, labels, numbers, grid
        self.max_samples = round(max_seconds * SAMPLE_RATE)
        self.noise, self.noise_clips, self.seed, self.random = noise, noise_clips, seed, random

    def __getitem__(self, items: list[tuple[int, ...]]) -> PretrainingBatch:
        numbers = [int(self.numbers[item[0]]) for item in items]
        longest = items[0][2] if len(items[0]) > 2 else self.max_samples
        # From (seed, epoch or place in the run, first utterance), so that a resumed run draws the same crops and noise.
        rng = np.random.default_rng([self.seed, items[0][1], numbers[0]])
        lengths = [int(self.split.samples[number]) for number in numbers]
        # Crops start on the frame grid, so that labels and frames are aligned (in fairseq they differ by up to 10 ms).
        hop = self.grid.hop
        crop = min(min(lengths), longest)
        starts = [int(rng.integers((length - crop) // hop + 1)) * hop if self.random else 0 for length in lengths]
        audio = torch.empty(len(numbers), crop)
        for row, number, start in zip(audio.numpy(), numbers, starts, strict=True):
            shard, place = self.split.locate(number)
            shard.waveform(place, start, crop, out=row)  # read into the batch: a copy would cost a few per cent
        noise = self._noise(math.ceil(len(numbers) * self.noise_clips), crop, rng)
        frames = int(self.grid.frames(crop))
        labels = {name: self._labels(label_set, numbers, starts, frames) for name, label_set in self.labels.items()}
        soft = {
            name: self._soft_labels(label_set, numbers, starts, frames)
            for name, label_set in self.labels.items()
            if label_set.soft_rows is not None
        }
        return PretrainingBatch(audio, labels, noise.audio, noise.lengths, soft)

    def _labels(self, labels: LabelSet, numbers: list[int], starts: list[int], frames: int) -> Tensor:
        """The label of each frame, `(batch, frames)`: a frame has the label of the time at which it begins."""
        rows = []
        for number, start in zip(numbers, starts, strict=True):
            row = labels.rows[number]
            rows.append(torch.from_numpy(row[self._places(labels, start, frames, len(row))].astype(np.int64)))
        return _stack(rows)

    def _soft_labels(self, labels: LabelSet, numbers: list[int], starts: list[int], frames: int) -> SoftLabels:
        """The soft labels of the same frames, `(batch, frames, soft labels)`, with weights that add up to 1."""
        classes, weights = [], []
        assert labels.soft_rows is not None
        for number, start in zip(numbers, starts, strict=True):
            likely, shares = labels.soft_rows[number]
            places = self._places(labels, start, frames, len(likely))
            classes.append(torch.from_numpy(likely[places].astype(np.int64)))
            weights.append(torch.from_numpy(shares[places].astype(np.float32)))
        held = _stack(weights)
        return SoftLabels(_stack(classes), held / held.sum(-1, keepdim=True))

    def _places(self, labels: LabelSet, start: int, frames: int, there: int) -> np.ndarray:
        """Where the labels of a crop's frames lie among the `there` labels of its utterance; fewer at its end."""
        seconds = (start + np.arange(frames) * self.grid.hop) / SAMPLE_RATE
        places = np.floor(seconds * labels.rate + 1e-6).astype(np.int64)  # a product that is whole may be rounded down
        return places[places < there]

    def _noise(self, count: int, samples: int, rng: np.random.Generator) -> Waveforms:
        if self.noise is None:
            return Waveforms(torch.zeros(0, samples), torch.zeros(0, dtype=torch.int64))
        noise = CorpusNoise(self.noise)
        clips = [noise.stretch(int(number), samples, rng) for number in rng.integers(len(self.noise), size=count)]
        padded = Waveforms.pad(clips)
        audio = torch.nn.functional.pad(padded.audio, (0, samples - padded.audio.shape[1]))
        return Waveforms(audio, padded.lengths)


def _stack(rows: list[Tensor]) -> Tensor:
    """Rows `(frames, ...)` as one tensor, all as long as the shortest."""
    shortest = min(map(len, rows))
    return torch.stack([row[:shortest] for row in rows])
