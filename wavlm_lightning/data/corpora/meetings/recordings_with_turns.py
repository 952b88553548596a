"""A recording of a meeting as utterances with speaker turns, whole or in pieces, and the RTTM file of one recording."""

from __future__ import annotations

import io
from pathlib import Path

from wavlm_lightning.data.foreign.rttm import BEYOND, stretches_of
from wavlm_lightning.data.recordings import Recording
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.reading import read_text, reading


def read_turns(path: Path, name: str) -> list[tuple[str, float, float]]:
    """The turns of one recording in an RTTM file of its own; none if the file has no line of it.

    Raises:
        UserError: the file is missing or is not RTTM, or it has turns of another recording.
    """
    from wavlm_lightning.metrics.rttm import parse_rttm  # imports numpy, which `wavlm prepare --help` must not

    lines = [*io.StringIO(read_text(path, "the turns of a recording, an RTTM file"), newline=None)]
    with reading(path, "an RTTM file", "correct this line"):
        found = parse_rttm(lines)
    if others := sorted(set(found) - {name}):
        raise UserError(f"{path}: it has turns of {others[0]!r}, not only of {name!r}; give the file of this recording")
    return found.get(name, [])


def with_speakers(
    name: str,
    path: Path,
    turns: list[tuple[str, float, float]],
    scored: list[tuple[float, float]] | None,
    pieces: float | None,
    **more: object,
) -> list[Recording]:
    """The utterances of a recording (see `stretches_of`), each with the `speakers` of its turns and `more` metadata.

    Raises:
        UserError: a turn, or a scored stretch, ends after the audio.
    """
    from wavlm_lightning.audio import stated_seconds

    seconds = stated_seconds(path)
    for what, end in (
        ("a turn", max((end for *_, end in turns), default=0.0)),
        ("a scored stretch", max((end for _, end in scored or []), default=0.0)),
    ):
        if seconds is not None and end > seconds + BEYOND:
            raise UserError(f"{path}: lasts {seconds:.2f} s, but {what} ends at {end:.2f} s; the audio is not complete")
    stretches: list[tuple[float, float | None]] = [(0.0, seconds)] if scored is None else [*scored]
    recordings = list(stretches_of(path, name, turns, stretches, pieces, whole=scored is None))
    for recording in recordings:
        recording.meta["speakers"] = sorted({speaker for speaker, _, _ in recording.meta["turns"]})
        recording.meta.update(more)
    return recordings
