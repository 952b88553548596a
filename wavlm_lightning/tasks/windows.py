"""Recordings that are too long for memory: the upstream processes overlapping windows, whose answers are joined."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from wavlm_lightning.audio import SAMPLE_RATE
from wavlm_lightning.data.batch import Waveforms
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.progress import progress_bar
from wavlm_lightning.tasks.components.spectral import best_assignment
from wavlm_lightning.upstreams import Upstream, WeightedSum

# Context on either side of the frames that a window answers for; a quarter of a window of less than 20 s.
CONTEXT_SECONDS = 5.0


FADE = round(0.02 * SAMPLE_RATE)  # samples on either side of the place where the waveforms of two windows meet
QUIET_SECONDS = 5.0  # before a bar of windows is shown
LONGEST_WHOLE = 180.0
"""Seconds up to which validation and test hear a recording whole; the longest of SUPERB has 145 s."""
WINDOW_SECONDS = 60.0  # of longer ones, as `wavlm predict` does by default


class WindowedTask(Protocol):
    """What windows need of a task."""

    name: Any
    answer: Any
    cache_level: Any
    upstream: Upstream
    weighted_sum: WeightedSum

    def __call__(self, inputs: Any) -> tuple[Tensor, Tensor]: ...

    def outputs(self, features: Tensor, lengths: Tensor) -> Tensor: ...

    def answer_kind(self, outputs: Tensor) -> Any: ...


class Window(NamedTuple):
    """A part of a recording with context on both sides."""

    samples: slice  # input of the upstream
    before: int  # number of context frames at its begin
    frames: int | None  # number of frames after these that the window answers for; None for all up to the end


class WindowFeatures(NamedTuple):
    """The features of a window."""

    features: Tensor  # weighted sum of the upstream's layers, context included, `(1, frames, dim)`
    own: slice  # the frames that the window answers for


def windows(samples: int, hop: int, seconds: float) -> Iterator[Window]:
    """Divide a recording into windows that answer for equally many frames, and together for each frame once.

    `samples` is the length of the recording, `hop` the samples between two frames; `seconds` include the context.
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


def long_outputs(task: WindowedTask, waveform: Tensor, seconds: float) -> tuple[Tensor, Tensor]:
    """The outputs of a task for one long recording, with the hidden states of one window in memory at a time.

    Normalisation (group norm, level of the waveform) and attention are those of the window. The features are used by
    kind of head:

    - a head that is linear up to a mean over time gets the mean of all frames, which is exact;
    - a head that answers with `labels` (CTC) labels each window with its context, and the labels of the context are dropped;
    - a head that answers with one `label` or `vector` for a recording answers for each window; the result is the mean of
      the answers, weighted by frames;
    - a head that answers with a `waveform` hears each window with its context; where the parts of two windows meet, the answer
      fades from the one to the other. Several parts, such as talkers, are in the order that fits the window before best, by the
      samples that both windows hear;
    - a head that answers with `frames` or `text` gets the whole sequence of weighted sums: diarization must not swap
      speakers between windows.

    The task is in eval mode, the waveform `(samples,)` on its device, gradients are off. Returns outputs with a batch of
    one, and their frames (samples of a waveform), int64 `(1,)`; 1 for one vector per recording.
    """
    if task.answer == "waveform":
        answer = torch.cat(list(_joined_waveforms(task, waveform, seconds)), 1)
        return answer, _count(answer)
    parts = window_features(task, waveform, seconds)
    if task.cache_level == "utterance":
        return _answer_of_mean(task, parts)
    if task.answer == "labels":
        outputs = torch.cat([_answer(task, features)[:, own] for features, own in parts], 1)
        return outputs, _count(outputs)
    first = next(parts)
    # Tasks written before `answer` existed go by the shape, so they must answer first.
    kind = task.answer or task.answer_kind(_answer(task, first.features[:, first.own]))
    if kind in ("label", "vector"):
        return _mean_of_answers(task, first, parts)
    features = torch.cat([first.features[:, first.own], *(features[:, own] for features, own in parts)], 1)
    return _answer(task, features), _count(features)


def _shown(parts: Iterable[Window]) -> Iterator[Window]:
    """The same windows, under a progress bar if they take more than some seconds."""
    found = list(parts)
    yield from progress_bar(iterable=found, desc="windows", unit="window", leave=False, delay=QUIET_SECONDS)


