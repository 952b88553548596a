"""The pre-training stream: plan, crop, labels on the frame grid, noise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from wavlm_lightning.audio import SAMPLE_RATE
from wavlm_lightning.codebooks import LabelSet
from wavlm_lightning.data.batch import PretrainingBatch, Waveforms
from wavlm_lightning.data.batching import BatchPlan
from wavlm_lightning.data.corpus import Corpus, Split
from wavlm_lightning.data.resumable import ResumableData
from wavlm_lightning.encoder import WavLMConfig
from wavlm_lightning.errors import UserError


class Crops(Dataset[PretrainingBatch]):
    """Batches of crops of one length; an item is a whole batch, so its crop can fit the shortest utterance.

    Args:
        split: where the audio is.
        labels: its labels, by label set.
        numbers: which utterances may be asked for; items count in this list.
        max_seconds: longest crop.
        grid: the encoder's frame grid.
        noise: where noise clips are; None for none.
        seed: crops and noise are drawn from (seed, epoch, first utterance), so a resumed run sees the same ones.
        random: crop at random places (training) or at the beginning (validation).
    """

    def __init__(
        self,
        split: Split,
        labels: dict[str, LabelSet],
        numbers: np.ndarray,
        max_seconds: float,
        grid: WavLMConfig,
        noise: Split | None,
        seed: int,
        random: bool,
    ) -> None:
        self.split, self.labels, self.numbers, self.grid = split, labels, numbers, grid
        self.max_samples = round(max_seconds * SAMPLE_RATE)
        self.noise, self.seed, self.random = noise, seed, random

    def __getitem__(self, items: list[tuple[int, int]]) -> PretrainingBatch:
        """Read a batch of (number, epoch) pairs."""
        numbers = [int(self.numbers[number]) for number, _ in items]
        rng = np.random.default_rng([self.seed, items[0][1], numbers[0]])
        lengths = [int(self.split.samples[number]) for number in numbers]
        # Cropping starts on the frame grid, so labels and frames never drift apart (fairseq's drift by up to 10 ms).
        hop = self.grid.hop
        crop = min(min(lengths), self.max_samples)
        starts = [int(rng.integers((length - crop) // hop + 1)) * hop if self.random else 0 for length in lengths]
        audio = []
        for number, start in zip(numbers, starts, strict=True):
            shard, place = self.split.locate(number)
            audio.append(torch.from_numpy(shard.waveform(place, start, crop)))
        noise = self._noise(len(numbers), crop, rng)
        frames = int(self.grid.frames(crop))
        labels = {name: self._labels(label_set, numbers, starts, frames) for name, label_set in self.labels.items()}
        return PretrainingBatch(torch.stack(audio), labels, noise.audio, noise.lengths)

    def _labels(self, labels: LabelSet, numbers: list[int], starts: list[int], frames: int) -> Tensor:
        """The label of each frame, `(batch, frames)`: frame t of rate 50 carries label floor(t * label_rate / 50)."""
        per_frame = labels.rate / self.grid.frame_rate
        rows = []
        for number, start in zip(numbers, starts, strict=True):
            begin = round(start / SAMPLE_RATE * labels.rate)
            places = begin + np.floor(np.arange(frames) * per_frame).astype(np.int64)
            row = labels.rows[number]
            rows.append(torch.from_numpy(row[places[places < len(row)]].astype(np.int64)))
        shortest = min(map(len, rows))
        return torch.stack([row[:shortest] for row in rows])

    def _noise(self, count: int, samples: int, rng: np.random.Generator) -> Waveforms:
        if self.noise is None:
            return Waveforms(torch.zeros(0, samples), torch.zeros(0, dtype=torch.int64))
        clips = []
        for number in rng.integers(len(self.noise), size=count):
            shard, place = self.noise.locate(int(number))
            start = int(rng.integers(max(1, shard.samples[place] - samples)))
            clips.append(shard.waveform(place, start, samples))
        padded = Waveforms.pad(clips)
        audio = torch.nn.functional.pad(padded.audio, (0, samples - padded.audio.shape[1]))
        return Waveforms(audio, padded.lengths)


class PretrainingData(ResumableData):
    """Crops of a labelled corpus, in batches of equal audio.

    Args:
        corpus: a corpus folder.
        labels: name of its labels (made by `wavlm codebook apply --name`), or several names, of which objectives choose
            (the first unless they say otherwise); null for objectives that need none.
        train_split: what to train on.
        valid_split: what to validate on; no validation if null.
        batch_seconds: audio per batch and process; 87.5 s in HuBERT and WavLM Base.
        max_seconds: longest crop; 15.625 s in HuBERT and WavLM.
        min_seconds: shorter utterances are left out; 2 s in HuBERT and WavLM.
        noise_corpus: a corpus of noise for utterance mixing.
        noise_split: which split of it.
        num_workers: processes that read audio; 0 reads in the main process.
        seed: of order, crops and noise.
    """

    def __init__(
        self,
        corpus: str,
        labels: str | list[str] | None = None,
        train_split: str = "train",
        valid_split: str | None = "valid",
        batch_seconds: float = 87.5,
        max_seconds: float = 15.625,
        min_seconds: float = 2.0,
        noise_corpus: str | None = None,
        noise_split: str = "train",
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.path, self.noise_path, self.noise_split = Path(corpus), noise_corpus, noise_split
        self.labels = [labels] if isinstance(labels, str) else list(labels or [])
        self.train_split, self.valid_split = train_split, valid_split
        self.batch_seconds, self.max_seconds, self.min_seconds = batch_seconds, max_seconds, min_seconds
        self.num_workers, self.seed = num_workers, seed
        self.grid = WavLMConfig()
        self._parts: dict[str, tuple[Split, dict[str, LabelSet], np.ndarray]] = {}

    def setup(self, stage: str) -> None:
        """Open corpus and labels.

        Raises:
            UserError: either is missing or they do not belong together, or nothing is long enough.
        """
        self.corpus = Corpus.open(self.path)
        self.noise = Corpus.open(self.noise_path).split(self.noise_split) if self.noise_path else None
        for name in filter(None, (self.train_split, self.valid_split)):
            split = self.corpus.split(name)
            numbers = np.flatnonzero(split.samples >= self.min_seconds * SAMPLE_RATE)
            if not len(numbers):
                raise UserError(
                    f"{self.path}: split {name!r} has no utterance of {self.min_seconds} s; lower min_seconds"
                )
            self._parts[name] = (split, {each: LabelSet.open(self.corpus, each, name) for each in self.labels}, numbers)

    @property
    def label_sets(self) -> dict[str, LabelSet]:
        """Labels of the training split, by name."""
        return self._parts[self.train_split][1]

    @property
    def has_noise(self) -> bool:
        """Whether batches bring noise clips."""
        return self.noise_path is not None

    def _loader(self, name: str, train: bool) -> DataLoader:
        split, labels, numbers = self._parts[name]
        trainer = self.trainer
        plan = BatchPlan(
            split.samples[numbers],
            rank=trainer.global_rank if trainer else 0,
            world_size=trainer.world_size if trainer else 1,
            train=train,
            multiple=trainer.accumulate_grad_batches if trainer else 1,
            batch_seconds=self.batch_seconds,
            max_seconds=self.max_seconds,
            seed=self.seed,
        )
        crops = Crops(
            split, labels, numbers, self.max_seconds, self.grid, self.noise if train else None, self.seed, train
        )
        if train:
            self.resume(plan)
        return DataLoader(
            crops,
            batch_size=None,
            sampler=plan,
            num_workers=self.num_workers,
            pin_memory=torch.cuda.is_available(),
            prefetch_factor=4 if self.num_workers else None,
        )

    def train_dataloader(self) -> DataLoader:
        """Shuffled crops, from where a resumed run stopped."""
        return self._loader(self.train_split, train=True)

    def val_dataloader(self) -> DataLoader | list:
        """Fixed crops."""
        return self._loader(self.valid_split, train=False) if self.valid_split else []

    def layout(self) -> dict[str, Any]:
        """Corpus, codebook and the arguments that shape batches."""
        return {
            "corpus": self.corpus.sha256,
            "codebooks": [[name, labels.codebook_sha256] for name, labels in self.label_sets.items()],
            "batch": [self.batch_seconds, self.max_seconds, self.min_seconds, self.seed],
        }
