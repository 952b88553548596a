"""Write a WebDataset shard and its index.

Other tools can stream the tar like any WebDataset shard; `shard_index` gives random access.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from wavlm_lightning.audio import BadAudio, check_length, check_waveform, encode_flac
from wavlm_lightning.data.shard_index import Further, Members, ShardIndex
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.files import atomic_write, write_bytes

__all__ = ["ShardIndex", "Utterance", "check_member_name", "link_shard", "with_other_records", "write_shard"]


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
        audio: further audio by name, each float32 `(samples,)` of any length, such as `clean` (the reference of a noisy
            waveform) or `enrolment`; written as `KEY.NAME.flac`. Other utterances of the shard may lack it.
    """

    key: str
    waveform: np.ndarray
    meta: dict[str, Any]
    allow_silence: bool = False
    audio: dict[str, np.ndarray] = field(default_factory=dict)


def write_shard(path: Path, utterances: Iterable[Utterance]) -> ShardIndex | None:
    """Stream utterances into one shard and write its index; the same utterances always give the same bytes.

    One utterance is in memory at a time. Returns the index; None, and no file, if there is no utterance. `UserError` if
    the disk is full, a key or the name of further audio is invalid, or a waveform is shorter than a frame, not finite, or silent
    without `allow_silence`.
    """
    import webdataset

    keys, samples = [], []
    lengths: dict[str, dict[str, int]] = {}  # of further audio: name -> key -> samples
    # Fixed time, owner and mode: equal utterances must give equal bytes, because shards are compared by hash.
    fixed = {"mtime": 0, "user": "wavlm", "group": "wavlm", "mode": 0o644}
    with atomic_write(path, durable=True) as temporary:  # `corpus.json` must not outlive it in a power failure
        with temporary.open("wb") as stream, webdataset.TarWriter(stream, encoder=False, **fixed) as writer:
            for utterance in utterances:
                _check_key(utterance.key, path)
                meta = json.dumps(utterance.meta, ensure_ascii=False).encode()
                files = {"flac": _flac(utterance, utterance.waveform, f"{path.name}: {utterance.key}"), "json": meta}
                for name, waveform in utterance.audio.items():
                    check_member_name(name, f"{path.name}: {utterance.key}")
                    files[f"{name}.flac"] = _flac(utterance, waveform, f"{path.name}: {utterance.key}.{name}")
                    lengths.setdefault(name, {})[utterance.key] = len(waveform)
                writer.write({"__key__": utterance.key, **files})
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
    further: dict[str, Further] = {
        name: [(*members[f"{key}.{name}.flac"], of[key]) if key in of else None for key in keys]
        for name, of in sorted(lengths.items())
    }
    body = Members(keys, samples, audio, info, digest, further)._asdict()
    del body["names"]  # of shards that others wrote
    if not further:
        del body["further"]
    body["sha256"] = body.pop("sha256")  # last, because `ShardIndex.check` reads only the end
    content = json.dumps(body).encode()
    index_sha256 = hashlib.sha256(content).hexdigest()
    index = ShardIndex(path, len(keys), size, digest, audio_members=tuple(further), index_sha256=index_sha256)
    write_bytes(index.index_path, content, durable=True)
    return index


def link_shard(link: Path, target: Path, body: dict[str, Any], size: int, sha256: str, modified_ns: int) -> ShardIndex:
    """Link to a shard that stays where it is, and write an index of some of its utterances beside the link; no audio is copied.

    Args:
        link: of the new shard, `SPLIT-NNNNNN.tar`.
        target: the tar.
        body: `Members` of the utterances with `names` and `metas`, which hold the metadata, without its hash.
        size: of the tar in bytes.
        sha256: of the tar.
        modified_ns: when the tar was last changed.
    """
    content = json.dumps({**body, "sha256": sha256}).encode()  # last, because `ShardIndex.check` reads only the end
    further, count = tuple(body.get("further", ())), len(body["keys"])
    link.unlink(missing_ok=True)
    link.symlink_to(os.path.realpath(target))
    digest = hashlib.sha256(content).hexdigest()
    index = ShardIndex(link, count, size, sha256, False, further, digest, modified_ns)
    write_bytes(index.index_path, content)
    return index


def with_other_records(
    link: Path, shard: ShardIndex, places: Sequence[int], metas: Sequence[dict[str, Any]]
) -> ShardIndex:
    """A shard with some utterances of another one, those at `places`, under other metadata; the audio is linked.

    `UserError` if the other shard is gone or has changed.
    """
    shard.check()
    members = shard.members
    names = members.names or [f"{key}.flac" for key in members.keys]
    body: dict[str, Any] = {
        "keys": [members.keys[place] for place in places],
        "samples": [members.samples[place] for place in places],
        "audio": [list(members.audio[place]) for place in places],
        "info": [],
        "names": [names[place] for place in places],
        "metas": [json.dumps(meta, ensure_ascii=False) for meta in metas],
    }
    further = {name: [rows[place] for place in places] for name, rows in members.further.items()}
    if further := {name: rows for name, rows in further.items() if any(rows)}:
        body["further"] = further
    return link_shard(link, shard.path, body, shard.size, shard.sha256, shard.path.stat().st_mtime_ns)


def check_member_name(name: str, where: str) -> None:
    """Refuse names of further audio that WebDataset would change (it writes extensions in small letters) or split."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise UserError(
            f"{where}: {name!r} is not a valid name of further audio; use small letters, digits and underscores, and begin "
            "with a letter"
        )


def _flac(utterance: Utterance, waveform: np.ndarray, name: str) -> bytes:
    try:
        check_waveform(waveform, name, utterance.allow_silence)
        check_length(waveform, name)
    except BadAudio as error:
        raise UserError(f"{error}; leave it out of the corpus") from error
    return encode_flac(waveform)


def _check_key(key: str, path: Path) -> None:
    if not key or any(c in key for c in "./\\ \t\n"):
        raise UserError(
            f"{path.name}: {key!r} is not a valid key; keys must not be empty or contain dots, slashes or white space"
        )
