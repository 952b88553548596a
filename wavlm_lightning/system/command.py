"""Running a `wavlm` command as its own process, as a user would."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

from wavlm_lightning.system.errors import UserError

# glibc gives freed large tensors back to the system at once; keeping them spares a page fault a page and step.
MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(32 * 2**20), "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1)}


def wavlm(*arguments: Any) -> None:
    """Print the command and run it; its bars are shown.

    Args:
        arguments: what follows `wavlm`, as strings or anything that becomes one.

    Raises:
        UserError: it failed.
    """
    words = [str(argument) for argument in arguments]
    print(f"  $ wavlm {shlex.join(words)}", flush=True)
    # In a group of its own, or the terminal's Ctrl-C would reach it beside ours, and a run takes the second for "at once".
    process = subprocess.Popen(
        [sys.executable, "-m", "wavlm_lightning", *words], env={**MEMORY, **os.environ}, process_group=0
    )
    with _passing_signals_to(process):
        status = process.wait()
    if status:
        raise UserError(f"`wavlm {shlex.join(words)}` ended with status {status}; the same command goes on from here")


@contextlib.contextmanager
def _passing_signals_to(process: subprocess.Popen) -> Iterator[None]:
    """Whoever stops us stops the process (and those that it has started): it may finish, and is never left behind."""

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
