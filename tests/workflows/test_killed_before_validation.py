"""A run that is killed between `last.ckpt` and the validation that follows it: the validation is made up when it is resumed."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

from wavlm_lightning.reports.curves import read_curves
from wavlm_lightning.system.run_folder import BEST, LAST, checkpoint, curve_files
from wavlm_lightning.workflows.fit import fit

SMALL = [
    *("--trainer.accelerator", "cpu", "--trainer.devices", "1", "--trainer.precision", "32-true"),
    *("--trainer.enable_progress_bar", "false", "--trainer.num_sanity_val_steps", "0", "--threads", "1"),
]
SHAPE = {"layers": 1, "dim": 64, "ffn_dim": 64, "conv_channels": [16] * 7}


class AsKilled(pl.Callback):
    """Keeps the run folder as a SIGKILL at the beginning of each validation would leave it."""

    def __init__(self, run: Path, kept: Path) -> None:
        self.run, self.kept = run, kept
        self.validations: list[int] = []

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.validations.append(trainer.global_step)
        shutil.copytree(self.run, self.kept / str(trainer.global_step), dirs_exist_ok=True)


def options(kind: str, tiny: Path, run: Path) -> list[str]:
    if kind != "encoder":
        made = ["-c", "configs/superb/mini/ks.yaml", "--model.upstream", "Fbank", "--data.corpus", str(tiny / "ks")]
        made += ["--data.cache", "null", "--data.batch_size", "8"]
        made += ["--data.batch_size", "16"] if kind == "short epochs" else []
    else:
        made = [
            "-c",
            "configs/pretrain/tiny_waveform.yaml",
            "--data.corpus",
            str(tiny / "pretrain"),
            "--data.batch_seconds",
            "4",
        ]
        made += ["--model.encoder_overrides", str(SHAPE), "--trainer.limit_val_batches", "2"]
    made += [*SMALL, "--trainer.max_steps", "6", "--trainer.val_check_interval", "2", "--checkpoint_every", "1"]
    made += ["--trainer.check_val_every_n_epoch", "null", "--trainer.default_root_dir", str(run)]
    return made


def state(path: Path) -> dict:
    return torch.load(path, weights_only=True)


@pytest.fixture(scope="module", params=["head", "short epochs", "encoder"])
def undisturbed(request, tiny, tmp_path_factory):
    """Options, run folder, folders as killed, and what the run ended with."""
    root = tmp_path_factory.mktemp("killed")
    run, kept = root / "run", root / "kept"
    watch = AsKilled(run, kept)
    words = options(request.param, tiny, run)
    fit(*words, callbacks=[watch])
    assert watch.validations == [2, 4, 6]
    return words, run, kept, state(checkpoint(run, BEST)), state(checkpoint(run, LAST)), read_curves(curve_files(run))


@pytest.mark.parametrize("step", [4, 6])  # in the middle, and with nothing left to train
def test_the_validation_is_made_up_once(undisturbed, step, tmp_path):
    words, run, kept, best, last, curves = undisturbed
    shutil.rmtree(run)
    shutil.copytree(kept / str(step), run)
    assert state(checkpoint(run, LAST))["global_step"] == step
    watch = AsKilled(run, tmp_path)
    fit(*words, "--ckpt_path", "last", callbacks=[watch])
    assert watch.validations == list(range(step, 7, 2))
    for name, whole in ((BEST, best), (LAST, last)):
        again = state(checkpoint(run, name))
        assert again["global_step"] == whole["global_step"]
        assert all(torch.equal(again["state_dict"][key], value) for key, value in whole["state_dict"].items())
    monitor = next(key for key in curves.series if key.startswith("valid/"))
    after = read_curves(curve_files(run))[monitor]
    assert (after.steps, after.values) == (curves[monitor].steps, curves[monitor].values)
    # Nothing is left to do.
    watch = AsKilled(run, tmp_path)
    fit(*words, "--ckpt_path", "last", callbacks=[watch])
    assert watch.validations == []


class Terminated(pl.Callback):
    """Sends SIGTERM in the middle of the validation after an update."""

    def __init__(self, update: int) -> None:
        self.update = update

    def on_validation_batch_start(self, trainer: pl.Trainer, *_: Any, **__: Any) -> None:
        if trainer.global_step == self.update:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("kind", ["head", "short epochs"])
def test_sigterm_in_a_validation_stops_at_once_and_it_is_made_up(tiny, tmp_path, kind):
    words = options(kind, tiny, tmp_path / "run")
    with pytest.raises(SystemExit):
        fit(*words, callbacks=[Terminated(4)])
    watch = AsKilled(tmp_path / "run", tmp_path / "kept")
    fit(*words, "--ckpt_path", "last", callbacks=[watch])
    assert watch.validations == [4, 6]
