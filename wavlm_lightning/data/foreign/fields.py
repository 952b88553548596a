"""Fields of samples that others wrote, such as JSON of a WebDataset or columns of a parquet file, as metadata of utterances."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from wavlm_lightning.data.recordings import Meta, clean_key
from wavlm_lightning.data.transcripts import visible
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.reading import shown

# What data sets call the fields that a corpus knows, in the order of preference.
USUAL = {
    "text": ("text", "transcript", "transcription", "sentence"),
    "speaker": ("speaker", "speaker_id", "spk", "spk_id", "client_id"),
    "language": ("language", "lang", "locale"),
}
SPLITS = {"validation": "valid", "val": "valid", "dev": "valid", "training": "train", "testing": "test"}
NESTED = ("phones", "words", "turns", "slots", "terms", "intent", "tagged")  # a task expects a structure in these
MOST = 4096  # bytes of JSON of a field that is not asked for


def given_columns(pairs: Iterable[str], option: str) -> dict[str, str]:
    """`NAME=FIELD` of the command line as a dict; `UserError` names a word of another form."""
    found: dict[str, str] = {}
    for pair in pairs:
        name, equals, field = pair.partition("=")
        if not (equals and field and name.isidentifier()):
            raise UserError(f"{option}: {pair!r} is not NAME=FIELD, such as text=sentence")
        found[name] = field
    return found


def with_usual(given: Mapping[str, str], present: Iterable[str], prefix: str = "") -> dict[str, str]:
    """The fields that were asked for, and those with a usual name for text, speaker and language."""
    have = set(present)
    chosen = dict(given)
    for name, usual in USUAL.items():
        found = next((f"{prefix}{field}" for field in usual if f"{prefix}{field}" in have), None)
        if name not in chosen and found is not None:
            chosen[name] = found
    return chosen


def metadata(
    fields: Mapping[str, Any], chosen: Mapping[str, str], where: str, left_out: Counter[str], prefix: str = ""
) -> Meta:
    """The metadata of an utterance.

    Args:
        fields: of the sample.
        chosen: name in the corpus -> field; empty fields are left out.
        where: the sample, for messages.
        left_out: counts fields that are not kept.
        prefix: that names of fields lose.

    Raises:
        UserError: a field that was asked for holds no text and no number.
    """
    meta: Meta = {}
    for name, field in chosen.items():
        value = fields.get(field)
        if _is_empty(value):
            continue
        if name in NESTED:
            value = _nested(name, value)
        elif isinstance(value, bool | int | float):
            value = str(value)
        elif isinstance(value, str):
            value = visible(value)
        else:
            value = None
        if value is None:
            raise UserError(
                f"{where}: {field} holds {shown(fields[field])}, which cannot be a {name}; choose another field"
            )
        if value:
            meta[name] = value
    taken = {*chosen.values(), *(f"{prefix}{name}" for name in chosen)}
    for field, value in fields.items():
        name = field.removeprefix(prefix)
        if field in taken or _is_empty(value):
            continue
        if name in NESTED and (value := _nested(name, value)) is None:
            left_out[f"{name} of another form than a corpus has"] += 1
            continue
        text = json.dumps(value, ensure_ascii=False, default=str)
        if len(text) > MOST:
            left_out[f"{name} of more than {MOST:,} characters"] += 1
        else:
            meta[name] = json.loads(text)
    return meta


def _is_empty(value: Any) -> bool:
    return value is None or value == "" or (isinstance(value, float) and not math.isfinite(value))


def _nested(name: str, value: Any) -> Any:
    """`phones` and the like in the form that tasks read; None if they have another one."""
    if name == "phones" and isinstance(value, str):
        return [[phone] for phone in value.split()]
    if name == "phones" and isinstance(value, list) and all(isinstance(phone, str) for phone in value):
        return [[phone] for phone in value]
    if name in ("phones", "words", "turns", "slots"):
        rows = isinstance(value, list) and all(
            isinstance(row, list) and row and isinstance(row[0], str) for row in value
        )
        timed = name in ("words", "turns")
        return value if rows and (not timed or all(len(row) == 3 for row in value)) else None
    if name == "intent":
        return value if isinstance(value, dict) else None
    if name == "terms":
        return value if isinstance(value, list) and all(isinstance(term, str) for term in value) else None
    return value if isinstance(value, str | list) else None


def our_splits(names: Iterable[str]) -> dict[str, str]:
    """Names of splits of others -> ours: `validation`, `val` and `dev` are `valid`, unless that would make two one.

    Raises:
        UserError: two names become one file name.
    """
    every = list(dict.fromkeys(names))
    renamed = {name: SPLITS.get(name.lower(), name) for name in every}
    if len(set(renamed.values())) < len(every):
        renamed = {name: name for name in every}
    clean = {name: clean_key(new) for name, new in renamed.items()}
    if len(set(clean.values())) < len(every) or not all(clean.values()):
        raise UserError(f"the splits {', '.join(map(repr, every))} cannot all be names of files; rename them")
    return clean


def chosen_splits(names: Sequence[str], asked: Sequence[str] | None, where: Path | str) -> dict[str, str | None]:
    """The splits to take -> our names for them; None for a lone `train`, which is then divided."""
    have = list(dict.fromkeys(names))
    if absent := [name for name in asked or () if name not in have]:
        raise UserError(f"{where}: no split {absent[0]!r}; it has {', '.join(have)}")
    taken = [name for name in have if asked is None or name in asked]
    ours = our_splits(taken)
    return dict.fromkeys(taken) if list(ours.values()) == ["train"] else dict(ours)


def check_columns(given: Mapping[str, str], columns: Sequence[str], where: Path | str) -> None:
    """Refuse columns that the data set does not have, or that hold bytes."""
    for name, field in given.items():
        if field not in columns:
            raise UserError(
                f"--columns {name}={field}: {where} has no such column of text; it has {', '.join(columns)}"
            )
