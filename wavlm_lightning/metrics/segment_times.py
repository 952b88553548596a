"""Boundaries of a forced alignment against true times: how far each lies from its own, the same phones in both."""

from __future__ import annotations

from collections.abc import Sequence

Times = Sequence[tuple[str, float, float]]  # name, start and end in seconds


def boundary_offsets(reference: Times, found: Times, silence: str | None = "SIL") -> list[float] | None:
    """Seconds by which each boundary of `reference` is missed; None if the names without silence are not the same.

    A boundary is the start of a segment, and its end where silence, a gap or nothing follows in `reference`. Those at the start
    and at the end of all segments of `reference` count only beside silence: elsewhere they are the ends of the audio.

    Example:
        >>> boundary_offsets([("SIL", 0, 0.2), ("A", 0.2, 0.5), ("B", 0.5, 0.9)], [("A", 0, 0.45), ("B", 0.45, 0.9)])
        [0.2, 0.05]
    """
    one = [row for row in reference if row[0] != silence]
    other = [row for row in found if row[0] != silence]
    if [name for name, *_ in one] != [name for name, *_ in other]:
        return None
    offsets = []
    first, last = (reference[0][1], reference[-1][2]) if reference else (0.0, 0.0)
    for number, ((_, start, end), (_, begun, ended)) in enumerate(zip(one, other, strict=True)):
        if start > first:
            offsets.append(abs(start - begun))
        follows = one[number + 1][1] if number + 1 < len(one) else last
        if follows > end:
            offsets.append(abs(end - ended))
    return [round(offset, 9) for offset in offsets]
