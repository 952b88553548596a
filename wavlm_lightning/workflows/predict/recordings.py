"""Apply a trained head to audio files: batching, comparison of speaker embeddings, JSON lines and RTTM."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wavlm_lightning.audio import SAMPLE_RATE
from wavlm_lightning.data.batch import Waveforms
from wavlm_lightning.data.finding import FoundAudio, find_audio
from wavlm_lightning.metrics.rttm import rttm_lines
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.files import sweep_leftovers, write_text
from wavlm_lightning.tasks.windows import long_outputs
from wavlm_lightning.workflows.predict.audio_files import AudioWriter
from wavlm_lightning.workflows.predict.head import TrainedHead

PREDICTIONS, TURNS = "predictions.jsonl", "predictions.rttm"


def audio_files(given: Path) -> list[Path]:
    """The file itself, or all audio files in a folder and below it, sorted; a `UserError` if there is no audio file."""
    if given.is_file():
        return [given]
    found = find_audio(given) if given.is_dir() else FoundAudio([])
    if not found.files:
        raise UserError(f"{given}: no such file, and no recordings in a folder of that name")
    if (note := found.note()) is not None:
        print(f"{given}: {note}", file=sys.stderr)
    return found.files


def predict_files(
    head: TrainedHead,
    paths: Sequence[Path],
    batch_seconds: float,
    window: float = 0.0,
    writer: AudioWriter | None = None,
) -> Iterator[dict[str, Any]]:
    """Predictions for audio files of any sample rate, in their order: `file`, and the keys of the task's `readable`.

    `writer` writes the answers of a head that answers with waveforms. A batch holds at most `batch_seconds` of audio, padding
    included, or one longer file; see `predict_recordings`.
    """
    waiting: list[tuple[Path, np.ndarray]] = []
    for path in paths:
        waveform = head.read(path)
        longest = max([len(waveform), *(len(other) for _, other in waiting)])
        long = 0 < window * SAMPLE_RATE < len(waveform)
        if waiting and (long or (len(waiting) + 1) * longest > batch_seconds * SAMPLE_RATE):
            yield from _predict(head, waiting, writer=writer)
            waiting = []
        if long:
            yield from _predict(head, [(path, waveform)], window, writer)
        else:
            waiting.append((path, waveform))
    if waiting:
        yield from _predict(head, waiting, writer=writer)


@torch.inference_mode()
def _predict(
    head: TrainedHead, batch: list[tuple[Path, np.ndarray]], window: float = 0.0, writer: AudioWriter | None = None
) -> Iterator[dict[str, Any]]:
    inputs = Waveforms.pad([waveform for _, waveform in batch]).to(head.device)
    try:
        outputs, lengths = long_outputs(head.task, inputs.audio[0], window) if window else head.task(inputs)
    except UserError as error:
        raise UserError(f"{', '.join(str(path) for path, _ in batch)}: {error}") from error
    if head.task.answer == "waveform":
        outputs = outputs.float() / 10 ** (head.gain_db / 20)  # back at the level of the recordings
    answers = head.task.answer_rows(outputs, lengths)
    for (path, _), row, answer in zip(batch, head.task.readable(outputs, lengths), answers, strict=True):
        yield {"file": str(path), **row, **(writer.write(path, answer.cpu().numpy()) if writer else {})}


def compare(rows: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The cosine of each pair of embeddings as `score`, with their files as `a` and `b`: high for one speaker."""
    for one, other in combinations((row for row in rows if "embedding" in row), 2):
        score = sum(a * b for a, b in zip(one["embedding"], other["embedding"], strict=True))
        yield {"a": one["file"], "b": other["file"], "score": round(score, 4)}


def recording_names(files: Sequence[str]) -> list[str]:
    """Names for RTTM, which has no white space: file names without suffix, or whole paths where two names are equal."""
    names = [re.sub(r"\s+", "_", Path(file).stem) for file in files]
    paths = [re.sub(r"\s+", "_", file) for file in files]
    return [name if names.count(name) == 1 else path for name, path in zip(names, paths, strict=True)]


def write_predictions(folder: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write `predictions.jsonl` and, if there are speaker turns, `predictions.rttm` to a folder, made if missing."""
    folder.mkdir(parents=True, exist_ok=True)
    sweep_leftovers(folder)
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    write_text(folder / PREDICTIONS, "".join(lines), durable=True)
    diarized = [row for row in rows if "turns" in row]
    names = recording_names([row["file"] for row in diarized])
    turns = [line for name, row in zip(names, diarized, strict=True) for line in rttm_lines(name, row["turns"])]
    if turns:
        write_text(folder / TURNS, "\n".join(turns) + "\n", durable=True)
