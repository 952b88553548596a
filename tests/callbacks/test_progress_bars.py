"""Bars of runs: the names of the log beside that of a training, lines where it is read from a pipe."""

from __future__ import annotations

from pathlib import Path

import pytest
from quiet import quiet_trainer

from wavlm_lightning.callbacks.probe import Probe
from wavlm_lightning.callbacks.progress import StepProgress
from wavlm_lightning.pretraining import MaskedPrediction, PretrainingData, WavLMPretraining
from wavlm_lightning.system import progress
from wavlm_lightning.tasks import KeywordSpotting, TaskData
from wavlm_lightning.upstreams import Fbank, WavLMUpstream

SMALL = {"layers": 1, "conv_channels": [8, 8, 8, 8, 16, 16, 32], "dim": 32, "heads": 2, "ffn_dim": 64}


@pytest.fixture
def every_line(monkeypatch) -> None:
    monkeypatch.setattr(progress, "SECONDS", 0.0)
    monkeypatch.setattr(progress, "SHARE", 10**9)


def test_pre_training_shows_loss_and_accuracy_by_the_names_of_the_log(tiny: Path, every_line, capsys):
    model = WavLMPretraining("tiny", SMALL, [MaskedPrediction(final_dim=16)], learning_rate=2e-3)
    data = PretrainingData(str(tiny / "pretrain"), "mfcc100", batch_seconds=5.0, max_seconds=2.0, min_seconds=1.0)
    probe = Probe({"sid": str(tiny / "sid")}, every=2, steps=2, valid_batches=1)
    trainer = quiet_trainer(
        max_steps=3,
        log_every_n_steps=1,
        val_check_interval=2,
        callbacks=[StepProgress(), probe],
        enable_progress_bar=True,
    )
    trainer.fit(model, data)
    said = capsys.readouterr().err
    last = [line for line in said.splitlines() if "3/3" in line][-1]
    for name in ("train/loss", "train/masked_accuracy", "valid/loss", "valid/masked_accuracy"):
        assert f"{name}=" in last and name in trainer.callback_metrics
    assert "probe after 2 updates: probe/sid_accuracy " in said and "probe SID: 100% 2/2" in said
    assert "\r" not in said


def test_caching_and_random_weights_are_said_once(tiny: Path, tmp_path: Path, every_line, capsys):
    capsys.readouterr()
    task = KeywordSpotting(WavLMUpstream("random:tiny", overrides={"layers": 1}), learning_rate=1e-3)
    data = TaskData(str(tiny / "ks"), batch_size=8, cache=str(tmp_path / "cache"))
    trainer = quiet_trainer(max_steps=1, callbacks=[StepProgress()], enable_progress_bar=True)
    trainer.fit(task, data)
    said = capsys.readouterr().err
    assert "cache train: 100%" in said and "cache valid: 100%" in said
    trainer.test(task, data)
    said = capsys.readouterr().err
    assert [line for line in said.splitlines() if line.startswith("test: 100%")]


def test_a_task_on_random_weights_says_so_in_a_line(tiny: Path, caplog):
    data = TaskData(str(tiny / "ks"), batch_size=8)
    with caplog.at_level("INFO", logger="lightning.pytorch.utilities.rank_zero"):
        quiet_trainer(max_steps=1).fit(
            KeywordSpotting(WavLMUpstream("random:tiny", overrides={"layers": 1}), 1e-3), data
        )
    lines = [text for text in caplog.messages if "random weights" in text]
    assert lines == ["KS: the encoder starts from random weights (tiny), and its score is that of a control"]
    caplog.clear()
    quiet_trainer(max_steps=1).fit(KeywordSpotting(Fbank(cmvn=False), 1e-3), data)
    assert not [text for text in caplog.messages if "random weights" in text]
