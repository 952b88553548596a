"""GigaSpeech: English audio books, podcasts and videos with transcripts (arXiv 2106.06909).

`GigaSpeech.json` lists every segment of `audio/{audiobook,podcast,youtube}/*/*.opus`. Texts are cleaned as in the official
Kaldi recipe (`toolkits/kaldi/gigaspeech_data_prep.sh`): segments with a non-speech tag are left out, and the four
punctuation tags are removed.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

from wavlm_lightning.data.recordings import CorpusPlan, Recording, check_counts, clean_key, require_file
from wavlm_lightning.system.reading import read_json, reading

HELP = "GigaSpeech, one of its training subsets with DEV and TEST; DIR holds GigaSpeech.json and audio/"

NO_SPEECH = {"<SIL>", "<MUSIC>", "<NOISE>", "<OTHER>"}
PUNCTUATION = re.compile("<(COMMA|PERIOD|QUESTIONMARK|EXCLAMATIONPOINT)>")
# Segments after cleaning: the sentences scored in ESPnet's `egs2/gigaspeech/asr1` results.
EVALUATION = {"valid": 5_715, "test": 19_930}
# [unverified]: from the data set's card on the Hugging Face hub, read second-hand, so a difference only warns.
TRAINING = {"XS": 9_389, "S": 230_068, "M": 910_140, "L": 2_266_371, "XL": 8_282_988}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--subset`, the training subset."""
    parser.add_argument(
        "--subset", choices=tuple(TRAINING), required=True, help="for train: 10, 250, 1000, 2500 or 10000 hours"
    )


def plan(root: Path, arguments: argparse.Namespace) -> CorpusPlan:
    """Segments with `text` (upper case, no punctuation); `train` is the subset, `valid` DEV and `test` TEST.

    Audio may be the released opus files, or wav or flac files under the same names.
    """
    path = require_file(root / "GigaSpeech.json", "the metadata of GigaSpeech")
    audios = read_json(path, "the metadata of GigaSpeech", "download it again")
    tags = {f"{{{arguments.subset}}}": "train", "{DEV}": "valid", "{TEST}": "test"}
    splits: dict[str, list[Recording]] = {split: [] for split in tags.values()}
    listed = dict.fromkeys(splits, 0)
    with reading(path, "the metadata of GigaSpeech", "download it again"):
        for audio in audios["audios"]:
            file = _file(root / audio["path"])
            for segment in audio["segments"]:
                text = clean(segment["text_tn"])
                for split in {tags[tag] for tag in segment["subsets"] if tag in tags} if text else ():
                    listed[split] += 1
                    if file is not None:
                        splits[split].append(_recording(file, segment, text))
    check_counts(splits, listed, arguments.allow_partial, root, "segments with their audio")
    check_counts(splits, EVALUATION, arguments.allow_partial, root, "segments")
    if listed["train"] == len(splits["train"]):
        official = {"train": TRAINING[arguments.subset]}
        check_counts(splits, official, allow_partial=True, where=root, what="segments")
    return CorpusPlan(
        name=f"gigaspeech-{arguments.subset.lower()}",
        licence="GigaSpeech terms of access (non-commercial research and education)",
        splits=splits,
        inventories={"languages": ["en"]},
        source={"subset": arguments.subset},
    )


def clean(text: str) -> str:
    """A transcript without punctuation tags; empty if the segment has a non-speech tag.

    Example:
        >>> clean("FOUR O'CLOCK TOMORROW AFTERNOON <COMMA> SAID WILLIAMS <PERIOD>")
        "FOUR O'CLOCK TOMORROW AFTERNOON SAID WILLIAMS"
    """
    words = PUNCTUATION.sub(" ", text).split()
    return "" if NO_SPEECH & set(words) else " ".join(words)


def _file(path: Path) -> Path | None:
    return next((p for p in (path.with_suffix(s) for s in (path.suffix, ".wav", ".flac")) if p.is_file()), None)


def _recording(file: Path, segment: dict[str, Any], text: str) -> Recording:
    meta = {"text": text, "language": "en"}
    if segment.get("speaker", "N/A") != "N/A":  # version 1.0.0 has no speakers
        meta["speaker"] = segment["speaker"]
    return Recording(file, clean_key(segment["sid"]), meta, float(segment["begin_time"]), float(segment["end_time"]))
