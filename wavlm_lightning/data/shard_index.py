"""Random access to the utterances of a shard through its index file, one `pread` per utterance.

Random access makes an epoch a pure function of lengths, seed and epoch, which resumes exactly with any number of workers
(`wavlm_lightning.data.loading.batching`). Indices and shards are opened when they are needed, and a bounded number is
kept open, so a corpus may have hundreds of thousands of shards.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

import numpy as np

from wavlm_lightning.audio import BadAudio, decode_flac
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.reading import read_json, reading, reason_of

T = TypeVar("T")
TAIL = 80  # bytes at the end of an index file that contain its last value, the 64-digit hash of the tar
# Files of remote corpora that a process keeps open; few, because an evicted file takes disk space until it is closed.
REMOTE_HANDLES = 16


INDEX = "the index of a shard"
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

    @property
    def index_path(self) -> Path:
        return self.path.with_suffix(".index.json")

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
        return {"name": self.path.name, **facts, **further}

    @classmethod
    def open(cls, path: Path, summary: dict[str, Any] | None = None, remote: bool = False) -> ShardIndex:
        """Describe a shard by its entry in `corpus.json`, or without one by its index.

        With an entry the index is not read: 200,000 of them would take minutes and gigabytes. `check` compares it.
        """
        if summary is None:
            _check_present(path)
            members = _parse(path.with_suffix(".index.json"))
            further = tuple(members.further)
            return cls(path, len(members.keys), path.stat().st_size, members.sha256, audio_members=further)
        further = tuple(summary.get("audio_members", ()))
        return cls(path, summary["utterances"], summary["bytes"], summary["sha256"], remote, further)

    def check(self) -> None:
        """Compare tar size, and the hash at the end of the index, with `corpus.json`; `UserError` if they differ."""
        # Plain system calls: with hundreds of thousands of shards, `Path` and file objects would double the time.
        path = os.fspath(self.path)
        try:
            size = os.stat(path).st_size  # noqa: PTH116
            file = os.open(f"{path.removesuffix('.tar')}.index.json", os.O_RDONLY)
            try:
                end = os.pread(file, TAIL, max(0, os.fstat(file).st_size - TAIL))
            finally:
                os.close(file)
        except FileNotFoundError:
            _check_present(self.path)
            raise
        if size != self.size or self.sha256.encode() not in end:
            raise UserError(self._swapped)

    @property
    def _swapped(self) -> str:
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
        data = self._read(members.audio[place] if member is None else self._further(place, member)[:2])
        try:
            return decode_flac(data, start, samples, out)
        except Exception as error:
            what = f"utterance {members.keys[place]!r}" if member is None else f"{member!r} of {members.keys[place]!r}"
            raise BadAudio(f"{self.path}: {what} cannot be decoded ({error})") from error

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
        """The metadata of utterance `place`; `UserError` if it is damaged."""
        content = self._read(self.members.info[place])
        try:
            facts = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise UserError(self._damaged(place, reason_of(error))) from error
        if not isinstance(facts, dict):
            raise UserError(self._damaged(place, f"it holds {type(facts).__name__}, not an object"))
        return facts

    def _damaged(self, place: int, reason: str) -> str:
        remedy = "remove the shard, and it is downloaded again" if self.remote else "prepare the corpus again"
        return f"{self.path}: the metadata of utterance {self.members.keys[place]!r} is damaged ({reason}); {remedy}"

    def _read(self, member: tuple[int, int]) -> bytes:
        offset, length = member
        file = (_opened_remote if self.remote else _opened)(self, os.getpid())
        data = os.pread(file.fileno(), length, offset)
        if len(data) != length:
            remedy = "remove it, and it is downloaded again" if self.remote else "prepare the corpus again"
            raise BadAudio(f"{self.path}: ends before byte {offset + length}; {remedy}")
        return data

    def fetch(self, path: Path) -> Path:
        """Download one of the shard's files (tar, index, labels) if the corpus is remote and the file is missing."""
        if self.remote:
            from wavlm_lightning.data.remote.mirror import materialise

            materialise(path, {"utterances": self.utterances, "bytes": self.size, "sha256": self.sha256})
        return path


def check_each(check: Callable[[T], object], items: Sequence[T]) -> None:
    """Call a check for each item, in threads, because a check mostly waits for a disk or a file server."""
    with ThreadPoolExecutor(16) as pool:
        parts = [items[begin : begin + 256] for begin in range(0, len(items), 256)]
        for _ in pool.map(lambda part: [check(item) for item in part], parts):
            pass


def _check_present(path: Path) -> None:
    if not path.is_file():
        raise UserError(f"{path}: this shard is missing; prepare the corpus again, or copy the shard back")
    if not path.with_suffix(".index.json").is_file():
        raise UserError(f"{path.with_suffix('.index.json')}: this shard's index is missing; prepare the corpus again")


def _parse(path: Path) -> Members:
    content = read_json(path, INDEX, "prepare the corpus again")
    with reading(path, INDEX, "prepare the corpus again"):
        check_members(members := Members(**content))
        return members


def check_members(members: Members) -> None:
    """Raise `TypeError` or `ValueError` if the content of an index file has not the form that `Members` describes."""
    keys, samples = members.keys, members.samples
    if not isinstance(members.sha256, str) or not isinstance(members.further, Mapping):
        raise TypeError("`sha256` is no text, or `further` no object")
    if not all(isinstance(each, list) for each in (*members[:4], *members.further.values())):
        raise TypeError("`keys`, `samples`, `audio`, `info` and each of `further` must be lists")
    if {type(key) for key in keys} - {str} or {type(count) for count in samples} - {int}:
        raise TypeError("`keys` must hold text, `samples` whole numbers")
    lists: list[tuple[str, list[Any], int]] = [("audio", members.audio, 2), ("info", members.info, 2)]
    lists += [(name, [each for each in places if each is not None], 3) for name, places in members.further.items()]
    for name, places, numbers in lists:
        if {type(each) for each in places} - {list} or {len(each) for each in places} - {numbers}:
            raise TypeError(f"`{name}` must hold lists of {numbers} numbers")
        if {type(number) for each in places for number in each} - {int}:
            raise TypeError(f"`{name}` must hold whole numbers")
        if min((number for each in places for number in each), default=0) < 0:
            raise ValueError(f"`{name}` holds a negative number")
    if min(samples, default=0) < 0:
        raise ValueError("`samples` holds a negative number")
    if {len(samples), len(members.audio), len(members.info), *map(len, members.further.values())} - {len(keys)}:
        raise ValueError("its lists are not equally long")


@lru_cache(maxsize=2048)  # about 40 kB each, for shards of half an hour
def _members(shard: ShardIndex) -> Members:
    members = _parse(shard.fetch(shard.index_path))
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
