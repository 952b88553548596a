"""The content of a `corpus.json`, checked where a corpus is opened or made, because it may come from a stranger.

Every name in its splits becomes a file name, so each must be a plain one, also in fields that this version does not know.
"""

from __future__ import annotations

import re
from typing import Any

from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.paths import plain_name

SHA256 = re.compile(r"[0-9a-f]{64}")
COUNTS = ("utterances", "samples", "bytes")  # of a shard
INDEX = "index_sha256"  # hash of the index file of a shard
MODIFIED = "modified_ns"  # of a shard that others wrote and that was indexed in place: when it was last changed
LARGEST = 2**53  # of a count; far above any corpus, and exact in every program that reads JSON
DENSEST = 1024  # samples in a byte of FLAC: silence has a frame of more than 8 bytes for 4,096 of them
ORDINARY_NAMES = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}\.tar\n)*+")
UNTRUSTED = "do not trust this corpus"
FILES = {"shards": ".tar", "lengths": ".npy"}  # key in a split -> ending of the files that its entries name


def check_body(body: Any, where: str) -> None:
    """Check the splits of a `corpus.json`.

    Args:
        body: its content.
        where: which file it is, for messages.

    Raises:
        UserError: a name could lead out of the corpus' folder, or an entry has not the form of this format.
    """
    splits = body.get("splits") if isinstance(body, dict) else None
    if not isinstance(splits, dict):
        raise UserError(f"{where} is not that of a corpus (it has no splits); check the path, or prepare it again")
    for split, part in splits.items():
        plain_name(split, f"{where}:", UNTRUSTED)
        if not isinstance(part, dict) or not isinstance(part.get("shards"), list):
            raise UserError(f"{where}: split {split!r} lists no shards; prepare the corpus again")
        shards = part["shards"]
        _check_counts(part, ("utterances",), f"{where}: split {split!r}")
        for shard in () if _are_ordinary(shards) else shards:
            _check_entry(shard, COUNTS, ".tar", where)
        if part["utterances"] != (total := sum(shard["utterances"] for shard in shards)):
            raise UserError(
                f"{where}: split {split!r} counts {part['utterances']:,} utterances, its shards {total:,}; prepare the "
                "corpus again"
            )
        for shard in shards:
            if shard["samples"] > DENSEST * shard["bytes"]:
                raise UserError(
                    f"{where}: {shard['name']} of {shard['bytes']:,} bytes cannot hold {shard['samples']:,} samples; prepare "
                    "the corpus again"
                )
        if part.get("lengths") is not None:
            _check_entry(part["lengths"], ("bytes",), ".npy", where)
        for key, value in part.items():
            if key not in FILES:
                _check_names(value, where)
    lists = trial_lists(body)
    if not isinstance(lists, dict) or not all(isinstance(names, list) for names in lists.values()):
        raise UserError(f"{where}: source.trial_lists must name lists of trials by split; prepare the corpus again")
    for name in (name for names in lists.values() for name in names):
        plain_name(name, f"{where}:", UNTRUSTED)


def trial_lists(body: dict[str, Any]) -> dict[str, list[str]]:
    """Names of the further lists of trials, by split."""
    source = body.get("source")
    return source.get("trial_lists", {}) if isinstance(source, dict) else {}


def _are_ordinary(shards: list[Any]) -> bool:
    """Whether all entries pass `_check_entry`, in a few passes: a corpus of 94,000 hours has 188,000 of them.

    False only means that they have to be checked one by one.
    """
    try:
        names = "".join([shard["name"] + "\n" for shard in shards])
        digests = [shard["sha256"] for shard in shards]
        # Corpora of older versions have no hash of the index: all shards have one, or none.
        indices = [shard[INDEX] for shard in shards] if shards and INDEX in shards[0] else []
        return (
            ORDINARY_NAMES.fullmatch(names) is not None
            and names.count("\n") == len(shards)
            and {len(digest) for digest in digests} <= {64}
            and re.fullmatch(r"[0-9a-f]*", "".join(digests)) is not None
            and all(type(digest) is str and len(digest) == 64 for digest in indices)
            and re.fullmatch(r"[0-9a-f]*", "".join(indices)) is not None
            and {len(shard) for shard in shards} <= {len(COUNTS) + 2 + bool(indices)}
            and all({type(shard[count]) for shard in shards} <= {int} for count in COUNTS)
            and all(min((shard[count] for shard in shards), default=0) >= 0 for count in COUNTS)
            and all(max((shard[count] for shard in shards), default=0) <= LARGEST for count in COUNTS)
        )
    except (TypeError, KeyError):
        return False


def _check_entry(entry: Any, counts: tuple[str, ...], ending: str, where: str) -> None:
    """Check the entry of a file: its name, its hash, and whole numbers."""
    if not isinstance(entry, dict):
        raise UserError(f"{where}: lists {type(entry).__name__} where a file belongs; prepare the corpus again")
    name = plain_name(entry.get("name"), f"{where}:", UNTRUSTED, ending)
    digest = entry.get("sha256")
    if not isinstance(digest, str) or SHA256.fullmatch(digest) is None:
        raise UserError(f"{where}: {name} has no sha256; prepare the corpus again")
    _check_counts(entry, counts, f"{where}: {name}")
    if INDEX in entry and (not isinstance(entry[INDEX], str) or SHA256.fullmatch(entry[INDEX]) is None):
        raise UserError(f"{where}: {name} has {INDEX}, not a hash; prepare the corpus again")
    if type(entry.get(MODIFIED, 0)) is not int:
        raise UserError(f"{where}: {name} has {MODIFIED}, not a time; prepare the corpus again")
    if len(entry) > len(counts) + 2:
        for key, value in entry.items():
            if key != "name":
                _check_names(value, where)


def _check_counts(entry: dict[str, Any], counts: tuple[str, ...], where: str) -> None:
    for count in counts:
        value = entry.get(count)
        if type(value) is not int or not 0 <= value <= LARGEST:  # a bool is an int, too
            raise UserError(f"{where} has no number of {count}; prepare the corpus again")


def _check_names(value: Any, where: str) -> None:
    """Check each `name` anywhere in a field that this version does not know; a later one may open that file."""
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            if "name" in value:
                plain_name(value["name"], f"{where}:", UNTRUSTED)
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
