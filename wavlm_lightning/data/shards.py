"""One WebDataset shard and its index: written once, read at random.

The index makes any utterance a single `pread`, so an epoch can be planned as a pure function of lengths, seed and
epoch, and resumes exactly with any number of workers (`wavlm_lightning.data.batching`). The tar stays a plain
WebDataset shard that other tools can stream.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from wavlm_lightning.audio import BadAudio, check_waveform, decode_flac, encode_flac
from wavlm_lightning.errors import UserError


@dataclass(frozen=True)
class Utterance:
    """What a recipe gives for one utterance.

    Attributes:
        key: unique within the split; no dots (WebDataset would merge samples) and no slashes.
        waveform: float32 `(samples,)` in [-1, 1], 16 kHz mono.
        meta: whatever the recipe knows, JSON-serialisable: `speaker`, `text`, `language`,
            `phones` and `words` as `[[name, start_seconds, end_seconds], ...]`, `keyword`, `intent`, `emotion`,
            `turns` as `[[speaker, start_seconds, end_seconds], ...]`, `slots` as `[[type, value], ...]`, `term(s)`.
        allow_silence: the waveform may be silent, as in a class of silence.
    """

    key: str
    waveform: np.ndarray
    meta: dict[str, Any]
    allow_silence: bool = False


@dataclass(frozen=True)
class ShardIndex:
    """Where everything is inside one tar.

    Attributes:
        path: the tar.
        keys: keys in order.
        samples: audio length of each.
        audio: (offset, bytes) of each FLAC.
        info: (offset, bytes) of each JSON.
        sha256: hash of the tar.
    """

    path: Path
    keys: list[str]
    samples: list[int]
    audio: list[tuple[int, int]]
    info: list[tuple[int, int]]
    sha256: str = field(default="")

    @property
    def index_path(self) -> Path:
        """The index file beside the tar."""
        return self.path.with_suffix(".index.json")

    def summary(self) -> dict[str, Any]:
        """What `corpus.json` keeps of a shard."""
        return {
            "name": self.path.name,
            "utterances": len(self.keys),
            "samples": int(sum(self.samples)),
            "bytes": self.path.stat().st_size,
            "sha256": self.sha256,
        }

    def save(self) -> None:
        """Write the index file, whole or not at all."""
        body = {name: getattr(self, name) for name in ("keys", "samples", "audio", "info", "sha256")}
        temporary = self.index_path.with_suffix(".tmp")
        temporary.write_text(json.dumps(body))
        temporary.rename(self.index_path)

    @classmethod
    def open(cls, path: Path, summary: dict[str, Any] | None = None) -> ShardIndex:
        """Read the index of a tar, and compare it with what `corpus.json` says of the shard.

        Raises:
            UserError: tar or index is missing, or the tar is not the one that was written.
        """
        if not path.is_file():
            raise UserError(f"{path}: this shard is missing; prepare the corpus again, or copy the shard back")
        index_path = path.with_suffix(".index.json")
        if not index_path.is_file():
            raise UserError(f"{index_path}: this shard's index is missing; prepare the corpus again")
        index = cls(path=path, **json.loads(index_path.read_text()))
        if summary is not None and (path.stat().st_size != summary["bytes"] or index.sha256 != summary["sha256"]):
            raise UserError(
                f"{path}: not the shard that corpus.json describes (truncated or swapped); prepare the corpus again"
            )
        return index

    def waveform(self, place: int, start: int = 0, samples: int = -1) -> np.ndarray:
        """Decode a stretch of one utterance.

        Args:
            place: which utterance of the shard.
            start: first sample.
            samples: how many; -1 for all that follow.

        Returns:
            float32 `(samples,)`.

        Raises:
            BadAudio: the bytes there are no audio.
        """
        data = self._read(self.audio[place])
        try:
            return decode_flac(data, start, samples)
        except Exception as error:
            raise BadAudio(f"{self.path}: utterance {self.keys[place]!r} cannot be decoded ({error})") from error

    def meta(self, place: int) -> dict[str, Any]:
        """The metadata of one utterance."""
        return json.loads(self._read(self.info[place]))

    def _read(self, member: tuple[int, int]) -> bytes:
        offset, length = member
        return os.pread(_opened(str(self.path), self.sha256, os.getpid()).fileno(), length, offset)


@lru_cache(maxsize=256)
def _opened(path: str, sha256: str, process: int) -> io.BufferedReader:
    # Kept open: a forked worker opens its own, and a shard written anew under the same name is opened anew.
    return Path(path).open("rb")


def write_shard(path: Path, utterances: Iterable[Utterance]) -> ShardIndex | None:
    """Stream utterances into one shard and write its index; the same utterances always give the same bytes.

    Args:
        path: the tar to write; it appears under this name only when it is whole.
        utterances: what goes in, in this order; one is held in memory at a time.

    Returns:
        The index, saved beside the tar; None if there was no utterance, and then there is no file.

    Raises:
        UserError: a key is unusable, or a waveform is empty, not finite, or silent where it may not be.
    """
    import webdataset

    temporary = path.with_suffix(".tar.tmp")
    keys, samples = [], []
    # Fixed time, owner and mode: shards must be byte-reproducible, their hash is their name.
    fixed = {"mtime": 0, "user": "wavlm", "group": "wavlm", "mode": 0o644}
    with temporary.open("wb") as stream, webdataset.TarWriter(stream, encoder=False, **fixed) as writer:
        for utterance in utterances:
            _check_key(utterance.key, path)
            try:
                check_waveform(utterance.waveform, f"{path.name}: {utterance.key}", utterance.allow_silence)
            except BadAudio as error:
                raise UserError(f"{error}; leave it out of the corpus") from error
            meta = json.dumps(utterance.meta, ensure_ascii=False).encode()
            writer.write({"__key__": utterance.key, "flac": encode_flac(utterance.waveform), "json": meta})
            keys.append(utterance.key)
            samples.append(len(utterance.waveform))
    if not keys:
        temporary.unlink()
        return None
    with temporary.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    members: dict[str, tuple[int, int]] = {}
    with tarfile.open(temporary) as tar:
        for member in tar:
            members[member.name] = (member.offset_data, member.size)
    temporary.rename(path)
    audio = [members[f"{key}.flac"] for key in keys]
    info = [members[f"{key}.json"] for key in keys]
    index = ShardIndex(path, keys, samples, audio, info, digest)
    index.save()
    return index


def _check_key(key: str, path: Path) -> None:
    if not key or any(c in key for c in "./\\ \t\n"):
        raise UserError(f"{path.name}: {key!r} is no usable key; keys hold no dots, slashes or white space")
