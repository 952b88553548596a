"""The data set of a task: batches of labelled utterances as audio or cached features, with the targets of each task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from wavlm_lightning.audio import SAMPLE_RATE
from wavlm_lightning.data.batch import Targets, TaskBatch, Transferable, Waveforms
from wavlm_lightning.data.corpus import Split
from wavlm_lightning.encoder import Layers
from wavlm_lightning.tasks.base import Task
from wavlm_lightning.upstreams import Upstream
from wavlm_lightning.upstreams.cache import FeatureCache, Level, pooled


@dataclass(frozen=True)
class PartlyCached(Transferable):
    """Inputs of a batch that mix cached features with random crops, which must still pass through the upstream."""

    cached: Layers  # of the rows `cached_rows`
    crops: Waveforms  # of the rows `crop_rows`, cropped anew in every epoch
    cached_rows: Tensor  # int64 `(cached,)`
    crop_rows: Tensor  # int64 `(crops,)`
    level: Level  # of the cache

    def complete(self, upstream: Upstream) -> Layers:
        """Run the upstream over the crops. An upstream's rows are independent, so this equals running the whole batch."""
        layers = upstream(self.crops.audio, self.crops.lengths)
        fresh, frames = layers.hidden, layers.lengths
        if self.level == "utterance":
            # A cached mean is a sequence of one frame.
            fresh, frames = pooled(layers)[:, :, None], torch.ones_like(frames)
        kept = self.cached.hidden
        rows = kept.shape[1] + fresh.shape[1]
        hidden = kept.new_zeros(kept.shape[0], rows, max(kept.shape[2], fresh.shape[2]), kept.shape[3])
        hidden[:, self.cached_rows, : kept.shape[2]] = kept
        hidden[:, self.crop_rows, : fresh.shape[2]] = fresh.to(hidden.dtype)
        lengths = torch.empty(rows, dtype=torch.int64, device=hidden.device)
        lengths[self.cached_rows], lengths[self.crop_rows] = self.cached.lengths, frames
        return Layers(hidden, lengths, self.cached.frame_rate)


class LabelledUtterances(Dataset[TaskBatch]):
    """Batches of a split; an item is a list of (utterance number, seed of its crop) pairs, see `BatchPlan`.

    Each task reads its own targets; those of the first become the batch's `targets`, the rest its `others`. Utterances
    longer than `max_seconds` are cropped at a random place and not read from the cache. `factor` is a gain.
    """

    def __init__(
        self,
        split: Split,
        tasks: Sequence[Task],
        max_seconds: float | None,
        seed: int,
        cache: FeatureCache | None,
        factor: float = 1.0,
    ) -> None:
        self.split, self.seed, self.cache, self.factor = split, seed, cache, factor
        self.names = [task.name for task in tasks]
        self.read_target, self.crop_target = [t.read_target for t in tasks], [t.crop_target for t in tasks]
        self.max_samples = None if max_seconds is None else round(max_seconds * SAMPLE_RATE)
        self._targets: dict[int, tuple[Tensor, ...]] = {}  # by utterance, read on first use

    def __getitem__(self, items: list[tuple[int, int]]) -> TaskBatch:
        places = [self.split.locate(number) for number, _ in items]
        keys = tuple(shard.keys[place] for shard, place in places)
        cached = [] if self.cache is None else [n for n, (number, _) in enumerate(items) if not self._longer(number)]
        if cached:
            return self._batch(keys, *self._from_cache(items, cached))
        waveforms, cropped = zip(*(self._utterance(number, seed) for number, seed in items), strict=True)
        return self._batch(keys, Waveforms.pad(waveforms), cropped)

    def _batch(
        self, keys: tuple[str, ...], inputs: Waveforms | Layers | PartlyCached, targets: Sequence[tuple[Tensor, ...]]
    ) -> TaskBatch:
        first, *others = (Targets.pad(of_task) for of_task in zip(*targets, strict=True))
        return TaskBatch(keys, inputs, first, dict(zip(self.names[1:], others, strict=True)))

    def _longer(self, number: int) -> bool:
        """Whether an utterance is cropped, so that its cached features do not apply."""
        return self.max_samples is not None and bool(self.split.samples[number] > self.max_samples)

    def _from_cache(
        self, items: list[tuple[int, int]], cached_rows: list[int]
    ) -> tuple[Layers | PartlyCached, list[tuple[Tensor, ...]]]:
        assert self.cache is not None
        layers = self.cache.layers([self.cache.read(*self.split.locate(items[row][0])) for row in cached_rows])
        targets = {row: self._target(items[row][0]) for row in cached_rows}
        crop_rows = [row for row in range(len(items)) if row not in targets]
        inputs: Layers | PartlyCached = layers
        if crop_rows:
            crops, cropped = zip(*(self._utterance(*items[row]) for row in crop_rows), strict=True)
            targets.update(zip(crop_rows, cropped, strict=True))
            rows = torch.tensor(cached_rows), torch.tensor(crop_rows)
            inputs = PartlyCached(layers, Waveforms.pad(crops), *rows, self.cache.level)
        return inputs, [targets[row] for row in range(len(items))]

    def _target(self, number: int) -> tuple[Tensor, ...]:
        """The targets of an utterance, one for each task."""
        if number not in self._targets:
            shard, place = self.split.locate(number)
            meta = shard.meta(place)
            self._targets[number] = tuple(read(meta) for read in self.read_target)
        return self._targets[number]

    def _utterance(self, number: int, seed: int) -> tuple[np.ndarray, tuple[Tensor, ...]]:
        shard, place = self.split.locate(number)
        samples, targets = shard.samples[place], self._target(number)
        if self.max_samples is None or samples <= self.max_samples:
            return shard.waveform(place) * np.float32(self.factor), targets
        # Seeded by utterance and place in the run, so that workers, ranks and a resumed run crop alike.
        rng = np.random.default_rng([self.seed, seed, number])
        start = int(rng.integers(samples - self.max_samples + 1))
        waveform = shard.waveform(place, start, self.max_samples) * np.float32(self.factor)
        crops = zip(self.crop_target, targets, strict=True)
        return waveform, tuple(crop(target, start, self.max_samples) for crop, target in crops)
