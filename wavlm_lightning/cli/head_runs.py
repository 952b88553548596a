"""Fitting and testing several heads, some at a time, each with its own log."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from wavlm_lightning.errors import UserError


@dataclass(frozen=True)
class HeadRun:
    """One head, from its configuration to its result card.

    Attributes:
        folder: its run folder; `card.json` there means it is done.
        options: what follows `wavlm fit` and `wavlm test`.
        fits: False for a task with nothing to train.
    """

    folder: Path
    options: Sequence[str]
    fits: bool = True


def run_heads(runs: Sequence[HeadRun], done: Callable[[HeadRun], object], processes: int = 2) -> None:
    """Fit and test heads in parallel; one that has a card is left alone, one that was interrupted goes on.

    Args:
        runs: what to run.
        done: is called after each.
        processes: how many at a time; they share the cores: two runs of one thread do more work than one of two.

    Raises:
        UserError: heads failed, after all others have ended; the message names a log.
    """
    failures: list[str] = []
    threads = max(1, (os.cpu_count() or 1) // processes)
    with ProcessPoolExecutor(
        processes, mp_context=get_context("spawn"), initializer=_limit_threads, initargs=(threads,)
    ) as pool:
        futures = {pool.submit(_fit_and_test, run): run for run in runs}
        try:
            for future in as_completed(futures):
                try:
                    future.result()
                except UserError as error:
                    failures.append(str(error))
                done(futures[future])
        except BaseException:
            for process in list((pool._processes or {}).values()):
                process.terminate()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    if failures:
        raise UserError(f"{len(failures)} of {len(runs)} runs failed, the others are done: {failures[0]}")


def _limit_threads(threads: int) -> None:
    os.environ["OMP_NUM_THREADS"] = str(threads)
    import torch

    torch.set_num_threads(threads)


def _fit_and_test(run: HeadRun) -> None:
    if (run.folder / "card.json").is_file():
        return
    run.folder.mkdir(parents=True, exist_ok=True)
    from wavlm_lightning.cli import training

    options = [*run.options, "--trainer.default_root_dir", str(run.folder)]
    log = run.folder / "log.txt"
    with _output_to(log):
        try:
            if run.fits:
                begun = (run.folder / "checkpoints" / "last.ckpt").is_file()
                training.main(["fit", *options, *(["--ckpt_path", "last"] if begun else [])])
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
