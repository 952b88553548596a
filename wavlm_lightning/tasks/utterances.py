"""The data set of a task: batches of labelled utterances as audio or cached features, with the targets of each task."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from wavlm_lightning.audio import SAMPLE_RATE, BadAudio
from wavlm_lightning.data.batch import Targets, TaskBatch, Transferable, Waveforms
from wavlm_lightning.data.shard_index import ShardIndex
from wavlm_lightning.data.split import Split
from wavlm_lightning.encoder import Layers
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.reading import reason_of
from wavlm_lightning.tasks.augmentation import Augmentation
from wavlm_lightning.tasks.contract import Needs
from wavlm_lightning.tasks.pseudo_labels import check_record
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
    """Batches of a split; an item is a list of (utterance number, place of its draws in the run) pairs, see `BatchPlan`.

    Each task reads its own targets; those of the first become the batch's `targets`, the rest its `others`. Utterances
    longer than `max_seconds` are cropped at a random place and not read from the cache. `factor` is a gain of all audio.
    With an `augmentation` waveforms go through its transforms after the crop. Utterances that are `evaluated` may have no
    pseudo-labels.
    """

    def __init__(
        self,
        split: Split,
        tasks: Sequence[Needs],
        max_seconds: float | None,
        seed: int,
        cache: FeatureCache | None,
        factor: float = 1.0,
        augmentation: Augmentation | None = None,
        evaluated: bool = False,
    ) -> None:
        self.evaluated = evaluated
        self.split, self.seed, self.cache, self.factor, self.augmentation = split, seed, cache, factor, augmentation
        self.names = [task.name for task in tasks]
        # Bound methods alone, because processes that read audio may get copies of what this object holds.
        self.read_target, self.crop_target = [t.read_target for t in tasks], [t.crop_target for t in tasks]
        self.target_audio = [task.target_audio for task in tasks]
        self.aligned = sorted({name for names in self.target_audio for name in names})
        self.extra = sorted({name for task in tasks for name in task.extra_audio})
        self.max_samples = None if max_seconds is None else round(max_seconds * SAMPLE_RATE)
        self._labels: dict[int, tuple[Tensor | None, ...]] = {}  # by utterance, read on first use

    def __getitem__(self, items: list[tuple[int, int]]) -> TaskBatch:
        places = [self.split.locate(number) for number, _ in items]
        keys = tuple(shard.keys[place] for shard, place in places)
        cached = [] if self.cache is None else [n for n, (number, _) in enumerate(items) if not self._longer(number)]
        inputs: Waveforms | Layers | PartlyCached
        targets: Sequence[tuple[Tensor, ...]]
        if cached:
            inputs, targets = self._from_cache(items, cached)
        else:
            waveforms, targets = zip(*(self._utterance(number, seed) for number, seed in items), strict=True)
            inputs = Waveforms.pad(waveforms)
        first, *others = (Targets.pad(of_task) for of_task in zip(*targets, strict=True))
        extra = {name: Waveforms.pad([self._read(*at, member=name) for at in places]) for name in self.extra}
        return TaskBatch(keys, inputs, first, dict(zip(self.names[1:], others, strict=True)), extra)

    def _longer(self, number: int) -> bool:
        """Whether an utterance is cropped, so that its cached features do not apply."""
        return self.max_samples is not None and bool(self.split.samples[number] > self.max_samples)

    def _from_cache(
        self, items: list[tuple[int, int]], cached_rows: list[int]
    ) -> tuple[Layers | PartlyCached, list[tuple[Tensor, ...]]]:
        assert self.cache is not None
        layers = self.cache.layers([self.cache.read(*self.split.locate(items[row][0])) for row in cached_rows])
        targets = {}
        for row in cached_rows:
            number, _ = items[row]
            aligned = {name: self._read(*self.split.locate(number), member=name) for name in self.aligned}
            targets[row] = self._targets(self._labels_of(number), None, aligned)
        crop_rows = [row for row in range(len(items)) if row not in targets]
        inputs: Layers | PartlyCached = layers
        if crop_rows:
            crops, cropped = zip(*(self._utterance(*items[row]) for row in crop_rows), strict=True)
            targets.update(zip(crop_rows, cropped, strict=True))
            rows = torch.tensor(cached_rows), torch.tensor(crop_rows)
            inputs = PartlyCached(layers, Waveforms.pad(crops), *rows, self.cache.level)
        return inputs, [targets[row] for row in range(len(items))]

    def _read(
        self, shard: ShardIndex, place: int, start: int = 0, samples: int = -1, member: str | None = None
    ) -> np.ndarray:
        return shard.waveform(place, start, samples, member=member) * np.float32(self.factor)

    def _utterance(self, number: int, seed: int) -> tuple[np.ndarray, tuple[Tensor, ...]]:
        with named(*self.split.locate(number)):
            return self._read_utterance(number, seed)

    def _read_utterance(self, number: int, seed: int) -> tuple[np.ndarray, tuple[Tensor, ...]]:
        shard, place = self.split.locate(number)
        start, samples, crop = 0, -1, None
        if self.max_samples is not None and shard.samples[place] > self.max_samples:
            # Seeded by utterance and place in the run, so that workers, ranks and a resumed run crop alike.
            rng = np.random.default_rng([self.seed, seed, number])
            start = int(rng.integers(shard.samples[place] - self.max_samples + 1))
            samples = self.max_samples
            crop = start, samples
        waveform = self._read(shard, place, start, samples)
        # Without such a member, what is heard before the transforms is the reference of what is heard after them.
        aligned = {
            name: self._read(shard, place, start, samples, name) if name in shard.audio_members else waveform.copy()
            for name in self.aligned
        }
        labels = None
        if self.augmentation is not None:
            before = shard.meta(place)
            waveform, meta, aligned = self.augmentation(number, seed, waveform, before, aligned)
            if meta is not before:
                labels = self._labels_from(meta)
        return waveform, self._targets(self._labels_of(number) if labels is None else labels, crop, aligned)

    def _targets(
        self, labels: tuple[Tensor | None, ...], crop: tuple[int, int] | None, aligned: dict[str, np.ndarray]
    ) -> tuple[Tensor, ...]:
        """The target of each task: of an utterance, or of a crop (start, samples); `aligned` is already cropped."""
        targets = []
        for label, cropped, names in zip(labels, self.crop_target, self.target_audio, strict=True):
            if label is not None:
                targets.append(label if crop is None else cropped(label, *crop))
            else:
                audio = [torch.from_numpy(aligned[name]) for name in names]
                targets.append(audio[0] if len(audio) == 1 else torch.stack(audio, 1))
        return tuple(targets)

    def _labels_of(self, number: int) -> tuple[Tensor | None, ...]:
        """What each task reads from the metadata of an utterance; None for those whose target is audio."""
        if number not in self._labels:
            shard, place = self.split.locate(number)
            with named(*self.split.locate(number)):
                meta = shard.meta(place)
                if self.evaluated:
                    check_record(meta, f"utterance {shard.keys[place]!r}")
                self._labels[number] = self._labels_from(meta)
        return self._labels[number]

    def _labels_from(self, meta: dict[str, Any]) -> tuple[Tensor | None, ...]:
        read = zip(self.read_target, self.target_audio, strict=True)
        return tuple(None if names else target(meta) for target, names in read)


@contextlib.contextmanager
def named(shard: ShardIndex, place: int) -> Iterator[None]:
    """Whatever goes wrong with an utterance in this context becomes a sentence with its shard and key."""
    try:
        yield
    except Exception as error:
        key = shard.keys[place]
        said = str(error) if isinstance(error, UserError | BadAudio) else f"{type(error).__name__}: {reason_of(error)}"
        if str(shard.path) in said and repr(key) in said:
            raise UserError(said) from error
        raise UserError(f"{shard.path}: utterance {key!r}: {said}") from error
