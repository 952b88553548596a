"""`wavlm predict`: a trained head on recordings.

In reading order: `head` (loads it), `recordings` (applies it to files), `written` (JSON lines and RTTM, written as they are
made), `tasks.windows` (recordings that are too long for memory), `audio_files` (answers that are audio). Importing the package
imports nothing heavy. Tests: `tests/workflows/test_predict.py`, `tests/workflows/test_predict_accidents.py`,
`tests/workflows/test_predict_audio.py`, `tests/tasks/test_long_recordings.py`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.files import check_output

OnError = Literal["stop", "skip"]


def predict_recordings(
    run: str | Path,
    recordings: Sequence[str | Path],
    *,
    out: str | Path | None = None,
    device: str | None = None,
    batch_seconds: float = 60.0,
    window: float = 60.0,
    audio_format: str = "wav",
    on_error: OnError | None = None,
    lm: str | Path | None = None,
    nbest: int = 1,
    enrolment: str | Path | None = None,
    speakers: str | None = None,
) -> Iterator[dict[str, Any]]:
    """Predict what a head was trained for, as `wavlm predict RUN FILE...` does.

    Args:
        run: run folder of a head, or a folder in Hugging Face's format.
        recordings: audio files, or folders of them.
        out: folder for `predictions.jsonl`, for speaker turns `predictions.rttm`, and for a head that answers with audio a
            file for each recording. Every row is written as soon as it is made; after an interruption the same call goes on
            where it stopped. `failed.jsonl` lists the recordings that are left out, and why.
        device: such as `cuda`; the GPU if there is one by default.
        batch_seconds: audio in a batch, padding included.
        window: longer recordings are processed in windows of this many seconds, at least 1; 0 for no windows.
        audio_format: `wav` or `flac`, of audio in `out`; 16 bit, 16 kHz, at the level of the answer.
        on_error: `stop` at a recording that cannot be used, or `skip` it with a warning. By default all others are
            predicted, and an error at the end says how many are left out.
        lm: of ASR and PR heads: decode with a language model as well (`text_lm`, `phones_lm`): a file that `wavlm lm tune` has
            written, or the run folder that holds it.
        nbest: of heads that answer with text: as many different answers as `nbest`, a list with their scores, best first.
            A score is the natural logarithm of the answer's probability, or with a language model that of its best
            alignment, plus that of the model with its weight.
        enrolment: of heads about a target speaker: a recording of that speaker alone, for all recordings, or a CSV or TSV file
            with the columns `path` and `audio:enrolment`, one row for each recording.

        speakers: of a head of `MeetingDiarization`: how many speak in each recording, such as "3", or "2-4" for a range; by
            default the threshold fitted on validation finds it.

    Yields:
        For each recording `file` and the head's answer (`text`, `turns`, `embedding`, ...), as JSON-like values; after
        all embeddings, for each pair of them `a`, `b` and the cosine as `score`. Of audio in `out`, `audio` is the name of
        the file (a list for several talkers) and `clipped` the number of samples that were beyond full scale, if there were any.

    Raises:
        UserError: the head cannot be used, another process writes to `out`, or (unless `on_error="skip"`) a recording
            cannot be used.

    Example:
        >>> for row in predict_recordings("runs/demo/heads/pr-mine", ["recordings"]):
        ...     print(row["file"], row["phones"])
    """
    if window and not window >= 1:
        raise UserError(f"--window {window:g}: too short; give at least 1 second, or 0 for no windows")
    if not batch_seconds > 0:
        raise UserError(f"--batch-seconds {batch_seconds:g}: must be above 0")
    if nbest < 1:
        raise UserError(f"--nbest {nbest}: give 1 or more")
    from wavlm_lightning.system.files import locked
    from wavlm_lightning.system.progress import progress_bar
    from wavlm_lightning.workflows.predict.audio_files import AudioWriter
    from wavlm_lightning.workflows.predict.enrolments import Enrolments
    from wavlm_lightning.workflows.predict.head import answer_with, count_speakers, decode_with, open_head
    from wavlm_lightning.workflows.predict.recordings import audio_files, compare, predict_each
    from wavlm_lightning.workflows.predict.written import LOCK, PredictionsFolder

    failures: list[str] = []
    folder: PredictionsFolder | None = None

    def failed(path: Path, why: str) -> None:
        failures.append(why)
        if folder is not None:
            folder.fail(path, why)
        if on_error == "stop" or (on_error is None and len(paths) <= 1 and len(given) == 1):
            raise UserError(why if on_error is None else f"{why}; repair it or move it away, or use --on-error skip")
        print(f"left out: {why}", file=sys.stderr)

    if out is not None:
        check_output(out)
    given = [Path(each) for each in recordings]
    paths: list[Path] = []
    absent = []
    for each in given:
        try:
            paths += audio_files(each)
        except UserError as error:
            if on_error == "stop" or len(given) == 1:
                raise
            absent.append((each, str(error)))
    head = open_head(Path(run), device)
    answer_with(head, nbest)
    if speakers is not None:
        count_speakers(head, speakers)
    decoding = None if lm is None else decode_with(head, Path(lm))
    enrolments = Enrolments.open(head, None if enrolment is None else Path(enrolment))
    writer = None
    with contextlib.ExitStack() as stack:
        if out is not None:
            place = Path(out)
            if head.task.answer == "waveform":
                paths = list(dict.fromkeys(paths))  # a file for each, also if a recording was named twice
                writer = AudioWriter(place, paths, given, audio_format, head.task.parts)
            place.mkdir(parents=True, exist_ok=True)
            busy = f"{place}: another process is writing predictions there; wait for it, or choose another --out"
            stack.enter_context(locked(place / LOCK, busy, optional=True, temporary=True))
            settings = [window, audio_format, *([] if decoding is None and nbest == 1 else [decoding, nbest])]
            settings += [] if enrolments is None else [{"enrolments": enrolments.states()}]
            if speakers is not None:
                settings.append({"speakers": speakers})
            folder = PredictionsFolder(place, _stamp(Path(run), head.task.upstream.fingerprint(), settings))
        for path, why in absent:
            failed(path, why)
        # Where rows go to a terminal, they are the progress.
        hidden, terminal = len(paths) < 2 or sys.stdout.isatty(), sys.stderr.isatty()
        counted = progress_bar(total=len(paths), unit=" files", desc="predict", disable=hidden, leave=terminal)
        bar = stack.enter_context(counted)
        rows: list[dict[str, Any]] = []
        known: dict[Path, dict[str, Any]] = {}
        if folder is not None:
            for path in paths:
                earlier = folder.earlier(path, None if writer is None else writer.names[path])
                if earlier is not None:
                    known[path] = earlier
        new = predict_each(
            head, [p for p in paths if p not in known], batch_seconds, window, writer, failed, enrolments
        )
        for path in paths:
            row = known[path] if path in known else next(new)
            bar.update()
            if row is None:
                continue
            if folder is not None and path not in known:
                folder.add(path, row)
            rows.append(row)
            yield row
        for row in list(compare(rows)):
            rows.append(row)
            yield row
        if folder is not None:
            folder.finish(rows)
    if failures and on_error is None:
        listed = "" if out is None else f", listed in {Path(out) / 'failed.jsonl'}"
        more = f", and {len(failures) - 1} more" if len(failures) > 1 else ""
        raise UserError(
            f"{len(failures)} of {len(paths) + len(absent)} recordings are left out{listed} ({failures[0]}{more}); repair "
            "them or move them away, or accept it with --on-error skip"
        )


def _stamp(run: Path, upstream: str, settings: Sequence[Any]) -> str:
    """A hash of the head and of the settings that change its answers; `upstream` is a hash of its weights."""
    files = [path for path in sorted([*run.glob("*.*"), *run.glob("checkpoints/best.ckpt")]) if path.is_file()]
    states = [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in files]
    facts = [str(run.resolve()), states, upstream, *settings]
    return hashlib.sha256(json.dumps(facts).encode("utf-8", "backslashreplace")).hexdigest()
