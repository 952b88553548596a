"""kill -9 of one process of a run, or of one that reads audio: the rest stops and says so, and the run goes on exactly."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from wavlm_lightning.cli import main
from wavlm_lightning.upstreams.wavlm import load_encoder, read_run_checkpoint

STEPS = 40
PATIENCE = 240
"""Seconds; a run takes 15 on two idle cores."""


def command(tiny: Path, folder: Path, *options: str) -> list[str]:
    fit = [sys.executable, "-m", "wavlm_lightning", "fit", "-c", "configs/pretrain/tiny.yaml"]
    fit += [
        "--data.corpus",
        str(tiny / "pretrain"),
        "--trainer.default_root_dir",
        str(folder),
        "--checkpoint_every",
        "4",
    ]
    fit += ["--data.batch_seconds", "4", "--trainer.accelerator", "cpu", "--trainer.precision", "32-true"]
    fit += [
        "--trainer.max_steps",
        str(STEPS),
        "--trainer.limit_val_batches",
        "0",
        "--model.encoder_overrides.layers",
        "2",
    ]
    return [*fit, *options]


def children(pid: int) -> list[int]:
    """Processes that one has started, oldest first."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def killed(arguments: list[str], folder: Path, which: int) -> tuple[int, str]:
    """Start a run, kill one of its processes once there is a checkpoint; exit status and what it said."""
    log = folder.with_suffix(".log")
    with log.open("w") as file:
        run = subprocess.Popen(arguments, stdout=file, stderr=subprocess.STDOUT, text=True)
    try:
        end = time.monotonic() + PATIENCE
        while not (folder / "checkpoints" / "last.ckpt").exists():
            assert run.poll() is None and time.monotonic() < end, log.read_text()[-3000:]
            time.sleep(0.05)
        os.kill(children(run.pid)[which], signal.SIGKILL)
        status = run.wait(timeout=PATIENCE / 4)
    finally:
        if run.poll() is None:
            run.kill()
    return status, log.read_text()


def finish(arguments: list[str]) -> None:
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr[-3000:]


def same_weights(one: Path, other: Path) -> None:
    found, wanted = (read_run_checkpoint(folder / "checkpoints" / "last.ckpt") for folder in (one, other))
    assert found["global_step"] == wanted["global_step"] == STEPS
    assert found["state_dict"].keys() == wanted["state_dict"].keys()
    for name, value in found["state_dict"].items():
        assert torch.equal(value, wanted["state_dict"][name]), name


@pytest.mark.slow
@pytest.mark.timeout(4 * PATIENCE)
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_a_rank(tiny, tmp_path, strategy):
    options = ["--trainer.devices", "2", "--trainer.strategy", strategy]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    finish(command(tiny, whole, *options))
    status, said = killed(command(tiny, broken, *options), broken, 0)
    assert status != 0
    assert "another process of this run has died" in said and "--ckpt_path last" in said
    finish(command(tiny, broken, *options, "--ckpt_path", "last"))
    same_weights(broken, whole)
    assert (broken / "checkpoints" / "last.ckpt").is_dir() is (strategy == "fsdp2")
    assert not [path.name for path in (broken / "checkpoints").iterdir() if path.suffix in (".new", ".old")]
    if strategy == "fsdp2":  # put together for everybody else
        assert main(["export", str(broken), str(tmp_path / "hf")]) == 0
        exported, encoder = load_encoder(tmp_path / "hf"), load_encoder(broken)
        for name, value in exported.state_dict().items():
            assert torch.equal(value, encoder.state_dict()[name]), name


@pytest.mark.slow
@pytest.mark.timeout(4 * PATIENCE)
def test_a_process_that_reads_audio(tiny, tmp_path):
    options = ["--data.num_workers", "2"]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    finish(command(tiny, whole, *options))
    status, said = killed(command(tiny, broken, *options), broken, -1)
    assert status == 2
    assert "a process that reads audio has died" in said and "Traceback" not in said
    finish(command(tiny, broken, *options, "--ckpt_path", "last"))
    same_weights(broken, whole)
