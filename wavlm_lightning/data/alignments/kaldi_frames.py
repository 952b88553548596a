"""Kaldi's phone of each frame: text archives of `ali-to-phones --per-frame`, and `phones.txt` with the names.

    ali-to-phones --per-frame final.mdl ark:"gunzip -c ali.*.gz |" ark,t:ali.txt

Frame k of windows of 25 ms every 10 ms lies at .0125 + .01 k s (with `--snip-edges=true`, Kaldi's default), or at .005 + .01 k s
without. The number of frames says which; each frame becomes the 10 ms around its middle, so that frames at 100 Hz come back as
they were.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import groupby
from pathlib import Path

from wavlm_lightning.audio import SAMPLE_RATE
from wavlm_lightning.data.alignments.alignment_set import Aligned
from wavlm_lightning.data.alignments.segments import WINDOW_CENTRE, Segment
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.reading import read_lines, shown

SHIFT = 0.01  # seconds
WHAT = "the phone of each frame, in text, by `ali-to-phones --per-frame ... ark,t:`"


def read_kaldi_frames(path: Path) -> dict[str, Callable[[int], Aligned]]:
    """A text archive with `phones.txt` beside it, or a folder with `phones.txt` and archives `ali*`.

    Returns:
        By utterance: a function of its samples that gives its segments.

    Raises:
        UserError: a file is missing or has another form, an utterance occurs twice. Of the functions: an id is not in
            `phones.txt`, or the number of frames is not that of audio of this length.
    """
    folder = path if path.is_dir() else path.parent
    symbols = folder / "phones.txt"
    archives = sorted(each for each in folder.glob("ali*") if each.is_file()) if path.is_dir() else [path]
    if not symbols.is_file():
        raise UserError(
            f"{symbols}: no such file; copy `lang/phones.txt`, which names the phones of the alignments, there"
        )
    if not archives:
        raise UserError(f"{folder}: no file `ali*` here; it should be {WHAT}")
    names = _names(symbols)
    found: dict[str, Callable[[int], Aligned]] = {}
    for archive in archives:
        for number, line in enumerate(read_lines(archive, WHAT), start=1):
            utterance, _, ids = line.strip().partition(" ")
            if not utterance:
                continue
            if utterance in found:
                raise UserError(f"{archive}, line {number}: {utterance!r} occurs twice; remove one of the lines")
            found[utterance] = partial(_aligned, f"{archive}, line {number}", names, ids)
    return found


def _names(path: Path) -> dict[str, str]:
    """Name by id of `phones.txt`."""
    names: dict[str, str] = {}
    for number, line in enumerate(read_lines(path, "a list of phones and their ids"), start=1):
        if not line.strip():
            continue
        fields = line.split()
        if len(fields) != 2 or not fields[1].isdecimal() or fields[1] in names:
            raise UserError(
                f"{path}, line {number}: {shown(line)} instead of a phone and an id of its own; copy the file again"
            )
        names[fields[1]] = fields[0]
    return names


def _aligned(where: str, names: dict[str, str], ids: str, samples: int) -> Aligned:
    said = ids.split()
    # Windows that lie in the audio, or one for each 10 ms (Kaldi, feature-window.cc, NumFrames).
    grids = {max((samples - 400) // 160 + 1, 0): WINDOW_CENTRE, (samples + 80) // 160: SHIFT / 2}
    if len(said) not in grids:
        snipped, whole = grids
        raise UserError(
            f"{where}: {len(said)} frames, and the utterance has {snipped} at 100 Hz ({whole} without --snip-edges); give "
            "alignments of this audio, of a model without frame subsampling"
        )
    if unknown := next((each for each in said if each not in names), None):
        raise UserError(f"{where}: {shown(unknown)} is no id of phones.txt; give the phones.txt of these alignments")
    first, rows, end = grids[len(said)], [], 0
    for each, run in groupby(said):
        begin, end = end, end + len(list(run))
        start, stop = (first + SHIFT * (frame - 0.5) for frame in (begin, end))
        rows.append(Segment(names[each], max(start, 0.0) if begin else 0.0, stop))
    if rows:
        rows[-1] = rows[-1]._replace(end=samples / SAMPLE_RATE)
    return Aligned(rows)
