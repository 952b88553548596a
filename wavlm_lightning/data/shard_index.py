"""Random access to the utterances of a shard through its index file, one `pread` per utterance.

A shard that others wrote (`wavlm prepare webdataset`) stays where it is: the corpus has a link to it, an index that names its
audio members and holds the metadata, and the time of its last change. Its audio may be of any format and rate.

Random access makes an epoch a pure function of lengths, seed and epoch, which resumes exactly with any number of workers
(`wavlm_lightning.data.loading.batching`). Indices and shards are opened when they are needed, and a bounded number is
kept open, so a corpus may have hundreds of thousands of shards.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import stat
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

import numpy as np

from wavlm_lightning.audio import BadAudio, decode_flac, decode_stretch
from wavlm_lightning.data.corpus_json import INDEX, LARGEST, MODIFIED
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.reading import check_file, reading, reason_of

T = TypeVar("T")
HEADER, NAME = 512, 100  # bytes of a tar header, and of the name in it
SMALL = 1 << 14  # bytes of a member that is read together with its header: one system call, and a copy
TAIL = 80  # bytes at the end of an index file that contain its last value, the 64-digit hash of the tar
# Files of remote corpora that a process keeps open; few, because an evicted file takes disk space until it is closed.
REMOTE_HANDLES = 16


decode_json = json.JSONDecoder().decode  # `json.loads` without looking for an encoding
Further = list[tuple[int, int, int] | None]


class Members(NamedTuple):
    """The content of an index file, one entry an utterance in each list."""

    keys: list[str]
    samples: list[int]  # audio length
    audio: list[tuple[int, int]]  # (offset, bytes) of the FLAC
    info: list[tuple[int, int]]  # (offset, bytes) of the JSON
    sha256: str  # of the tar
    # By name of a further audio member: (offset, bytes, samples) of its FLAC, None where an utterance has none. The file
    # has this entry only if there are such members.
    further: Mapping[str, Further] = MappingProxyType({})
    # Of shards that others wrote: the name of each audio member. The index then holds the metadata itself, as texts of
    # JSON in `metas`, which `ShardIndex.meta` reads, and `info` is empty.
    names: Sequence[str] = ()


@dataclass(frozen=True)
class ShardIndex:
    """A shard (tar file): its entry in `corpus.json`, and where its members are, read from the index on first use.

    Beside its own audio, an utterance may have further audio, by name: `audio_members` lists the names that occur.
    """

    path: Path
    utterances: int
    size: int  # of the tar in bytes
    sha256: str  # of the tar
    remote: bool = False  # the folder mirrors a remote corpus; files are downloaded when they are needed
    audio_members: tuple[str, ...] = ()  # names of further audio; not every utterance needs to have all of them
    index_sha256: str | None = None  # of the index file; corpora of older versions do not have it
    modified_ns: int | None = None  # of a shard that others wrote, indexed in place: when it was last changed

    def __hash__(self) -> int:  # that of all fields takes longer than what is kept under it
        return hash(self.sha256)

    @property
    def index_path(self) -> Path:
        return self.path.with_suffix(".index.json")

    @property
    def version(self) -> str:
        """A hash that changes if an utterance, its audio or its metadata does: that of the tar, with that of an index in place.

        The tar of other programs, or one to which a corpus links, does not say which utterances are taken, nor their metadata.
        """
        if self.modified_ns is None or self.index_sha256 is None:
            return self.sha256
        return hashlib.sha256(f"{self.sha256} {self.index_sha256}".encode()).hexdigest()

    @property
    def members(self) -> Members:
        """The content of the index file; those used last are kept in memory."""
        return _members(self)

    @property
    def keys(self) -> list[str]:
        return self.members.keys

    @property
    def samples(self) -> list[int]:
        """Audio length of each utterance."""
        return self.members.samples

    def summary(self) -> dict[str, Any]:
        """The entry of the shard in `corpus.json`."""
        samples = int(sum(self.samples))
        facts = {"utterances": self.utterances, "samples": samples, "bytes": self.size, "sha256": self.sha256}
        further = {"audio_members": list(self.audio_members)} if self.audio_members else {}
        index = {INDEX: self.index_sha256} if self.index_sha256 else {}
        in_place = {MODIFIED: self.modified_ns} if self.modified_ns is not None else {}
        return {"name": self.path.name, **facts, **index, **further, **in_place}

    @classmethod
    def open(cls, path: Path, summary: dict[str, Any] | None = None, remote: bool = False) -> ShardIndex:
        """Describe a shard by its entry in `corpus.json`, or without one by its index.

        With an entry the index is not read: 200,000 of them would take minutes and gigabytes. `check` compares it.
        """
        if summary is None:
            _check_present(path)
            place = path.with_suffix(".index.json")
            size = path.stat().st_size
            members, content = _read_index(os.fspath(place), size)
            further, digest = tuple(members.further), hashlib.sha256(content).hexdigest()
            return cls(path, len(members.keys), size, members.sha256, audio_members=further, index_sha256=digest)
        further = tuple(summary.get("audio_members", ()))
        utterances, size, sha256 = summary["utterances"], summary["bytes"], summary["sha256"]
        return cls(path, utterances, size, sha256, remote, further, summary.get(INDEX), summary.get(MODIFIED))

    def check(self) -> None:
        """Compare tar size, and the hash at the end of the index, with `corpus.json`; `UserError` if they differ.

        A shard in place whose time has changed is read and its hash compared, once in a process.
        """
        # Plain system calls: with hundreds of thousands of shards, `Path` and file objects would double the time.
        path = os.fspath(self.path)
        try:
            state = os.stat(path)  # noqa: PTH116
            file = os.open(f"{path.removesuffix('.tar')}.index.json", os.O_RDONLY)
            try:
                end = os.pread(file, TAIL, max(0, os.fstat(file).st_size - TAIL))
            finally:
                os.close(file)
        except FileNotFoundError:
            _check_present(self.path)
            raise
        touched = self.modified_ns not in (None, state.st_mtime_ns)
        if (
            state.st_size != self.size
            or self.sha256.encode() not in end
            or (touched and _hash_of(path, state.st_size, state.st_mtime_ns) != self.sha256)
        ):
            raise UserError(self._swapped)

    @property
    def _swapped(self) -> str:
        if self.modified_ns is not None and not self.remote:
            return (
                f"{self.path}: the shard that it links to, {os.path.realpath(self.path)}, has changed since it was indexed; "
                "run the same `wavlm prepare webdataset` or `wavlm pseudo-label` again, which reads only what has changed"
            )
        return f"{self.path}: not the shard that corpus.json describes (truncated or swapped); prepare the corpus again"

    def waveform(
        self,
        place: int,
        start: int = 0,
        samples: int = -1,
        out: np.ndarray | None = None,
        member: str | None = None,
    ) -> np.ndarray:
        """Decode utterance `place`, or `samples` of it from `start` on (-1 for all), into `out` or a new array.

        `member` is the name of further audio of the utterance; None for its own.

        Returns float32 `(samples,)`. Raises `BadAudio` if the bytes cannot be decoded, and `UserError` if the utterance
        has no such audio.
        """
        members = self.members
        key = members.keys[place]
        if member is None and members.names:
            return self._foreign(members, place, start, samples, out)
        if member is None:
            count = members.samples[place]
            data = self._read(members.audio[place], name := f"{key}.flac")
        else:
            offset, length, count = self._further(place, member)
            data = self._read((offset, length), name := f"{key}.{member}.flac")
        if _flac_samples(data) not in (count, None):
            raise BadAudio(
                f"{self.path}: {name} has {_flac_samples(data):,} samples, its index says {count:,}; {self._remedy}"
            )
        try:
            return decode_flac(data, start, samples, out)
        except Exception as error:
            what = f"utterance {members.keys[place]!r}" if member is None else f"{member!r} of {members.keys[place]!r}"
            raise BadAudio(f"{self.path}: {what} cannot be decoded ({error})") from error

    def _foreign(self, members: Members, place: int, start: int, samples: int, out: np.ndarray | None) -> np.ndarray:
        """`waveform` of a shard that others wrote."""
        name, where = members.names[place], f"{self.path}: utterance {members.keys[place]!r}"
        data = self._read(members.audio[place], name)
        suffix = f".{name.rpartition('.')[2].lower()}"
        try:
            return decode_stretch(data, suffix, where, members.samples[place], start, samples, out)
        except BadAudio as error:
            raise BadAudio(f"{error}; {self._remedy}") from error
        except Exception as error:
            raise BadAudio(f"{where} cannot be decoded ({error}); {self._remedy}") from error

    def further_audio(self, place: int) -> dict[str, np.ndarray]:
        """All further audio of an utterance, by name, each float32 `(samples,)`."""
        have = [name for name, places in self.members.further.items() if places[place] is not None]
        return {name: self.waveform(place, member=name) for name in have}

    def member_samples(self, place: int, member: str) -> int:
        """Length of further audio in samples, without decoding it; `UserError` if the utterance has no such audio."""
        return self._further(place, member)[2]

    def _further(self, place: int, member: str) -> tuple[int, int, int]:
        members = self.members
        found = members.further.get(member)
        if found is None or (entry := found[place]) is None:
            names = ", ".join(name for name, places in members.further.items() if places[place] is not None)
            raise UserError(
                f"{self.path}: utterance {members.keys[place]!r} has no audio {member!r} (further audio: {names or 'none'}); "
                "write it with the corpus, see `wavlm prepare folder --help`"
            )
        return entry

    def meta(self, place: int) -> dict[str, Any]:
        members = _members(self)
        name = f"{members.keys[place]}.json"
        data = _metas(self)[place].encode() if members.names else self._read(members.info[place], name)
        try:
            content = decode_json(str(data, "utf-8"))
        except (ValueError, RecursionError) as error:
            raise UserError(f"{self.path}: {name} in it is no JSON ({reason_of(error)}); {self._remedy}") from error
        if not isinstance(content, dict):
            raise UserError(f"{self.path}: {name} in it is no JSON object; {self._remedy}")
        return content

    @property
    def _remedy(self) -> str:
        return "remove shard and index, and they are downloaded again" if self.remote else "prepare the corpus again"

    def _read(self, place: Sequence[int], name: str) -> bytes:
        """The bytes of the member at `place` (offset, bytes).

        Its name and length are compared with its header in the tar, 512 bytes before them.
        """
        try:
            offset, length = place
            inside = type(offset) is type(length) is int and HEADER <= offset <= offset + length <= self.size
        except (TypeError, ValueError):
            inside = False
        if not inside:
            raise UserError(f"{self.index_path}: says that {name!r} lies outside the shard; {self._remedy}")
        file = (_opened_remote if self.remote else _opened)(self, os.getpid()).fileno()
        if length < SMALL:
            header = os.pread(file, HEADER + length, offset - HEADER)
            data = header[HEADER:]
        else:
            header, data = os.pread(file, HEADER, offset - HEADER), os.pread(file, length, offset)
        if len(data) != length:
            raise BadAudio(f"{self.path}: ends before byte {offset + length}; {self._remedy}")
        if not (header.startswith(name.encode() + b"\0") and header[124:135] == b"%011o" % length):
            check_header(self.path, header, name, length, self._remedy)
        return data

    def fetch(self, path: Path) -> Path:
        """Download one of the shard's files (tar, index, labels) if the corpus is remote and the file is missing."""
        if self.remote:
            from wavlm_lightning.data.remote.mirror import materialise

            facts = {"utterances": self.utterances, "bytes": self.size, "sha256": self.sha256}
            materialise(path, facts | ({INDEX: self.index_sha256} if self.index_sha256 else {}))
        return path


