"""RTTM, the text format of speaker turns, one line for each segment (NIST RT-09 evaluation plan, appendix A)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

DECIMALS = 3


def rttm_lines(recording: str, segments: Iterable[Sequence[Any]]) -> list[str]:
    """Segments of one recording as RTTM lines, times in milliseconds as dscore writes them.

    Segments shorter than a millisecond are dropped, since scorers refuse a duration of zero.

    Args:
        recording: name without white space.
        segments: `(speaker, start, end)` in seconds.

    Raises:
        ValueError: a name that is empty or contains white space.

    Example:
        >>> rttm_lines("meeting", [("anna", 0.5, 2.0)])
        ['SPEAKER meeting 1 0.500 1.500 <NA> <NA> anna <NA> <NA>']
    """
    lines = []
    _check_name(recording)
    for speaker, start, end in segments:
        _check_name(speaker)
        # From rounded times, so that start + duration is the rounded end.
        duration = round(end, DECIMALS) - round(start, DECIMALS)
        if round(duration, DECIMALS) > 0:
            times = f"{start:.{DECIMALS}f} {duration:.{DECIMALS}f}"
            lines.append(f"SPEAKER {recording} 1 {times} <NA> <NA> {speaker} <NA> <NA>")
    return lines


def parse_rttm(lines: Iterable[str]) -> dict[str, list[tuple[str, float, float]]]:
    """Segments of every recording, in the order of the lines.

    Args:
        lines: of one or more RTTM files; comments (`;;`), empty lines and types other than SPEAKER are skipped.

    Returns:
        recording -> `(speaker, start, end)` in seconds.

    Raises:
        ValueError: a SPEAKER line has too few fields or invalid times.
    """
    recordings: dict[str, list[tuple[str, float, float]]] = {}
    for number, line in enumerate(lines, 1):
        fields = line.split()
        if not fields or fields[0] != "SPEAKER":
            continue
        try:
            recording, speaker = fields[1], fields[7]
            start, duration = float(fields[3]), float(fields[4])
        except (IndexError, ValueError):
            raise ValueError(
                f"RTTM line {number} is not `SPEAKER recording channel start duration <NA> <NA> speaker ...`: {line!r}"
            ) from None
        if not (start >= 0 and 0 <= duration < float("inf")):
            raise ValueError(f"RTTM line {number} has a time that is negative or not finite: {line!r}")
        recordings.setdefault(recording, []).append((speaker, start, start + duration))
    return recordings


def _check_name(name: str) -> None:
    if len(str(name).split()) != 1 or str(name) != str(name).strip():
        raise ValueError(f"RTTM separates fields by white space, so {name!r} cannot be a name in it")
