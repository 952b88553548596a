"""Recordings too long to be heard at once: the upstream hears windows, the head decides what becomes of them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from wavlm_lightning.audio import SAMPLE_RATE
from wavlm_lightning.tasks.base import Task
from wavlm_lightning.tasks.ctc import CtcTask

CONTEXT_SECONDS = 5.0
"""What a window hears on either side of the frames that it answers for; a quarter of short windows."""


class Window(NamedTuple):
    """A stretch of a recording.

    Attributes:
        samples: what the upstream hears.
        before: frames of it that the window before answers for.
        frames: how many it answers for itself; None for all up to the end.
    """

    samples: slice
    before: int
    frames: int | None


class Heard(NamedTuple):
    """What the upstream made of a window.

    Attributes:
        features: weighted sum of its layers, context included, `(1, frames, dim)`.
        own: which of the frames the window answers for.
    """

    features: Tensor
    own: slice


def windows(samples: int, hop: int, seconds: float) -> Iterator[Window]:
    """Divide a recording into windows that answer for equally many frames and together for each frame once.

    Args:
        samples: of the recording, at 16 kHz.
        hop: samples between two frames.
        seconds: length of a window, context included.
    """
    context = round(min(CONTEXT_SECONDS, seconds / 4) * SAMPLE_RATE / hop)
    most = max(round(seconds * SAMPLE_RATE / hop) - 2 * context, 1)
    frames = max(samples // hop, 1)
    own = math.ceil(frames / math.ceil(frames / most))
    for first in range(0, frames, own):
        begin, last = max(first - context, 0), first + own
        if last >= frames:
            yield Window(slice(begin * hop, samples), first - begin, None)
        else:
            yield Window(slice(begin * hop, min((last + context) * hop, samples)), first - begin, own)


def long_outputs(task: Task, waveform: Tensor, seconds: float) -> tuple[Tensor, Tensor]:
    """What `task(inputs)` gives for one recording, without the hidden states of all layers for all of it at once.

    What a window is normalised by (group norm, level of the waveform) and attends to is the window. Then:

    - a head with nothing nonlinear before a mean over time reads the mean of all frames, which is exact;
    - labels a frame by CTC are given window by window, where the context is heard, too, but not written;
    - one vector a recording (speaker verification) is the mean of the windows' vectors, weighted by their frames;
    - anything else a frame reads the whole sequence of weighted sums: who is who in diarization must not change.

    Args:
        task: in eval mode; call it without gradients.
        waveform: `(samples,)`, on the device of the task.
        seconds: length of a window.

    Returns:
        Outputs with a batch of one, and its frames, int64 `(1,)`; frames are 1 where there is one vector a recording.
    """
    heard = listen(task, waveform, seconds)
    if task.cache_level == "utterance":
        return _of_the_mean(task, heard)
    if isinstance(task, CtcTask):
        outputs = torch.cat([_answer(task, features)[:, own] for features, own in heard], 1)
        return outputs, _count(outputs)
    first = next(heard)
    if _answer(task, first.features[:, first.own]).ndim == 2:
        return _mean_answer(task, first, heard)
    features = torch.cat([first.features[:, first.own], *(features[:, own] for features, own in heard)], 1)
    return _answer(task, features), _count(features)


def listen(task: Task, waveform: Tensor, seconds: float) -> Iterator[Heard]:
    """The weighted sums of the windows of a recording, one after the other.

    Args:
        task: whose upstream and layer weights.
        waveform: `(samples,)`.
        seconds: length of a window.
    """
    hop = round(SAMPLE_RATE / task.upstream.frame_rate)
    for samples, before, frames in windows(len(waveform), hop, seconds):
        stretch = waveform[samples]
        features = task.weighted_sum(task.upstream(stretch[None], torch.tensor([len(stretch)], device=stretch.device)))
        own = slice(before, None if frames is None else before + frames)
        if features[:, own].shape[1]:  # the last samples need not make a frame
            yield Heard(features, own)


def _count(frames: Tensor) -> Tensor:
    return torch.tensor([frames.shape[1]], device=frames.device)


def _answer(task: Task, features: Tensor) -> Tensor:
    return task.outputs(features, _count(features))


def _of_the_mean(task: Task, heard: Iterator[Heard]) -> tuple[Tensor, Tensor]:
    total, frames = torch.zeros((), dtype=torch.float64), 0
    for features, own in heard:
        total = features[:, own].double().sum(1, keepdim=True) + total.to(features.device)
        frames += features[:, own].shape[1]
        dtype = features.dtype
    mean = (total / frames).to(dtype)
    return _answer(task, mean), _count(mean)


def _mean_answer(task: Task, first: Heard, others: Iterator[Heard]) -> tuple[Tensor, Tensor]:
    features = first.features[:, first.own]
    frames = features.shape[1]
    total = frames * _answer(task, features)
    for window, own in others:
        features = window[:, own]
        total = total + features.shape[1] * _answer(task, features)
        frames += features.shape[1]
    return total / frames, _count(total[:, :1])
