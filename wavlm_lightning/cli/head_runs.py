"""Fitting and testing several heads, some at a time, each with its own log."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.queues import SimpleQueue
from pathlib import Path

from wavlm_lightning.cli.configs import resolve_config
from wavlm_lightning.errors import UserError
from wavlm_lightning.reports.cards import CARD_NAME

RECORD = "run.json"
"""What a run folder was begun with: options, and the state of every file they name."""


@dataclass(frozen=True)
class HeadRun:
    """One head, or several of one pass, from the configuration to the result cards.

    Attributes:
        folder: its run folder; `card.json` there means it is done.
        options: what follows `wavlm fit` and `wavlm test`.
        fits: False for a task with nothing to train.
        heads: names of the heads' folders in it, whose cards count instead; none if it is one head.
    """

    folder: Path
    options: Sequence[str]
    fits: bool = True
    heads: Sequence[str] = ()

    @property
    def results(self) -> list[Path]:
        """The folders that get a card."""
        return [self.folder / head for head in self.heads] or [self.folder]

    @property
    def is_done(self) -> bool:
        """Whether it has its cards."""
        return all((folder / CARD_NAME).is_file() for folder in self.results)

    def check(self) -> None:
        """Make sure that what lies in the folder is this very run, or nothing.

        Raises:
            UserError: it is another: other options, or files that have changed since.
        """
        record = self.folder / RECORD
        if record.is_file():
            if json.loads(record.read_text()) != self._facts():
                raise UserError(
                    f"{self.folder} holds a run with other options, or of files that have changed since; choose another "
                    "output folder, or remove that one"
                )
        elif self.is_done:
            raise UserError(f"{self.folder} holds a result of something else; choose another output folder")

    def begin(self) -> None:
        """Write down what is being run."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / RECORD).write_text(json.dumps(self._facts(), indent=1))

    def _facts(self) -> dict[str, object]:
        return {
            "options": list(self.options),
            "files": {word: state for word in self.options if (state := _state(word))},
        }


def _state(word: str) -> list[object] | None:
    """What would be different if the file or folder that an option names were another."""
    path = Path(resolve_config(word))
    for inside in (
        "corpus.json",
        "checkpoints/last.ckpt",
        "checkpoints/last.ckpt/meta.pt",
        "model.safetensors",
        "pytorch_model.bin",
    ):
        if (path / inside).is_file():
            path = path / inside
            break
    if not path.is_file():
        return None
    if path.suffix in (".json", ".yaml"):
        return [hashlib.sha256(path.read_bytes()).hexdigest()]
    return [path.stat().st_size, path.stat().st_mtime_ns]


def run_heads(runs: Sequence[HeadRun], done: Callable[[HeadRun], object], processes: int = 2) -> None:
    """Fit and test heads in parallel; one that has a card is left alone, one that was interrupted goes on.

    Args:
        runs: what to run.
        done: is called after each.
        processes: how many at a time; they share the cores (two runs of one thread do more work than one of two), and
            take the GPUs in turn.

    Raises:
        UserError: a folder holds another run, before any is begun; or heads failed, after all others have ended.
    """
    for run in runs:
        run.check()
    failures: list[str] = []
    context = get_context("spawn")
    devices = context.SimpleQueue()
    for number in range(processes):
        devices.put(_device(number))
    threads = max(1, (os.cpu_count() or 1) // processes)
    with ProcessPoolExecutor(processes, context, initializer=_settle_in, initargs=(threads, devices)) as pool:
        futures = {pool.submit(_fit_and_test, run): run for run in runs}
        try:
            for future in as_completed(futures):
                try:
                    future.result()
                except UserError as error:
                    failures.append(str(error))
                done(futures[future])
        except BrokenProcessPool as error:
            raise UserError(
                "a process of the runs was killed, for want of memory perhaps; what has a card is kept, so run the same "
                "command again, with fewer at a time"
            ) from error
        except BaseException:
            for process in list((pool._processes or {}).values()):
                process.terminate()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    if failures:
        raise UserError(f"{len(failures)} of {len(runs)} runs failed, the others are done: {failures[0]}")


def _device(number: int) -> str | None:
    """The GPU of a worker, as CUDA_VISIBLE_DEVICES names it; None without GPUs."""
    import torch

    count = torch.cuda.device_count()
    if not count:
        return None
    named = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return named[number % count] if named else str(number % count)


def _settle_in(threads: int, devices: SimpleQueue[str | None]) -> None:
    # The terminal's Ctrl-C reaches this process, too: the first one ends it by SIGTERM, which Lightning obeys after a step.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["OMP_NUM_THREADS"] = str(threads)
    device = devices.get()
    if (
        device is not None
    ):  # before CUDA starts in this process; every run asks for "one device", which is then this one
        os.environ["CUDA_VISIBLE_DEVICES"] = device
    import torch

    torch.set_num_threads(threads)


def _fit_and_test(run: HeadRun) -> None:
    if run.is_done:
        return
    run.begin()
    from wavlm_lightning.cli import training

    options = [*run.options, "--trainer.default_root_dir", str(run.folder)]
    log = run.folder / "log.txt"
    with _output_to(log):
        try:
            if run.fits:
                newest = run.folder / "checkpoints" / "last.ckpt"
                if not newest.is_file():  # killed before it could write one: what else there is cannot be gone on with
                    for folder in {run.folder, *run.results}:
                        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
                training.main(["fit", *options, *(["--ckpt_path", "last"] if newest.is_file() else [])])
            training.main(["test", *options, *(["--ckpt_path", "best"] if run.fits else [])])
        except (Exception, SystemExit) as error:
            traceback.print_exc()
            raise UserError(f"{run.folder} failed ({error}); see {log}") from error


@contextlib.contextmanager
def _output_to(path: Path) -> Iterator[None]:
    """Send this process' output to a file; by descriptor, because Lightning's loggers hold on to the old streams."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = os.dup(1), os.dup(2)
    with path.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for target, saved in enumerate(kept, start=1):
                os.dup2(saved, target)
                os.close(saved)
