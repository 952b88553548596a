"""MUSAN: music, noise and speech to add to utterances, each a split of its own, cut into pieces.

DIR holds `music`, `noise` and `speech`, as published. `AddNoise` names the split: `corpus: data/musan, corpus_split: noise`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from wavlm_lightning.data.corpora.noise import SHORTEST_SECONDS, pieces_of
from wavlm_lightning.data.recordings import CorpusPlan, Recording, check_counts, require_named
from wavlm_lightning.system.errors import UserError

HELP = "MUSAN, music, noise and speech to add to utterances (splits music, noise, speech)"

FILES = {"music": 660, "noise": 930, "speech": 426}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the length of pieces."""
    parser.add_argument("--piece-seconds", type=float, default=10.0, help="longest piece (default 10)")


def plan(root: Path, arguments: argparse.Namespace) -> CorpusPlan:
    """Pieces with their file as `source`; a rest of under 1 s at the end of a file is left out."""
    if arguments.piece_seconds < SHORTEST_SECONDS:
        raise UserError(f"--piece-seconds {arguments.piece_seconds:g}: pieces under {SHORTEST_SECONDS:g} s are dropped")
    root = require_named(root, "musan", "music, noise and speech")
    files = {kind: sorted((root / kind).glob("*/*.wav")) for kind in FILES}
    check_counts(files, FILES, arguments.allow_partial, root, "files")
    splits: dict[str, list[Recording]] = {}
    for kind, paths in files.items():
        splits[kind] = [p for path in paths for p in pieces_of(root, path.relative_to(root), arguments.piece_seconds)]
    source = {"piece_seconds": arguments.piece_seconds}
    return CorpusPlan("MUSAN", "CC BY 4.0", {kind: part for kind, part in splits.items() if part}, {}, source=source)
