"""Files of a feature cache: safetensors that carry their own hash, and are made by one process at a time."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

BLANK = "0" * 64
CHUNK = 1 << 20


@contextlib.contextmanager
def alone(path: Path) -> Iterator[None]:
    """Let one process at a time make a file; the lock ends with its process, however that ends."""
    import fcntl  # here, so that what needs no cache imports where there is none

    with path.with_suffix(".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def write(path: Path, tensors: dict[str, Tensor], facts: dict[str, str]) -> None:
    """Write a file whole or not at all.

    Its metadata are the facts and `sha256`, the hash of the file as it is with zeros in that place.

    Args:
        path: where; whatever is there is replaced, and who has it open keeps the old one.
        tensors: by name.
        facts: what they are.
    """
    temporary = path.with_suffix(".tmp")
    save_file(tensors, temporary, metadata={**facts, "sha256": BLANK})
    header, digest = _hash(temporary)
    with temporary.open("r+b") as file:
        file.seek(8 + header.index(_entry(BLANK)))
        file.write(_entry(digest))
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)


def intact(path: Path, facts: dict[str, str]) -> bool:
    """Whether a file is as it was written, and says these facts."""
    try:
        header, digest = _hash(path)
        written = json.loads(header)["__metadata__"]
    except (ValueError, KeyError, OverflowError, MemoryError):
        return False
    return written == {**facts, "sha256": digest}


def _entry(digest: str) -> bytes:
    """As it stands in the header."""
    return f'"sha256":"{digest}"'.encode()


def _hash(path: Path) -> tuple[bytes, str]:
    """The header of a safetensors file, and the hash of the file with its `sha256` blanked."""
    with path.open("rb") as file:
        size = file.read(8)
        length = int.from_bytes(size, "little")
        if length > path.stat().st_size:
            raise ValueError(f"{path}: cut off within its header")
        header = file.read(length)
        stored = json.loads(header)["__metadata__"]["sha256"]
        digest = hashlib.sha256(size + header.replace(_entry(stored), _entry(BLANK)))
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return header, digest.hexdigest()
