"""Running a `wavlm` command as its own process, as a user would."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from typing import Any

from wavlm_lightning.errors import UserError

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
    process = subprocess.Popen([sys.executable, "-m", "wavlm_lightning", *words], env={**MEMORY, **os.environ})
    try:
        status = process.wait()
    except BaseException:
        # The terminal's Ctrl-C has reached the child too: give it time to write its checkpoint.
        process.send_signal(signal.SIGINT)
        process.wait(timeout=60)
        raise
    if status:
        raise UserError(
            f"`wavlm {shlex.join(words)}` ended with status {status}; the same demo command goes on from here"
        )
