"""LibriSpeech: read English with texts and, given a lexicon, phones (SUPERB's PR and ASR; pre-training on 960 h).

DIR is the folder `LibriSpeech` of the archives, with train-clean-100 and so on, or the folder above it.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from wavlm_lightning.data.corpora import lexicon
from wavlm_lightning.data.recordings import CorpusPlan, Inventories, Recording, check_counts, require_folder
from wavlm_lightning.system.errors import UserError

HELP = "LibriSpeech: texts, and phones with a lexicon (PR, ASR, pre-training)"
LICENCE = "CC BY 4.0"

# Numbers of files in the archives at openslr.org/12; SUPERB's data card confirms its three.
OFFICIAL = {
    "train-clean-100": 28_539,
    "train-clean-360": 104_014,
    "train-other-500": 148_688,
    "dev-clean": 2_703,
    "dev-other": 2_864,
    "test-clean": 2_620,
    "test-other": 2_939,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the subsets of each split, and the lexica."""
    for split, subset in (("train", "train-clean-100"), ("valid", "dev-clean"), ("test", "test-clean")):
        parser.add_argument(
            f"--{split}", nargs="+", default=[subset], choices=OFFICIAL, metavar="SUBSET", help=f"{subset} by default"
        )
    lexicon.add_arguments(parser)


def plan(root: Path, arguments: argparse.Namespace) -> CorpusPlan:
    """Recordings with `text`, `speaker`, `chapter` and `subset` and, given a lexicon, `phones`."""
    subsets = {split: list(dict.fromkeys(getattr(arguments, split))) for split in ("train", "valid", "test")}
    parts = {name: read_subset(root, name) for names in subsets.values() for name in names}
    check_counts(parts, {name: OFFICIAL[name] for name in parts}, arguments.allow_partial, root)
    splits = {split: [r for name in names for r in parts[name]] for split, names in subsets.items()}
    splits, inventories = label(splits, arguments)
    return CorpusPlan("LibriSpeech", LICENCE, splits, inventories, source={"subsets": subsets})


def read_subset(root: Path, name: str) -> list[Recording]:
    """The recordings of one of `OFFICIAL`, in the order of their names; `root` may be the folder above, too."""
    from torchaudio.datasets import LIBRISPEECH

    folder = root / "LibriSpeech" if (root / "LibriSpeech").is_dir() else root.absolute()
    require_folder(folder / name, f"the subset {name} of LibriSpeech")
    subset = LIBRISPEECH(folder.parent, name, folder.name)
    recordings = []
    for number in range(len(subset)):
        try:
            path, _, text, speaker, chapter, utterance = subset.get_metadata(number)
        except FileNotFoundError as error:
            raise UserError(f"{folder / name}: a text is missing ({error}); unpack the archive again") from error
        key = f"{speaker}-{chapter}-{utterance:04d}"
        meta = {"speaker": str(speaker), "text": text, "language": "en", "chapter": str(chapter), "subset": name}
        recordings.append(Recording(folder / path, key, meta))
    return recordings


def label(
    splits: dict[str, list[Recording]], arguments: argparse.Namespace
) -> tuple[dict[str, list[Recording]], Inventories]:
    """Add phones, if a lexicon is given, and collect the inventories: phones, and speakers by split."""
    inventories: Inventories = {
        "speakers": {split: sorted({r.meta["speaker"] for r in part}, key=int) for split, part in splits.items()}
    }
    if arguments.lexicon:
        words = lexicon.read_lexica(arguments.lexicon)
        # Look up all texts at once, so that one message names the missing words of all splits.
        texts = [recording.meta["text"] for part in splits.values() for recording in part]
        phones = iter(lexicon.phones_of(texts, words, arguments.missing_words))
        splits = {
            split: [replace(r, meta={**r.meta, "phones": next(phones)}) for r in part] for split, part in splits.items()
        }
        inventories["phones"] = list(lexicon.PHONES)
    return splits, inventories
