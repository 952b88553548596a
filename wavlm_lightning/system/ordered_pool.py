"""Work on audio in several processes: one thread each, so that the numbers are the same however many there are."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.queues import SimpleQueue
from typing import Any, TypeVar

import torch
from threadpoolctl import threadpool_limits

from wavlm_lightning.system.errors import UserError

Task = TypeVar("Task")
Result = TypeVar("Result")
Worker = Callable[[Task], Result]
Opener = Callable[[str | None], Worker]

HOURS_A_PROCESS = {"mfcc": 5.0, "layer": 0.1}
"""Audio below which starting one more process (4 s) takes longer than it saves, by kind of features."""


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Products in one thread: how many share a sum changes its last bits, and then, now and then, a label.

    More threads would not help, either: an utterance is small, and with two of them cepstra take twice as long as with one.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(before)


def default_jobs(kind: str, hours: float) -> int:
    """Processes for so much audio: one a GPU for layers of an encoder, else one a core.

    Args:
        kind: of features, `mfcc` or `layer`.
        hours: of audio.
    """
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if kind == "layer" and torch.cuda.is_available():
        usable = torch.cuda.device_count()
    usable //= int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # torchrun's ranks on this machine share it
    return max(1, min(usable, math.ceil(hours / HOURS_A_PROCESS.get(kind, 1.0))))


def in_order(open_worker: Opener, tasks: Sequence[Task], jobs: int) -> Iterator[Any]:
    """The results of tasks, in their order.

    Args:
        open_worker: gives, for a device (None: the default one), what does a task; with several jobs it must be picklable.
        tasks: small things that say what to do.
        jobs: processes; with one, everything happens in this one.

    Raises:
        UserError: a process was killed; and whatever a task raises.
    """
    jobs = min(jobs, len(tasks))
    if jobs <= 1:
        with one_thread():
            worker = open_worker(_device(0, 1)) if tasks else None
            for task in tasks:
                yield worker(task)  # type: ignore[misc]
        return
    context = get_context("spawn")  # a forked process could use no GPU, and might inherit a lock that nobody opens
    devices: SimpleQueue[str | None] = context.SimpleQueue()
    for number in range(jobs):
        devices.put(_device(number, jobs))
    ended, alive = context.Pipe(duplex=False)
    with contextlib.closing(ended), contextlib.closing(alive):
        pool = ProcessPoolExecutor(jobs, context, _begin, (open_worker, devices, ended))
        try:
            # A few tasks ahead, not all of them: results wait in memory until it is their turn.
            waiting: deque[Future] = deque()
            for task in tasks:
                waiting.append(pool.submit(_do, task))
                if len(waiting) >= 2 * jobs:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool as error:
            raise UserError(
                f"one of {jobs} processes was killed, for want of memory perhaps; run the same command again, "
                "with fewer --jobs if that may be so"
            ) from error
        finally:
            alive.close()  # processes that are still at work (after Ctrl-C, say) end at once
            pool.shutdown(cancel_futures=True)


def _device(number: int, jobs: int) -> str | None:
    """GPUs are dealt to the processes of this machine, torchrun's ranks among them."""
    if not torch.cuda.is_available():
        return None
    return f"cuda:{(int(os.environ.get('LOCAL_RANK', '0')) * jobs + number) % torch.cuda.device_count()}"


_worker: Worker | None = None


def _begin(open_worker: Opener, devices: SimpleQueue[str | None], ended: Connection) -> None:
    """Set a process up; it ends with the one that started it, however that ends."""
    global _worker

    def follow() -> None:
        with contextlib.suppress(EOFError, OSError):
            ended.recv()
        os._exit(1)

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends Ctrl-C to all; the first process answers for all
    threading.Thread(target=follow, daemon=True).start()
    torch.set_num_threads(1)
    threadpool_limits(1)
    _worker = open_worker(devices.get())


def _do(task: Any) -> Any:
    assert _worker is not None
    return _worker(task)
