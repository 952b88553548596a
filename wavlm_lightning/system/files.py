"""Atomic writes and lock files: a file is written whole or not at all, and one process at a time owns a lock."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from wavlm_lightning.system.errors import UserError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # a full disk: no space, no quota, file size limit
OLD = ".old"  # suffix of a folder that `replace_folder` has moved aside


@contextlib.contextmanager
def atomic_write(path: Path, temporary: Path | None = None, durable: bool = False) -> Iterator[Path]:
    """Yield a temporary path to write to; it replaces `path` when the block ends, and is deleted if the block fails.

    A reader sees the old file or the new one, never a part of it, even if this process is killed.

    Args:
        path: the file to write; its folder exists.
        temporary: name of the temporary file. By default it is unique, so that two processes may write `path` at once
            (the later one wins). Give a fixed name in the same folder for large files with a single writer: what a
            killed process left behind is then overwritten instead of piling up.
        durable: wait until the content is on the disk before renaming, or a power failure could leave an empty file.

    Raises:
        UserError: the disk is full.

    Example:
        >>> with atomic_write(Path("table.csv")) as temporary:
        ...     temporary.write_text("a,b")
    """
    temporary = temporary or path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        yield temporary
        if durable:
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise UserError(
            f"{path}: cannot be written ({error.strerror}); free some space and run the same command again, it continues "
            "where it stopped"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a small file atomically."""
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, content: str) -> None:
    """Write a small UTF-8 file atomically."""
    write_bytes(path, content.encode())


def replace_folder(fresh: Path, path: Path) -> None:
    """Let the folder `fresh` take the place of `path` (a folder, a file or nothing); at every moment one of them is whole.

    A folder cannot be renamed onto another one, so the old one is moved aside first. If the process is killed between
    the two renames, `finish_replacing` restores the old one.
    """
    old = path.with_name(path.name + OLD)
    remove(old)
    if path.exists():
        path.rename(old)
    fresh.rename(path)
    remove(old)


def finish_replacing(path: Path) -> None:
    """Give the old folder its name back if `replace_folder` was killed between its two renames."""
    old = path.with_name(path.name + OLD)
    if old.exists() and not path.exists():
        with contextlib.suppress(FileNotFoundError):  # another process was faster
            old.rename(path)


def remove(path: Path) -> None:
    """Delete a file, or a folder with all its content; nothing happens if it does not exist."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


class Busy(UserError):
    """Another process holds the lock."""


@contextlib.contextmanager
def locked(path: Path, message: str | None = None, optional: bool = False) -> Iterator[None]:
    """Hold a lock file, against other processes and threads; the system releases it when the process ends or is killed.

    The lock file stays where it is, because deleting it would let two processes hold "the" lock.

    Args:
        path: the lock file; created if it does not exist.
        message: without it, wait until the lock is free; with it, refuse at once if another process holds the lock.
        optional: go on without a lock on a file system that has no locks (some network file systems).

    Raises:
        Busy: another process holds the lock; with `message` only.
        UserError: the file cannot be locked.

    Example:
        >>> with locked(out / ".lock", f"{out}: another process is writing there; wait for it"):
        ...     write(out)
    """
    lock = FileLock(path)
    try:
        lock.acquire(blocking=message is None, poll_interval=0.02)
    except Timeout as error:
        raise Busy(str(message)) from error
    except OSError as error:
        if not optional:
            raise UserError(f"{path}: cannot be locked ({error}); use a folder on a local disk") from error
    try:
        yield
    finally:
        lock.release()  # does nothing if it is not held
