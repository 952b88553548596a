"""IEMOCAP: acted dialogues in five sessions of two speakers each, with an emotion for every turn (SUPERB's ER).

Reads the official tree as released: turns in `SessionN/sentences/wav/DIALOGUE/TURN.wav`, labels in
`SessionN/dialog/EmoEvaluation/DIALOGUE.txt`. torchaudio's `IEMOCAP` does not fit: it expects the folder under another name
than the release has, cuts paths at the first "Session" in them, and assigns all turns of a dialogue to the actor who
wore the markers.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

from wavlm_lightning.data.recordings import CorpusPlan, Recording, check_counts, existing, require_folder
from wavlm_lightning.system.reading import check_file

HELP = "IEMOCAP, four emotions, one split a session (SUPERB ER); DIR holds Session1 to Session5"

# Label in the release to class, in the order of s3prl `downstream/emotion/IEMOCAP_preprocess.py`: excitement counts as
# happiness, and all other labels are left out.
EMOTIONS = {"neu": "neutral", "hap": "happy", "exc": "happy", "ang": "angry", "sad": "sad"}

# Counted in the metadata that s3prl ships (`downstream/emotion/meta_data/Session*/test_meta_data.json`).
FOLDS = {"fold1": 1085, "fold2": 1023, "fold3": 1151, "fold4": 1031, "fold5": 1241}
OF_EMOTION = {"neutral": 1708, "happy": 1636, "angry": 1103, "sad": 1084}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No options of its own."""


def plan(root: Path, arguments: argparse.Namespace) -> CorpusPlan:
    """Split `foldK` holds session K: fold K of SUPERB tests on it and trains on the other four."""
    require_folder(root, "the folders Session1 to Session5 of the IEMOCAP release")
    splits = {f"fold{number}": existing(_session(root / f"Session{number}", number)) for number in range(1, 6)}
    check_counts(splits, FOLDS, arguments.allow_partial, root)
    metas = [recording.meta for part in splits.values() for recording in part]
    emotions = Counter(meta["emotion"] for meta in metas)
    check_counts(emotions, OF_EMOTION, arguments.allow_partial, root, "turns (as an emotion)")
    speakers = sorted({meta["speaker"] for meta in metas})
    inventories = {"emotions": list(dict.fromkeys(EMOTIONS.values())), "speakers": speakers}
    return CorpusPlan("iemocap", "IEMOCAP release licence (research, by request to USC)", splits, inventories)


def _session(folder: Path, number: int) -> list[Recording]:
    """The turns of the four classes, by name."""
    recordings = []
    for labels in folder.glob("dialog/EmoEvaluation/*.txt"):
        if labels.name.startswith("."):  # macOS resource forks in the release
            continue
        check_file(labels, "the labels of a dialogue")
        for line in labels.read_text(errors="replace").splitlines():
            # [6.2901 - 8.2357]<tab>Ses01F_impro01_F000<tab>neu<tab>[2.5000, 2.5000, 2.5000]; other lines are single ratings
            fields = line.split("\t")
            if not line.startswith("[") or len(fields) < 3 or fields[2] not in EMOTIONS:
                continue
            turn = fields[1]
            dialogue, _, utterance = turn.rpartition("_")
            meta = {
                # In Ses01F_impro01_M000, F is the actor with the markers and M the actor who speaks.
                "speaker": turn[:5] + utterance[0],
                "emotion": EMOTIONS[fields[2]],
                "session": number,
                "act": "improvised" if "impro" in dialogue else "scripted",
            }
            recordings.append(Recording(folder / "sentences" / "wav" / dialogue / f"{turn}.wav", turn, meta))
    return sorted(recordings, key=lambda recording: recording.key)
