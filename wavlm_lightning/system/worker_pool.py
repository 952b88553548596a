"""Process pools: `worker_pool` for training runs, `in_order` for many small tasks such as the shards of a corpus.

Torch is imported inside the functions: a child process imports this module first, and must set its number of threads and
its GPU before torch starts.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import Any, TypeVar

from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.hardware import capped, usable_cores

Item = TypeVar("Item")
Result = TypeVar("Result")
Worker = Callable[[Item], Result]
Opener = Callable[[str | None], Worker]


@contextlib.contextmanager
def worker_pool(processes: int) -> Iterator[ProcessPoolExecutor]:
    """A pool of fresh processes for training runs, each with its share of the cores (at most OMP_NUM_THREADS) and one GPU.

    GPUs are dealt to them in turn. If the block raises, the processes get SIGTERM, on which training saves a checkpoint
    and ends after the update; the same happens when this process is killed. Either way no further run begins. If one of the
    processes is killed, `UserError` is raised.
    """
    context = get_context("spawn")
    # Without a lock, as an Event has one: a process that is killed while it holds it would stop all others for ever.
    ending = context.RawValue("b", 0)
    devices: SimpleQueue[str | None] = context.SimpleQueue()
    for number in range(processes):
        devices.put(_visible_gpu(number))
    threads = max(1, usable_cores() // processes)
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if asked.isdecimal():  # the user knows of other work on these cores, beside which threads wait for each other
        threads = min(threads, max(1, int(asked)))
    pool = _TrainingPool(processes, context, initializer=_begin_training, initargs=(threads, devices, ending))
    pool.ending = ending
    with pool:
        try:
            yield pool
        except BrokenProcessPool as error:
            raise UserError(
                "a process of the runs was killed, perhaps because memory ran out; finished work is kept, so run the same "
                "command again, with fewer runs at a time"
            ) from error
        except BaseException:
            ending.value = 1
            for process in list((pool._processes or {}).values()):  # the pool has no public way to signal its processes
                process.terminate()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def run_count(asked: int | None = None, option: str = "--jobs") -> int:
    """How many runs to train at a time: at most `asked`, by default one per GPU, or one per core without GPUs.

    Two runs of one thread each do more work on two cores than one run of two threads; more runs than cores do less.
    """
    import torch

    return torch.cuda.device_count() or usable_cores() if asked is None else capped(asked, option)


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


def in_order(
    open_worker: Opener, tasks: Sequence[Item], jobs: int, one_thread_each: bool = True, option: str = "--jobs"
) -> Generator[Any, None, None]:
    """The results of tasks in the order of the tasks, computed by several processes.

    When the first task raises, or the iterator is closed, the processes that are still at work end at once; they also
    end when this process is killed.

    Args:
        open_worker: called once in each process with its device (None: the default one); returns the function that
            does a task. With several jobs it must be picklable.
        tasks: small descriptions of the work.
        jobs: processes; with one, everything happens in this process.
        one_thread_each: compute in one thread per process, see `one_thread`.
        option: the command's option that sets `jobs`, for the message.

    Raises:
        UserError: a process was killed. Exceptions of a task are passed on.
    """
    jobs = min(jobs, len(tasks))
    if jobs <= 1:
        with one_thread() if one_thread_each else contextlib.nullcontext():
            worker = open_worker(_cuda_device(0, 1)) if tasks else None
            for task in tasks:
                yield worker(task)  # type: ignore[misc]
        return
    context = get_context("spawn")  # a forked process cannot use CUDA, and may inherit a lock that is never released
    devices: SimpleQueue[str | None] = context.SimpleQueue()
    for number in range(jobs):
        devices.put(_cuda_device(number, jobs))
    ended, alive = context.Pipe(duplex=False)
    with contextlib.closing(ended), contextlib.closing(alive):
        pool = ProcessPoolExecutor(jobs, context, _begin_tasks, (open_worker, devices, ended, one_thread_each))
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
                f"one of {jobs} processes was killed, perhaps because memory ran out; run the same command again, it "
                f"continues where it stopped; with a smaller {option} it needs less memory"
            ) from error
        finally:
            alive.close()  # the children notice it and end
            pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Compute in one thread, so that results do not depend on the number of cores.

    How many threads share a sum changes its last bits, which now and then changes a label. More threads would not help
    either: an utterance is short, and MFCCs take twice as long with two threads as with one.
    """
    import torch
    from threadpoolctl import threadpool_limits

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(before)


