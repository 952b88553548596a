"""DIHARD III (LDC2022S12, LDC2022S14): eleven domains of hard diarization, for SD and OSD.

It has no training set: `train` and `valid` are parts of dev, divided here by recording, in the order of a hash of its name;
`test` is eval. Of each recording the scored stretches of its UEM are kept, as the challenge scores them.
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

from wavlm_lightning.data.corpora.meetings.recordings_with_turns import read_turns, with_speakers
from wavlm_lightning.data.foreign.rttm import check_pieces, read_uem
from wavlm_lightning.data.recordings import CorpusPlan, Recording, check_counts, require_folder
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.reading import read_lines, reading

HELP = "DIHARD III (SD, OSD); DIR holds third_dihard_challenge_dev and third_dihard_challenge_eval"

COUNTS = {"dev": 254, "eval": 259}  # recordings of the full condition
VALID = 0.2  # share of dev


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--core` and `--pieces`."""
    parser.add_argument(
        "--core", action="store_true", help="only the recordings of the core condition, in which domains balance"
    )
    parser.add_argument(
        "--pieces", type=float, metavar="SECONDS", help="cut stretches into equal pieces of at most this"
    )


def plan(root: Path, arguments: argparse.Namespace) -> CorpusPlan:
    """Scored stretches with `turns`, `speakers`, `domain` and `source`."""
    check_pieces(arguments.pieces)
    splits: dict[str, list[Recording]] = {"train": [], "valid": [], "test": []}
    counts: dict[str, int] = {}
    for part in COUNTS:
        folder = _folder(root, part)
        about = _about(folder)
        names = (
            sorted(about, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
            if part == "dev"
            else sorted(about)
        )
        counts[part] = len(names)
        chosen = [name for name in names if about[name]["in_core"] or not arguments.core]
        held = round(VALID * len(chosen)) if part == "dev" else 0
        for place, name in enumerate(chosen):
            split = "test" if part == "eval" else "valid" if place < held else "train"
            paths = {kind: _one(folder, name, kind) for kind in ("flac", "rttm", "uem")}
            scored = read_uem(paths["uem"]).get(name)
            if scored is None:
                raise UserError(
                    f"{paths['uem']}: no stretch of {name}; it should have the scored stretches of this recording"
                )
            more = {key: about[name][key] for key in ("domain", "source")}
            turns = read_turns(paths["rttm"], name)
            splits[split] += with_speakers(name, paths["flac"], turns, scored, arguments.pieces, **more)
    check_counts(counts, COUNTS, arguments.allow_partial, root, "recordings")
    return CorpusPlan(
        name="dihard3",
        licence="LDC User Agreement",
        splits=splits,
        # Names are those of one recording.
        inventories={"domains": sorted({r.meta["domain"] for part in splits.values() for r in part})},
        source={
            "condition": "core" if arguments.core else "full",
            "pieces": arguments.pieces,
            "valid_share_of_dev": VALID,
        },
    )


def _folder(root: Path, part: str) -> Path:
    """The folder of dev or eval: its name ends so, or is that of LDC's release, such as `..._Evaluation_Data`."""
    require_folder(root, "DIHARD III")
    words = {"dev": "development", "eval": "evaluation"}[part]
    names = [path for path in root.iterdir() if path.is_dir()]
    found = sorted(path for path in names if path.name.endswith(f"_{part}") or words in path.name.lower())
    if len(found) != 1:
        raise UserError(
            f"{root}: {len(found)} folders are named after {part}, instead of one such as third_dihard_challenge_{part}"
        )
    return found[0]


def _about(folder: Path) -> dict[str, dict[str, object]]:
    """The rows of docs/recordings.tbl: recording -> `in_core`, `domain`, `source`."""
    path = next(iter(sorted(folder.rglob("recordings.tbl"))), folder / "docs" / "recordings.tbl")
    about = {}
    for line in read_lines(path, "the table of the recordings")[1:]:
        if line.strip():
            with reading(path, "the table of the recordings", "unpack the corpus again"):
                name, core, _, domain, source, *_ = line.split()
                if core.lower() not in ("true", "false"):
                    raise ValueError(f"in_core is {core!r}")
            about[name] = {"in_core": core.lower() == "true", "domain": domain, "source": source}
    return about


def _one(folder: Path, name: str, kind: str) -> Path:
    found = sorted(folder.rglob(f"{name}.{kind}"))
    if not found:
        raise UserError(f"{folder}: no {name}.{kind}, though docs/recordings.tbl lists it; complete the corpus")
    return found[0]
