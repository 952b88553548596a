"""Common Voice: sentences read by volunteers, in one language (release 11 and similar ones).

A release unpacks to `cv-corpus-VERSION-DATE/LANG/{train,dev,test}.tsv` and `LANG/clips/*.mp3`. Its tables are written
without quoting (common-voice/CorporaCreator). torchaudio's `COMMONVOICE` reads them with quoting, so that a sentence that
begins with a quotation mark swallows the rows after it; therefore this module reads them itself.
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

from wavlm_lightning.data.recordings import CorpusPlan, Recording, check_counts, clean_key, existing, require_file
from wavlm_lightning.system.reading import read_table

HELP = "Common Voice in one language; DIR is the unpacked release, or the folder of the language in it"

TABLES = {"train": "train.tsv", "valid": "dev.tsv", "test": "test.tsv"}
COLUMNS = ("client_id", "path", "sentence")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--language`."""
    parser.add_argument("--language", required=True, help="its code, as in the folder names: es, ar, zh-CN, ...")


def plan(root: Path, arguments: argparse.Namespace) -> CorpusPlan:
    """Clips with `text`, `speaker` (from the client's hash) and `language`.

    Official counts differ between languages and releases, so the tables themselves say which clips must be present.
    """
    folder = root / arguments.language if (root / arguments.language).is_dir() else root
    listed = {split: _recordings(folder, name, arguments.language) for split, name in TABLES.items()}
    splits = {split: existing(part) for split, part in listed.items()}
    wanted = {split: len(part) for split, part in listed.items()}
    check_counts(splits, wanted, arguments.allow_partial, folder, "clips")
    speakers = sorted({recording.meta["speaker"] for part in splits.values() for recording in part})
    inventories = {"languages": [arguments.language], "speakers": speakers}
    source = {"release": folder.resolve().parent.name}
    return CorpusPlan(f"common_voice-{arguments.language}", "CC0-1.0", splits, inventories, source=source)


def _recordings(folder: Path, name: str, language: str) -> list[Recording]:
    path = require_file(folder / name, f"a table of Common Voice in {language}")
    recordings = []
    for _, row in read_table(path, "a table of Common Voice", COLUMNS, "\t", quoted=False, remedy="download it again"):
        clip = row["path"] if Path(row["path"]).suffix else f"{row['path']}.mp3"  # first releases: no suffix
        meta = {
            "text": _unquoted(row["sentence"]),
            "speaker": hashlib.sha256(row["client_id"].encode()).hexdigest()[:16],
            "language": language,
        }
        recordings.append(Recording(folder / "clips" / clip, clean_key(Path(clip).stem), meta))
    return recordings


def _unquoted(sentence: str) -> str:
    """The sentence without the quotation marks that spreadsheets add, which double those inside."""
    sentence = sentence.strip()
    if len(sentence) > 2 and sentence[0] == sentence[-1] == '"':
        sentence = sentence[1:-1].replace('""', '"')
    return sentence
