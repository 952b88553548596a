"""VoxCeleb2 dev to train speaker verification on, and VoxCeleb1 with its trials O, E and H to test on.

DIR holds `idNNNNN/VIDEO/NNNNN.m4a` (or .wav, .flac), itself or in `aac`, `dev/aac`, `wav` or `dev/wav`; m4a is read by PyAV, the
extra [media]. With --voxceleb1 DIR1 the split `test` holds the utterances of the cleaned trials: DIR1 has
`wav/idNNNNN/VIDEO/NNNNN.wav` with the dev and test archives merged, and the lists veri_test2.txt (O), list_test_all2.txt (E) and
list_test_hard2.txt (H). O are the trials of the split, E and H further lists, which SV-ECAPA scores as well. E and H use all
of VoxCeleb1, so nothing of it is trained on.

Validation trials are drawn among training speakers. As in wespeaker all 5,994 are trained on, so the EER of valid does not
estimate that of the test; --unseen-valid leaves these speakers out of training.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from wavlm_lightning.data.corpora.trials import Trial, draw_trials
from wavlm_lightning.data.corpora.voxceleb1 import read_trials
from wavlm_lightning.data.recordings import CorpusPlan, Recording, check_counts, clean_key, existing, require_folder
from wavlm_lightning.system.errors import UserError

HELP = "VoxCeleb2 to train verification on, VoxCeleb1's trials O, E, H to test (m4a needs [media])"

TRAIN, SPEAKERS = 1_092_009, 5_994
LISTS = {"o": "veri_test2.txt", "e": "list_test_all2.txt", "h": "list_test_hard2.txt"}
TRIALS = {"o": 37_611, "e": 579_818, "h": 550_894}
PLACES = ("", "aac", "dev/aac", "wav", "dev/wav")
SUFFIXES = (".m4a", ".wav", ".flac")
LICENCE = "CC BY 4.0 for the selection; the copyright in the recordings remains with the owners of the videos"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the folder of VoxCeleb1 and the validation trials."""
    parser.add_argument("--voxceleb1", type=Path, metavar="DIR1", help="VoxCeleb1 with its lists, for the split test")
    parser.add_argument("--valid-trials", type=int, default=20_000, help="half of them target (default 20000)")
    parser.add_argument("--valid-speakers", type=int, default=40, help="in the validation trials (default 40)")
    parser.add_argument("--unseen-valid", action="store_true", help="keep the speakers of valid out of train")


def plan(root: Path, arguments: argparse.Namespace) -> CorpusPlan:
    """Utterances with `speaker` and `video`; trials of valid, and of test with its lists `e` and `h`."""
    train = _recordings(root)
    speakers = {recording.meta["speaker"] for recording in train}
    check_counts({"train": train}, {"train": TRAIN}, arguments.allow_partial, root)
    check_counts({"train": speakers}, {"train": SPEAKERS}, arguments.allow_partial, root, "speakers")
    by_speaker: dict[str, list[str]] = {}
    for recording in train:
        by_speaker.setdefault(recording.meta["speaker"], []).append(recording.key)
    drawn = draw_trials(by_speaker, arguments.valid_trials, arguments.valid_speakers)
    heard = {key for _, *pair in drawn for key in pair}
    splits = {"train": train, "valid": [recording for recording in train if recording.key in heard]}
    if arguments.unseen_valid:
        apart = {recording.meta["speaker"] for recording in splits["valid"]}
        splits["train"] = [recording for recording in train if recording.meta["speaker"] not in apart]
        if not splits["train"]:
            raise UserError(f"{root}: --unseen-valid would keep all {len(apart)} speakers out; lower --valid-speakers")
    trials = {"valid": drawn}
    source = {"unseen_valid": arguments.unseen_valid}
    if arguments.voxceleb1 is not None:
        splits["test"], tested = _tested(arguments.voxceleb1, arguments.allow_partial)
        trials |= tested
        source["trial_lists"] = {"test": ["e", "h"]}
    names = {split: sorted({r.meta["speaker"] for r in part}) for split, part in splits.items()}
    return CorpusPlan("VoxCeleb2 sv", LICENCE, splits, {"speakers": names}, trials, source)


def _recordings(root: Path) -> list[Recording]:
    for place in PLACES:
        files = [file for file in (root / place).glob("id*/*/*") if file.suffix.lower() in SUFFIXES]
        if files:
            return [_recording(file) for file in sorted(files)]
    raise UserError(f"{root}: no idNNNNN/VIDEO/NNNNN.m4a, .wav or .flac here or in {', '.join(PLACES[1:])}")


def _recording(file: Path) -> Recording:
    speaker, video = file.parts[-3:-1]
    return Recording(file, clean_key("-".join([speaker, video, file.stem])), {"speaker": speaker, "video": video})


def _tested(root: Path, allow_partial: bool) -> tuple[list[Recording], dict[str, list[Trial]]]:
    require_folder(root / "wav", "VoxCeleb1, one folder for each speaker, of the dev and test archives together")
    found = {name: read_trials(root / file, any_speaker=True) for name, file in LISTS.items()}
    check_counts(found, TRIALS, allow_partial, root, "trials")
    names = sorted({name for rows in found.values() for _, *pair in rows for name in pair})
    recordings = existing([_recording(root / "wav" / name) for name in names])
    check_counts({"test": recordings}, {"test": len(names)}, allow_partial, root)
    there = {recording.key for recording in recordings}
    trials: dict[str, list[Trial]] = {}
    for name, rows in found.items():
        keyed = [(same, _recording(root / "wav" / a).key, _recording(root / "wav" / b).key) for same, a, b in rows]
        trials["test" if name == "o" else f"test_{name}"] = [row for row in keyed if there.issuperset(row[1:])]
    return recordings, trials
