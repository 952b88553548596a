"""Apply a trained head to audio files: batching, files that cannot be used, comparison of speaker embeddings."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wavlm_lightning.audio import SAMPLE_RATE
from wavlm_lightning.data.batch import Waveforms
from wavlm_lightning.data.finding import FoundAudio, find_audio, printable
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.reading import reason_of
from wavlm_lightning.workflows.predict.audio_files import AudioWriter
from wavlm_lightning.workflows.predict.enrolments import Enrolments
from wavlm_lightning.workflows.predict.head import TrainedHead

Failure = Callable[[Path, str], None]  # called with a recording that cannot be used, and the reason
Heard = list[tuple[Path, np.ndarray]]


def audio_files(given: Path) -> list[Path]:
    """The file itself, or all audio files in a folder and below it, sorted; a `UserError` if there is no audio file."""
    if given.is_file():
        return [given]
    found = find_audio(given) if given.is_dir() else FoundAudio([])
    if not found.files:
        raise UserError(f"{printable(given)}: no such file, and no recordings in a folder of that name")
    if (note := found.note()) is not None:
        print(f"{printable(given)}: {note}", file=sys.stderr)
    return found.files


def predict_files(
    head: TrainedHead,
    paths: Sequence[Path],
    batch_seconds: float,
    window: float = 0.0,
    writer: AudioWriter | None = None,
    failed: Failure | None = None,
) -> Iterator[dict[str, Any]]:
    """Predictions for audio files of any sample rate, in their order: `file`, and the keys of the task's `readable`.

    `writer` writes the answers of a head that answers with waveforms. A batch holds at most `batch_seconds` of audio, padding
    included, or one longer file; see `predict_recordings`. A file that cannot be used, or that the head cannot answer, goes
    to `failed`; without it a `UserError` says why.
    """
    rows = predict_each(head, paths, batch_seconds, window, writer, failed or _refuse)
    return (row for row in rows if row is not None)


def predict_each(
    head: TrainedHead,
    paths: Sequence[Path],
    batch_seconds: float,
    window: float,
    writer: AudioWriter | None,
    failed: Failure,
    enrolments: Enrolments | None = None,
) -> Iterator[dict[str, Any] | None]:
    """The same with one row for each file: None for those that went to `failed`; `enrolments` as some heads need them."""
    predict = partial(_predict, head, writer=writer, failed=failed, enrolments=enrolments)
    waiting: Heard = []
    for path in paths:
        try:
            waveform = head.read(path)
        except UserError as error:
            yield from predict(waiting)  # so that what came before is written
            waiting = []
            failed(path, str(error))
            yield None
            continue
        longest = max([len(waveform), *(len(other) for _, other in waiting)])
        long = 0 < window * SAMPLE_RATE < len(waveform)
        if waiting and (long or (len(waiting) + 1) * longest > batch_seconds * SAMPLE_RATE):
            yield from predict(waiting)
            waiting = []
        if long:
            yield from predict([(path, waveform)], window=window)
        else:
            waiting.append((path, waveform))
    yield from predict(waiting)


def _refuse(path: Path, why: str) -> None:
    raise UserError(why)


def _predict(
    head: TrainedHead,
    batch: Heard,
    window: float = 0.0,
    writer: AudioWriter | None = None,
    failed: Failure = _refuse,
    enrolments: Enrolments | None = None,
) -> Iterator[dict[str, Any] | None]:
    """The rows of a batch. If it fails, each of its recordings is heard alone, which shows the one that cannot be used."""
    if not batch:
        return
    try:
        answered = list(_answers(head, batch, window, enrolments))
    except Exception as error:
        if len(batch) > 1:
            for each in batch:
                yield from _predict(head, [each], window, writer, failed, enrolments)
            return
        path = batch[0][0]
        said = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {reason_of(error)}"
        failed(path, f"{printable(path)}: {said}")
        yield None
        return
    # Not under `try`: a full disk is not the fault of a recording.
    for (path, _), (row, answer) in zip(batch, answered, strict=True):
        yield {"file": printable(path), **row, **(writer.write(path, answer.cpu().numpy()) if writer else {})}


@torch.inference_mode()
def _answers(
    head: TrainedHead, batch: Heard, window: float, enrolments: Enrolments | None
) -> Iterator[tuple[dict[str, Any], torch.Tensor]]:
    """What the head says of each recording, and its outputs without padding."""
    inputs = Waveforms.pad([waveform for _, waveform in batch]).to(head.device)
    extra = {} if enrolments is None else enrolments.of([path for path, _ in batch])
    with head.task.beside(extra):
        outputs, lengths = head.task.heard(inputs, window)
    if head.task.answer == "waveform":
        outputs = outputs.float() / 10 ** (head.gain_db / 20)  # back at the level of the recordings
    answers = head.task.answer_rows(outputs, lengths)
    for row, answer in zip(head.task.readable(outputs, lengths), answers, strict=True):
        if not torch.isfinite(answer).all():
            raise UserError("the answer holds NaN or infinite numbers; the head has diverged in training")
        yield row, answer


def compare(rows: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The cosine of each pair of embeddings as `score`, with their files as `a` and `b`: high for one speaker."""
    for one, other in combinations((row for row in rows if "embedding" in row), 2):
        score = sum(a * b for a, b in zip(one["embedding"], other["embedding"], strict=True))
        yield {"a": one["file"], "b": other["file"], "score": round(score, 4)}
