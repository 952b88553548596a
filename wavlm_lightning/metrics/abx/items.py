"""Items of ABX: stretches of utterances with phone, context and speaker; files of Libri-Light's form; items from alignments."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.files import write_text
from wavlm_lightning.system.reading import read_lines, shown

HEADER = ("#file", "onset", "offset", "#phone", "prev-phone", "next-phone", "speaker")
WHAT = "an item file"
SILENCES = frozenset(
    {"", "sil", "sp", "spn", "<eps>"}
)  # in lower case: pauses, noise and unknown words of the usual aligners
ROUNDING = (
    6  # decimals of a frame: 0.285 s at 100 Hz is the centre of frame 28, though 100 x 0.285 is 28.499999999999996
)


class Item(NamedTuple):
    """A stretch of an utterance: onset and offset in seconds."""

    file: str  # key of the utterance
    onset: float
    offset: float
    phone: str
    previous: str
    next: str
    speaker: str


def frames_of(onset: float, offset: float, rate: float) -> tuple[int, int]:
    """The first frame of a stretch and the one after its last, at `rate` frames a second.

    Frames i with onset <= (i + 1/2) / rate <= offset, both ends inclusive, as fastabx selects them; Libri-Light's own code
    loses the last one. The two are equal if there is no frame.

    Example:
        >>> frames_of(0.10, 0.18, 50)
        (5, 9)
    """
    first = max(math.ceil(round(onset * rate - 0.5, ROUNDING)), 0)
    return first, max(math.floor(round(offset * rate - 0.5, ROUNDING)) + 1, first)


def read_items(path: Path) -> list[Item]:
    """Read an item file: the header `#file onset offset #phone prev-phone next-phone speaker`, then a line an item, in seconds.

    Raises:
        UserError: another header, a line with another number of fields, times that are no stretch, or no item; the message
            names the line.
    """
    lines = read_lines(path, WHAT)
    if not lines or tuple(lines[0].split()) != HEADER:
        raise UserError(
            f"{path}, line 1: an item file begins with `{' '.join(HEADER)}`, not {shown(lines[0] if lines else '')}"
        )
    items = []
    for number, line in enumerate(lines[1:], start=2):
        if not line.strip():
            continue
        fields = line.split()
        if len(fields) != len(HEADER):
            raise UserError(
                f"{path}, line {number}: {len(fields)} fields, separated by spaces, where the header has {len(HEADER)}; "
                "correct the line"
            )
        file, onset, offset, *labels = fields
        try:
            begin, end = float(onset), float(offset)
        except ValueError:
            begin = end = math.nan
        if not 0 <= begin < end < math.inf:
            raise UserError(
                f"{path}, line {number}: onset {shown(onset)} and offset {shown(offset)} must be seconds from 0 up, the offset "
                "the later one; correct the line"
            )
        items.append(Item(file, begin, end, *labels))
    if not items:
        raise UserError(f"{path}: holds no item after its header; make it again")
    return items


def write_items(path: Path, items: Iterable[Item]) -> None:
    """Write items as `read_items` reads them."""
    lines = [" ".join(HEADER)]
    for item in items:
        # Microseconds also behind 1,000 s: fewer digits would move frames.
        lines.append(" ".join([item.file, f"{item.onset:.10g}", f"{item.offset:.10g}", *item[3:]]))
    write_text(path, "\n".join(lines) + "\n")


def items_from_alignments(
    utterances: Iterable[tuple[str, str, Sequence[tuple[str, float, float]]]],
    unit: str = "triphone",
    silences: Collection[str] = SILENCES,
) -> list[Item]:
    """Make an item of every phone that stands between two phones.

    Silence, noise and unknown words make no item and no context, and neither do phones with a gap between them.

    Args:
        utterances: (key, speaker, segments (name, start, end) in seconds and in order) of each.
        unit: `triphone`, from the start of the previous phone to the end of the next one, as Libri-Light's main sets, or `phone`,
            the middle phone alone.
        silences: names that are no phones, in lower case.

    Example:
        >>> items_from_alignments([("u1", "s1", [("K", 0, 0.1), ("AE", 0.1, 0.2), ("T", 0.2, 0.3)])])[0].phone
        'AE'
    """
    items = []
    for key, speaker, segments in utterances:
        for before, middle, after in zip(segments, segments[1:], segments[2:], strict=False):
            if any(name.lower() in silences for name, *_ in (before, middle, after)):
                continue
            if middle[1] - before[2] > 1e-3 or after[1] - middle[2] > 1e-3:
                continue
            onset, offset = (before[1], after[2]) if unit == "triphone" else (middle[1], middle[2])
            items.append(Item(key, onset, offset, middle[0], before[0], after[0], speaker))
    return items
