"""Mirrors of remote corpora (https, s3, gs, ...): a local folder that downloads files when they are needed.

`mirror` makes the folder from a URL, with `corpus.json`, `remote.json` and the trials. From then on it is a corpus like
any other, except that `materialise` downloads a shard, an index, labels or alignments when they are opened and missing, and that
the least recently used files are evicted when $WAVLM_CACHE_GIB is reached. A file gets its name after it was verified.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import time
import warnings
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from wavlm_lightning.data.corpus_json import INDEX, UNTRUSTED, check_body, trial_lists
from wavlm_lightning.data.remote.cache_space import BOUND, bound, finish, growing, part_of
from wavlm_lightning.data.remote.safetensors_header import parse_header
from wavlm_lightning.data.remote.transport import NotThere, Patience, address, download, shown
from wavlm_lightning.system import paths as places
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.files import FULL, atomic_write, locked, write_bytes
from wavlm_lightning.system.paths import plain_name

MOST = 1 << 28  # bytes of a corpus.json, of about a million shards, or of trials
INDEX_ENTRY = 4096  # bytes of an utterance in an index, at most
LABELS_PER_BYTE = 16  # bytes of labels for a byte of a shard, at most: silence takes few bytes
NOTE = "remote.json"
# Suffixes of files that their own content proves to belong to a shard; of all others, size and hash are in `corpus.json`.
DERIVED = (".json", ".safetensors", ".jsonl")
_AGAIN_SECONDS = 600.0
_brought: dict[Path, float] = {}  # time of this process' last download of each shard


def is_url(corpus: Path | str) -> bool:
    """Whether a corpus is given by a URL."""
    return "://" in str(corpus)


def is_remote(folder: Path) -> bool:
    """Whether a corpus folder is the mirror of a remote corpus."""
    return (folder / NOTE).is_file()


def mirror(url: str, patience: Patience | None = None) -> Path:
    """Make, or find, the local folder of a remote corpus, given the URL of the folder that holds its `corpus.json`.

    The URL is `https://HOST/corpus/`, `s3://BUCKET/corpus/`, or any other that fsspec reads. If the corpus changed on
    the server, the mirror is another folder, so a run never sees shards of two versions. `UserError` without a corpus.
    """
    url = url.removesuffix("corpus.json")
    root = _root()
    name = re.sub(r"[^\w-]+", "-", "".join(urlsplit(url)[1:3])).strip("-")
    memory = io.BytesIO()
    try:
        download(address(url, "corpus.json"), memory, patience=patience, most=MOST)
    except NotThere as error:
        raise UserError(f"{shown(url)}: no corpus.json there; give the URL of the folder of a corpus") from error
    content = memory.getvalue()
    body = _checked(content, url)
    folder = root / f"{name}-{hashlib.sha256(content + shown(url).encode()).hexdigest()[:12]}"
    folder.mkdir(exist_ok=True)
    with locked(folder / ".lock"):
        # Written at each call and readable by the user only: a signed URL is a secret and expires.
        with atomic_write(folder / NOTE, mode=0o600) as temporary:
            temporary.write_text(json.dumps({"url": url}))
        if not (folder / "corpus.json").is_file():
            for split in body["splits"]:
                for place in (split, *(f"{split}_{name}" for name in trial_lists(body).get(split, []))):
                    with contextlib.suppress(NotThere):  # most splits have no trials
                        materialise(folder / f"trials-{place}.csv", patience=patience)
            write_bytes(folder / "corpus.json", content)
    return folder


def materialise(path: Path, summary: dict[str, Any] | None = None, patience: Patience | None = None) -> None:
    """Download a file of a mirror if it is missing, verify it, and mark it as used.

    If several processes need the same file, one downloads it. The part that an interrupted process left is continued.
    A file may be evicted while a process has it open; it stays readable until it is closed.

    `summary` is its entry in `corpus.json` (`bytes`, `sha256`, ...), or that of its shard for an index or labels, or
    None for a file without an entry (`labels.json`, trials).

    Raises:
        NotThere: the server has no such file.
        UserError: the server does not answer or has another file; the disk is full; the file exceeds the cache's bound.
    """
    try:
        os.utime(path)
        return
    except FileNotFoundError:
        pass
    folder = _mirror_of(path)
    _check_place(path, folder)
    url = address(json.loads((folder / NOTE).read_text())["url"], path.relative_to(folder).as_posix())
    path.parent.mkdir(parents=True, exist_ok=True)
    size = summary.get("bytes") if summary and path.suffix not in DERIVED else None
    root = _root()
    for place in (*[each for each in path.parents if folder in each.parents], path, part_of(path, size)):
        if place.is_symlink():
            raise UserError(f"{place}: a link in the mirror of a remote corpus, where none belongs; remove it")
    try:
        with growing(root, path, size) as file:
            if file is None:
                return
            _fill(url, file, path, size, summary or {}, patience)
            finish(root, path, size)
    except OSError as error:
        if error.errno not in FULL:
            raise
        part_of(path, size).unlink(missing_ok=True)
        raise UserError(
            f"{path}: the disk is full ({error.strerror}); free some, set WAVLM_CACHE to another disk, or lower {BOUND}"
        ) from error
    _notice_thrashing(path)


def _root() -> Path:
    root = places.cache_directory() / "corpora"
    root.mkdir(parents=True, exist_ok=True)
    return root


def _mirror_of(path: Path) -> Path:
    for folder in path.parents:
        if is_remote(folder):
            return folder
    raise UserError(f"{path}: missing, and not in a mirror of a remote corpus; prepare the corpus again")


def _checked(content: bytes, url: str) -> dict[str, Any]:
    """The content of a `corpus.json`, with file names that cannot lead out of the mirror."""
    try:
        body = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{shown(url)}: its corpus.json is not that of a corpus ({error!r}); check the URL") from error
    check_body(body, f"{shown(url)}: its corpus.json")
    return body


def _check_place(path: Path, folder: Path) -> None:
    """Refuse a path that could lie outside its mirror; the last check before a file of a server is written."""
    parts = path.relative_to(folder).parts
    for name in parts:
        plain_name(name, f"{folder.name}: the corpus", UNTRUSTED)


def _fill(
    url: str, file: io.BufferedRandom, path: Path, size: int | None, summary: dict[str, Any], patience: Patience | None
) -> None:
    """Download and verify; start again if the content is wrong, because a connection can damage bytes, too."""
    wrong = ""
    for _ in range(3):
        download(url, file, size, patience, _most(path, summary))
        file.flush()
        wrong = _what_is_wrong(file, path, summary)
        if not wrong:
            os.fsync(file.fileno())
            return
        file.truncate(file.seek(0))
    part_of(path, size).unlink(missing_ok=True)
    raise UserError(f"{shown(url)}: {wrong}; upload that corpus again, or give the URL of a complete one")


def _most(path: Path, summary: dict[str, Any]) -> int:
    """Bytes that a file of unknown size may have, from what `corpus.json` says about its shard."""
    if path.name.endswith(".index.json") and "utterances" in summary:
        return (1 << 16) + INDEX_ENTRY * summary["utterances"]
    if path.suffix == ".safetensors" and "bytes" in summary:
        return (1 << 20) + LABELS_PER_BYTE * summary["bytes"]
    return 1 << 20 if path.name == "labels.json" else MOST


def _what_is_wrong(file: io.BufferedRandom, path: Path, summary: dict[str, Any]) -> str:
    """Why this is not the expected file; empty if it is."""
    file.seek(0)
    if path.suffix not in DERIVED and summary:
        if hashlib.file_digest(file, "sha256").hexdigest() != summary.get("sha256"):
            return "not the file that corpus.json describes (sha256 differs)"
        return ""
    if path.suffix == ".csv":
        return ""  # trials: the only file that nothing describes
    try:
        if path.suffix == ".safetensors":
            return _wrong_labels(file.read(), summary)
        if path.suffix == ".jsonl":  # alignments: a line about the others, which holds their hash
            head = json.loads(file.readline())
            same = hashlib.sha256(file.read()).hexdigest() == head["content_sha256"]
            return "" if same else "damaged (its lines are not those that were written)"
        if path.suffix == ".json":
            content = json.load(file)
            if path.name.endswith(".index.json") and (
                content["sha256"] != summary.get("sha256", content["sha256"])
                or len(content["keys"]) != summary.get("utterances", len(content["keys"]))
            ):
                return "not the index of the shard that corpus.json describes"
            if path.name.endswith(".index.json") and INDEX in summary:
                file.seek(0)
                if hashlib.file_digest(file, "sha256").hexdigest() != summary[INDEX]:
                    return "not the index that corpus.json describes (sha256 differs)"
    except Exception as error:
        return f"damaged ({error!r})"
    return "" if path.suffix in DERIVED else "a file that corpus.json does not describe"


def _wrong_labels(content: bytes, summary: dict[str, Any]) -> str:
    header = parse_header(content)
    if header.bytes != len(content):
        return "damaged (its length is not what its header says)"
    if header.metadata["shard_sha256"] != summary.get("sha256", header.metadata["shard_sha256"]):
        return "labels of another version of the shard"
    return ""


def _notice_thrashing(path: Path) -> None:
    """Warn if a shard is downloaded twice within a short time: the run would mostly download."""
    if path.suffix != ".tar":
        return
    now = time.monotonic()
    if now - _brought.get(path, -_AGAIN_SECONDS) < _AGAIN_SECONDS:
        warnings.warn(
            f"{path.name} was evicted and downloaded again within {_AGAIN_SECONDS / 60:.0f} minutes: the cache of "
            f"{bound() / (1 << 30):.3g} GiB is smaller than the shards of a shuffle window; raise {BOUND}",
            stacklevel=3,
        )
    _brought[path] = now