def _visible_gpu(number: int) -> str | None:
    """The GPU of training process `number`, as CUDA_VISIBLE_DEVICES names it; None without GPUs."""
    import torch

    count = torch.cuda.device_count()
    if not count:
        return None
    named = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return named[number % count] if named else str(number % count)


def _cuda_device(number: int, jobs: int) -> str | None:
    """The GPU of process `number`; torchrun's ranks on this machine deal the GPUs among all of their processes."""
    import torch

    if not torch.cuda.is_available():
        return None
    return f"cuda:{(int(os.environ.get('LOCAL_RANK', '0')) * jobs + number) % torch.cuda.device_count()}"


class _TrainingPool(ProcessPoolExecutor):
    """An executor whose processes begin nothing once the pool ends: they hold one more task, which no one can cancel."""

    ending: Any

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future = super().submit(_unless_ending, function, *args, **kwargs)
        future.add_done_callback(self._note)
        return future

    def _note(self, future: Future[Any]) -> None:
        # A process was killed: the executor fails all futures before it stops the other processes.
        if not future.cancelled() and isinstance(future.exception(), BrokenProcessPool):
            self.ending.value = 1


def _unless_ending(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    if _is_alone():
        os._exit(1)  # no one waits for a result, and a second call of the command may be at work in the same folder
    if is_ending():
        raise UserError("not begun, because the runs were stopped")
    return function(*args, **kwargs)


def is_ending() -> bool:
    """Whether this process trains for a `worker_pool` that has ended, or whose command was killed.

    Signals say so first, but what a signal raises is lost where an exception cannot leave, such as in a destructor.
    """
    return _ending is not None and (bool(_ending.value) or _is_alone())


def _is_alone() -> bool:
    parent = parent_process()
    return parent is not None and not parent.is_alive()


_ending: Any = None  # of the pool of this process: a shared number, not 0 once the pool has ended


def _begin_training(threads: int, devices: SimpleQueue[str | None], ending: Any) -> None:
    global _ending
    _ending = ending
    # The terminal sends Ctrl-C to this process, too. The parent ends it by SIGTERM instead, which Lightning obeys after
    # the update.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_stop_with_parent, daemon=True).start()
    os.environ["OMP_NUM_THREADS"] = str(threads)
    device = devices.get()
    if device is not None:  # set before CUDA starts: every run asks for "one device", which is then this one
        os.environ["CUDA_VISIBLE_DEVICES"] = device
    import torch

    torch.set_num_threads(threads)


def _stop_with_parent() -> None:
    # Otherwise a second call of the command would train in the run folder of the first call's process.
    parent = parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)  # a training run saves a checkpoint
    while True:
        time.sleep(1.0)
        if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:  # nothing is saved now; the next run must not begin
            os.kill(os.getpid(), signal.SIGTERM)


_worker: Worker | None = None


def _begin_tasks(
    open_worker: Opener, devices: SimpleQueue[str | None], ended: Connection, one_thread_each: bool
) -> None:
    global _worker

    def end_with_parent() -> None:
        # The parent never sends anything: this returns when it closes the pipe or dies.
        with contextlib.suppress(EOFError, OSError):
            ended.recv()
        os._exit(1)

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends Ctrl-C to all processes; only the parent reacts
    threading.Thread(target=end_with_parent, daemon=True).start()
    if one_thread_each:
        import torch
        from threadpoolctl import threadpool_limits

        torch.set_num_threads(1)
        threadpool_limits(1)
    _worker = open_worker(devices.get())


def _do(task: Any) -> Any:
    assert _worker is not None
    return _worker(task)
