"""VoiceBank-DEMAND: read English in noise, with the clean speech (Valentini-Botinhao et al. 2016; SUPERB-SG's enhancement).

DIR holds the unpacked archives of datashare.ed.ac.uk/handle/10283/2791: `clean_trainset_28spk_wav`, `noisy_trainset_28spk_wav`,
`clean_testset_wav`, `noisy_testset_wav` at 48 kHz, or the same with `_16k` at the end, as s3prl and SpeechBrain resample them;
and, where they are there, `trainset_28spk_txt`, `testset_txt`, `log_trainset_28spk.txt` and `log_testset.txt`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from wavlm_lightning.data.recordings import (
    AudioFile,
    CorpusPlan,
    Recording,
    check_counts,
    require_file,
    require_folder,
)
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.reading import read_lines, read_text

HELP = "VoiceBank-DEMAND, 28 speakers, with clean references (SUPERB-SG's enhancement)"

VALID = ("p226", "p287")  # speakers of the training set that SUPERB-SG validates on
# part: (folder behind clean_ and noisy_, texts, list of noises)
PARTS = {
    "trainset": ("trainset_28spk_wav", "trainset_28spk_txt", "log_trainset_28spk.txt"),
    "testset": ("testset_wav", "testset_txt", "log_testset.txt"),
}
OFFICIAL = {"train": 11_572 - 770, "valid": 770, "test": 824}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """None of its own."""


def plan(root: Path, arguments: argparse.Namespace) -> CorpusPlan:
    """Noisy utterances with further audio `clean`; metadata: `speaker` and, where the archives of it are there, `text`, `noise`,
    `snr_db`.
    """
    splits: dict[str, list[Recording]] = {"train": [], "valid": [], "test": []}
    for part in PARTS:
        for recording in _recordings(root, part):
            held_out = "valid" if recording.meta["speaker"] in VALID else "train"
            splits["test" if part == "testset" else held_out].append(recording)
    check_counts(splits, OFFICIAL, arguments.allow_partial, root)
    speakers = {split: sorted({r.meta["speaker"] for r in recordings}) for split, recordings in splits.items()}
    return CorpusPlan(
        name="voicebank_demand",
        licence="CC BY 4.0",
        splits=splits,
        inventories={"speakers": speakers},
        source={"valid": list(VALID)},
    )


def _recordings(root: Path, part: str) -> list[Recording]:
    name, texts, log = PARTS[part]
    resampled = (root / f"noisy_{name}_16k").is_dir()
    noisy, clean = (
        require_folder(root / f"{kind}_{name}{'_16k' if resampled else ''}", f"the {kind} speech of the {part}")
        for kind in ("noisy", "clean")
    )
    conditions = _conditions(root / log) if (root / log).is_file() else {}
    recordings = []
    for path in sorted(noisy.glob("*.wav")):
        key = path.stem
        meta: dict[str, Any] = {"speaker": key.partition("_")[0], "language": "en", **conditions.get(key, {})}
        if (text := root / texts / f"{key}.txt").is_file():
            meta["text"] = " ".join(read_text(text, "the text of an utterance").split())
        reference = require_file(clean / path.name, "the clean speech of a noisy utterance")
        recordings.append(Recording(path, key, meta, audio={"clean": AudioFile(reference)}))
    return recordings


def _conditions(path: Path) -> dict[str, dict[str, Any]]:
    """Kind of noise and signal-to-noise ratio of each utterance: lines `p226_001 cafeteria 5`."""
    found = {}
    for number, line in enumerate(read_lines(path, "the noises of VoiceBank-DEMAND"), start=1):
        fields = line.split()
        if not fields:
            continue
        try:
            key, noise, ratio = fields
            found[key] = {"noise": noise, "snr_db": float(ratio)}
        except ValueError:
            raise UserError(
                f"{path}: line {number} is not an utterance, a noise and a ratio in dB; unpack the archive again"
            ) from None
    return found
