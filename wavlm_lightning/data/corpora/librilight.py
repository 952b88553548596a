"""Libri-Light: up to 60,000 h of unlabelled English audiobooks, cut into pieces for pre-training.

DIR holds the unpacked archives small, medium, large and duplicate, or some of them. Where the JSON beside a file lists its
voice activity, pieces begin and end with speech; other files are cut into equal pieces. Whole speakers are held out
for validation.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from wavlm_lightning.data.recordings import CorpusPlan, Recording, check_counts, clean_key, hold_out, require_folder
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.reading import read_json

HELP = "Libri-Light, unlabelled, in pieces of some seconds (pre-training)"

# Hours of each archive, rounded: Libri-Light, data_preparation/README.md.
HOURS = {"small": 577, "medium": 5_193, "large": 51_934, "duplicate": 4_500}
HOURS_TOLERANCE = 0.01
LONGEST_PAUSE = 2.0  # seconds without voice activity that end a piece: silence, music, or a jingle

Stretch = tuple[float, float]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the subsets and the lengths of pieces."""
    parser.add_argument("--subsets", nargs="+", choices=HOURS, default=["small"], help="small by default")
    parser.add_argument("--piece-seconds", type=float, default=15.0, help="longest piece (default 15)")
    parser.add_argument("--min-seconds", type=float, default=1.0, help="shorter pieces are dropped (default 1)")
    parser.add_argument("--valid", type=float, default=0.01, help="share of speakers for validation (default 0.01)")


def plan(root: Path, arguments: argparse.Namespace) -> CorpusPlan:
    """Pieces with `speaker`, `book` and `subset`; `valid` holds whole speakers."""
    if not 0 < arguments.min_seconds <= arguments.piece_seconds:
        raise UserError("--min-seconds must be above 0 and at most --piece-seconds")
    subsets = list(dict.fromkeys(arguments.subsets))
    recordings: list[Recording] = []
    hours: dict[str, int] = {}
    for subset in subsets:
        pieces, seconds = _read_subset(root / subset, arguments.piece_seconds, arguments.min_seconds)
        recordings += pieces
        # The official figure is rounded, and a few files have wrong headers.
        near = abs(seconds / 3600 / HOURS[subset] - 1) <= HOURS_TOLERANCE
        hours[subset] = HOURS[subset] if near else round(seconds / 3600)
    check_counts(hours, {name: HOURS[name] for name in subsets}, arguments.allow_partial, root, "hours")
    speakers = {r.meta["speaker"] for r in recordings}
    split_of = hold_out(speakers, {"valid": arguments.valid}, "speakers")
    splits = {s: [r for r in recordings if split_of[r.meta["speaker"]] == s] for s in ("train", "valid")}
    return CorpusPlan(
        name=f"Libri-Light {'+'.join(subsets)}",
        licence="public domain (LibriVox recordings)",
        splits=splits,
        inventories={"speakers": {s: sorted({r.meta["speaker"] for r in part}) for s, part in splits.items()}},
        source={"subsets": subsets, "piece_seconds": arguments.piece_seconds, "min_seconds": arguments.min_seconds},
    )


def _read_subset(folder: Path, longest: float, shortest: float) -> tuple[list[Recording], float]:
    """All pieces of a subset, and the seconds of its files."""
    import soundfile

    require_folder(folder, "an archive of Libri-Light, as SPEAKER/BOOK/FILE.flac")
    recordings = []
    total = 0.0
    for path in sorted(folder.glob("*/*/*.flac")):
        speaker, book = path.parts[-3:-1]
        try:
            seconds = soundfile.info(str(path)).duration
        except soundfile.LibsndfileError as error:
            raise UserError(f"{path}: not readable as audio ({error}); unpack the archive again") from error
        total += seconds
        description = _description(path.with_suffix(".json"))
        activity = [(float(start), float(end)) for start, end in description.get("voice_activity") or []]
        meta = {"speaker": speaker, "language": "en", "book": book, "subset": folder.name}
        if "snr" in description:
            meta["snr"] = description["snr"]
        name = clean_key(f"{folder.name}-{speaker}-{book}-{path.stem}")
        pieces = cut(activity, seconds, longest)
        recordings += [
            Recording(path, f"{name}-{number:04d}", meta, start=start, end=end)
            for number, (start, end) in enumerate(p for p in pieces if p[1] - p[0] >= shortest)
        ]
    return recordings, total


def _description(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    return read_json(path, "the description of a recording", "unpack the archive again")


def cut(activity: list[Stretch], seconds: float, longest: float) -> Iterator[Stretch]:
    """Cut a recording of some seconds into pieces (start, end), none longer than `longest`.

    A piece is as many consecutive stretches of speech as fit, with the pauses between them. A stretch that does not fit
    alone (or the whole recording, if its activity is unknown) is cut into equal parts. A pause of more than two seconds
    ends a piece.

    Example:
        >>> list(cut([(0.5, 4.0), (4.5, 9.0), (9.5, 14.0)], 20.0, 10.0))
        [(0.5, 9.0), (9.5, 14.0)]
    """
    begin = end = None
    for start, stop in activity or [(0.0, seconds)]:
        stop = min(stop, seconds)
        if begin is not None and end is not None:
            if start - end <= LONGEST_PAUSE and stop - begin <= longest:
                end = stop
                continue
            yield begin, end
            begin = end = None
        parts = math.ceil((stop - start) / longest)
        if parts <= 1:
            if stop > start:
                begin, end = start, stop
            continue
        yield from pairwise([*(start + (stop - start) * part / parts for part in range(parts)), stop])
    if begin is not None and end is not None:
        yield begin, end
