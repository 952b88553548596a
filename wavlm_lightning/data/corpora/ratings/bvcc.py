"""BVCC, the listening test of the VoiceMOS challenge 2022 (main track): ratings of Blizzard, VCC and ESPnet-TTS systems.

DIR holds `wav/` and `sets/`, as the challenge's scripts leave them (also one or two folders down: `DATA`,
`phase1-main/DATA`). `sets/train_mos_list.txt` and its kin give the mean rating of each file, `sets/TRAINSET` and its kin the
single ratings with their listeners. The system is what stands before the first `-` of a file's name. Parts of the audio
must be fetched by those scripts; there is no corpus to download whole.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from wavlm_lightning.data.corpora.ratings.rated_recordings import Rated, label_sets, score_of
from wavlm_lightning.data.recordings import CorpusPlan, Recording, check_counts, clean_key, require_file
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.reading import read_lines

HELP = "BVCC of the VoiceMOS challenge 2022 (MOS); DIR holds wav/ and sets/"

SCALE = (1.0, 5.0)
# Split -> its list of means and its list of single ratings. The first phase of the challenge came without the test.
LISTS = {
    "train": ("train_mos_list.txt", "TRAINSET"),
    "valid": ("val_mos_list.txt", "DEVSET"),
    "test": ("test_mos_list.txt", "TESTSET"),
}
# Cooper and Yamagishi, arXiv 2105.02373; Huang et al., arXiv 2203.11389.
OFFICIAL = {"train": 4974, "valid": 1066, "test": 1066}
_FIELDS = 5  # of a single rating: system, file, score, one that is not used, listener


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No options of its own."""


def plan(root: Path, arguments: argparse.Namespace) -> CorpusPlan:
    """Files with `rating`, `ratings` by listener and `system`, in the splits of the challenge."""
    root = next((root / name for name in ("", "DATA", "phase1-main/DATA") if (root / name / "sets").is_dir()), root)
    require_file(root / "sets" / LISTS["train"][0], "BVCC's list of mean ratings")
    there = [name for name, (means, _) in LISTS.items() if (root / "sets" / means).is_file()]
    splits = {name: _read(root, name) for name in there}
    check_counts(splits, {name: OFFICIAL[name] for name in there}, arguments.allow_partial, root)
    inventories = partial(label_sets, scale=SCALE)
    return CorpusPlan("bvcc", "by source (Blizzard, VCC, ESPnet-TTS); research", splits, inventories)


def _read(root: Path, split: str) -> list[Recording]:
    means, singles = (root / "sets" / name for name in LISTS[split])
    rated = _ratings(singles)
    recordings = []
    for number, line in enumerate(read_lines(means, "mean ratings, `FILE,MEAN` on a line"), 1):
        name, comma, mean = line.strip().partition(",")
        if not comma:
            raise UserError(
                f"{means}, line {number}: {line.strip()!r} is not `FILE,MEAN`; unpack the challenge's files again"
            )
        path = root / "wav" / name
        if path.is_file():  # `check_counts` reports how many are missing
            found = rated.get(name, Rated())
            meta = found.meta(name.partition("-")[0], score_of(mean, SCALE, f"{means}, line {number}"))
            recordings.append(Recording(path, clean_key(path.stem), meta))
    return recordings


def _ratings(path: Path) -> dict[str, Rated]:
    """File -> its single ratings; none if the list is not there, as for a test whose ratings are not published."""
    found: dict[str, Rated] = {}
    for number, line in enumerate(read_lines(path, "single ratings") if path.is_file() else (), 1):
        fields = line.strip().split(",")
        listener = fields[-1].split("_")
        if len(fields) != _FIELDS or len(listener) < 3:
            raise UserError(
                f"{path}, line {number}: {line.strip()!r} is not `SYSTEM,FILE,SCORE,...,..._..._LISTENER_...`; unpack the "
                "challenge's files again"
            )
        found.setdefault(fields[1], Rated()).add(score_of(fields[2], SCALE, f"{path}, line {number}"), listener[2])
    return found
