"""Speech Commands: twelve classes of one-second clips, by SUPERB's protocol (KS).

DIR is the unpacked archive speech_commands_v0.01 (or v0.02), with one folder for each word. The test set is a separate
archive, speech_commands_test_set_v0.01, expected beside DIR. `_silence_` in train and valid is the six background noises
in full length: train with `data.max_seconds=1`, which draws another second of them each time. Levels stay as published;
apply SUPERB's -3 dB with `data.gain_db`.
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

from wavlm_lightning.data.recordings import CorpusPlan, Recording, check_counts, clean_key, require_folder

HELP = "Speech Commands, twelve classes by SUPERB's protocol (KS)"

UNKNOWN, SILENCE = "_unknown_", "_silence_"
# The order of s3prl `downstream/speech_commands/dataset.py`.
KEYWORDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go", UNKNOWN, SILENCE)

# Words without the six background noises. SUPERB's data card counts 51,094 / 6,798 / 3,081, with the noises in train
# alone; s3prl appends them to train and valid. v0.02: the data card of Speech Commands.
OFFICIAL = {
    "v0.01": {"train": 51_088, "valid": 6_798, "test": 3_081},
    "v0.02": {"train": 84_843, "valid": 9_981, "test": 4_890},
}
NOISES = 6
NOISE_FOLDER = "_background_noise_"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the version and the folder of the test archive."""
    parser.add_argument("--version", choices=tuple(OFFICIAL), default="v0.01", help="v0.01 by default (SUPERB's)")
    parser.add_argument(
        "--test-dir", type=Path, metavar="DIR", help="the test archive; speech_commands_test_set_VERSION beside DIR"
    )


def plan(root: Path, arguments: argparse.Namespace) -> CorpusPlan:
    """Clips with `keyword` (the class) and `word`."""
    # torchaudio.datasets.SPEECHCOMMANDS does not fit: it splits by the lists in the archive, and tests on words of the
    # same archive; only the test archive has the classes `_unknown_` and `_silence_`.
    version = arguments.version
    test = arguments.test_dir or root.absolute().parent / f"speech_commands_test_set_{version}"
    require_folder(test, f"the test archive of {version}, one folder for each class (name another one with --test-dir)")
    splits: dict[str, list[Recording]] = {"train": [], "valid": []}
    for path in sorted(root.glob("*/*.wav")):
        split = split_of(path.name)
        if split is not None and path.parent.name != NOISE_FOLDER:
            splits[split].append(_recording(path, path.parent.name))
    splits["test"] = [_recording(path, path.parent.name) for path in sorted(test.glob("*/*.wav"))]
    check_counts(splits, OFFICIAL[version], arguments.allow_partial, root)
    noises = [_recording(path, SILENCE) for path in sorted((root / NOISE_FOLDER).glob("*.wav"))]
    check_counts({NOISE_FOLDER: len(noises)}, {NOISE_FOLDER: NOISES}, arguments.allow_partial, root, "files")
    for split in ("train", "valid"):
        splits[split] += noises
    return CorpusPlan(
        name=f"Speech Commands {version}",
        licence="CC BY 4.0",
        splits=splits,
        inventories={"keywords": list(KEYWORDS)},
        source={"version": version},
        shard_files=2000,
    )


def split_of(name: str) -> str | None:
    """`valid`, `train` or None (the tenth that the archive reserves for tests) of a file `SPEAKER_nohash_NUMBER.wav`.

    The hash of the speaker decides, so all recordings of a speaker share a split. Source: s3prl
    `downstream/speech_commands/expert.py::split_dataset`, after the data set's own README.
    """
    speaker = name.split("_nohash_")[0]
    most = 2**27
    percent = int(hashlib.sha1(speaker.encode()).hexdigest(), 16) % most * (100.0 / (most - 1))
    if percent < 10:
        return "valid"
    return None if percent < 20 else "train"


def _recording(path: Path, word: str) -> Recording:
    # Some files of the test archive are called NAME.wav.wav.
    stem = path.name.split(".")[0]
    meta = {"keyword": word if word in KEYWORDS else UNKNOWN, "word": word, "language": "en"}
    if "_nohash_" in stem:
        meta["speaker"] = stem.split("_nohash_")[0]
    # Some noises contain digital zeros and some clips are almost silent, but the protocol counts them.
    return Recording(path, clean_key(f"{word}-{stem}"), meta, allow_silence=True)
