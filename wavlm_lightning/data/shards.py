"""Write a WebDataset shard and its index.

Other tools can stream the tar like any WebDataset shard; `shard_index` gives random access.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wavlm_lightning.audio import BadAudio, check_waveform, encode_flac
from wavlm_lightning.data.shard_index import Members, ShardIndex
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.files import atomic_write, write_bytes

__all__ = ["ShardIndex", "Utterance", "write_shard"]


@dataclass(frozen=True)
class Utterance:
    """An utterance to write.

    Attributes:
        key: unique within the split; no dots (WebDataset would merge samples) and no slashes.
        waveform: float32 `(samples,)` in [-1, 1], 16 kHz mono.
        meta: everything the recipe knows, JSON-serialisable: `speaker`, `text`, `language`,
            `phones` and `words` as `[[name, start_seconds, end_seconds], ...]`, `keyword`, `intent`, `emotion`,
            `turns` as `[[speaker, start_seconds, end_seconds], ...]`, `slots` as `[[type, value], ...]`, `term(s)`.
        allow_silence: the waveform may be silent, as in a class of silence.
    """

    key: str
    waveform: np.ndarray
    meta: dict[str, Any]
    allow_silence: bool = False


def write_shard(path: Path, utterances: Iterable[Utterance]) -> ShardIndex | None:
    """Stream utterances into one shard and write its index; the same utterances always give the same bytes.

    One utterance is in memory at a time. Returns the index; None, and no file, if there is no utterance. `UserError` if
    the disk is full, a key is invalid, or a waveform is empty, not finite, or silent without `allow_silence`.
    """
    import webdataset

    keys, samples = [], []
    # Fixed time, owner and mode: equal utterances must give equal bytes, because shards are compared by hash.
    fixed = {"mtime": 0, "user": "wavlm", "group": "wavlm", "mode": 0o644}
    with atomic_write(path) as temporary:
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
        with temporary.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        members: dict[str, tuple[int, int]] = {}
        with tarfile.open(temporary) as tar:
            for member in tar:
                members[member.name] = (member.offset_data, member.size)
        size = temporary.stat().st_size
    if not keys:
        path.unlink()
        return None
    audio = [members[f"{key}.flac"] for key in keys]
    info = [members[f"{key}.json"] for key in keys]
    index = ShardIndex(path, len(keys), size, digest)
    # The hash comes last, because `ShardIndex.check` reads only the end.
    body = Members(keys, samples, audio, info, digest)._asdict()
    write_bytes(index.index_path, json.dumps(body).encode())
    return index


def _check_key(key: str, path: Path) -> None:
    if not key or any(c in key for c in "./\\ \t\n"):
        raise UserError(
            f"{path.name}: {key!r} is not a valid key; keys must not be empty or contain dots, slashes or white space"
        )
