"""Common Voice: sentences read by volunteers, in one language (release 11 and similar ones).

A release unpacks to `cv-corpus-VERSION-DATE/LANG/{train,dev,test}.tsv` and `LANG/clips/*.mp3`. Its tables are written
without quoting (common-voice/CorporaCreator). torchaudio's `COMMONVOICE` reads them with quoting, so that a sentence that
begins with a quotation mark swallows the rows after it; therefore this module reads them itself.
"""

from __future__ import annotations

import argparse
import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

from wavlm_lightning.data.corpora.languages.superb_sg import ACCENT, superb_sg_text
from wavlm_lightning.data.recordings import CorpusPlan, Recording, check_counts, clean_key, existing, require_file
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.reading import read_table

HELP = "Common Voice in one language; DIR is the unpacked release, or the folder of the language in it"

TABLES = {"train": "train.tsv", "valid": "dev.tsv", "test": "test.tsv"}
COLUMNS = ("client_id", "path", "sentence")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the language, the rules of its texts, and the accent."""
    parser.add_argument("--language", required=True, help="its code, as in the folder names: es, ar, zh-CN, ...")
    parser.add_argument(
        "--text",
        choices=("as_written", "superb_sg"),
        default="as_written",
        help="superb_sg: upper case without punctuation, sentences with foreign letters left out, and of Spanish the accent of "
        "Mexico alone, as SUPERB-SG's out-of-domain recognition (Common Voice 7.0) has them",
    )
    parser.add_argument("--accent", help="keep the clips of one accent, as the tables name it: mexicano, ...")


def plan(root: Path, arguments: argparse.Namespace) -> CorpusPlan:
    """Clips with `text`, `speaker` (from the client's hash), `language` and, where the table names it, `accent`.

    Official counts differ between languages and releases, so the tables themselves say which clips must be present.
    """
    folder = root / arguments.language if (root / arguments.language).is_dir() else root
    by_rules = arguments.text == "superb_sg"
    accent = arguments.accent or (ACCENT.get(arguments.language) if by_rules else None)
    source: dict[str, Any] = {"release": folder.resolve().parent.name}
    listed: dict[str, list[Recording]] = {}
    for split, name in TABLES.items():
        recordings = _recordings(folder, name, arguments.language)
        listed[split] = kept = [each for each in recordings if accent is None or each.meta.get("accent") == accent]
        if accent and not kept:
            found = sorted({str(each.meta["accent"]) for each in recordings if "accent" in each.meta})
            named = f"it names {', '.join(found[:5])}" if found else "it names none"
            raise UserError(
                f"{folder / name}: no clip with the accent {accent!r}; {named}; give one of them with --accent, or take the "
                "release that has it"
            )
        if by_rules:
            listed[split] = [each for recording in kept if (each := _by_rules(recording)) is not None]
        if by_rules or accent:
            source.setdefault("left_out", {})[split] = len(recordings) - len(listed[split])
    if by_rules or accent:
        source |= {"text": arguments.text, "accent": accent}
    splits = {split: existing(part) for split, part in listed.items()}
    wanted = {split: len(part) for split, part in listed.items()}
    check_counts(splits, wanted, arguments.allow_partial, folder, "clips")
    speakers = sorted({recording.meta["speaker"] for part in splits.values() for recording in part})
    inventories = {"languages": [arguments.language], "speakers": speakers}
    return CorpusPlan(f"common_voice-{arguments.language}", "CC0-1.0", splits, inventories, source=source)


def _by_rules(recording: Recording) -> Recording | None:
    text = superb_sg_text(recording.meta["text"], recording.meta["language"])
    return None if text is None else replace(recording, meta={**recording.meta, "text": text})


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
        # Up to release 7.0 the column is called `accent`.
        if accent := row.get("accents", row.get("accent", "")).strip():
            meta["accent"] = accent
        recordings.append(Recording(folder / "clips" / clip, clean_key(Path(clip).stem), meta))
    return recordings


def _unquoted(sentence: str) -> str:
    """The sentence without the quotation marks that spreadsheets add, which double those inside."""
    sentence = sentence.strip()
    if len(sentence) > 2 and sentence[0] == sentence[-1] == '"':
        sentence = sentence[1:-1].replace('""', '"')
    return sentence
