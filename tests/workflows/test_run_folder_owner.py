"""A run folder has one owner at a time, who sweeps what a killed one left."""

from __future__ import annotations

from pathlib import Path

import lightning.pytorch as pl

from wavlm_lightning.cli import main
from wavlm_lightning.workflows.fit import fit


class SecondFit(pl.Callback):
    """Starts the same run again while it trains."""

    def __init__(self, words: list[str]) -> None:
        self.words, self.status = words, 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.status = main(["fit", *self.words])


def test_two_fits_in_one_folder(tiny: Path, tmp_path: Path, capsys) -> None:
    run = tmp_path / "run"
    words = ["-c", "configs/superb/mini/ks.yaml", "--model.upstream", "Fbank", "--data.corpus", str(tiny / "ks")]
    words += ["--data.cache", "null", "--trainer.max_steps", "2", "--trainer.val_check_interval", "2", "--threads", "1"]
    words += ["--trainer.accelerator", "cpu", "--trainer.default_root_dir", str(run)]
    (run / "checkpoints").mkdir(parents=True)
    for left in (run / f"config.yaml.{'0' * 32}.tmp", run / "checkpoints" / "last.ckpt.new"):
        left.write_text("half")
    second = SecondFit(words)
    fit(*words, callbacks=[second])
    said = capsys.readouterr().err
    assert second.status == 2 and f"{run}: another `wavlm fit` trains there" in said and "Traceback" not in said
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]
    assert not [path for path in run.iterdir() if path.suffix in (".tmp", ".lock")]
    fit(*words, "--ckpt_path", "last", "--trainer.max_steps", "4")  # the lock is free again
