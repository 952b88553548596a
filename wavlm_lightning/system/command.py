"""Runs a `wavlm` command in its own process, as a user would."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wavlm_lightning.system.errors import UserError

# By default glibc returns freed large tensors to the system; keeping them saves a page fault per page and step.
MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(32 * 2**20), "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1)}


# In the environment of a command that another one runs: its last lines give no advice.
INSIDE = "WAVLM_INSIDE"


def as_called(*arguments: Any) -> str:
    """A `wavlm` command to be pasted into a shell, begun as this process was.

    Example:
        >>> as_called("test", Path("runs/my run"))
        "wavlm test 'runs/my run'"
    """
    given, words = sys.orig_argv, ["wavlm"]
    if "-m" in given[1:-1] and given[given.index("-m") + 1] == "wavlm_lightning":
        words = given[: given.index("-m") + 2]
    elif Path(sys.argv[0]).name == "wavlm" and shutil.which("wavlm") is None:  # called by its path
        words = [sys.argv[0]]
    return shlex.join([*words, *map(str, arguments)])


def wavlm(*arguments: Any) -> None:
    """Print `wavlm ARGUMENTS` and run it; its progress bars are shown. Raises `UserError` if it fails."""
    words = [str(argument) for argument in arguments]
    print(f"  $ wavlm {shlex.join(words)}", flush=True)
    # A library must not come from the working directory, unless this package does.
    safe = [] if Path(__file__).parents[2] == Path.cwd() else ["-P"]
    # In its own process group: otherwise Ctrl-C would reach it twice, from the terminal and from us, and training takes a
    # second SIGINT as "stop at once".
    process = subprocess.Popen(
        [sys.executable, *safe, "-m", "wavlm_lightning", *words],
        env={**MEMORY, **os.environ, INSIDE: "1"},
        process_group=0,
    )
    with _forward_signals(process):
        status = process.wait()
    if status:
        raise UserError(f"`wavlm {shlex.join(words)}` ended with status {status}; the same command continues from here")


@contextlib.contextmanager
def _forward_signals(process: subprocess.Popen) -> Iterator[None]:
    """Forward SIGINT, SIGTERM and SIGHUP to the process group, so that it can save a checkpoint and is never orphaned."""

    def stop(number: int, _: Any) -> None:
        received.append(number)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM if number == signal.SIGHUP else number)

    received: list[int] = []
    before: dict[signal.Signals, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if received:
        raise KeyboardInterrupt
