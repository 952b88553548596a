"""kill -9 of a process that trains, of all of them, or of one that reads audio: the rest stops and says so, and the run goes
on to the weights of one that was never killed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch
from ranks import ended, start

from wavlm_lightning.cli import main
from wavlm_lightning.upstreams.wavlm import load_encoder, read_run_checkpoint

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
STEPS, OFTEN, NEVER = 40, 3, 1000
PATIENCE = 120
"""Seconds; a run takes 5 on two idle cores."""
DIED = "another process of this run has died"


def command(tiny: Path, folder: Path, *options: str, every: int = OFTEN) -> list[str]:
    """A run that writes a checkpoint every few updates and at its end; it resumes from what is there."""
    fit = ["fit", "-c", "configs/pretrain/tiny_waveform.yaml", "--data.corpus", str(tiny / "pretrain")]
    fit += ["--trainer.default_root_dir", str(folder), "--checkpoint_every", str(every), "--data.batch_seconds", "4"]
    fit += ["--trainer.accelerator", "cpu", "--trainer.precision", "32-true", "--trainer.max_steps", str(STEPS)]
    fit += ["--trainer.limit_val_batches", "0", "--model.encoder_overrides.layers", "1", *options]
    return [*fit, *(("--ckpt_path", "last") if newest(folder).exists() else ())]


def newest(folder: Path) -> Path:
    return folder / "checkpoints" / "last.ckpt"


def written(folder: Path) -> float:
    """When the newest checkpoint was; 0 without one."""
    try:
        return newest(folder).stat().st_mtime
    except FileNotFoundError:
        return 0.0


def wait_for_checkpoint(folder: Path, before: float, log: Path) -> None:
    """A new one."""
    end = time.monotonic() + PATIENCE
    while written(folder) <= before:
        assert time.monotonic() < end, log.read_text()[-3000:]
        time.sleep(0.01)


def train(tiny: Path, folder: Path, options: list[str], ranks: int = 2, victims: tuple[int, ...] = ()) -> str:
    """Run until the end, or until some ranks are killed after a new checkpoint; what the others said."""
    log, before = folder.with_suffix(".log"), written(folder)
    log.write_text("")
    processes = start(ranks, log, main, command(tiny, folder, *options, every=OFTEN if victims else NEVER))
    if victims:
        wait_for_checkpoint(folder, before, log)
        kill([processes[rank] for rank in victims])
    statuses = ended(processes, PATIENCE)
    others = [status for rank, status in enumerate(statuses) if rank not in victims]
    assert all(status == (2 if victims else 0) for status in others), (statuses, log.read_text()[-3000:])
    assert all(statuses[rank] == -signal.SIGKILL for rank in victims)
    return log.read_text()


def kill(processes: list[BaseProcess]) -> None:
    for process in processes:
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)


def same_weights(one: Path, other: Path) -> None:
    found, wanted = (read_run_checkpoint(newest(folder)) for folder in (one, other))
    assert found["global_step"] == wanted["global_step"] == STEPS
    assert found["state_dict"].keys() == wanted["state_dict"].keys()
    for name, value in found["state_dict"].items():
        assert torch.equal(value, wanted["state_dict"][name]), name


@pytest.mark.parametrize("strategy", ["ddp", pytest.param("fsdp2", marks=pytest.mark.long)])
def test_ranks(tiny, tmp_path, strategy):
    """One run is killed again and again: its first rank, the other, both."""
    options = ["--trainer.devices", "2", "--trainer.strategy", strategy]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    train(tiny, whole, options)
    reached = [0]
    for victims in ((0,), (1,), (0, 1)):
        said = train(tiny, broken, options, victims=victims)
        assert len(victims) == 2 or (DIED in said and "--ckpt_path last" in said)
        reached.append(read_run_checkpoint(newest(broken))["global_step"])
    assert reached == sorted(set(reached)) and reached[-1] < STEPS
    train(tiny, broken, options)
    same_weights(broken, whole)
    assert newest(broken).is_dir() is (strategy == "fsdp2")
    assert not [path.name for path in newest(broken).parent.iterdir() if path.suffix in (".new", ".old")]
    if strategy == "fsdp2":  # put together for everybody else
        assert main(["export", str(broken), str(tmp_path / "hf")]) == 0
        exported, encoder = load_encoder(tmp_path / "hf"), load_encoder(broken)
        for name, value in exported.state_dict().items():
            assert torch.equal(value, encoder.state_dict()[name]), name


def children(pid: int) -> list[int]:
    """Processes that one has started, oldest first."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.long
def test_a_rank_that_the_command_itself_has_started(tiny, tmp_path):
    """Without torchrun or SLURM: Lightning starts the second one, and would kill the first without a word."""
    folder, log = tmp_path / "run", tmp_path / "log"
    options = command(tiny, folder, "--trainer.devices", "2", "--trainer.strategy", "ddp")
    with log.open("w") as file:
        run = subprocess.Popen([sys.executable, "-m", "wavlm_lightning", *options], stdout=file, stderr=file)
    try:
        wait_for_checkpoint(folder, 0.0, log)
        os.kill(children(run.pid)[0], signal.SIGKILL)
        assert run.wait(timeout=PATIENCE) != 0
    finally:
        run.kill()
    assert DIED in log.read_text()


def test_a_process_that_reads_audio(tiny, tmp_path):
    options = ["--data.num_workers", "2"]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    train(tiny, whole, options, ranks=1)
    log = tmp_path / "broken.log"
    processes = start(1, log, main, command(tiny, broken, *options))
    wait_for_checkpoint(broken, 0.0, log)
    while processes[0].is_alive():  # one that has read its last batch of an epoch is not missed
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, IndexError):
            os.kill(children(processes[0].pid)[-1], signal.SIGKILL)
        time.sleep(0.05)
    assert ended(processes, PATIENCE) == [2], log.read_text()[-3000:]
    said = log.read_text()
    assert "a process that reads audio has died" in said and "Traceback" not in said
    train(tiny, broken, options, ranks=1)
    same_weights(broken, whole)
