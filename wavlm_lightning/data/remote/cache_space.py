"""A folder of files from elsewhere that never grows over its bound: the least recently used make room."""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from wavlm_lightning.system.errors import UserError

BOUND = "WAVLM_CACHE_GIB"
GIB = 1 << 30
SMALL = 1 << 20
"""Files below this are let in without counting; they count when the next large one asks for room."""
EVICTABLE = (".tar", ".index.json", ".safetensors", ".part")


def bound() -> int:
    """Bytes that the cache may hold: $WAVLM_CACHE_GIB, else 100 GiB.

    Raises:
        UserError: it is no positive number.
    """
    text = os.environ.get(BOUND, "100")
    try:
        gib = float(text)
    except ValueError:
        gib = 0.0
    if not 0 < gib < float("inf"):
        raise UserError(f"{BOUND}={text}: not a size; give the cache of remote corpora a positive number of GiB")
    return int(gib * GIB)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file, against threads and processes alike.

    Raises:
        UserError: the file system knows no locks.
    """
    with path.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            raise UserError(
                f"{path}: this file system has no locks ({error}); set WAVLM_CACHE to a local disk"
            ) from error
        yield


def part_of(path: Path, size: int | None) -> Path:
    """Where a file grows until it is whole; the name tells others how much room it will take."""
    return path.with_name(f".{path.name}.{size or 0}.part")


@contextlib.contextmanager
def growing(root: Path, path: Path, size: int | None) -> Iterator[io.BufferedRandom | None]:
    """The unfinished file of `path`, for this process alone, once there is room for it; None if `path` has appeared.

    Args:
        root: the cache; the bound holds for all below it.
        path: the file that is wanted.
        size: its bytes; None if unknown (then it must be small).

    Raises:
        UserError: bound or disk is too small.
    """
    lock, part = root / ".lock", part_of(path, size)
    if size is not None and size > bound():
        raise UserError(
            f"{path.name}: its {size / GIB:.3g} GiB do not fit the cache of {bound() / GIB:.3g} GiB; raise {BOUND}"
        )
    while True:
        # A part exists only while somebody who was given room for it works on it, or after he died: so two processes
        # cannot wait for each other's room for ever.
        with locked(lock):
            if path.exists():
                os.utime(path)
                yield None
                return
            file = _open_alone(part)
            if file is not None:
                admitted = False
                try:
                    admitted = (size or 0) < SMALL or _make_room(root, part, size or 0)
                finally:
                    if not admitted:
                        if not file.seek(0, 2):
                            part.unlink()
                        file.close()
                if admitted:
                    break
        time.sleep(0.05)
    with file:
        yield file


def _open_alone(part: Path) -> io.BufferedRandom | None:
    file = os.fdopen(os.open(part, os.O_RDWR | os.O_CREAT, 0o644), "r+b")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        return None
    return file


class _Held(NamedTuple):
    used: float
    bytes: int
    path: Path


def _make_room(root: Path, part: Path, size: int) -> bool:
    """Evict until `size` more bytes fit; False if what others are bringing leaves no room yet."""
    files = sorted(_Held(*each) for each in _held(root) if each[2] != part)
    total = size + sum(file.bytes for file in files)
    for file in files:
        if total <= bound():
            break
        # Whoever has the file open goes on reading it: its bytes vanish when he closes it.
        if file.path.suffix != ".part" or _abandoned(file.path):
            file.path.unlink(missing_ok=True)
            total -= file.bytes
    if total > bound():
        return False
    free = shutil.disk_usage(root).free + part.stat().st_blocks * 512
    if free < size:
        raise UserError(
            f"{root}: the disk has {free / GIB:.3g} GiB left and {size / GIB:.3g} GiB are needed; free some, set "
            f"WAVLM_CACHE to another disk, or lower {BOUND} (now {bound() / GIB:.3g})"
        )
    return True


def _held(root: Path) -> Iterator[tuple[float, int, Path]]:
    for folder, _, names in os.walk(root):
        for name in names:
            if name.endswith(EVICTABLE):
                path = Path(folder, name)
                with contextlib.suppress(FileNotFoundError):
                    state = path.stat()
                    promised = int(name.split(".")[-2]) if name.endswith(".part") else 0
                    yield state.st_mtime, max(state.st_size, promised), path


def _abandoned(part: Path) -> bool:
    with contextlib.suppress(FileNotFoundError), part.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
    return True
