"""VoxPopuli: the European Parliament in 23 languages, unlabelled or transcribed (Wang et al., ACL 2021).

Reads both kinds as the official tools of facebookresearch/voxpopuli leave them:

- `unlabelled`: `raw_audios/LANG/YEAR/EVENT.ogg` (`download_audios`), cut by the segments of
  `unlabelled_data/unlabelled_v2.tsv.gz`, so that `get_unlabelled_data` need not write the segments as files;
- `asr`: `transcribed_data/LANG/asr_{train,dev,test}.tsv` and `transcribed_data/LANG/YEAR/ID.ogg` (`get_asr_data`).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from wavlm_lightning.data.recordings import CorpusPlan, Recording, check_counts, clean_key, existing, hold_out
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.reading import read_table

HELP = "VoxPopuli in one language, unlabelled or transcribed; DIR is the --root of the official tools"

LICENCE = "CC0-1.0; European Parliament terms of use for the recordings"
# [unverified]: from the data set's card on the Hugging Face hub, read second-hand, so a difference only warns.
TRANSCRIBED = {"en": {"train": 182_482, "valid": 1_753, "test": 1_842}}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the kind, the language and the share of events held out."""
    parser.add_argument("--kind", choices=("unlabelled", "asr"), required=True, help="for pre-training, or transcribed")
    parser.add_argument("--language", required=True, help="its code, as in the folder names: en, de, fr, ...")
    parser.add_argument(
        "--valid", type=float, default=0.01, help="unlabelled: share of the events held out (default 0.01)"
    )


def plan(root: Path, arguments: argparse.Namespace) -> CorpusPlan:
    """Unlabelled: `train` and `valid`, whole events held out; `asr`: all three splits with text and speaker."""
    return _unlabelled(root, arguments) if arguments.kind == "unlabelled" else _transcribed(root, arguments)


def _unlabelled(root: Path, arguments: argparse.Namespace) -> CorpusPlan:
    language, manifest = arguments.language, _manifest(root)
    segments: dict[str, list[list[str]]] = {}
    for event, *segment in _rows(manifest, ("event_id", "segment_no", "start", "end")):
        if event.rsplit("_", 1)[-1] == language:
            segments.setdefault(event, []).append(segment)
    if not segments:
        raise UserError(f"{manifest}: no segment in {language!r}; give --language as in raw_audios/")
    folder = root / "raw_audios" / language
    present = sorted(event for event in segments if (folder / event[:4] / f"{event}.ogg").is_file())
    found = {language: sum(len(segments[event]) for event in present)}
    listed = {language: sum(map(len, segments.values()))}
    check_counts(found, listed, arguments.allow_partial, folder, "segments with their audio")
    split_of = hold_out(present, {"valid": arguments.valid}, "events that have audio")
    splits: dict[str, list[Recording]] = {"train": [], "valid": []}
    for event in present:
        path, meta = folder / event[:4] / f"{event}.ogg", {"language": language, "event": event}
        splits[split_of[event]] += [
            Recording(path, clean_key(f"{event}_{number}"), meta, float(start), float(end))
            for number, start, end in segments[event]
        ]
    source = {"kind": "unlabelled", "language": language, "manifest": manifest.name}
    return CorpusPlan(f"voxpopuli-{language}-unlabelled", LICENCE, splits, {"languages": [language]}, source=source)


def _manifest(root: Path) -> Path:
    places = [root / folder / f"unlabelled_v2.tsv{end}" for folder in ("unlabelled_data", "") for end in (".gz", "")]
    for path in places:
        if path.is_file():
            return path
    raise UserError(f"{places[0]}: no such file; get_unlabelled_data of facebookresearch/voxpopuli downloads it")


def _transcribed(root: Path, arguments: argparse.Namespace) -> CorpusPlan:
    language, folder = arguments.language, root / "transcribed_data" / arguments.language
    splits: dict[str, list[Recording]] = {}
    listed: dict[str, int] = {}
    for split, name in (("train", "train"), ("valid", "dev"), ("test", "test")):
        path = folder / f"asr_{name}.tsv"
        if not path.is_file():
            raise UserError(f"{path}: no such file; make it with get_asr_data of facebookresearch/voxpopuli")
        recordings = []
        for key, text, speaker in _rows(path, ("id", "normalized_text", "speaker_id")):
            meta = {"text": text.strip(), "language": language, "speaker": speaker}
            recordings.append(Recording(folder / key[:4] / f"{key}.ogg", clean_key(key), meta))
        listed[split] = len(recordings)
        splits[split] = existing(recordings)
    check_counts(splits, listed, arguments.allow_partial, folder, "utterances with their audio")
    check_counts(listed, TRANSCRIBED.get(language, {}), allow_partial=True, where=folder)
    wordless = sum(not recording.meta["text"] for part in splits.values() for recording in part)
    splits = {split: [r for r in part if r.meta["text"]] for split, part in splits.items()}
    speakers = sorted({recording.meta["speaker"] for part in splits.values() for recording in part})
    source = {"kind": "asr", "language": language, "without_text": wordless}
    inventories = {"languages": [language], "speakers": speakers}
    return CorpusPlan(f"voxpopuli-{language}", LICENCE, splits, inventories, source=source)


def _rows(path: Path, columns: tuple[str, ...]) -> Iterator[list[str]]:
    """Some columns of a tab-separated table, gzipped or not, which the official tools write without quoting."""
    for _, row in read_table(path, "a table of VoxPopuli", columns, "\t", quoted=False, remedy="download it again"):
        yield [row[column] for column in columns]
