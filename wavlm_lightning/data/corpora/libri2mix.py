"""Libri2Mix for diarisation: two readers of LibriSpeech who overlap, with WHAM! noise (SUPERB's SD).

Audio as `generate_librimix_sd.sh` of s3prl/LibriMix makes it: 16 kHz, *max* mode, `mix_both`, in
`Libri2Mix/wav16k/max/{train-100,dev,test}/mix_both`. Turns come from forced alignments, never from the audio.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from wavlm_lightning.data.recordings import CorpusPlan, Recording, check_counts, require_folder
from wavlm_lightning.system.errors import UserError

HELP = "Libri2Mix, 16 kHz max mix_both (SUPERB SD); DIR is Libri2Mix or the folder it lies in"

FOLDER = "Libri2Mix"
# split: (torchaudio's subset, folder of the Kaldi-style labels, LibriSpeech alignments, mixtures)
SPLITS = {
    "train": ("train-100", "train", "train_clean_100.rttm", 13_900),
    "valid": ("dev", "dev", "dev_clean.rttm", 3_000),
    "test": ("test", "test", "test_clean.rttm", 3_000),
}

Turns = dict[str, list[tuple[str, float, float]]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where the turns are."""
    parser.add_argument(
        "--labels",
        type=Path,
        required=True,
        metavar="DIR",
        help="what prepare_diarization.py of s3prl/LibriMix made (train/rttm, dev/rttm, test/rttm), or the "
        "alignments it made them from (metadata/LibriSpeech of that repository: train_clean_100.rttm, ...)",
    )


def plan(root: Path, arguments: argparse.Namespace) -> CorpusPlan:
    """Mixtures with `turns`, by start, and `speakers`.

    Times are kept to the last bit: an end is start + duration, as s3prl computes it. Rounding the sum to the time that
    was meant moves 6 of 100 ends by a frame of 20 ms, because times end in 10 ms and halves of a frame round to even.

    Args:
        root: `Libri2Mix`, or the folder it lies in.
        arguments: `allow_partial`, `labels`.

    Raises:
        UserError: no such tree, no labels, or other counts than the official ones.
    """
    from torchaudio.datasets import LibriMix

    root = root.absolute()
    parent = root.parent if root.name == FOLDER else root
    base = require_folder(parent / FOLDER, "Libri2Mix as generate_librimix_sd.sh of s3prl/LibriMix makes it")
    splits: dict[str, list[Recording]] = {}
    for split, (subset, labels, alignments, _) in SPLITS.items():
        turns = _turns(arguments.labels, labels, alignments)
        data = LibriMix(parent, subset, num_speakers=2, sample_rate=16_000, task="sep_noisy", mode="max")
        paths = [base / data.get_metadata(number)[1] for number in range(len(data))]
        splits[split] = [Recording(path, path.stem, _meta(path.stem, turns, arguments.labels)) for path in paths]
    counts = {split: count for split, (*_, count) in SPLITS.items()}
    check_counts({k: len(part) for k, part in splits.items()}, counts, arguments.allow_partial, base, "mixtures")
    return CorpusPlan(
        name="libri2mix",
        licence="CC BY 4.0 (LibriSpeech), noise CC BY-NC 4.0 (WHAM!)",
        splits=splits,
        inventories={"speakers": sorted({s for part in splits.values() for r in part for s in r.meta["speakers"]})},
        source={"mixtures": "wav16k/max/mix_both"},
    )


def _turns(folder: Path, labels: str, alignments: str) -> Turns:
    """Turns by recording: by mixture from Kaldi-style labels, by LibriSpeech utterance from the alignments.

    Of the former, `rttm` is read and not `segments` with `utt2spk`: a segment is named by mixture and times, so that
    two readers with the same times (which happens once, in train) get one name and one speaker.
    """
    path = folder / labels / "rttm"
    if not path.is_file():
        path = folder / alignments
    if not path.is_file():
        raise UserError(f"{folder}: neither {labels}/rttm nor {alignments} is here; give --labels a folder that has it")
    turns: Turns = {}
    for line in path.read_text().splitlines():
        fields = line.split()
        if len(fields) < 8 or fields[0] != "SPEAKER":
            raise UserError(f"{path}: {line[:60]!r} is no SPEAKER line of an RTTM file; make the labels again")
        start, seconds, speaker = float(fields[3]), float(fields[4]), fields[7]
        turns.setdefault(fields[1], []).append((speaker, start, start + seconds))
    return turns


def _meta(mixture: str, turns: Turns, labels: Path) -> dict[str, list]:
    """Of mixture `1578-6379-0038_6415-111615-0009`: readers 1578 and 6415, utterances 6379-0038 and 111615-0009."""
    sources = [utterance.split("-", 1)[1] for utterance in mixture.split("_") if "-" in utterance]
    if mixture in turns:
        found = turns[mixture]
    elif sources and all(source in turns for source in sources):
        found = [turn for source in sources for turn in turns[source]]
    else:
        raise UserError(f"{labels}: no turns for the mixture {mixture}; labels and audio must be of one release")
    ordered = sorted(found, key=lambda turn: (turn[1], turn[2], turn[0]))
    return {"turns": [list(turn) for turn in ordered], "speakers": sorted({speaker for speaker, _, _ in found})}
