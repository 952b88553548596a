"""Files that appear whole or not at all, whoever is killed and however full the disk is."""

from __future__ import annotations

import contextlib
import errno
import uuid
from collections.abc import Iterator
from pathlib import Path

from wavlm_lightning.system.errors import UserError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""No space, no quota, a limit of the file's size."""


@contextlib.contextmanager
def growing_whole(path: Path) -> Iterator[Path]:
    """A name of one's own to write under; the file gets its true name when the block ends, and goes if it fails.

    Args:
        path: the true name. Two processes may write it at once: the later one replaces the other's.

    Raises:
        UserError: the disk is full.
    """
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with told_if_full(path):
            yield temporary
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_whole(path: Path, content: bytes) -> None:
    """Write a small file.

    Raises:
        UserError: the disk is full.
    """
    with growing_whole(path) as temporary:
        temporary.write_bytes(content)


@contextlib.contextmanager
def told_if_full(path: Path) -> Iterator[None]:
    """Say which file a full disk stopped.

    Raises:
        UserError: instead of the system's error.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise UserError(
            f"{path}: cannot be written ({error.strerror}); free some space and run the same command again, it goes on "
            "where it stopped"
        ) from error
