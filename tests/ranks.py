"""Processes that train together, forked from one that has imported everything: ten runs start as fast as one."""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["wavlm_lightning.workflows.fit.command_line", "wavlm_lightning.codebooks"])


def start(ranks: int, log: Path, work: Callable[..., int | None], *arguments: Any) -> list[BaseProcess]:
    """Let each of `ranks` processes do `work`, as torchrun would start it; what they say goes to `log`."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    places = [(rank, ranks, port, str(log), work, arguments) for rank in range(ranks)]
    processes: list[BaseProcess] = [FORKS.Process(target=_rank, args=place) for place in places]
    for process in processes:
        process.start()
    return processes


def ended(processes: Sequence[BaseProcess], seconds: float) -> list[int | None]:
    """Exit statuses once all have ended; None for those that had to be killed after that many seconds."""
    end, hung = time.monotonic() + seconds, set()
    for process in processes:
        process.join(max(0.0, end - time.monotonic()))
        if process.is_alive():
            hung.add(process)
            process.kill()
            process.join()
    return [None if process in hung else process.exitcode for process in processes]


def together(ranks: int, log: Path, work: Callable[..., int | None], *arguments: Any, seconds: float = 200) -> None:
    """Let each of `ranks` processes do `work`, which must end well, within that many seconds."""
    statuses = ended(start(ranks, log, work, *arguments), seconds)
    assert statuses == [0] * ranks, log.read_text()[-3000:]


class Command:
    """Stands for the `subprocess.Popen` of a `wavlm` command, which it runs in a forked process."""

    def __init__(self, words: Sequence[str], env: Mapping[str, str], process_group: int) -> None:
        assert words[:3] == [sys.executable, "-m", "wavlm_lightning"]
        self.process = FORKS.Process(target=_command, args=(words[3:], dict(env), process_group))
        self.process.start()
        self.pid = self.process.pid

    def wait(self) -> int | None:
        self.process.join()
        return self.process.exitcode


def _command(words: list[str], environment: dict[str, str], process_group: int) -> None:
    from wavlm_lightning.cli import main

    os.setpgid(0, process_group)
    os.environ.update(environment)
    sys.exit(main(words))


def _rank(
    rank: int, ranks: int, port: int, log: str, work: Callable[..., int | None], arguments: Sequence[Any]
) -> None:
    import torch

    with Path(log).open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    if ranks > 1:
        place = {"RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks}
        os.environ.update({name: str(value) for name, value in place.items()})
        os.environ.update({"MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "tests"})
    torch.set_num_threads(1)
    multiprocessing.set_start_method("fork", force=True)  # of processes that read audio, as in any run
    sys.exit(work(*arguments) or 0)
