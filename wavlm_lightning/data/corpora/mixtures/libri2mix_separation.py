"""Libri2Mix for separation: two readers of LibriSpeech at once, and each of them alone (SUPERB-SG's SS).

Audio as LibriMix generates it, in `Libri2Mix/wav16k/min/{train-100,dev,test}/{mix_clean,s1,s2}`. The sources are stored as they
are in the mixture, so that s1 + s2 = mix_clean.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable
from pathlib import Path

from wavlm_lightning.data.corpora.libri2mix import FOLDER, SPLITS
from wavlm_lightning.data.recordings import (
    AudioFile,
    CorpusPlan,
    Recording,
    check_counts,
    clean_key,
    require_file,
    require_folder,
    require_named,
)
from wavlm_lightning.system.errors import UserError

HELP = "Libri2Mix with each reader alone (SUPERB-SG's separation); DIR is Libri2Mix or the folder above"

SOURCES = ("s1", "s2")
VALID = 1_000  # mixtures of dev that SUPERB-SG validates on
_SEED = 7  # with which s3prl draws them


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the mode, the noise, and which mixtures of dev are kept."""
    parser.add_argument("--mode", choices=("min", "max"), default="min", help="of LibriMix (%(default)s, SUPERB-SG's)")
    parser.add_argument(
        "--noise", action="store_true", help="mixtures with WHAM! noise (mix_both) instead of those without (mix_clean)"
    )
    parser.add_argument(
        "--all-valid", action="store_true", help=f"keep all mixtures of dev, not the {VALID:,} that SUPERB-SG draws"
    )


def plan(root: Path, arguments: argparse.Namespace) -> CorpusPlan:
    """Mixtures with further audio `s1` and `s2`; metadata: `speakers`, in the order of the sources."""
    base = require_named(root, FOLDER, "Libri2Mix as LibriMix makes it")
    kind = "mix_both" if arguments.noise else "mix_clean"
    splits: dict[str, list[Recording]] = {}
    for split, (subset, *_) in SPLITS.items():
        folder = base / "wav16k" / arguments.mode / subset
        splits[split] = with_sources(folder, kind, subset, readers_in)
    check_counts(
        splits, {split: count for split, (*_, count) in SPLITS.items()}, arguments.allow_partial, base, "mixtures"
    )
    if not arguments.all_valid:
        splits["valid"] = drawn(splits["valid"])
    return CorpusPlan(
        name="libri2mix_separation",
        licence="CC BY 4.0 (LibriSpeech)" + (", noise CC BY-NC 4.0 (WHAM!)" if arguments.noise else ""),
        splits=splits,
        inventories={
            "speakers": {
                split: sorted({name for r in part for name in r.meta["speakers"]}, key=int)
                for split, part in splits.items()
            }
        },
        source={"mixtures": f"wav16k/{arguments.mode}/{kind}", "all_valid": arguments.all_valid},
    )


def with_sources(folder: Path, kind: str, subset: str, readers_of: Callable[[str], list[str]]) -> list[Recording]:
    """The mixtures of a subset with their sources: `KIND/NAME.wav`, `s1/NAME.wav`, `s2/NAME.wav` in `folder`."""
    recordings = []
    for source in SOURCES:
        require_folder(folder / source, f"{'first' if source == 's1' else 'second'} talkers of {subset} alone")
    for mixture in sorted(require_folder(folder / kind, f"the mixtures {kind} of {subset}").glob("*.wav")):
        files = {
            source: AudioFile(require_file(folder / source / mixture.name, "a talker of a mixture alone"))
            for source in SOURCES
        }
        meta = {"speakers": readers_of(mixture.stem), "language": "en"}
        recordings.append(Recording(mixture, clean_key(mixture.stem), meta, audio=files))
    return recordings


def readers_in(mixture: str) -> list[str]:
    """The readers of a mixture of LibriSpeech, such as 1578 and 6415 of `1578-6379-0038_6415-111615-0009`."""
    parts = mixture.split("_")
    if len(parts) != len(SOURCES) or any(part.count("-") != 2 for part in parts):
        raise UserError(f"{mixture}.wav: is not named after two utterances of LibriSpeech; generate Libri2Mix again")
    return [part.partition("-")[0] for part in parts]


def drawn(recordings: list[Recording]) -> list[Recording]:
    """The mixtures of dev that s3prl validates on: the first thousand of a shuffle with a fixed seed, in their order."""
    order = sorted(recordings, key=lambda recording: recording.key)
    random.Random(_SEED).shuffle(order)
    return sorted(order[:VALID], key=lambda recording: recording.key)
