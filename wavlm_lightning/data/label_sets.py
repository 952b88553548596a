"""The label sets of a corpus, from the metadata of its utterances: what the tasks ask for, and columns that a user names."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from wavlm_lightning.data.recordings import Inventories, Meta
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.reading import shown

COLUMNS = {
    # label set: field of the metadata. SID and SV read speakers, KS keywords, ER emotions; the others are for own heads.
    "speakers": "speaker",
    "languages": "language",
    "keywords": "keyword",
    "emotions": "emotion",
    "genders": "gender",
    "labels": "label",
}


def label_sets(written: dict[str, list[Meta]], columns: tuple[str, ...] = ()) -> Inventories:
    """Label sets of what was written: a speaker whose files were all skipped is not among them.

    Args:
        written: metadata by split.
        columns: further fields, each the name of its label set.

    Raises:
        UserError: no utterance has a field of `columns`, or a label is not text.
    """
    metas = [meta for part in written.values() for meta in part]
    found: dict[str, Any] = {name: values(metas, field) for name, field in COLUMNS.items()}
    found["phones"] = sorted({phone for m in metas for phone, *_ in m.get("phones") or []})
    intents = [meta["intent"] for meta in metas if meta.get("intent")]
    for intent in intents:
        if not isinstance(intent, dict):
            raise UserError(
                f"intent: {shown(intent)} does not say which slot it is; give slots and their values, as the columns "
                "`intent:SLOT` of a manifest do"
            )
    found["intents"] = {slot: values(intents, slot) for slot in sorted({slot for intent in intents for slot in intent})}
    for column in columns:
        if not (classes := values(metas, column)):
            there = ", ".join(sorted({name for meta in metas for name in meta}))
            raise UserError(f"--label-columns {column}: no utterance has it; the columns are {there}")
        found[column] = classes
    return found


def values(metas: Iterable[Meta], field: str) -> list[str]:
    """The values of a field, sorted; a missing or empty one is no class."""
    found = [meta[field] for meta in metas if meta.get(field) not in (None, "")]
    if wrong := [value for value in found if not isinstance(value, str)]:
        raise UserError(
            f"label column {field}: {shown(wrong[0])} is not text; a class is a name, so put it in quotes, or give the column "
            "another name"
        )
    return sorted(set(found))
