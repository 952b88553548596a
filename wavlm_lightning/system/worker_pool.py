"""Processes that train, some at a time, each with its share of cores, its GPU and its log."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from multiprocessing.queues import SimpleQueue
from pathlib import Path

from wavlm_lightning.system.errors import UserError


@contextlib.contextmanager
def worker_pool(processes: int) -> Iterator[ProcessPoolExecutor]:
    """A pool of fresh processes; if the block is left by an error they are told to end, which training does after an update.

    Args:
        processes: how many; they share the cores (two runs of one thread do more work than one of two), and take the
            GPUs in turn.

    Raises:
        UserError: one of them was killed.
    """
    context = get_context("spawn")
    devices = context.SimpleQueue()
    for number in range(processes):
        devices.put(_device(number))
    threads = max(1, (os.cpu_count() or 1) // processes)
    with ProcessPoolExecutor(processes, context, initializer=_settle_in, initargs=(threads, devices)) as pool:
        try:
            yield pool
        except BrokenProcessPool as error:
            raise UserError(
                "a process of the runs was killed, for want of memory perhaps; what is done is kept, so run the same "
                "command again, with fewer at a time"
            ) from error
        except BaseException:
            for process in list((pool._processes or {}).values()):
                process.terminate()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def default_jobs() -> int:
    """One process per GPU; without GPUs one per core, since two runs of one thread do more work than one of two."""
    import torch

    return torch.cuda.device_count() or os.cpu_count() or 1


@contextlib.contextmanager
def output_to(path: Path) -> Iterator[None]:
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
