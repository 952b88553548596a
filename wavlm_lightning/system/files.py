"""Atomic writes and lock files: a file is written whole or not at all, and one process at a time owns a lock.

Everything that the package writes under a name that is read later goes through `atomic_write`. What a killed process leaves
behind has a name that `sweep_leftovers` knows; the command that owns a folder calls it when it begins there.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
import stat
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from wavlm_lightning.system.errors import UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # a full disk: no space, no quota, file size limit
REFUSED = (  # a place where nothing of this name can be written
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.EEXIST,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ENAMETOOLONG,
    errno.ELOOP,
)
OS_ERROR = re.compile(r"\(os error (\d+)\)")  # how libraries written in Rust (safetensors, tokenizers) name an errno
PROBE = 4096  # bytes that are written to see whether a disk is full
OLD = ".old"  # suffix of a folder that `replace_folder` has moved aside
TEMPORARY = r".*\.[0-9a-f]{32}\.tmp"  # names of the temporary files of `atomic_write`
LOCK = ".lock"  # in a folder: held while a command writes it
PARTS = r"\.part-\d+-of-\d+\.lock"  # the same, for one of several processes that write it together
MOST_OF_NAME = 200  # characters of a file's name that its temporary name keeps; a name has at most 255 bytes


_held: set[int] = set()  # descriptors of the locks that this process holds


def _forget_locks() -> None:
    # A forked process shares the locks of its parent. If it kept them open, a killed run would still own its folder until
    # the last of the processes that read audio for it has noticed.
    while _held:
        os.close(_held.pop())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_locks)


@contextlib.contextmanager
def atomic_write(path: Path, temporary: Path | None = None, durable: bool = False, mode: int = 0o666) -> Iterator[Path]:
    """Yield a temporary path to write to; it replaces `path` when the block ends, and is deleted if the block fails.

    A reader sees the old file or the new one, never a part of it, even if this process is killed. The temporary file is
    locked meanwhile, so that `sweep_leftovers` leaves it alone.

    Args:
        path: the file to write; its folder exists.
        temporary: name of the temporary file. By default it is unique, so that two processes may write `path` at once
            (the later one wins). Give a fixed name in the same folder for large files with a single writer: what a
            killed process left behind is then overwritten instead of piling up.
        durable: wait until the content is on the disk before renaming, or a power failure could leave an empty file.
        mode: permissions of the file, less the process' umask.

    Raises:
        UserError: the disk is full, or the folder takes no files.

    Example:
        >>> with atomic_write(Path("table.csv")) as temporary:
        ...     temporary.write_text("a,b")
    """
    temporary = temporary or path.with_name(f"{path.name[:MOST_OF_NAME]}.{uuid.uuid4().hex}.tmp")
    owned: int | None = None
    try:
        owned = _create_owned(temporary, mode)
        allowed = None if owned is None else stat.S_IMODE(os.fstat(owned).st_mode)
        yield temporary
        if allowed is not None:
            temporary.chmod(allowed)  # safetensors puts a file of its own there, which its owner alone may read
        if durable:
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
        temporary.replace(path)
    except Exception as error:
        if (said := unwritable(path, error)) is None:
            raise
        raise said from error
    finally:
        temporary.unlink(missing_ok=True)
        _let_go(owned)


def unwritable(path: Path, error: BaseException) -> UserError | None:
    """The sentence for an error in writing `path`: a full disk, a read-only place, a file where a folder belongs; or None.

    None is any other error. Libraries that write tensors raise errors of their own, which name the system's in their text.
    """
    number = error.errno if isinstance(error, OSError) else None
    if number is None and not isinstance(error, UserError) and (named := OS_ERROR.search(str(error))) is not None:
        number = int(named[1])
    if number in FULL:
        return UserError(
            f"{path}: cannot be written ({os.strerror(number)}); free some space and run the same command again, it "
            "continues where it stopped"
        )
    if number in REFUSED:
        return UserError(f"{path}: cannot be written ({os.strerror(number)}); choose another folder")
    return None


def check_output(folder: Path | str, option: str = "--out") -> None:
    """Refuse a folder that could not be written to; every verb calls it before any work.

    The folder need not exist, and is not created: the lowest folder above it that exists must take a small file.

    Args:
        folder: where the verb is going to write.
        option: that named it, for the message.

    Raises:
        UserError: it is a file or lies below one, is read-only, has an impossible name, or its disk is full.

    Example:
        >>> check_output(Path("README.md"))
        Traceback (most recent call last):
        wavlm_lightning.system.errors.UserError: --out README.md: cannot be written (Not a directory); choose another folder
    """
    place = Path(folder)
    try:
        while True:
            try:
                os.lstat(place)
                break
            except FileNotFoundError:
                if place == place.parent:
                    raise
                place = place.parent
        probe = place / f".probe.{uuid.uuid4().hex}.tmp"
        if not place.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        try:
            with probe.open("xb") as file:
                file.write(bytes(PROBE))
        finally:
            probe.unlink(missing_ok=True)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        what = "free some space, or choose" if isinstance(error, OSError) and error.errno in FULL else "choose"
        raise UserError(f"{option} {folder}: cannot be written ({reason}); {what} another folder") from error


def write_bytes(path: Path, content: bytes, durable: bool = False) -> None:
    """Write a small file atomically."""
    with atomic_write(path, durable=durable) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, content: str, durable: bool = False) -> None:
    """Write a small UTF-8 file atomically."""
    write_bytes(path, content.encode(), durable)


def write_json(path: Path, content: Any, durable: bool = True, **settings: Any) -> None:
    """Write a JSON file atomically: by default indented by 1, and on the disk before it gets its name.

    `settings` are those of `json.dumps`.
    """
    write_text(path, json.dumps(content, **{"indent": 1, **settings}) + "\n", durable)


def sweep_leftovers(folder: Path, names: str = TEMPORARY) -> None:
    """Delete unfinished files and folders of killed processes in `folder`; those that a process is writing stay.

    `names` is the regular expression of names that nothing but an unfinished file has here: by default what `atomic_write`
    calls them. The caller owns the folder, or no other process writes folders (as sharded checkpoints are) in it.
    """
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        if re.fullmatch(names, path.name) is None:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        elif (owned := _lock_existing(path)) is not None:
            path.unlink(missing_ok=True)
            _let_go(owned)


def _create_owned(path: Path, mode: int) -> int | None:
    """Create a file and lock it; the descriptor of the lock, None where there are no locks."""
    if fcntl is None:
        return None
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, mode)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            # A sweep may have deleted the file between its creation and the lock.
            if _is_at(descriptor, path):
                _held.add(descriptor)
                return descriptor
        except OSError:  # a file system without locks: nothing is swept there either
            os.close(descriptor)
            return None
        os.close(descriptor)


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether an open file still has this name."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _lock_existing(path: Path) -> int | None:
    """Lock a file that may be a leftover; None if another process holds it, or cannot say."""
    if fcntl is None:
        return None
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    _held.add(descriptor)
    return descriptor


def _let_go(descriptor: int | None) -> None:
    if descriptor in _held:  # otherwise a forked process has closed it
        _held.discard(descriptor)
        os.close(descriptor)


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
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


class Busy(UserError):
    """Another process holds the lock."""


@contextlib.contextmanager
def locked(path: Path, message: str | None = None, optional: bool = False, temporary: bool = False) -> Iterator[None]:
    """Hold a lock file, against other processes and threads; the system releases it when the process ends or is killed.

    Args:
        path: the lock file; created if it does not exist.
        message: without it, wait until the lock is free; with it, refuse at once if another process holds the lock.
        optional: go on without a lock on a file system that has no locks (some network file systems).
        temporary: delete the lock file at the end, in a folder whose content is shown or uploaded.

    Raises:
        Busy: another process holds the lock; with `message` only.
        UserError: the file cannot be locked.

    Example:
        >>> with locked(out / ".lock", f"{out}: another process is writing there; wait for it"):
        ...     write(out)
    """
    lock = _FileLock(path)
    try:
        lock.acquire(wait=message is None)
    except Timeout as error:
        raise Busy(str(message)) from error
    except OSError as error:
        if not optional:
            raise UserError(f"{path}: cannot be locked ({error}); use a folder on a local disk") from error
    try:
        yield
    finally:
        if temporary and lock.descriptor is not None:  # while it is held: who waits for it notices and creates another
            path.unlink(missing_ok=True)
        lock.release()  # does nothing if it is not held


@contextlib.contextmanager
def own_folder(folder: Path, verb: str, option: str = "--out", part: tuple[int, int] = (0, 1)) -> Iterator[None]:
    """Make a folder and own it while a command writes it; what a killed one has left unfinished there is removed.

    Args:
        folder: of the command's results. If it did not exist and stays empty, it is removed at the end.
        verb: of the command, for the message: `export`, `codebook fit`.
        option: that named the folder, for the message.
        part: number of the part that this process makes, from 0, and how many there are; parts are made at the same time.

    Raises:
        Busy: another process makes this folder, or this part of it.

    Example:
        >>> with own_folder(out, "export", "DIRECTORY"):
        ...     write(out)
    """
    fresh = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    number, of = part
    name, which = (LOCK, "") if of == 1 else (f".part-{number + 1}-of-{of}.lock", f" --part {number + 1}/{of}")
    busy = f"{folder}: another `wavlm {verb}`{which} writes there; wait for it, or choose another {option}"
    try:
        with locked(folder / name, busy, optional=True, temporary=True):
            sweep_leftovers(folder)
            sweep_leftovers(folder, PARTS)
            yield
    finally:
        if fresh:
            with contextlib.suppress(OSError):  # it is not empty
                folder.rmdir()


class _FileLock:
    """`flock` where there is one, because its descriptor must not live on in forked processes; otherwise `filelock`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.descriptor: int | None = None
        self.other = FileLock(path) if fcntl is None else None

    def acquire(self, wait: bool) -> None:
        """Raises `filelock.Timeout` if the lock is held and `wait` is false."""
        if self.other is not None:
            self.other.acquire(blocking=wait, poll_interval=0.02)
            return
        while True:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
                if _is_at(descriptor, self.path):
                    break
            except BlockingIOError as error:
                os.close(descriptor)
                raise Timeout(os.fspath(self.path)) from error
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)  # its last owner has deleted it
        self.descriptor = descriptor
        _held.add(descriptor)

    def release(self) -> None:
        if self.other is not None:
            self.other.release()
        _let_go(self.descriptor)
        self.descriptor = None