def check_each(check: Callable[[T], object], items: Sequence[T]) -> None:
    """Call a check for each item, in threads, because a check mostly waits for a disk or a file server."""
    with ThreadPoolExecutor(16) as pool:
        parts = [items[begin : begin + 256] for begin in range(0, len(items), 256)]
        for _ in pool.map(lambda part: [check(item) for item in part], parts):
            pass


def _check_present(path: Path) -> None:
    if path.is_symlink() and not path.is_file():
        raise UserError(
            f"{path}: the shard that it links to, {os.path.realpath(path)}, is not there; copy it back, or run the "
            "command that made this corpus (`wavlm prepare webdataset`, `wavlm pseudo-label`) with the new place"
        )
    if not path.is_file():
        raise UserError(f"{path}: this shard is missing; prepare the corpus again, or copy the shard back")
    if not path.with_suffix(".index.json").is_file():
        raise UserError(f"{path.with_suffix('.index.json')}: this shard's index is missing; prepare the corpus again")


def check_header(path: Path, header: bytes, name: str, length: int, remedy: str) -> None:
    """Compare name and length of a member with its header in the tar, in all spellings that `tarfile` writes."""
    found = header[:NAME].rstrip(b"\0")
    if header[257:263] == b"ustar\0" and (folder := header[345:500].rstrip(b"\0")):
        found = folder + b"/" + found
    # A name that is not ASCII, or long, stands whole in a further header before this one.
    if found not in (name.encode(), name.encode()[:NAME], name.encode("ascii", "replace")[:NAME]):
        raise BadAudio(
            f"{path}: where its index has {name!r} is {found.decode('utf-8', 'replace')!r}, so the index is of another shard or "
            f"was altered; {remedy}"
        )
    field = header[124:136].strip(b" \0")
    if not field.isdigit() or int(field, 8) != length:
        raise BadAudio(f"{path}: {name!r} has another length than its index says; {remedy}")


