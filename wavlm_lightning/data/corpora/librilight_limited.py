"""Libri-Light limited supervision: 10 min, 1 h and 10 h of labelled LibriSpeech, for few-shot speech recognition.

DIR is the folder `librispeech_finetuning` of the archive, with 1h and 9h. With --librispeech, dev-other and test-clean
of LibriSpeech (or other subsets) become `valid` and `test`; without it, there is only `train`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from wavlm_lightning.data.corpora import lexicon, librispeech
from wavlm_lightning.data.recordings import CorpusPlan, Recording, check_counts, require_file, require_folder
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.reading import read_lines, reading

HELP = "Libri-Light's 10 min, 1 h or 10 h of labelled LibriSpeech (few-shot ASR)"

# Speakers of each folder: Libri-Light, data_preparation/README.md.
SPEAKERS = {**{f"1h/{fold}": 4 for fold in range(6)}, "9h": 24}
FOLDERS = {"1h": [f"1h/{fold}" for fold in range(6)], "10h": [*(f"1h/{fold}" for fold in range(6)), "9h"]}
# [unverified]: commonly quoted, but not found in a primary source, so a difference only warns.
UTTERANCES = {"10min": 48, "1h": 286, "10h": 2_763}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the size of the training set, LibriSpeech for the other splits, and the lexica."""
    parser.add_argument("--subset", choices=tuple(UTTERANCES), default="10h", help="10h by default")
    parser.add_argument(
        "--fold", type=int, choices=range(6), default=0, help="which 10 minutes of the hour, with --subset 10min"
    )
    parser.add_argument("--librispeech", type=Path, metavar="DIR", help="LibriSpeech, for valid and test")
    for split, subset in (("valid", "dev-other"), ("test", "test-clean")):
        parser.add_argument(
            f"--{split}", default=subset, choices=librispeech.OFFICIAL, metavar="SUBSET", help=f"{subset} by default"
        )
    lexicon.add_arguments(parser)


def plan(root: Path, arguments: argparse.Namespace) -> CorpusPlan:
    """LibriSpeech recordings with `text` and, given a lexicon, `phones`."""
    root = root / "librispeech_finetuning" if (root / "librispeech_finetuning").is_dir() else root
    subset = arguments.subset
    folders = [f"1h/{arguments.fold}"] if subset == "10min" else FOLDERS[subset]
    parts = {folder: _read(root, folder) for folder in folders}
    speakers = {folder: len({r.meta["speaker"] for r in part}) for folder, part in parts.items()}
    check_counts(speakers, {name: SPEAKERS[name] for name in folders}, arguments.allow_partial, root, "speakers")
    splits = {"train": [recording for part in parts.values() for recording in part]}
    if len(splits["train"]) != UTTERANCES[subset] and (subset != "10min" or arguments.fold == 0):
        print(
            f"warning: {root}: {subset} has {len(splits['train'])} utterances, commonly {UTTERANCES[subset]}",
            file=sys.stderr,
        )
    if arguments.librispeech:
        found = {}
        for split in ("valid", "test"):
            name = getattr(arguments, split)
            found[name] = splits[split] = librispeech.read_subset(arguments.librispeech, name)
        official = {name: librispeech.OFFICIAL[name] for name in found}
        check_counts(found, official, arguments.allow_partial, arguments.librispeech)
    splits, inventories = librispeech.label(splits, arguments)
    source = {"subset": subset, "folders": folders}
    return CorpusPlan(f"Libri-Light limited {subset}", librispeech.LICENCE, splits, inventories, source=source)


def _read(root: Path, folder: str) -> list[Recording]:
    # torchaudio.datasets.LibriLightLimited has no get_metadata: it returns a text only together with decoded audio.
    require_folder(root / folder, "a part of librispeech_finetuning, as in the archive")
    recordings = []
    for chapter in sorted((root / folder).glob("*/*/*")):
        speaker = chapter.parent.name
        file = require_file(chapter / f"{speaker}-{chapter.name}.trans.txt", "the texts of the chapter")
        with reading(file, "the texts of a chapter", "unpack the archive again"):
            texts = dict(line.split(" ", 1) for line in read_lines(file) if line)
        for path in sorted(chapter.glob("*.flac")):
            if path.stem not in texts:
                raise UserError(f"{file}: no text of {path.name}; unpack the archive again")
            meta = {"speaker": speaker, "text": texts[path.stem], "language": "en", "chapter": chapter.name}
            recordings.append(Recording(path, path.stem, {**meta, "subset": folder}))
    return recordings
