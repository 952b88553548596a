"""Diarization corpora: RTTM with the turns of recordings, a folder of audio, and optionally UEM and a list of names.

A recording NAME is the audio file NAME.* somewhere below `--audio`. Its turns become `turns`, which the task SD reads; they
are checked against the length of the audio. A UEM limits each recording to its scored stretches, `--pieces` cuts long ones.
Several RTTM files are splits with `--split train=a.rttm valid=b.rttm`, a folder stands for all RTTM files below it;
otherwise recordings are divided. Names of speakers are those of one recording: no two recordings are compared by them.
"""

from __future__ import annotations

import argparse
import io
import math
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wavlm_lightning.data.finding import find_audio, printable
from wavlm_lightning.data.foreign.options import add_division, add_writing
from wavlm_lightning.data.foreign.planning import LeftOut, free_key, named_splits, write_foreign
from wavlm_lightning.data.recordings import Recording, require_folder
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.reading import read_text, reading, shown

if TYPE_CHECKING:  # `wavlm prepare --help` must not wait for numpy
    from wavlm_lightning.data.corpus import Corpus

HELP = "RTTM and a folder of audio, for diarization (UEM, lists of names)"
BEYOND = 0.1  # seconds by which a turn may end after its audio: annotations are rounded

Turn = tuple[str, float, float]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the RTTM files, the folder of audio, UEM, names, pieces, and what all formats have."""
    parser.add_argument(
        "rttm",
        type=Path,
        nargs="*",
        metavar="RTTM",
        help="turns of recordings, files or folders, which are then divided",
    )
    parser.add_argument("--split", nargs="+", default=[], metavar="NAME=RTTM", help="a file for each split, instead")
    audio = "folder with the audio, searched with all below it; where the turns are one folder, that by default"
    parser.add_argument("--audio", type=Path, help=audio)
    parser.add_argument("--uem", type=Path, help="the stretches of each recording to keep")
    names = "a list of recordings, one name a line: the others are left out, and those without turns are silent"
    parser.add_argument("--names", type=Path, help=names)
    pieces = "cut each stretch into equal pieces, each of at most SECONDS"
    parser.add_argument("--pieces", type=float, metavar="SECONDS", help=pieces)
    add_writing(parser)
    add_division(parser)


def prepare(arguments: argparse.Namespace) -> Corpus:
    """Make a corpus of RTTM files and audio.

    Raises:
        UserError: a file is missing or not of its form, a recording has no audio or two files, or a turn ends after its audio.
    """
    if bool(arguments.rttm) == bool(arguments.split):
        raise UserError(
            "wavlm prepare rttm: name RTTM files, or give each split its own with --split NAME=RTTM, not both"
        )
    check_pieces(arguments.pieces)
    given: dict[str | None, list[Path]] = {None: arguments.rttm}
    if arguments.split:
        given = {split: [Path(each) for each in places] for split, places in named_splits(arguments.split).items()}
    if arguments.audio is None:
        if arguments.split or len(arguments.rttm) > 1 or arguments.rttm[0].is_file():
            raise UserError("--audio is missing: name the folder with the audio")
        require_folder(arguments.rttm[0], "RTTM and the audio of the recordings")
        arguments.audio = arguments.rttm[0]
    given = {split: _files(places) for split, places in given.items()}
    require_folder(arguments.audio, "the audio of the recordings")
    files: dict[str, list[Path]] = {}
    for path in find_audio(arguments.audio).files:
        files.setdefault(path.stem, []).append(path)
    where = next(iter(given.values()))[0]
    left_out = LeftOut(where, arguments.on_error)
    wanted = None if arguments.names is None else _names(arguments.names)
    scored = None if arguments.uem is None else read_uem(arguments.uem)
    recordings: list[Recording] = []
    keys: set[str] = set()
    heard: set[str] = set()
    for split, paths in given.items():
        turns = _turns(paths, left_out)
        heard |= set(turns)
        # With one RTTM a listed recording without turns has nobody who speaks; with several it has no split.
        silent: dict[str, list[Turn]] = (
            {name: [] for name in wanted or () if name not in turns} if split is None else {}
        )
        for name, theirs in {**turns, **silent}.items():
            if wanted is not None and name not in wanted:
                left_out.add(f"recordings that {arguments.names} does not list", name, fault=False)
                continue
            for recording in _recording(name, theirs, files, scored, arguments, left_out):
                key = free_key(recording.key, keys)
                split_of = {} if split is None else {"split": split}
                recordings.append(
                    Recording(recording.path, key, {**recording.meta, **split_of}, recording.start, recording.end)
                )
    for name in sorted(set(wanted or ()) - heard) if arguments.split else []:
        left_out.add(f"recordings of {arguments.names} without turns, which have no split", name)
    for name in sorted(set(files) - heard - set(wanted or ())):
        left_out.add(f"audio files in {arguments.audio} without turns", name, fault=False)
    return write_foreign(recordings, arguments, where, "rttm", left_out)


def check_pieces(seconds: float | None) -> None:
    """Refuse `--pieces` of less than a second."""
    if seconds is not None and not seconds >= 1:
        raise UserError(f"--pieces {seconds:g}: give at least 1 second")


def _files(places: list[Path]) -> list[Path]:
    """The RTTM files that are named, and those below the folders that are."""
    found: list[Path] = []
    for place in places:
        if not place.is_dir():
            found.append(place)
            continue
        inside = sorted(path for path in place.rglob("*") if path.suffix.lower() == ".rttm")
        if not inside:
            raise UserError(f"{place}: no file NAME.rttm in this folder; name the RTTM, or a folder that holds some")
        found += inside
    return found


def _turns(paths: list[Path], left_out: LeftOut) -> dict[str, list[Turn]]:
    """Turns by recording; a recording in two files, or on two channels, is refused."""
    from wavlm_lightning.metrics.rttm import parse_rttm  # the package imports numpy

    turns: dict[str, list[Turn]] = {}
    for path in paths:
        lines = [*io.StringIO(read_text(path, "RTTM"), newline=None)]
        with reading(path, "RTTM", "correct this line"):
            found = parse_rttm(lines)
        channels: dict[str, set[str]] = {}
        for line in lines:
            fields = line.split()
            if fields and fields[0] == "SPEAKER":
                channels.setdefault(fields[1], set()).add(fields[2])
            elif fields and not fields[0].startswith(";;"):
                left_out.add(
                    f"lines of type {shown(fields[0])} in RTTM", fields[1] if len(fields) > 1 else "", fault=False
                )
        for name, theirs in found.items():
            if name in turns:
                raise UserError(f"{path}: the recording {name!r} has turns in another file, too; join them in one")
            if len(channels[name]) > 1:
                raise UserError(
                    f"{path}: the recording {name!r} has turns on the channels {', '.join(sorted(channels[name]))}; write each "
                    "channel as a recording of its own"
                )
            turns[name] = theirs
    if not turns and not any(left_out.reasons):
        raise UserError(f"{paths[0]}: no SPEAKER line; it should be RTTM")
    return turns


def _recording(
    name: str,
    turns: list[Turn],
    files: dict[str, list[Path]],
    scored: dict[str, list[tuple[float, float]]] | None,
    arguments: argparse.Namespace,
    left_out: LeftOut,
) -> Iterator[Recording]:
    """The stretches of a recording that are kept, with the turns in them from their start."""
    paths = files.get(name, [])
    if len(paths) != 1:
        reason = "with several audio files" if paths else "without an audio file"
        left_out.add(f"recordings {reason} in {arguments.audio}", name)
        return
    seconds = _seconds(paths[0])
    if seconds is not None and max((end for *_, end in turns), default=0.0) > seconds + BEYOND:
        left_out.add("recordings with a turn that ends after their audio", name)
        return
    if scored is not None and name not in scored:
        left_out.add(f"recordings without a line in {arguments.uem}", name, fault=False)
        return
    stretches: list[tuple[float, float | None]] = [(0.0, seconds)] if scored is None else [*scored[name]]
    if seconds is not None and any(end is not None and end > seconds + BEYOND for _, end in stretches):
        left_out.add(f"recordings whose stretch in {arguments.uem} ends after their audio", name)
        return
    yield from stretches_of(paths[0], name, turns, stretches, arguments.pieces, whole=scored is None)


def stretches_of(
    path: Path,
    name: str,
    turns: list[Turn],
    stretches: list[tuple[float, float | None]],
    pieces: float | None,
    *,
    whole: bool,
) -> Iterator[Recording]:
    """The stretches of a recording as utterances, each with the turns in it from its start.

    Args:
        path: of the audio.
        name: of the recording: the key of an utterance is this, with its first millisecond behind it where it is not whole.
        turns: of the recording.
        stretches: to keep, in seconds; None for an end that is not known.
        pieces: seconds of the longest piece; stretches are cut into equal ones. None keeps them whole.
        whole: whether the only stretch is the recording.
    """
    for start, end in stretches:
        for begin, until in _pieces(start, end, pieces):
            alone = whole and begin == 0.0 and until == end
            key = name if alone else f"{name}-{round(1000 * begin):08d}"
            meta: dict[str, Any] = {"turns": _within(turns, begin, until), "file": printable(path)}
            yield Recording(path, key, meta, 0.0 if alone else begin, None if alone else until)


def _pieces(start: float, end: float | None, longest: float | None) -> Iterator[tuple[float, float | None]]:
    """Equal pieces of a stretch, in milliseconds, none longer than `longest` seconds; one of unknown end stays whole."""
    if longest is None or end is None:
        yield start, end
        return
    count = max(1, math.ceil((end - start) / longest - 1e-9))
    edges = [start, *(round(start + (end - start) * number / count, 3) for number in range(1, count)), end]
    yield from pairwise(edges)


def _within(turns: list[Turn], start: float, end: float | None) -> list[list[Any]]:
    """The turns in a stretch, cut at its edges, with times from its start, in order of time."""
    last = math.inf if end is None else end
    inside = [(speaker, max(first, start), min(until, last)) for speaker, first, until in turns]
    rows = [
        [speaker, round(first - start, 6), round(until - start, 6)] for speaker, first, until in inside if first < until
    ]
    return sorted(rows, key=lambda row: (row[1], row[2], row[0]))


def _seconds(path: Path) -> float | None:
    from wavlm_lightning.audio import SAMPLE_RATE, BadAudio, load_mono, stated_seconds

    if (stated := stated_seconds(path)) is not None:
        return stated
    try:
        return len(load_mono(path, allow_silence=True)) / SAMPLE_RATE
    except BadAudio:
        return None  # writing it says what is wrong


def _names(path: Path) -> list[str]:
    names = [
        line.strip() for line in io.StringIO(read_text(path, "a list of recordings"), newline=None) if line.strip()
    ]
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise UserError(f"{path}: {twice[0]!r} is listed twice; leave one out")
    return names


def read_uem(path: Path) -> dict[str, list[tuple[float, float]]]:
    """The scored stretches of each recording, in seconds: lines `NAME CHANNEL START END`.

    Raises:
        UserError: a line has another form, or two stretches of a recording overlap.
    """
    scored: dict[str, list[tuple[float, float]]] = {}
    for number, line in enumerate(io.StringIO(read_text(path, "a UEM"), newline=None), start=1):
        fields = line.split()
        if not fields or fields[0].startswith(";;"):
            continue
        with reading(f"{path}, line {number}", "`NAME CHANNEL START END`", "correct this line"):
            name, _, start, end = fields
            stretch = float(start), float(end)
            if not 0 <= stretch[0] < stretch[1] < math.inf:
                raise ValueError("it ends before it begins")
        scored.setdefault(name, []).append(stretch)
    for name, stretches in scored.items():
        stretches.sort()
        if any(one[1] > other[0] for one, other in pairwise(stretches)):
            raise UserError(f"{path}: stretches of {name!r} overlap; join them")
    return scored