def _flac_samples(data: bytes) -> int | None:
    """Samples of a FLAC as its header counts them; None if it does not say, or is no FLAC."""
    if data[:4] != b"fLaC" or len(data) < 26:
        return None
    return int.from_bytes(data[21:26], "big") & 0xFFFFFFFFF or None  # 36 bits; 0 stands for unknown


def _content(path: str) -> bytes:
    """The content of an index file. Plain system calls, because a loader opens an index for every shard of an epoch."""
    file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # opening a pipe would wait for somebody who writes
    try:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode):
            check_file(Path(path), "the index of a shard")
        content = os.read(file, status.st_size)
        while len(content) < status.st_size and (more := os.read(file, status.st_size - len(content))):
            content += more
        return content
    finally:
        os.close(file)


def _read_index(path: str, size: int, known: str | None = None, remedy: str = "") -> tuple[Members, bytes]:
    """The members of a shard of `size` bytes from its index, and the bytes of that.

    Where a member lies is checked when it is read, against its header in the shard.

    Raises:
        UserError: it contradicts itself, or its SHA-256 is not the one that is `known`.
    """
    with reading(path, "the index of a shard", "prepare the corpus again"):
        content = _content(path)
        if known is not None and hashlib.sha256(content).hexdigest() != known:
            raise UserError(
                f"{path}: not the index that corpus.json describes (altered, or of another shard); {remedy}"
            )
        body = decode_json(str(content, "utf-8"))
        metas = body.pop("metas", [])  # not kept: pre-training reads none
        members = Members(**body)
        count = len(members.keys)
        "".join(members.keys)  # a TypeError for a key that is not text
        if members.names:
            _check_foreign(members, metas)
        elif type(members.info) is not list or len(members.info) != count:
            raise ValueError(f"its info is not a list of {count} entries")
        if type(members.keys) is not list or type(members.audio) is not list or len(members.audio) != count:
            raise ValueError(f"its keys and audio are not lists of {count} entries")
        total = sum(members.samples)  # the cheapest question whether all are numbers, and none is huge
        if type(total) is not int or len(members.samples) != count or not 0 <= total <= LARGEST:
            raise ValueError(f"its samples is not a list of {count} whole numbers")
        if count and min(members.samples) < 0:
            raise ValueError("an utterance of less than no samples")
        for name, places in members.further.items():
            if len(places) != count:
                raise ValueError(f"{len(places)} entries of {name} for {count} utterances")
            _check_further(name, [place for place in places if place is not None], size)
        return members, content


