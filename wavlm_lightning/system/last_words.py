"""What `wavlm` says of an error that nobody foresaw: one sentence, with the path of a log that holds the traceback."""

from __future__ import annotations

import contextlib
import errno
import os
import platform
import shlex
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from wavlm_lightning.system.errors import one_line
from wavlm_lightning.system.paths import cache_directory

SHOW = "WAVLM_TRACEBACK"  # environment variable: print tracebacks
KEPT = 50  # logs in the folder; older ones are removed
LONGEST = 240  # characters of the error's own words
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


def last_words(error: BaseException, command: Sequence[str]) -> str:
    """One sentence on an error that is no `UserError`; the traceback goes to a log, or to stderr if none can be written.

    Args:
        error: what ended the command.
        command: its words, without `wavlm`.
    """
    said = _said(error)
    text = "".join(traceback.format_exception(error))
    if shows_traceback():
        print(text, file=sys.stderr, end="")
        return said
    log = _write_log(text, command)
    if log is None:
        print(text, file=sys.stderr, end="")
        return f"{said}; no log of it could be written"
    return f"{said}; the traceback is in {log} ({SHOW}=1 shows it)"


def shows_traceback() -> bool:
    """Whether the user wants to see tracebacks."""
    return os.environ.get(SHOW, "0") not in ("", "0")


def _said(error: BaseException) -> str:
    words = one_line(str(error), LONGEST)
    if isinstance(error, MemoryError):
        return f"out of memory{f' ({words})' if words else ''}; give it smaller batches or files, or fewer processes"
    if isinstance(error, RecursionError):
        return "something is nested too deeply to be read"
    if isinstance(error, OSError) and error.strerror and isinstance(error.filename, str | bytes):
        room = "; free some space" if error.errno in NO_ROOM else ""
        return one_line(f"{os.fsdecode(error.filename)}: {error.strerror}{room}", LONGEST)
    if isinstance(error, ImportError):
        return f"a module cannot be imported ({words}); `wavlm doctor` says what is missing"
    return f"unexpected {type(error).__name__}{f' ({words})' if words else ''}"


def _write_log(text: str, command: Sequence[str]) -> Path | None:
    """Write the log to the cache folder, or to the temporary one; None if neither can be written."""
    verb = "".join(each for each in (command[0] if command else "") if each.isalnum()) or "wavlm"
    name = f"{verb}-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
    head = (
        f"command: wavlm {shlex.join(command)}\nfolder: {_here()}\nprocess: {os.getpid()}\n"
        f"python: {platform.python_version()} on {platform.platform()}\n\n"
    )
    for folder in (lambda: cache_directory() / "errors", lambda: Path(tempfile.gettempdir())):
        with contextlib.suppress(OSError, RuntimeError):  # RuntimeError: a user without a home
            (place := folder()).mkdir(parents=True, exist_ok=True)
            # Not `atomic_write`: a log is read by people, and this may run because no space is left.
            with (place / name).open("w", encoding="utf-8", errors="backslashreplace") as file:
                file.write(head + text)
            if place.name == "errors":
                _forget(place)
            return place / name
    return None


def _here() -> str:
    try:
        return os.getcwd()  # noqa: PTH109
    except OSError:
        return "(removed)"


def _forget(folder: Path) -> None:
    logs = sorted(folder.glob("*.log"), key=lambda path: path.stat().st_mtime)
    for path in logs[:-KEPT]:
        path.unlink(missing_ok=True)
