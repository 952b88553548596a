"""Commands of a speedrun, each timed by the wall and by the processor, and done once; an interrupted one is continued."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from wavlm_lightning.system.command import INSIDE, MEMORY
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.files import write_json
from wavlm_lightning.system.hardware import usable_cores
from wavlm_lightning.system.reading import read_json

STAGE = "a timed stage"


class Commands:
    """Runs `wavlm` commands in processes of their own, several at a time; `stop` ends them, after which none is started.

    Args:
        threads: of every command.
        gpu: whether they may use one: a track of CPU cores is timed on them.
    """

    def __init__(self, threads: int, gpu: bool = True) -> None:
        self.threads, self.gpu = threads, gpu
        self._running: set[subprocess.Popen] = set()
        self._stopped = False
        self._lock = threading.Lock()

    def run(self, words: Sequence[object], log: Path, computed: Callable[[float], None] = lambda _: None) -> None:
        """Run `wavlm WORDS`; its output goes to `log`.

        Args:
            words: of the command.
            log: a text file that grows.
            computed: called at the end, even of a command that fails or is stopped, with the seconds that it and the processes
                it started have computed, over all cores.

        Raises:
            UserError: it failed.
        """
        line = [sys.executable, "-m", "wavlm_lightning", *map(str, words)]
        environment = {**MEMORY, **os.environ, INSIDE: "1", "OMP_NUM_THREADS": str(self.threads)}
        if not self.gpu:
            environment["CUDA_VISIBLE_DEVICES"] = ""
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a") as file:
            with self._lock:
                if self._stopped:
                    raise KeyboardInterrupt
                # A process group of its own: Ctrl-C reaches it once, through `stop`.
                process = subprocess.Popen(
                    line, env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file, process_group=0
                )
                self._running.add(process)
            try:
                _, status, used = os.wait4(process.pid, 0)
            except KeyboardInterrupt:  # here in the main thread alone, where no pool calls `stop`
                self.stop()
                process.wait()
                raise
            process.returncode = os.waitstatus_to_exitcode(status)
            computed(used.ru_utime + used.ru_stime)
        with self._lock:
            self._running.discard(process)
        if self._stopped:
            raise KeyboardInterrupt
        if process.returncode:
            raise UserError(
                f"`wavlm {' '.join(map(str, words[:2]))}` ended with status {process.returncode}; see the end of {log}; "
                "the same command continues from here"
            )

    def stop(self) -> None:
        """End all commands; training saves a checkpoint first."""
        with self._lock:
            self._stopped = True
            for process in self._running:
                with suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGTERM)


class Stage:
    """Seconds of one piece of work, kept in a file over interruptions.

    Args:
        path: the JSON file: `seconds`, `cpu_seconds`, `attempts`, `done`, and what `finish` adds.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.body: dict[str, Any] = {"seconds": 0.0, "cpu_seconds": 0.0, "attempts": 0, "done": False}
        if path.is_file():
            self.body = read_json(path, STAGE, f"remove {path.parent}, and the work is done again")

    @property
    def done(self) -> bool:
        return bool(self.body["done"])

    def run(self, commands: Commands, log: Path, *lines: Sequence[object], **facts: Any) -> None:
        """Run commands one after the other, unless they are done; `facts` are kept with their seconds."""
        if self.done:
            return
        self.body["attempts"] += 1
        self._write()  # a killed attempt must be seen
        for words in lines:
            begin = time.perf_counter()
            try:
                commands.run(words, log, self._computed)
            finally:
                self.body["seconds"] += time.perf_counter() - begin
                self._write()
        self.body |= {**facts, "done": True}
        self._write()

    def _computed(self, seconds: float) -> None:
        self.body["cpu_seconds"] += seconds

    def _write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.path, self.body)


@contextmanager
def own_core(number: int, of: int) -> Iterator[None]:
    """Pin the calling thread, and the commands that it starts, to one core, if several work at a time."""
    if of == 1 or not hasattr(os, "sched_setaffinity") or usable_cores() < of:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {sorted(before)[number % len(before)]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
