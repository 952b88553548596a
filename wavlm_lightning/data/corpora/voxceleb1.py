"""VoxCeleb1: interviews with celebrities, for speaker identification (SUPERB's SID) or verification (SUPERB's SV).

DIR holds `wav/idNNNNN/VIDEO/NNNNN.wav` with the dev and test archives merged, and the official list: iden_split.txt for
--task sid, veri_test.txt for --task sv.

Identification: the official split of 1,251 speakers. Verification: trains on the 1,211 speakers of dev and tests on the
official trials of the other 40; all audio gets -3 dB and loses its quiet stretches, and training utterances of at most
2 s are left out. Validation trials are drawn among training speakers and, as in s3prl, from training utterances, so
their EER does not estimate that of the test. --valid-apart leaves those utterances out of training, which departs from
SUPERB's protocol.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from wavlm_lightning.data.corpora.trials import Trial, draw_trials
from wavlm_lightning.data.recordings import (
    CorpusPlan,
    Recording,
    check_counts,
    clean_key,
    existing,
    require_file,
    require_folder,
)
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.reading import read_lines

HELP = "VoxCeleb1, speakers to identify or to verify (SID, SV)"

IDENTIFICATION = {"train": 138_361, "valid": 6_904, "test": 8_251}
SPEAKERS = 1_251
TEST_SPEAKERS = {f"id{number}" for number in range(10_270, 10_310)}  # those whose names begin with E
VERIFICATION_TRAIN = 148_642
TRIALS = {"veri_test.txt": 37_720, "veri_test2.txt": 37_611}
LICENCE = "CC BY 4.0 for the selection; the copyright in the recordings remains with the owners of the videos"
GAIN_DB = -3.0
MIN_TRAIN_SECONDS = 2.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the task and the trials."""
    parser.add_argument("--task", choices=("sid", "sv"), required=True, help="identification or verification")
    parser.add_argument("--trials", type=Path, metavar="FILE", help="test trials of sv; DIR/veri_test.txt by default")
    parser.add_argument("--valid-trials", type=int, default=20_000, help="of sv (default 20000, half of them target)")
    parser.add_argument("--valid-speakers", type=int, default=40, help="in the validation trials of sv (default 40)")
    parser.add_argument("--valid-apart", action="store_true", help="keep the utterances of valid out of train, in sv")


def plan(root: Path, arguments: argparse.Namespace) -> CorpusPlan:
    """Utterances with `speaker` and `video`; for verification also trials of valid and test."""
    require_folder(root / "wav", "one folder for each speaker, of the dev and test archives together")
    return (_identification if arguments.task == "sid" else _verification)(root, arguments)


def _recording(root: Path, name: str) -> Recording:
    speaker, video = name.split("/")[:2]
    return Recording(root / "wav" / name, _key(name), {"speaker": speaker, "video": video})


def _key(name: str) -> str:
    return clean_key(name.removesuffix(".wav").replace("/", "-"))


def _identification(root: Path, arguments: argparse.Namespace) -> CorpusPlan:
    from torchaudio.datasets import VoxCeleb1Identification

    # Checked first, because torchaudio would download it.
    require_file(root / "iden_split.txt", "the official split for identification, from the VoxCeleb site")
    splits = {}
    for split, subset in (("train", "train"), ("valid", "dev"), ("test", "test")):
        listed = VoxCeleb1Identification(root, subset, "iden_split.txt")
        names = [listed.get_metadata(number)[0] for number in range(len(listed))]
        splits[split] = existing([_recording(root, name) for name in names])
    check_counts(splits, IDENTIFICATION, arguments.allow_partial, root)
    # Sorted by number, the order of s3prl's classes.
    speakers = sorted({recording.meta["speaker"] for part in splits.values() for recording in part})
    check_counts({"the whole": speakers}, {"the whole": SPEAKERS}, arguments.allow_partial, root, "speakers")
    return CorpusPlan("VoxCeleb1 sid", LICENCE, splits, {"speakers": speakers}, source={"task": "sid"})


def _verification(root: Path, arguments: argparse.Namespace) -> CorpusPlan:
    # torchaudio.datasets.VoxCeleb1Verification does not fit: it lists test pairs alone, and downloads missing files.
    path = arguments.trials or root / "veri_test.txt"
    trials = read_trials(path)
    named = sorted({name for _, *pair in trials for name in pair})
    train = [
        _recording(root, "/".join(file.parts[-3:]))
        for file in sorted((root / "wav").glob("*/*/*.wav"))
        if file.parts[-3] not in TEST_SPEAKERS
    ]
    test = existing([_recording(root, name) for name in named])
    official = {"train": VERIFICATION_TRAIN, "test": len(named)}
    check_counts({"train": train, "test": test}, official, arguments.allow_partial, root)
    if path.name in TRIALS:
        check_counts({path.name: trials}, {path.name: TRIALS[path.name]}, arguments.allow_partial, root, "trials")

    by_speaker: dict[str, list[str]] = {}
    for recording in train:
        by_speaker.setdefault(recording.meta["speaker"], []).append(recording.key)
    drawn = draw_trials(by_speaker, arguments.valid_trials, arguments.valid_speakers)
    heard = {key for _, *pair in drawn for key in pair}
    valid = [recording for recording in train if recording.key in heard]
    if arguments.valid_apart:
        train = [recording for recording in train if recording.key not in heard]
    splits = {
        "train": [replace(_processed(recording), longer_than=MIN_TRAIN_SECONDS) for recording in train],
        "valid": [_processed(recording) for recording in valid],
        "test": [_processed(recording) for recording in test],
    }
    there = {recording.key for recording in test}
    pairs = [(same, _key(a), _key(b)) for same, a, b in trials]
    speakers = {split: sorted({r.meta["speaker"] for r in part}) for split, part in splits.items()}
    trials_of = {"valid": drawn, "test": [row for row in pairs if there.issuperset(row[1:])]}
    source = {"task": "sv", "trials": path.name, "gain_db": GAIN_DB, "trim": True, "valid_apart": arguments.valid_apart}
    return CorpusPlan("VoxCeleb1 sv", LICENCE, splits, {"speakers": speakers}, trials_of, source)


def _processed(recording: Recording) -> Recording:
    return replace(recording, gain_db=GAIN_DB, trim=True)


def read_trials(path: Path, any_speaker: bool = False) -> list[Trial]:
    """Rows of (1 same speaker or 0, file, file) of an official list, in its order; files relative to `wav`.

    Raises `UserError` if the file is missing, a row is malformed, or a speaker belongs to the training set, unless
    `any_speaker` says that nothing of VoxCeleb1 is trained on.
    """
    require_file(path, "the official trials, from the VoxCeleb site (name another list with --trials)")
    trials = []
    for number, line in enumerate(read_lines(path, "a list of trials"), start=1):
        fields = line.split()
        if not fields:
            continue
        if len(fields) != 3 or fields[0] not in ("0", "1") or any(name.count("/") != 2 for name in fields[1:]):
            raise UserError(f"{path}, line {number}: not a trial, which is `0 or 1, file, file`")
        strangers = {name.split("/")[0] for name in fields[1:]} - TEST_SPEAKERS
        if strangers and not any_speaker:
            raise UserError(
                f"{path}, line {number}: {', '.join(sorted(strangers))} is a training speaker; use trials of the "
                "test speakers (veri_test.txt or veri_test2.txt)"
            )
        trials.append((int(fields[0]), fields[1], fields[2]))
    return trials
