"""Rows of a manifest: CSV and TSV with a header, or one JSON object a line as NeMo writes them."""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wavlm_lightning.data.shards import check_member_name
from wavlm_lightning.data.transcripts import visible
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.reading import read_table, read_text, reading, shown

RENAMED = {"transcript": "text", "transcription": "text", "speaker_id": "speaker", "lang": "language"}
RENAMED_IN_JSON = {**RENAMED, "audio_filepath": "path", "channel_selector": "channel"}
FURTHER = "audio:"  # begins the columns with paths of further audio
INTENT = "intent:"  # begins the columns with a slot of the intent
WHOLE = "duration of the whole file"  # not a column that a user could name: `duration` without `offset`
LINES = {".jsonl", ".json", ".ndjson"}
TABS = {".tsv", ".tab"}
TIMED = ("phones", "words", "turns")  # lists of [name, start, end]
QUOTED = re.compile(r'^".*(""|\t).*"$')


def manifest_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Where each row stands, for messages, and its fields.

    `path` and the paths under `audio:NAME` are text as written; texts lose characters that nobody sees; `start` and `end`
    are seconds, `channel` counts from 0, `phones` is `[[phone], ...]` or has times, `intent` is a dict. Empty fields are
    absent. A `duration` of jsonl without `offset` or `start` is under the key `WHOLE`.

    Raises:
        UserError: the file or a row is not of this form; the message names the line and the column.
    """
    kind = path.suffix if path.suffix != ".gz" else path.with_suffix("").suffix
    for where, fields in _json_rows(path) if kind.lower() in LINES else _table_rows(path, kind.lower() in TABS):
        yield where, _typed(fields, where)


def _table_rows(path: Path, tabs: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    what = "a manifest (TSV)" if tabs else "a manifest (CSV)"
    table = read_table(path, what, ["path"], "\t" if tabs else ",", quoted=not tabs, remedy="correct this row")
    for number, fields in table:
        where = f"{path}, line {number}"
        for name in fields:
            if name.startswith(FURTHER):
                check_member_name(name.removeprefix(FURTHER), f"{path}, column `{name}`")
        for name, value in fields.items() if tabs else ():
            if QUOTED.match(value):
                raise UserError(
                    f"{where}, column `{name}`: {shown(value)} is quoted as in CSV, but in TSV a double quote is a character; "
                    "write the list without quotes, or as CSV"
                )
        row = {RENAMED.get(name, name): value for name, value in fields.items() if value.strip()}
        if "phones" in row:
            row["phones"] = visible(row["phones"])
        if "duration" in row and ("offset" in row or "start" in row):  # alone it may be anything
            _stretch(row, where)
        yield where, row


def _json_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    text = read_text(path, "a manifest (jsonl)")
    for number, line in enumerate(io.StringIO(text, newline=None), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        with reading(where, "a JSON object (a manifest has one a line)", "correct this line"):
            fields = json.loads(line, parse_constant=_no_number)
            if not isinstance(fields, dict):
                raise TypeError(f"it is {type(fields).__name__}")
        row: dict[str, Any] = {}
        for name, value in fields.items():
            new = str(RENAMED_IN_JSON.get(name, name))
            if value is None or value == "" or value == []:
                continue
            if new in row:
                raise UserError(f"{where}: two of its keys mean `{new}`; leave one out")
            row[new] = value
        _stretch(row, where)
        yield where, row


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number")


def _stretch(row: dict[str, Any], where: str) -> None:
    """`offset`, or `start`, and `duration` as `start` and `end`."""
    if "offset" in row and ("start" in row or "end" in row):
        raise UserError(f"{where}: has `offset` and `start` or `end`; leave one of them out")
    if "offset" in row:
        row["start"] = _seconds(row.pop("offset"), f"{where}, `offset`")
        if "duration" in row:
            row["end"] = row["start"] + _seconds(row.pop("duration"), f"{where}, `duration`")
    elif "duration" in row and "start" in row and "end" not in row:
        row["end"] = _seconds(row["start"], f"{where}, `start`") + _seconds(row.pop("duration"), f"{where}, `duration`")
    elif "duration" in row and "start" not in row and "end" not in row:
        row[WHOLE] = _seconds(row.pop("duration"), f"{where}, `duration`")


def _typed(fields: dict[str, Any], where: str) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for name, value in fields.items():
        place = f"{where}, column `{name}`"
        if name == WHOLE:
            row[name] = value
        elif name == "path" or name.startswith(FURTHER):
            if not isinstance(value, str):
                raise UserError(f"{place}: {shown(value)} is no path")
            if name != "path":
                check_member_name(name.removeprefix(FURTHER), place)
            row[name] = value.strip()  # the file has the name that it has
        elif name in ("start", "end"):
            row[name] = _seconds(value, place)
        elif name == "channel":
            row[name] = _channel(value, place)
        elif name in TIMED and not isinstance(value, str):
            row[name] = timed(value, place)
        elif name == "phones":
            row[name] = [[phone] for phone in value.split()]
        elif name.startswith(INTENT):
            row.setdefault("intent", {})[name.removeprefix(INTENT)] = _label(value, place)
        elif name == "intent" and isinstance(value, dict):
            row.setdefault("intent", {}).update({slot: _label(each, place) for slot, each in value.items()})
        elif name == "intent":
            raise UserError(
                f"{place}: {shown(value)} does not say which slot it is; write a column `intent:SLOT` for each slot, such as "
                "`intent:action`, or in jsonl an object"
            )
        elif name in ("speaker", "split") and isinstance(value, int) and not isinstance(value, bool):
            row[name] = str(value)  # a name that happens to be a number
        elif isinstance(value, str):
            row[name] = visible(value)
        elif isinstance(value, int | float) and name not in ("text", "speaker", "language", "split"):
            row[name] = value
        else:
            raise UserError(f"{place}: {shown(value)} is neither text nor a number; leave it out or write it as text")
    if "path" not in row:
        raise UserError(f"{where}: the path is empty")
    return row


def _label(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise UserError(f"{where}: {shown(value)} is not text, so it is no class; put it in quotes")
    return visible(value)


def timed(value: Any, where: str) -> list[list[Any]]:
    """Checked `[[name], ...]` or `[[name, start, end], ...]`, with `name` alone for the former."""
    if isinstance(value, list) and value and all(isinstance(each, str) for each in value):
        return [[each] for each in value]
    for each in value if isinstance(value, list) else [None]:
        entry: list[Any] = each if isinstance(each, list) and each else [None]
        name, times = entry[0], entry[1:]
        right = all(isinstance(time, int | float) and not isinstance(time, bool) for time in times)
        if not (isinstance(name, str) and right and len(times) in (0, 2)) or (times and not 0 <= times[0] <= times[1]):
            raise UserError(f"{where}: {shown(each if each is not None else value)} is not [name, start, end]")
    return [list(each) for each in value]


def _seconds(value: Any, where: str) -> float:
    try:
        found = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        found = math.nan
    if not (math.isfinite(found) and found >= 0):
        raise UserError(f"{where}: {shown(value)} is not a number of seconds")
    return found


def _channel(value: Any, where: str) -> int:
    text = str(value).strip()
    if isinstance(value, bool) or not text.isdecimal():
        raise UserError(f"{where}: {shown(value)} is no channel; channels count from 0")
    return int(text)
