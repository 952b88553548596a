"""Folders of audio files with a metadata.csv or metadata.jsonl in each, as `datasets` reads them (audiofolder)."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from wavlm_lightning.data.foreign.fields import SPLITS, given_columns, metadata, our_splits, with_usual
from wavlm_lightning.data.foreign.planning import LeftOut, free_key, named_by
from wavlm_lightning.data.recordings import Recording
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.reading import read_lines, read_table, reading

FILE = "file_name"
KNOWN = {"train", "valid", "test", *SPLITS}


def recordings_of(
    folder: Path, lists: Sequence[Path], arguments: argparse.Namespace, left_out: LeftOut, facts: dict[str, Any]
) -> list[Recording]:
    """A recording for each row of each list; the paths in a list begin at its folder.

    The split is the first folder on the way to a file that is named train, validation, test or the like.

    Raises:
        UserError: a list cannot be read, has no column file_name, or names a file that is not there or not in its folder.
    """
    given = given_columns(arguments.columns, "--columns")
    rows = [(path, number, fields) for path in lists for number, fields in _rows(path)]
    columns = list(dict.fromkeys(name for _, _, fields in rows for name in fields if name != FILE))
    for name, field in given.items():
        if field not in columns:
            raise UserError(f"--columns {name}={field}: {folder} has no such column; it has {', '.join(columns)}")
    chosen = with_usual(given, columns)
    found: Counter[str] = Counter()
    dropped: Counter[str] = Counter()
    keys: set[str] = set()
    recordings = []
    for path, number, fields in rows:
        where = f"{path}, line {number}"
        name = fields.pop(FILE)
        file = path.parent / name
        if not file.resolve().is_relative_to(folder.resolve()):
            raise UserError(
                f"{where}: {name!r} is outside of {folder}; correct the list, or do not trust this data set"
            )
        if not file.is_file():
            left_out.add("files that a list names and that are not there", f"{path.parent / name}")
            continue
        inside = file.relative_to(folder)
        meta = metadata(fields, chosen, where, dropped)
        found.update(f"{ours} from {field}" for ours, field in chosen.items() if ours in meta)
        meta["file"] = str(inside)
        if split := next((part for part in inside.parts[:-1] if part.lower() in KNOWN), None):
            meta["split"] = split
        key = free_key(named_by(meta) or str(inside.with_suffix("")), keys)
        recordings.append(Recording(file, key, meta))
    kept = _with_our_splits(recordings, arguments.splits, folder)
    facts["columns"] = dict(sorted(found.items()))
    facts["fields_left_out"] = dict(dropped)
    return kept


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number and fields of each row."""
    if path.suffix == ".csv":
        for number, row in read_table(path, "the metadata of an audiofolder (CSV)", [FILE], remedy="correct this row"):
            yield number, {name: value for name, value in row.items() if value.strip()}
        return
    for number, line in enumerate(read_lines(path, "the metadata of an audiofolder"), start=1):
        if not line.strip():
            continue
        with reading(Path(f"{path}, line {number}"), "a row of JSON", "correct this row"):
            row = json.loads(line)
            if not isinstance(row, dict) or not isinstance(row.get(FILE), str):
                raise TypeError(f"it has no text {FILE}")
        yield number, row


def _with_our_splits(recordings: list[Recording], asked: Sequence[str] | None, folder: Path) -> list[Recording]:
    """Those of the splits that are asked for, under our names; a lone `train` stays to be divided."""
    names = [recording.meta["split"] for recording in recordings if "split" in recording.meta]
    if absent := [name for name in asked or () if name not in names]:
        raise UserError(f"{folder}: no split {absent[0]!r}; it has {', '.join(dict.fromkeys(names)) or 'none'}")
    kept = [recording for recording in recordings if asked is None or recording.meta.get("split") in asked]
    ours = our_splits(recording.meta["split"] for recording in kept if "split" in recording.meta)
    for recording in kept:
        name = recording.meta.pop("split", None)
        if name is not None and set(ours.values()) != {"train"}:
            recording.meta["split"] = ours[name]
    return kept
