"""The files in `--out`: predictions line by line while they are made, so that an interrupted run goes on where it stopped."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wavlm_lightning.data.finding import printable
from wavlm_lightning.metrics.rttm import rttm_lines
from wavlm_lightning.system.files import sweep_leftovers, write_text
from wavlm_lightning.system.paths import unique_names

PREDICTIONS, TURNS, FAILED = "predictions.jsonl", "predictions.rttm", "failed.jsonl"
UNFINISHED = "predictions.unfinished.jsonl"  # which recordings of a run that has not ended are in `PREDICTIONS`
LOCK = "predictions.lock"


class PredictionsFolder:
    """Writes `predictions.jsonl` one whole line after the other, and at the end RTTM and the list of failures.

    While a run goes on, `predictions.unfinished.jsonl` beside it holds a hash of head and settings, and size and time of
    each recording that is done. A run with the same hash keeps these rows; any other run begins anew.

    Args:
        folder: made if missing; the caller holds its lock.
        stamp: of everything beside the recordings on which the predictions depend.
    """

    def __init__(self, folder: Path, stamp: str) -> None:
        self.folder = folder
        sweep_leftovers(folder)
        self.done = self._earlier(stamp)
        self.failures: list[dict[str, str]] = []
        if not self.done:
            (folder / TURNS).unlink(missing_ok=True)  # of another run
        (folder / FAILED).unlink(missing_ok=True)
        # Whole lines alone; what another head said is gone before this one says a word.
        kept = list(self.done.values())
        write_text(folder / PREDICTIONS, _lines([row for row, _ in kept]))
        notes = [{"stamp": stamp}, *({"file": row["file"], "state": state} for row, state in kept)]
        write_text(folder / UNFINISHED, _lines(notes))

    def _earlier(self, stamp: str) -> dict[str, tuple[dict[str, Any], list[int]]]:
        """By file, the row and the state of the recording that an interrupted run with this stamp has written."""
        notes = _whole_lines(self.folder / UNFINISHED)
        if not notes or notes[0].get("stamp") != stamp:
            return {}
        rows = {row["file"]: row for row in _whole_lines(self.folder / PREDICTIONS) if "file" in row}
        states = {note["file"]: note["state"] for note in notes[1:] if {"file", "state"} <= note.keys()}
        return {file: (rows[file], state) for file, state in states.items() if file in rows}

    def earlier(self, path: Path, audio: str | list[str] | None = None) -> dict[str, Any] | None:
        """The row of a recording that an interrupted run has written, if it has not changed since; `audio` its file or files."""
        row, state = self.done.get(printable(path), (None, None))
        if row is None or state != state_of(path) or row.get("audio") != audio:
            return None
        files = [] if audio is None else [audio] if isinstance(audio, str) else audio
        return row if all((self.folder / file).is_file() for file in files) else None

    def add(self, path: Path, row: dict[str, Any]) -> None:
        """Append a row to the file, at once."""
        for name, content in ((PREDICTIONS, row), (UNFINISHED, {"file": row["file"], "state": state_of(path)})):
            with (self.folder / name).open("a", encoding="utf-8") as file:
                file.write(_lines([content]))

    def fail(self, path: Path, why: str) -> None:
        """Note a recording that is left out, in `failed.jsonl`."""
        self.failures.append({"file": printable(path), "why": why})
        with (self.folder / FAILED).open("a", encoding="utf-8") as file:
            file.write(_lines(self.failures[-1:]))

    def finish(self, rows: Sequence[dict[str, Any]]) -> None:
        """Write all rows in their order and, if there are speaker turns, `predictions.rttm`; the run is over."""
        write_text(self.folder / PREDICTIONS, _lines(rows), durable=True)
        diarized = [row for row in rows if "turns" in row]
        names = recording_names([row["file"] for row in diarized])
        turns = [line for name, row in zip(names, diarized, strict=True) for line in rttm_lines(name, row["turns"])]
        if turns:
            write_text(self.folder / TURNS, "\n".join(turns) + "\n", durable=True)
        (self.folder / UNFINISHED).unlink(missing_ok=True)


def state_of(path: Path) -> list[int]:
    """Size and time of a file."""
    state = os.stat(path)  # noqa: PTH116 - a name of any bytes
    return [state.st_size, state.st_mtime_ns]


def _lines(rows: Sequence[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _whole_lines(path: Path) -> list[dict[str, Any]]:
    """The rows of a file of JSON lines, without what a killed process has written of one."""
    if not path.is_file():
        return []
    rows = []
    for line in path.read_bytes().split(b"\n")[:-1]:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):  # after a power failure
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows


def recording_names(files: Sequence[str]) -> list[str]:
    """Names for RTTM, which has no white space, each once: file names without suffix, or whole paths of equal ones.

    Example:
        >>> recording_names(["a/my meeting.wav", "a/x.wav", "b/x.flac", "a b.wav", "a_b.wav"])
        ['my_meeting', 'a/x.wav', 'b/x.flac', 'a_b.wav', 'a_b.wav-2']
    """
    names = [re.sub(r"\s+", "_", Path(file).stem) for file in files]
    paths = [re.sub(r"\s+", "_", file) for file in files]
    chosen = [name if names.count(name) == 1 else path for name, path in zip(names, paths, strict=True)]
    return unique_names(chosen, case_counts=True)
