"""Which labelled speech an encoder has learned from: targets made with labels, fine-tuning, pseudo-labels of a teacher.

Every artefact that is made with labels says so under the key `labelled`: `utterances`, `seconds` and `corpus`. An encoder that
has seen several labelled corpora has one such entry for each. What was made without labels has no such key.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from wavlm_lightning.encoder.checkpoints.huggingface import OWN_KEY
from wavlm_lightning.encoder.checkpoints.sharded_files import EXTRAS
from wavlm_lightning.encoder.checkpoints.tensor_files import read_json, read_pickle

LABELLED = "labelled"  # key in codebooks, label sets, checkpoints and cards
Entry = dict[str, Any]
"""`utterances`, `seconds` of audio and `corpus` (a name) of labelled speech, perhaps with `task`, for which they were used.

Seconds and utterances are None where labels were used, but nothing says how many: those of a released recogniser.
"""


def entries_of(given: Any) -> list[Entry]:
    """The entries under a key `labelled`: one, several or none; what has another form is no entry.

    Example:
        >>> entries_of({"utterances": 12, "seconds": 60.0, "corpus": "mini"})
        [{'utterances': 12, 'seconds': 60.0, 'corpus': 'mini'}]
    """
    rows = [given] if isinstance(given, Mapping) else given if isinstance(given, list | tuple) else []
    return [dict(row) for row in rows if isinstance(row, Mapping) and row.get("seconds", 0) != 0 and row.get("corpus")]


def joined(*given: Any) -> list[Entry]:
    """All labels that an encoder has seen: one entry a corpus, in the order in which they came.

    Of two entries of one corpus the one with more audio counts, since stages of a chain use the same labels again; if they are
    of different parts of the corpus, this is a lower bound.

    Example:
        >>> ten = {"utterances": 2, "seconds": 10.0, "corpus": "a"}
        >>> joined([ten], {**ten, "seconds": 5.0}, [{"utterances": 1, "seconds": 3.0, "corpus": "b"}])
        [{'utterances': 2, 'seconds': 10.0, 'corpus': 'a'}, {'utterances': 1, 'seconds': 3.0, 'corpus': 'b'}]
    """
    found: dict[str, Entry] = {}
    for row in _all(given):
        kept = found.get(row["corpus"])
        if kept is None or (row["seconds"] or 0) > (kept["seconds"] or 0):
            found[row["corpus"]] = row
    return list(found.values())


def _all(given: Iterable[Any]) -> Iterable[Entry]:
    for each in given:
        yield from entries_of(each)


def labels_seen(path: Path) -> list[Entry]:
    """What a run folder, its checkpoint (a file or a sharded one) or an exported folder says about the labels of its encoder.

    Files of other programs, and those of older versions, say nothing.
    """
    found = (path / "checkpoints" / name for name in ("last.ckpt", "best.ckpt"))
    path = next((file for file in found if file.exists()), path)
    if path.suffix == ".ckpt" and path.exists():
        content = read_pickle(path / EXTRAS) if path.is_dir() else read_pickle(path, mapped=True, checked=False)
        return entries_of(content.get(LABELLED)) if isinstance(content, Mapping) else []
    if not (path / "config.json").is_file():
        return []
    section = read_json(path / "config.json").get(OWN_KEY)
    return entries_of(section.get(LABELLED)) if isinstance(section, Mapping) else []


def said(entries: Iterable[Mapping[str, Any]]) -> str:
    """How cards and reports name them: "24 min (mini)"; empty if there are none.

    Example:
        >>> said([{"utterances": 600, "seconds": 1440.0, "corpus": "mini"}])
        '24 min (mini)'
    """
    return ", ".join(f"{_duration(row['seconds'])} ({row['corpus']})" for row in entries)


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "an unknown amount"
    if seconds < 60:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 2 * 3600 else f"{seconds / 3600:.4g} h"
