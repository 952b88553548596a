"""`wavlm predict`: a trained head on recordings.

In reading order: `head` (loads it), `recordings` (applies it to files, writes JSON lines and RTTM), `tasks.windows` (recordings
that are too long for memory), `audio_files` (answers that are audio). Importing the package imports nothing heavy. Tests:
`tests/workflows/test_predict.py`, `tests/workflows/test_predict_audio.py`, `tests/tasks/test_long_recordings.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from wavlm_lightning.system.errors import UserError


def predict_recordings(
    run: str | Path,
    recordings: Sequence[str | Path],
    *,
    out: str | Path | None = None,
    device: str | None = None,
    batch_seconds: float = 60.0,
    window: float = 60.0,
    audio_format: str = "wav",
) -> Iterator[dict[str, Any]]:
    """Predict what a head was trained for, as `wavlm predict RUN FILE...` does.

    Args:
        run: run folder of a head, or a folder in Hugging Face's format.
        recordings: audio files, or folders of them.
        out: folder for `predictions.jsonl`, for speaker turns `predictions.rttm`, and for a head that answers with audio a
            file for each recording; while these are written there is no `predictions.jsonl`, also not an earlier one.
        device: such as `cuda`; the GPU if there is one by default.
        batch_seconds: audio in a batch, padding included.
        window: longer recordings are processed in windows of this many seconds, at least 1; 0 for no windows.
        audio_format: `wav` or `flac`, of audio in `out`; 16 bit, 16 kHz, at the level of the answer.

    Yields:
        For each recording `file` and the head's answer (`text`, `turns`, `embedding`, ...), as JSON-like values; after
        all embeddings, for each pair of them `a`, `b` and the cosine as `score`. Of audio in `out`, `audio` is the name of
        the file and `clipped` the number of samples that were beyond full scale, if there were any.

    Raises:
        UserError: the head or a recording cannot be used.

    Example:
        >>> for row in predict_recordings("runs/demo/heads/pr-mine", ["recordings"]):
        ...     print(row["file"], row["phones"])
    """
    if window and not window >= 1:
        raise UserError(f"--window {window:g}: too short; give at least 1 second, or 0 for no windows")
    from wavlm_lightning.workflows.predict.audio_files import AudioWriter
    from wavlm_lightning.workflows.predict.head import open_head
    from wavlm_lightning.workflows.predict.recordings import (
        PREDICTIONS,
        audio_files,
        compare,
        predict_files,
        write_predictions,
    )

    given = [Path(each) for each in recordings]
    paths = [path for each in given for path in audio_files(each)]
    head = open_head(Path(run), device)
    writer = None
    if out is not None and head.task.answer == "waveform":
        paths = list(dict.fromkeys(paths))  # a file for each, also if a recording was named twice
        writer = AudioWriter(Path(out), paths, given, audio_format)
        # Of an earlier run, whose files this one replaces one by one; a run that is interrupted leaves no list.
        (Path(out) / PREDICTIONS).unlink(missing_ok=True)
    rows = []
    for row in predict_files(head, paths, batch_seconds, window, writer):
        rows.append(row)
        yield row
    for row in list(compare(rows)):
        rows.append(row)
        yield row
    if out is not None:
        write_predictions(Path(out), rows)
