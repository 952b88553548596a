"""The cache of remote files: a folder bounded by $WAVLM_CACHE_GIB, from which the least recently used files are evicted."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.files import Busy, locked

BOUND = "WAVLM_CACHE_GIB"
GIB = 1 << 30
SMALL = 1 << 20  # a file of fewer bytes is admitted without making room, and counted when the next large one comes
EVICTABLE = (".tar", ".index.json", ".safetensors", ".part")


def bound() -> int:
    """Bytes that the cache may hold: $WAVLM_CACHE_GIB, else 100 GiB."""
    text = os.environ.get(BOUND, "100")
    try:
        gib = float(text)
    except ValueError:
        gib = 0.0
    if not 0 < gib < float("inf"):
        raise UserError(f"{BOUND}={text}: not a size; give the cache of remote corpora a positive number of GiB")
    return int(gib * GIB)


def part_of(path: Path, size: int | None) -> Path:
    """The file that holds `path` while it is being downloaded; its name tells others how much room it will take."""
    return path.with_name(f".{path.name}.{size or 0}.part")


@contextlib.contextmanager
def growing(root: Path, path: Path, size: int | None) -> Iterator[io.BufferedRandom | None]:
    """The unfinished file of `path`, for this process alone, once there is room for it; None if `path` exists by now.

    The bound holds for everything below `root`. A file of unknown size (None) must be small. Raises `UserError` if the
    bound or the disk is too small, or the file system has no locks.
    """
    part = part_of(path, size)
    if size is not None and size > bound():
        raise UserError(
            f"{path.name}: its {size / GIB:.3g} GiB do not fit the cache of {bound() / GIB:.3g} GiB; raise {BOUND}"
        )
    while True:
        # A .part file exists only while its owner downloads it, or after the owner was killed; two processes can
        # therefore not deadlock waiting for each other's room.
        with contextlib.ExitStack() as owned:
            admitted = False
            with locked(root / ".lock"):
                if path.exists():
                    os.utime(path)
                    yield None
                    return
                if _own(part, owned):
                    admitted = (size or 0) < SMALL or _make_room(root, part, size or 0)
                    if admitted:
                        part.touch(0o644)  # before the lock is released: others count it from now on
                    else:
                        _lock_of(part).unlink(missing_ok=True)
            if admitted:
                with part.open("r+b") as file:
                    yield file
                return
        time.sleep(0.05)


def finish(root: Path, path: Path, size: int | None) -> None:
    """Give the complete file that `growing` yielded its true name, inside that block."""
    part = part_of(path, size)
    with locked(root / ".lock"):
        part.rename(path)
        _lock_of(part).unlink(missing_ok=True)


def _lock_of(part: Path) -> Path:
    return part.with_name(f"{part.name}.lock")


def _own(part: Path, owned: contextlib.ExitStack) -> bool:
    """Lock a part until `owned` closes; False if another process has. Only under the lock of the cache.

    That a lock file is locked, and deleted, only under the lock of the cache is what makes deleting it safe.
    """
    try:
        owned.enter_context(locked(_lock_of(part), f"{part} is being downloaded"))
    except Busy:
        return False
    return True


class _Held(NamedTuple):
    used: float
    bytes: int
    path: Path


def _make_room(root: Path, part: Path, size: int) -> bool:
    """Evict until `size` more bytes fit; False if what others are downloading leaves no room yet."""
    files = sorted(file for file in _held(root) if file.path != part)  # by time of last use
    total = size + sum(file.bytes for file in files)
    for file in files:
        if total <= bound():
            break
        # A process that has an evicted file open goes on reading it: the bytes are freed when it closes the file.
        if file.path.suffix != ".part" or _abandoned(file.path):
            file.path.unlink(missing_ok=True)
            total -= file.bytes
    if total > bound():
        return False
    there = part.stat().st_blocks * 512 if part.exists() else 0
    free = shutil.disk_usage(root).free + there
    if free < size:
        raise UserError(
            f"{root}: the disk has {free / GIB:.3g} GiB left and {size / GIB:.3g} GiB are needed; free some, set "
            f"WAVLM_CACHE to another disk, or lower {BOUND} (now {bound() / GIB:.3g})"
        )
    return True


def _held(root: Path) -> Iterator[_Held]:
    """Every file that may be evicted."""
    for folder, _, names in os.walk(root):
        for name in names:
            if name.endswith(EVICTABLE):
                path = Path(folder, name)
                with contextlib.suppress(FileNotFoundError):
                    state = path.stat()
                    promised = int(name.split(".")[-2]) if name.endswith(".part") else 0
                    yield _Held(state.st_mtime, max(state.st_size, promised), path)


def _abandoned(part: Path) -> bool:
    """Whether the process that downloaded a part was killed; its lock file is then removed."""
    with contextlib.ExitStack() as owned:
        if not _own(part, owned):
            return False
        _lock_of(part).unlink(missing_ok=True)
    return True
