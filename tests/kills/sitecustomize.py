"""Pulls the plug of a command at its N-th change of a folder: all of its processes end at once, by SIGKILL.

Python imports a module of this name when a process starts, so the processes that the command starts are counted as well.
`WAVLM_KILL` holds the folder, N (-1: only count) and a folder for the counts, with colons between them.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from pathlib import Path
from typing import Any

CHANGES = ("open", "os.rename", "os.remove", "os.mkdir")  # audit events; each comes before its system call


def watch(folder: str, at: int, counts: str) -> None:
    """Count the changes of `folder` by this process and its children; at change `at`, kill them all."""
    mine = os.getpid()

    def begin() -> None:
        nonlocal mine
        mine = os.getpid()
        noted("processes", f"{mine}\n".encode())

    def noted(name: str, what: bytes) -> int:
        """Append to a file of all processes, and return its length."""
        file = os.open(f"{counts}/{name}", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        try:
            os.write(file, what)
            return os.fstat(file).st_size
        finally:
            os.close(file)

    def changed(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in CHANGES or not isinstance(arguments[0], str | os.PathLike):
            return
        if event == "open" and not (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR):
            return
        if os.fspath(arguments[0]).startswith(folder) and noted("changes", b".") >= at > 0:
            with Path(counts, "processes").open() as file:
                others = [int(line) for line in file if int(line) != mine]
            for each in [*others, mine]:
                with contextlib.suppress(ProcessLookupError):
                    if os.getsid(each) == os.getsid(0):  # otherwise the system has given the number to another process
                        os.kill(each, signal.SIGKILL)

    begin()
    os.register_at_fork(after_in_child=begin)
    sys.addaudithook(changed)


if "WAVLM_KILL" in os.environ:
    where, when, kept = os.environ["WAVLM_KILL"].split(":")
    watch(where, int(when), kept)
