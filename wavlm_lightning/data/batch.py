"""Batches: typed dataclasses of tensors that a loader hands to a training step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from functools import reduce
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from wavlm_lightning.encoder import Layers


class Transferable:
    """Lets Lightning move a dataclass of tensors to a device and pin it."""

    def _map(self, move: Any) -> Self:
        changed = {}
        for item in fields(self):  # type: ignore[arg-type]
            value = getattr(self, item.name)
            if isinstance(value, Tensor | Transferable):
                changed[item.name] = move(value)
            elif isinstance(value, dict):
                changed[item.name] = {name: move(tensor) for name, tensor in value.items()}
            elif isinstance(value, Layers):
                changed[item.name] = replace(value, hidden=move(value.hidden), lengths=move(value.lengths))
        return replace(self, **changed)  # type: ignore[type-var]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        return self._map(lambda value: value.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Self:
        return self._map(lambda value: value.pin_memory())


@dataclass(frozen=True)
class Waveforms(Transferable):
    """Audio of a batch.

    Attributes:
        audio: float32 `(batch, samples)` in [-1, 1], zero-padded at the end of a row.
        lengths: samples of each row, int64 `(batch,)`.
    """

    audio: Tensor
    lengths: Tensor

    @classmethod
    def pad(cls, waveforms: Sequence[np.ndarray]) -> Waveforms:
        """Stack waveforms `(samples,)` of any lengths."""
        lengths = torch.tensor([len(waveform) for waveform in waveforms])
        audio = torch.zeros(len(waveforms), int(lengths.max()))
        for row, waveform in zip(audio, waveforms, strict=True):
            row[: len(waveform)] = torch.from_numpy(waveform)
        return cls(audio, lengths)


@dataclass(frozen=True)
class Targets(Transferable):
    """Targets of a batch: label indices, or numbers of any dtype.

    Attributes:
        values: `(batch,)`, or `(batch, longest, ...)` for sequences, frames and waveforms, zero-padded; int64 for label
            indices, float32 for waveforms.
        lengths: labels, frames or samples of each row, int64 `(batch,)`; ones where `values` is `(batch,)`.
    """

    values: Tensor
    lengths: Tensor

    @classmethod
    def pad(cls, targets: Sequence[Tensor]) -> Targets:
        """Stack scalars `()` or sequences `(labels, ...)`; integers stay integers, and floats stay floats."""
        if targets[0].ndim == 0:
            return cls(torch.stack(list(targets)), torch.ones(len(targets), dtype=torch.int64))
        lengths = torch.tensor([len(target) for target in targets])
        # An empty `torch.tensor([])` is float32 whatever the others are, so it has no say in the dtype.
        filled = [target.dtype for target in targets if len(target)]
        dtype = reduce(torch.promote_types, filled) if filled else torch.int64
        values = torch.zeros(len(targets), int(lengths.max()), *targets[0].shape[1:], dtype=dtype)
        for row, target in zip(values, targets, strict=True):
            row[: len(target)] = target
        return cls(values, lengths)


@dataclass(frozen=True)
class TaskBatch(Transferable):
    """A batch of a downstream task.

    Attributes:
        keys: of the utterances.
        inputs: their audio, or cached features of the frozen upstream.
        targets: their labels.
        others: if several tasks train on the batch, the labels of all but the first task, by task name.
        extra: further audio that a task reads beside its inputs (`Task.extra_audio`), by name, such as an enrolment.
    """

    keys: tuple[str, ...]
    inputs: Transferable | Layers
    targets: Targets
    others: dict[str, Targets] = field(default_factory=dict)
    extra: dict[str, Waveforms] = field(default_factory=dict)

    def of(self, task: str) -> TaskBatch:
        """The batch as it would be if `task` (a name) trained alone."""
        return replace(self, targets=self.others.get(task, self.targets), others={})


@dataclass(frozen=True)
class SoftLabels(Transferable):
    """Several labels a frame and their weights.

    Attributes:
        classes: int64 `(batch, frames, soft labels)`, or without one of the first two dimensions; the likeliest first.
        weights: float32 of the same shape; those of a frame add up to 1.
    """

    classes: Tensor
    weights: Tensor

    def __getitem__(self, where: Any) -> SoftLabels:
        """Those of some rows or frames, as tensors are indexed."""
        return SoftLabels(self.classes[where], self.weights[where])


@dataclass(frozen=True)
class PretrainingBatch(Transferable):
    """A batch of pre-training: crops of one length, without padding.

    Attributes:
        audio: clean crops, float32 `(batch, samples)`.
        labels: by label set, the codebook label of each encoder frame, int64 `(batch, frames)`; empty without labels.
        noise: clips to mix in, float32 `(clips, samples)`; zero rows without a noise corpus.
        noise_lengths: samples of each clip, int64 `(clips,)`.
        soft_labels: by label set, those of the label sets that have some.
    """

    audio: Tensor
    labels: dict[str, Tensor]
    noise: Tensor
    noise_lengths: Tensor
    soft_labels: dict[str, SoftLabels] = field(default_factory=dict)
