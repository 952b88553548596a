"""Fitting and testing several heads, some at a time, each with its own log."""

from __future__ import annotations

import contextlib
import os
import shutil
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
    """

    folder: Path
    options: Sequence[str]


def run_heads(runs: Sequence[HeadRun], done: Callable[[], object], processes: int = 2) -> None:
    """Fit and test heads in parallel; one that has a card is left alone.

    Args:
        runs: what to run.
        done: is called after each.
        processes: how many at a time, one thread each: two runs of one thread do more work than one of two.

    Raises:
        UserError: a head failed; the message names its log.
    """
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn"), initializer=_one_thread) as pool:
        futures = [pool.submit(_fit_and_test, run) for run in runs]
        try:
            for future in as_completed(futures):
                future.result()
                done()
        except BaseException:
            for process in list((pool._processes or {}).values()):
                process.terminate()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _one_thread() -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch

    torch.set_num_threads(1)


def _fit_and_test(run: HeadRun) -> None:
    if (run.folder / "card.json").is_file():
        return
    # Without a card the run did not end; a head takes seconds, so it begins anew.
    shutil.rmtree(run.folder, ignore_errors=True)
    run.folder.mkdir(parents=True)
    from wavlm_lightning.cli import training

    options = [*run.options, "--trainer.default_root_dir", str(run.folder)]
    log = run.folder / "log.txt"
    with _output_to(log):
        try:
            training.main(["fit", *options])
            training.main(["test", *options, "--ckpt_path", "best"])
        except (Exception, SystemExit) as error:
            traceback.print_exc()
            raise UserError(f"{run.folder.name} failed ({error}); see {log}") from error


@contextlib.contextmanager
def _output_to(path: Path) -> Iterator[None]:
    """Send this process' output to a file; by descriptor, because Lightning's loggers hold on to the old streams."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = os.dup(1), os.dup(2)
    with path.open("w") as file:
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
