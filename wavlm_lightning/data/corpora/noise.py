"""Noise corpora for mixing: any tree of recordings, such as that of the DNS challenge, cut into pieces."""

from __future__ import annotations

import argparse
import hashlib
import math
from pathlib import Path

from wavlm_lightning.data.recordings import CorpusPlan, Recording, clean_key, hold_out, require_folder
from wavlm_lightning.system.errors import UserError

HELP = "any folder of noises, cut into pieces, for utterance mixing; silent pieces need --on-error skip"

SHORTEST_SECONDS = 1.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the length of pieces, the shares of valid and test, and the name and licence of the corpus."""
    parser.add_argument("--piece-seconds", type=float, default=10.0, help="longest piece (default 10)")
    parser.add_argument("--valid", type=float, default=0.05, help="share of the files for validation (default 0.05)")
    parser.add_argument("--test", type=float, default=0.05, help="share of the files for test (default 0.05)")
    parser.add_argument("--name", help="name of the corpus (default: the folder's name)")
    parser.add_argument("--licence", default="unknown", help="terms of use, kept in corpus.json")


def plan(root: Path, arguments: argparse.Namespace) -> CorpusPlan:
    """Pieces with their file as `source`; the hash of a file's path decides the split of all its pieces."""
    from wavlm_lightning.data.finding import SUFFIXES, find_audio

    require_folder(root, "recordings of noise")
    if arguments.piece_seconds < SHORTEST_SECONDS:
        raise UserError(f"--piece-seconds {arguments.piece_seconds:g}: pieces under {SHORTEST_SECONDS:g} s are dropped")
    files = [path.relative_to(root) for path in find_audio(root).files]
    if not files:
        raise UserError(f"{root}: no {', '.join(sorted(SUFFIXES))} file here or below")
    shares = {"valid": arguments.valid, "test": arguments.test}
    split_of = hold_out((file.as_posix() for file in files), shares, "recordings")
    pieces = {file: pieces_of(root, file, arguments.piece_seconds) for file in files}
    splits: dict[str, list[Recording]] = {"train": [], "valid": [], "test": []}
    for file, part in pieces.items():
        splits[split_of[file.as_posix()]] += part
    if not splits["train"]:
        raise UserError(f"{root}: no recording to train on is {SHORTEST_SECONDS:g} s long")
    return CorpusPlan(
        name=arguments.name or root.resolve().name,
        licence=arguments.licence,
        splits=splits,
        inventories={},
        source={"piece_seconds": arguments.piece_seconds, "files_too_short": sum(not part for part in pieces.values())},
    )


def pieces_of(root: Path, file: Path, seconds: float) -> list[Recording]:
    """Consecutive pieces of a file; the rest at its end is kept if it is long enough."""
    import soundfile

    meta = {"source": file.as_posix()}
    # Keys drop some characters, so a hash of the path keeps them unique.
    key = f"{clean_key(str(file.with_suffix('')))}-{hashlib.sha256(file.as_posix().encode()).hexdigest()[:8]}"
    try:
        length = soundfile.info(str(root / file)).duration
    except soundfile.LibsndfileError:  # `write_corpus` meets it again and stops or skips, as asked
        return [Recording(root / file, key, meta)]
    starts = [number * seconds for number in range(math.ceil(length / seconds))]
    return [
        Recording(root / file, f"{key}-{number:05d}", meta, start, min(start + seconds, length))
        for number, start in enumerate(starts)
        if min(start + seconds, length) - start >= SHORTEST_SECONDS
    ]
