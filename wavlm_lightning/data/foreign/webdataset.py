"""`wavlm prepare webdataset`: index WebDataset shards that others wrote, where they lie, without a copy.

The corpus has a link to each shard, an index with the places and lengths of its audio and with its metadata, and a note of
what was read. A link can only be made here, on this machine: `corpus.json` still names plain files, and a server cannot send one.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wavlm_lightning.data.foreign.options import add_writing
from wavlm_lightning.system.errors import UserError

if TYPE_CHECKING:  # `wavlm prepare --help` imports this module and must not wait for numpy
    from wavlm_lightning.data.corpus import Corpus
    from wavlm_lightning.data.foreign.tar_samples import Row, Scan, TarOptions

HELP = "shards (tar) of WebDataset that others wrote, indexed where they are: no copy"
NOTES = "scans"  # folder of notes in the corpus
Scanned = Sequence[tuple[str | None, Path, "Scan"]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """All arguments of the command."""
    shards = (
        "paths of tar files, with {000..999}, * or ?, in quotes; NAME=SHARDS makes them the split NAME, as in "
        "train='a/{000..989}.tar' valid='a/{990..999}.tar'"
    )
    parser.add_argument("shards", nargs="+", metavar="SHARDS", help=shards)
    add_writing(parser)
    parser.add_argument(
        "--audio", metavar="EXTENSION", help="of the audio, if samples have several, such as flac or mic1.wav"
    )
    source = "json:FIELD, the extension of a member of text such as txt, folder, key, or key:SEPARATOR (its beginning)"
    parser.add_argument("--text", metavar="SOURCE", help=f"where the transcript is: {source}")
    parser.add_argument("--speaker", metavar="SOURCE", help="where the speaker is, likewise")
    parser.add_argument("--language", metavar="SOURCE", help="where the language is, likewise")
    labels = "columns of labels, such as keyword=cls or emotion=json:mood; each makes a set of labels"
    parser.add_argument("--labels", nargs="+", default=[], metavar="NAME=SOURCE", help=labels)
    split = "auto, speaker, file, or the source of a split's name, such as json:split (default: auto)"
    parser.add_argument("--split-by", default="auto", metavar="HOW", help=split)
    parser.add_argument("--valid", type=float, default=0.05, help="share held out for validation (default 0.05)")
    parser.add_argument("--test", type=float, default=0.05, help="share held out for test (default 0.05)")
    parser.add_argument("--name", help="name of the corpus; that of the first shard's folder by default")
    parser.add_argument("--licence", default="unknown", help="terms of use, kept in corpus.json")


def prepare(arguments: argparse.Namespace) -> Corpus:
    """Index the shards; those that an earlier run has read, and that have not changed, are not read again.

    Raises:
        UserError: a shard is missing, no plain tar, or changes; audio cannot be used; or a sound is in two splits.
    """
    from wavlm_lightning.data.foreign.tar_samples import TarOptions
    from wavlm_lightning.system.files import check_output, locked, sweep_leftovers

    shards = find_shards(arguments.shards)
    columns, by = _columns(arguments)
    options = TarOptions(arguments.audio and arguments.audio.lower().lstrip("."), columns, arguments.on_error)
    out: Path = arguments.out
    check_output(out)
    (out / NOTES).mkdir(parents=True, exist_ok=True)
    busy = f"{out}: another process is preparing this corpus; wait for it, or choose another --out"
    with locked(out / ".lock", busy, optional=True):
        sweep_leftovers(out / NOTES)
        return _write(shards, options, by, arguments)


def find_shards(patterns: Iterable[str]) -> list[tuple[str | None, Path]]:
    """Split (None if not given) and path of each shard that the patterns name, in their order.

    Args:
        patterns: paths with `{000..999}`, `*` or `?`, or folders, joined by `::` as WebDataset does; with `NAME=` before it, all
            are of the split NAME.

    Raises:
        UserError: a shard is missing or named twice, a pattern names none or is a URL, or only some have a split.
    """
    from wavlm_lightning.system.paths import plain_name

    found: list[tuple[str | None, Path]] = []
    for pattern in patterns:
        given = re.fullmatch(r"(\w[\w-]*)=(.+)", pattern)
        split = plain_name(given[1], "SHARDS", "give that split another name") if given else None
        for part in (given[2] if given else pattern).split("::"):
            found += [(split, path) for path in _expanded(part)]
    seen: dict[str, Path] = {}
    for _, path in found:
        if (other := seen.setdefault(os.path.realpath(path), path)) is not path:
            raise UserError(f"{path}: is named twice (it is {other}); name each shard once")
    if len({split is None for split, _ in found}) > 1:
        raise UserError("SHARDS: some have a split (NAME=SHARDS) and some have none; give all or none")
    return found


def _expanded(pattern: str) -> list[Path]:
    from braceexpand import braceexpand

    if pattern.startswith("pipe:") or "://" in pattern:
        raise UserError(
            f"{pattern}: shards are indexed in place only on a disk of this machine, because each is read as a whole; download "
            "them, or mount the store"
        )
    try:
        names = list(braceexpand(pattern))
    except ValueError as error:
        raise UserError(f"{pattern}: {error}; write a range as in {{000..999}}") from error
    paths: list[Path] = []
    for name in names:
        if os.path.isdir(name):  # noqa: PTH112
            paths += sorted(Path(name).rglob("*.tar"))
        elif any(letter in name for letter in "*?[") and not os.path.lexists(name):
            import glob

            paths += sorted(Path(each) for each in glob.glob(name, recursive=True))  # noqa: PTH207
        else:
            paths.append(Path(name))
    absent = [path for path in paths if not path.exists()]
    if absent:
        raise UserError(
            f"{absent[0]}: no such shard ({len(absent):,} of {len(paths):,} are missing); correct the range"
        )
    if not paths:
        raise UserError(f"{pattern}: names no tar file; give paths of shards, in quotes")
    return paths


def _columns(arguments: argparse.Namespace) -> tuple[dict[str, str], str]:
    """Name in the corpus -> source of each column, and how to split: `auto`, `speaker`, `file` or `field`."""
    from wavlm_lightning.data.foreign.fields import given_columns

    columns = {name: getattr(arguments, name) for name in ("text", "speaker", "language")}
    columns = {name: source for name, source in columns.items() if source}
    columns.update(given_columns(arguments.labels, "--labels"))
    by = arguments.split_by
    if by not in ("auto", "speaker", "file"):
        columns["split"], by = by, "field"
    for name, source in columns.items():
        if source in ("json", "json:") or ("/" in source and not source.startswith("json:")):
            raise UserError(
                f"{name}: {source!r} is no source; give json:FIELD, an extension such as txt, folder or key"
            )
    return columns, by


def _scanner(device: str | None) -> Callable[[tuple[Path, TarOptions, Path]], Scan]:
    return _scan


def _scan(job: tuple[Path, TarOptions, Path]) -> Scan:
    from wavlm_lightning.data.foreign.tar_samples import scan

    return scan(*job)


def _write(
    shards: list[tuple[str | None, Path]], options: TarOptions, by: str, arguments: argparse.Namespace
) -> Corpus:
    import hashlib

    from wavlm_lightning.data.corpus import CorpusWriter
    from wavlm_lightning.data.label_sets import COLUMNS, label_sets
    from wavlm_lightning.system.progress import progress_bar
    from wavlm_lightning.system.worker_pool import in_order

    out: Path = arguments.out
    _refuse_own_shards(out)
    names = [hashlib.sha256(os.path.realpath(path).encode()).hexdigest()[:16] for _, path in shards]
    jobs = [(path, options, out / NOTES / f"{name}.json") for (_, path), name in zip(shards, names, strict=True)]
    workers = arguments.workers or os.cpu_count() or 1
    made = in_order(_scanner, jobs, workers, one_thread_each=False, option="--workers")
    with contextlib.closing(made), progress_bar(total=len(shards), unit=" shards", desc=str(out)) as bar:
        found = []
        for (split, path), scan in zip(shards, made, strict=True):
            found.append((split, path, scan))
            bar.update()
    left_out: Counter[str] = sum((Counter(scan.left_out) for _, _, scan in found), Counter())
    columns: Counter[str] = sum((Counter(scan.columns) for _, _, scan in found), Counter())
    rows = [row for _, _, scan in found for row in scan.rows]
    if not rows:
        seen = ", ".join(f"{why} {count:,}" for why, count in left_out.most_common(8)) or "no files"
        raise UserError(
            f"{shards[0][1]}: no audio in {len(shards):,} shards ({seen}); say which it is with --audio EXTENSION"
        )
    _check_columns(options, columns)
    metas = [json.loads(row.meta) for row in rows]
    keys = _unique_keys(found)
    splits, unit, decided = _splits(found, metas, keys, by, arguments)
    dropped = _dropped(rows, splits, arguments.on_error, out)
    if dropped:
        left_out["a sound that is in another split, too"] = len(dropped)
    source: dict[str, Any] = {
        "recipe": "webdataset",
        "in_place": True,
        "shards": list(arguments.shards),
        "split_by": unit,
        "divided": decided,
        "columns": dict(sorted(columns.items())),
        "skipped": [entry for _, _, scan in found for entry in scan.skipped],
        "reasons": dict(sorted(left_out.items())),
    }
    writer = CorpusWriter(out, arguments.name or shards[0][1].absolute().parent.name, arguments.licence, source)
    pieces: dict[str, list[tuple[Path, Scan, list[tuple[str, Row]]]]] = {
        name: [] for name in ("train", "valid", "test")
    }
    begin = 0
    for _, path, scan in found:
        here: dict[str, list[tuple[str, Row]]] = {}
        for number, row in enumerate(scan.rows, start=begin):
            if number not in dropped:
                here.setdefault(splits[number], []).append((keys[number], row))
        for split, chosen in here.items():
            pieces.setdefault(split, []).append((path, scan, chosen))
        begin += len(scan.rows)
    for split, parts in pieces.items():
        for number, (path, scan, chosen) in enumerate(parts):
            writer.add_shard(split, _index(out / f"{split}-{number:06d}.tar", path, scan, chosen))
    _remove_others(out, {split: len(parts) for split, parts in pieces.items()})
    used = [meta for number, meta in enumerate(metas) if number not in dropped]
    known = {"text", "split", *COLUMNS.values()}
    labels = label_sets({"all": used}, tuple(name for name in options.columns if name not in known))
    return writer.finish({name: classes for name, classes in labels.items() if classes})


def _check_columns(options: TarOptions, columns: Counter[str]) -> None:
    for name, source in options.columns.items():
        if not columns[f"{name} from {source}"]:
            raise UserError(f"{name}: no sample has {source}; look at one with `tar tf`, or leave that option out")


def _splits(
    found: Scanned, metas: list[dict[str, Any]], keys: list[str], by: str, arguments: argparse.Namespace
) -> tuple[list[str], str, str]:
    """The split of each utterance, what stays together, and how it was decided."""
    from wavlm_lightning.data.division import Division
    from wavlm_lightning.data.foreign.fields import our_splits
    from wavlm_lightning.data.foreign.tar_samples import Sound
    from wavlm_lightning.data.recordings import Recording

    rows = [(split, path, row) for split, path, scan in found for row in scan.rows]
    if found[0][0] is not None:
        if by != "auto":
            raise UserError("--split-by: the shards have their splits (NAME=SHARDS); leave one of them out")
        return [str(split) for split, _, _ in rows], "manifest", "splits: the command names the shards of each"
    if by == "field":
        without = sum("split" not in meta for meta in metas)
        if without:
            raise UserError(
                f"--split-by {arguments.split_by}: {without:,} of {len(metas):,} samples have no such field"
            )
        ours = our_splits(meta["split"] for meta in metas)
        return [ours[meta["split"]] for meta in metas], "manifest", f"splits: from {arguments.split_by}"
    for meta in metas:
        meta.pop("split", None)  # a field of theirs that nobody asked for
    recordings = [
        Recording(path, key, meta, stored=Sound(path, row.offset, row.samples, row.sound))
        for key, meta, (_, path, row) in zip(keys, metas, rows, strict=True)
    ]
    divided = Division(arguments.valid, arguments.test, by).divide(recordings, arguments.out)
    split_of = {recording.key: split for split, part in divided.splits.items() for recording in part}
    return [split_of[key] for key in keys], divided.unit, divided.said


def _dropped(rows: Sequence[Row], splits: Sequence[str], on_error: str, out: Path) -> set[int]:
    """Utterances to leave out because their sound is in another split, too: a test split keeps all, `train` gives first."""
    first: dict[str, set[str]] = {}
    for row, split in zip(rows, splits, strict=True):
        first.setdefault(row.sound, set()).add(split)
    across = {sound: names for sound, names in first.items() if len(names) > 1}
    if not across:
        return set()
    rank = {"train": 0, "valid": 1, "test": 3}
    kept = {sound: max(names, key=lambda name: (rank.get(name, 2), name)) for sound, names in across.items()}
    twice = [number for number, row in enumerate(rows) if row.sound in kept and splits[number] != kept[row.sound]]
    if on_error == "stop":
        row = rows[twice[0]]
        raise UserError(
            f"{out}: {len(twice):,} utterances are the same sound as one of another split (such as {row.name} in "
            f"{splits[twice[0]]} and in {kept[row.sound]}); leave them out of the training split with --on-error skip, or use "
            "--split-by auto, which keeps them together"
        )
    return set(twice)


def _unique_keys(found: Scanned) -> list[str]:
    """A key for each utterance; where two shards have the same one, the shard's name is added to all of them."""
    from wavlm_lightning.data.recordings import clean_key
    from wavlm_lightning.system.paths import unique_names

    plain = [clean_key(row.key) for _, _, scan in found for row in scan.rows]
    often = Counter(plain)
    shards = [path for _, path, scan in found for _ in scan.rows]
    return unique_names(
        [f"{clean_key(path.stem)}-{key}" if often[key] > 1 else key for key, path in zip(plain, shards, strict=True)],
        case_counts=True,
    )


def _index(link: Path, path: Path, scan: Scan, chosen: Sequence[tuple[str, Row]]) -> Any:
    """Link to a shard and write the index of some of its utterances; returns its `ShardIndex`."""
    from wavlm_lightning.data.shards import link_shard

    body = {
        "keys": [key for key, _ in chosen],
        "samples": [row.samples for _, row in chosen],
        "audio": [[row.offset, row.size] for _, row in chosen],
        "info": [],
        "names": [row.name for _, row in chosen],
        "metas": [row.meta for _, row in chosen],
    }
    return link_shard(link, path, body, scan.size, scan.sha256, scan.modified_ns)


def _refuse_own_shards(out: Path) -> None:
    for path in out.glob("*.tar"):
        if not path.is_symlink():
            raise UserError(f"{path}: a shard that is no link, so {out} holds something else; choose another --out")


def _remove_others(out: Path, parts: dict[str, int]) -> None:
    """Remove links and indices of an earlier run that this one has not written."""
    ours = {f"{split}-{number:06d}.tar" for split, count in parts.items() for number in range(count)}
    for link in out.glob("*.tar"):
        if link.name not in ours and link.is_symlink():
            link.with_suffix(".index.json").unlink(missing_ok=True)
            link.unlink()