def _check_foreign(members: Members, metas: list[str]) -> None:
    """Check what only the index of a shard has that others wrote."""
    count = len(members.keys)
    if not len(metas) == len(members.names) == count:
        raise ValueError(f"{len(members.names)} names and {len(metas)} metadata of {count} utterances")
    if not {str}.issuperset(map(type, [*members.names, *metas])):
        raise TypeError("a name or metadata that is not text")


def _check_further(name: str, places: list[tuple[int, int, int]], size: int) -> None:
    """Check the places (offset, bytes, samples) of further audio in a shard of `size` bytes."""
    for place in places:
        if len(place) != 3 or not {int}.issuperset(map(type, place)):
            raise ValueError(f"a place of {name} is not three whole numbers")
        if not HEADER <= place[0] <= place[0] + place[1] <= size or not 0 <= place[2] <= LARGEST:
            raise ValueError(f"its {name} lies outside the shard")


@lru_cache(maxsize=64)
def _metas(shard: ShardIndex) -> list[str]:
    """The metadata of a shard that others wrote, as texts of JSON; the index has been checked as `members`."""
    content = _content(os.fspath(shard.fetch(shard.index_path)))
    if shard.index_sha256 is not None and hashlib.sha256(content).hexdigest() != shard.index_sha256:
        raise UserError(shard._swapped)
    return json.loads(content)["metas"]


@lru_cache(maxsize=1 << 16)
def _hash_of(path: str, size: int, modified_ns: int) -> str:
    """The hash of a file of this state."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@lru_cache(maxsize=2048)  # about 40 kB each, for shards of half an hour
def _members(shard: ShardIndex) -> Members:
    path = f"{os.fspath(shard.path).removesuffix('.tar')}.index.json"
    if shard.remote:
        shard.fetch(Path(path))
    members, _ = _read_index(path, shard.size, shard.index_sha256, shard._remedy)
    if members.sha256 != shard.sha256 or len(members.keys) != shard.utterances:
        raise UserError(shard._swapped)
    return members


def _open(shard: ShardIndex, process: int) -> io.BufferedReader:
    # The cache key contains the process, because forked workers must not share a file, and the hash of the shard,
    # because a shard rewritten under the same name must be opened again.
    try:
        return shard.fetch(shard.path).open("rb")
    except FileNotFoundError:  # removed since the corpus was opened; of a remote one, evicted by another process
        if not shard.remote:
            _check_present(shard.path)
        return shard.fetch(shard.path).open("rb")


_opened = lru_cache(maxsize=256)(_open)
_opened_remote = lru_cache(maxsize=REMOTE_HANDLES)(_open)
