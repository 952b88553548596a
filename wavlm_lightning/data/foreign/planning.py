"""What the formats share: count what is left out by reason, name splits on the command line, keep keys apart, write."""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wavlm_lightning.data.recordings import CorpusPlan, Recording, clean_key
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.paths import unique_names

if TYPE_CHECKING:  # `wavlm prepare --help` must not wait for numpy
    from wavlm_lightning.data.corpus import Corpus

SHARD_FILES = 500  # recordings per shard
SHOWN = 3  # names in a message


class LeftOut:
    """Entries that do not become utterances, by reason.

    Args:
        where: the list that they stand in, for messages.
        on_error: `stop` refuses the list with all reasons in one sentence, `skip` goes on without these entries.
    """

    def __init__(self, where: Path | str, on_error: str) -> None:
        self.where, self.on_error = where, on_error
        self.reasons: dict[str, list[str]] = {}
        self.faults: dict[str, list[str]] = {}  # those reasons that are faults of the list

    def add(self, reason: str, name: str, fault: bool = True) -> None:
        """Leave `name` out; `reason` is a plural, such as `utterances without a transcript`.

        With `fault` the list contradicts itself; otherwise what is left out is only said.
        """
        names = self.reasons.setdefault(reason, [])
        names.append(name)
        if fault:
            self.faults[reason] = names

    def settle(self) -> None:
        """Refuse the list if it has faults and `on_error` is `stop`."""
        if self.faults and self.on_error == "stop":
            raise UserError(
                f"{self.where}: {'; '.join(left_out_lines(self.faults))}; correct the list, or leave them out with "
                "--on-error skip"
            )


def left_out_lines(reasons: dict[str, list[str]]) -> list[str]:
    """For each reason the number of entries, the reason, and the first names."""
    return [
        f"{len(names)} {reason} ({', '.join(names[:SHOWN])}{', ...' if len(names) > SHOWN else ''})"
        for reason, names in reasons.items()
    ]


def named_splits(given: Iterable[str], option: str = "--split") -> dict[str, list[str]]:
    """`NAME=PLACE` of the command line, or `NAME=PLACE,PLACE`, as places by the name of their split.

    Raises:
        UserError: an entry has another form, or a name occurs twice.
    """
    splits: dict[str, list[str]] = {}
    for entry in given:
        name, _, places = entry.partition("=")
        if not name or not places or clean_key(name) != name:
            raise UserError(f"{option} {entry}: write NAME=PLACE, such as train=data/train, with a plain name")
        if name in splits:
            raise UserError(f"{option} {entry}: {name} is given twice; join its places, {name}=PLACE,PLACE")
        splits[name] = [place for place in places.split(",") if place]
    return splits


def named_by(meta: dict[str, Any]) -> str:
    """Takes the identifier `id`, a text or a number, out of the metadata; "" without one."""
    name = meta.pop("id", None)
    return "" if name is None else str(name)


def free_key(name: str, keys: set[str]) -> str:
    """A valid key for an identifier, other than all in `keys`, to which it is added.

    Identifiers that differ in characters which keys lack get a hash; the metadata then keep the identifier as `id`.
    """
    key = clean_key(name) or "_"
    if key in keys:
        key = f"{key}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    if key in keys:
        (key,) = unique_names([key], keys, case_counts=True)
    keys.add(key)
    return key


def write_foreign(
    recordings: list[Recording],
    arguments: argparse.Namespace,
    where: Path,
    recipe: str,
    left_out: LeftOut,
    **source: Any,
) -> Corpus:
    """Divide recordings that have no `split`, and write the corpus; the arguments are those of `options`.

    Raises:
        UserError: nothing is left, one stretch of audio is in two splits, or a file cannot be used.
    """
    from wavlm_lightning.data.division import Division
    from wavlm_lightning.data.label_sets import label_sets
    from wavlm_lightning.data.writing import write_corpus

    left_out.settle()
    if not recordings:
        raise UserError(
            f"{where}: no utterance is left; {'; '.join(left_out_lines(left_out.reasons)) or 'it lists none'}"
        )
    _check_apart(recordings, where)
    divided = Division(arguments.valid, arguments.test, arguments.split_by).divide(recordings, where)
    facts = {"recipe": recipe, "split_by": divided.unit, "divided": divided.said, **source}
    if left_out.reasons:
        facts["left_out_by_reason"] = left_out.reasons
    name = arguments.name or (where if where.is_dir() else where.parent).resolve().name
    sets = partial(label_sets, columns=tuple(arguments.label_columns))
    plan = CorpusPlan(name, arguments.licence, divided.splits, sets, None, facts, SHARD_FILES, distinct=True)
    return write_corpus(plan, arguments.out, arguments.workers, arguments.on_error)


def _check_apart(recordings: list[Recording], where: Path) -> None:
    """Refuse the same stretch in two splits before anything is decoded; equal samples are found when it is."""
    first: dict[Any, Recording] = {}
    across = []
    for recording in recordings:
        place = (repr(recording.stored or recording.path), recording.start, recording.end, recording.channel)
        other = first.setdefault(place, recording)
        if other.meta.get("split") != recording.meta.get("split"):
            across.append(f"{other.key} in {other.meta['split']} and {recording.key} in {recording.meta['split']}")
    if across:
        raise UserError(
            f"{where}: {len(across)} utterances are the same audio in two splits ({', '.join(across[:SHOWN])}"
            f"{', ...' if len(across) > SHOWN else ''}); name the parts that you want with --split NAME=PLACE"
        )
