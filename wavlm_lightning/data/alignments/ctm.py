"""CTM files of NIST and Kaldi: a line a phone, `UTTERANCE CHANNEL START DURATION LABEL [CONFIDENCE]`, times in seconds."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

from wavlm_lightning.data.alignments.alignment_set import Aligned
from wavlm_lightning.data.alignments.segments import Segment
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.reading import read_lines, shown

ROUNDING = 0.0101  # seconds that start and duration, rounded to two digits, may make a segment overlap the next
WHAT = "a CTM of phones"

Line = tuple[int, str]  # its number and its text


def read_ctm(path: Path) -> dict[str, Callable[[int], Aligned]]:
    """A CTM of phones, or a folder with `phones.ctm` and, if there is one, `words.ctm`.

    Returns:
        By utterance: a function of its samples that gives its segments.

    Raises:
        UserError: a line has another form. Of the functions: times that overlap by more than rounding, or run backwards.
    """
    phones, words = (path / "phones.ctm", path / "words.ctm") if path.is_dir() else (path, None)
    if not phones.is_file():
        raise UserError(f"{phones}: no such file; it should be {WHAT}")
    by_phone = _by_utterance(phones)
    by_word = _by_utterance(words) if words is not None and words.is_file() else None

    def aligned(utterance: str, samples: int) -> Aligned:  # of the samples nothing is needed
        said = None if by_word is None or words is None else _segments(words, by_word.get(utterance, []))
        return Aligned(_segments(phones, by_phone[utterance]), said)

    return {utterance: partial(aligned, utterance) for utterance in by_phone}


def _by_utterance(path: Path) -> dict[str, list[Line]]:
    found: dict[str, list[Line]] = {}
    for number, line in enumerate(read_lines(path, WHAT), start=1):
        if not line.strip() or line.startswith(";;"):
            continue
        if len(fields := line.split()) not in (5, 6):
            raise UserError(
                f"{path}, line {number}: {len(fields)} fields, {shown(line)}, instead of utterance, channel, start, duration, "
                "label and maybe a confidence; correct the line"
            )
        found.setdefault(fields[0], []).append((number, line))
    if not found:
        raise UserError(f"{path}: holds no line; it should be {WHAT}")
    return found


def _segments(path: Path, lines: list[Line]) -> list[Segment]:
    rows: list[Segment] = []
    first = None
    for number, line in lines:
        utterance, channel, begin, duration, label = line.split()[:5]
        where = f"{path}, line {number}: {label!r} of {utterance!r}"
        try:
            start, length = float(begin), float(duration)
        except ValueError:
            start = length = math.nan
        if not (math.isfinite(start) and start >= 0 and math.isfinite(length) and length > 0):
            raise UserError(
                f"{where} begins at {begin} and lasts {duration}, which is no stretch of time; correct the line"
            )
        if first not in (None, channel):
            raise UserError(f"{where} is of channel {channel}, others of {first}; give one channel an utterance")
        first = channel
        if rows and (over := rows[-1].end - start) > 0:
            if over > ROUNDING or start <= rows[-1].start:
                raise UserError(
                    f"{where} begins at {begin} s, before the segment in front of it ends ({rows[-1].end:g} s); sort the "
                    "lines, or correct their times"
                )
            rows[-1] = rows[-1]._replace(end=start)
        rows.append(Segment(label, start, start + length))
    return rows