def window_features(task: WindowedTask, waveform: Tensor, seconds: float) -> Iterator[WindowFeatures]:
    """The weighted sums of the windows of a recording `(samples,)`, computed one after the other."""
    hop = round(SAMPLE_RATE / task.upstream.frame_rate)
    for samples, before, frames in _shown(windows(len(waveform), hop, seconds)):
        stretch = waveform[samples]
        features = task.weighted_sum(task.upstream(stretch[None], torch.tensor([len(stretch)], device=stretch.device)))
        own = slice(before, None if frames is None else before + frames)
        if features[:, own].shape[1]:  # the last samples may be shorter than a frame
            yield WindowFeatures(features, own)


def is_long(inputs: Any) -> bool:
    """Whether the inputs of a batch are one recording that validation and test hear in windows."""
    return (
        isinstance(inputs, Waveforms)
        and len(inputs.lengths) == 1
        and len(inputs.audio[0]) > LONGEST_WHOLE * SAMPLE_RATE
    )


def _joined_waveforms(task: WindowedTask, waveform: Tensor, seconds: float) -> Iterator[Tensor]:
    """The answer for a recording `(samples,)`, in pieces `(1, samples)` or `(1, samples, parts)`, without seams."""
    hop = round(SAMPLE_RATE / task.upstream.frame_rate)
    last, last_begin = waveform[None, :0], 0  # the answer of the window before, and its place
    done = 0  # samples that are given out
    for samples, before, _ in _shown(windows(len(waveform), hop, seconds)):
        stretch, begin = waveform[samples], samples.start
        answer, _ = task(Waveforms(stretch[None], torch.tensor([len(stretch)], device=stretch.device)))
        if answer.shape[1] != len(stretch):
            raise UserError(
                f"{task.name}: answers {len(stretch)} samples with {answer.shape[1]}, so windows cannot be joined; give "
                "--window 0"
            )
        if begin + before * hop:
            meet = begin + before * hop
            shared = last_begin + last.shape[1] - begin  # samples that both windows answer
            if answer.ndim > 2:
                answer = answer[:, :, best_order(last[0, last.shape[1] - shared :], answer[0, :shared])]
            fade = min(FADE, meet - max(begin, done), begin + shared - meet)
            yield last[:, done - last_begin : meet - fade - last_begin]
            old = last[:, meet - fade - last_begin : meet + fade - last_begin]
            new = answer[:, meet - fade - begin : meet + fade - begin]
            rising = torch.linspace(0, 1, 2 * fade + 2, device=answer.device, dtype=answer.dtype)[1:-1]
            yield torch.lerp(old, new, rising.view(1, -1, *([1] * (answer.ndim - 2))))
            done = meet + fade
        last, last_begin = answer, begin
    yield last[:, done - last_begin :]


def best_order(before: Tensor, after: Tensor) -> Tensor:
    """The order of the parts of one answer that is nearest to another of the same samples; `(samples, parts)` each."""
    # The sum of squared differences is least where that of the inner products is largest.
    return best_assignment(-(after.double().T @ before.double())[None])[1][0]


def _count(frames: Tensor) -> Tensor:
    return torch.tensor([frames.shape[1]], device=frames.device)


def _answer(task: WindowedTask, features: Tensor) -> Tensor:
    return task.outputs(features, _count(features))


def _answer_of_mean(task: WindowedTask, parts: Iterator[WindowFeatures]) -> tuple[Tensor, Tensor]:
    total, frames = torch.zeros((), dtype=torch.float64), 0
    for features, own in parts:
        total = features[:, own].double().sum(1, keepdim=True) + total.to(features.device)
        frames += features[:, own].shape[1]
        dtype = features.dtype
    mean = (total / frames).to(dtype)
    return _answer(task, mean), _count(mean)


def _mean_of_answers(
    task: WindowedTask, first: WindowFeatures, others: Iterator[WindowFeatures]
) -> tuple[Tensor, Tensor]:
    features = first.features[:, first.own]
    frames = features.shape[1]
    total = frames * _answer(task, features)
    for window, own in others:  # computed one by one; a list of all windows may not fit into memory
        features = window[:, own]
        answer = _answer(task, features)
        if answer.shape != total.shape:
            raise UserError(
                f"{task.name}: windows of other lengths give answers of other sizes; declare `answer` in the task, or give "
                "--window 0"
            )
        total = total + features.shape[1] * answer
        frames += features.shape[1]
    return total / frames, _count(total[:, :1])
