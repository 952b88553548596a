"""Processes of a pool that trains runs."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from wavlm_lightning.system.worker_pool import worker_pool

PARENT = """
import os, time
from wavlm_lightning.system.worker_pool import worker_pool

with worker_pool(1) as pool:
    print(pool.submit(os.getpid).result(), flush=True)
    futures = [pool.submit(time.sleep, 600) for _ in range(3)]
    time.sleep(600)
"""

# Five runs of a pool, each of which obeys SIGTERM as training does and then ends with an error.
RUNS = """
import os, signal, sys, time
from pathlib import Path

from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.worker_pool import worker_pool


def run(folder):
    def stop(*_):
        raise UserError("stopped")

    signal.signal(signal.SIGTERM, stop)
    (folder / f"begun-{time.time_ns()}-{os.getpid()}").write_text(str(os.getpid()))
    time.sleep(600)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    with worker_pool(int(sys.argv[2])) as pool:
        futures = [pool.submit(run, Path(sys.argv[1])) for _ in range(5)]
        futures[0].result()
"""


def works(process: int) -> bool:
    """Whether a process runs; a dead one that nobody has waited for does not."""
    stat = Path(f"/proc/{process}/stat")
    try:
        return stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_processes_end_when_the_command_is_killed() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    assert works(child)
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    assert ends(child)


@pytest.mark.slow
def test_processes_have_no_more_threads_than_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wavlm_lightning.system.worker_pool.usable_cores", lambda: 6)
    for asked, threads in (("1", 1), ("2", 2), ("8", 3), ("4,2", 3)):
        monkeypatch.setenv("OMP_NUM_THREADS", asked)
        with worker_pool(2) as pool:
            assert pool.submit(torch.get_num_threads).result() == threads


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_further_run_begins_when_the_command_ends(number: signal.Signals, tmp_path: Path) -> None:
    parent, (child,) = started(tmp_path, 1)
    os.kill(parent.pid, number)
    parent.wait(30)
    assert ends(child)
    assert len(list(tmp_path.glob("begun-*"))) == 1


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_no_further_run_begins_when_a_process_is_killed(tmp_path: Path) -> None:
    parent, (one, other) = started(tmp_path, 2)
    os.kill(one, signal.SIGKILL)
    assert parent.wait(30) and ends(other)
    assert len(list(tmp_path.glob("begun-*"))) == 2


def started(folder: Path, processes: int) -> tuple[subprocess.Popen[bytes], list[int]]:
    """The command, and the processes of its pool, each of which has begun a run."""
    script = folder / "runs.py"
    script.write_text(RUNS)
    command = [sys.executable, str(script), str(folder), str(processes)]
    parent = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    for _ in range(600):
        begun = [path.read_text() for path in folder.glob("begun-*")]
        if len(begun) == processes and all(begun):
            return parent, [int(number) for number in begun]
        time.sleep(0.1)
    parent.kill()
    raise AssertionError("no run has begun")


def ends(process: int) -> bool:
    """Whether a process ends within ten seconds."""
    for _ in range(100):
        if not works(process):
            return True
        time.sleep(0.1)
    return False
