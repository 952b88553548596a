"""Fluent Speech Commands: commands of an action, an object and a location, with the official splits (SUPERB's IC).

DIR is the folder fluent_speech_commands_dataset of the archive, with `data` and `wavs`, or the folder above it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from wavlm_lightning.data.recordings import (
    CorpusPlan,
    Recording,
    check_counts,
    clean_key,
    existing,
    require_file,
    require_named,
)

HELP = "Fluent Speech Commands, with action, object and location (IC)"

FOLDER = "fluent_speech_commands_dataset"
OFFICIAL = {"train": 23_132, "valid": 3_118, "test": 3_793}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No options of its own."""


def plan(root: Path, arguments: argparse.Namespace) -> CorpusPlan:
    """Utterances with `intent`, `text` and `speaker`."""
    from torchaudio.datasets import FluentSpeechCommands

    folder = require_named(root, FOLDER, "the unpacked Fluent Speech Commands, with the folders data and wavs")
    splits: dict[str, list[Recording]] = {}
    intents: dict[str, dict[str, None]] = {"action": {}, "object": {}, "location": {}}
    for split in OFFICIAL:
        require_file(folder / "data" / f"{split}_data.csv", f"the official list of {split}")
        subset = FluentSpeechCommands(folder.parent, split)
        recordings = []
        for number in range(len(subset)):
            path, _, name, speaker, text, action, item, location = subset.get_metadata(number)
            intent = {"action": action, "object": item, "location": location}
            meta = {"speaker": speaker, "text": text, "language": "en", "intent": intent}
            recordings.append(Recording(folder / path, clean_key(f"{speaker}-{name}"), meta))
            if split == "train":  # the order of first appearance, as in s3prl
                for slot, value in intent.items():
                    intents[slot][value] = None
        splits[split] = existing(recordings)
    check_counts(splits, OFFICIAL, arguments.allow_partial, folder)
    inventories = {
        "intents": {slot: list(values) for slot, values in intents.items()},
        "speakers": {split: sorted({r.meta["speaker"] for r in part}) for split, part in splits.items()},
    }
    licence = "Fluent Speech Commands Public License (academic research)"
    return CorpusPlan("Fluent Speech Commands", licence, splits, inventories)
