"""The probe scores the encoder as it is, at fixed updates, and the run does not notice."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from quiet import quiet_trainer
from ranks import together

from wavlm_lightning.callbacks.probe import Probe, Snapshot
from wavlm_lightning.cli import main
from wavlm_lightning.encoder import WavLM, WavLMConfig
from wavlm_lightning.pretraining import MaskedPrediction, PretrainingData, WavLMPretraining
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks import KeywordSpotting, PhonemeRecognition, SpeakerIdentification, TaskData
from wavlm_lightning.upstreams import Fbank

SMALL = {"layers": 1, "conv_channels": [8, 8, 8, 8, 16, 16, 32], "dim": 32, "heads": 2, "ffn_dim": 64}


class Losses(ModelCheckpoint):
    """Remembers losses and other random numbers of a run, after whatever else happens in a step; keeps every step."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, filename="{step}", every_n_train_steps=1, save_top_k=-1)
        self.seen: list[tuple[float, float, float, float]] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        loss = float(outputs["loss"])
        self.seen.append((loss, float(torch.rand(())), float(np.random.random()), random.random()))


def module() -> WavLMPretraining:
    objectives = [MaskedPrediction(final_dim=16, codeword_init="normal")]
    return WavLMPretraining("tiny", SMALL, objectives, learning_rate=2e-3)


def fit(tiny: Path, folder: Path, probe: Probe | None, steps: int = 4, ckpt_path: Path | None = None, **settings):
    """A short run; returns module, what its steps gave, and the curves by name and step."""
    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)
    model, losses = module(), Losses(folder)
    callbacks = [*([probe] if probe else []), losses]
    logger = CSVLogger(folder, name="", version="")
    trainer = quiet_trainer(max_steps=steps, callbacks=callbacks, logger=logger, log_every_n_steps=1, **settings)
    data = PretrainingData(str(tiny / "pretrain"), "mfcc100", batch_seconds=5.0, max_seconds=2.0, min_seconds=1.0)
    trainer.fit(model, data, ckpt_path=ckpt_path, weights_only=True)
    rows = list(csv.DictReader((folder / "metrics.csv").open()))
    return model, losses.seen, rows


def corpora(tiny: Path) -> dict[str, str]:
    return {name: str(tiny / name) for name in ("pr", "sid")}


@pytest.fixture(scope="module")
def probed(tiny, tmp_path_factory):
    """A run of four updates, probed after two and four."""
    folder = tmp_path_factory.mktemp("probed")
    return folder, *fit(tiny, folder, Probe(corpora(tiny), every=2, steps=5))


def figures(rows, name: str) -> dict[int, float]:
    """By updates made."""
    return {int(row["step"]) + 1: float(row[name]) for row in rows if row.get(name)}


def test_the_run_does_not_notice(tiny, tmp_path, probed):
    _, model, seen, _ = probed
    plain, expected, _ = fit(tiny, tmp_path, None)
    assert seen == expected
    assert all(torch.equal(value, plain.state_dict()[name]) for name, value in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.encoder.parameters())


def test_figures_are_those_of_the_suite_at_that_update(tiny, probed):
    """Heads fitted by hand on the encoder of the checkpoint: the last probe is of the encoder as it was then."""
    folder, _, _, rows = probed
    state = torch.load(folder / "step=2.ckpt", weights_only=True)["state_dict"]
    model = module()
    model.encoder.load_state_dict({k.removeprefix("encoder."): v for k, v in state.items() if k.startswith("encoder.")})
    for kind, column, rate, settings in (
        (PhonemeRecognition, "pr_per", 2e-3, {"batch_size": 16}),
        (SpeakerIdentification, "sid_accuracy", 3e-3, {"batch_size": 32, "max_seconds": 8.0}),
    ):
        found = figures(rows, f"probe/{column}")
        assert set(found) == {2, 4}
        task = kind(Snapshot(model.encoder), learning_rate=rate)
        trainer = quiet_trainer(max_steps=5, gradient_clip_val=1.0, limit_val_batches=0)
        data = TaskData(str(tiny / task.name.lower()), **settings)
        trainer.fit(task, data)
        trainer = quiet_trainer()
        by_hand = trainer.validate(task, data, verbose=False)[0]
        assert found[2] == pytest.approx(by_hand[f"valid/{task.metric}"], abs=1e-6)


def test_a_resumed_run_probes_at_the_same_updates(tiny, tmp_path, probed):
    folder, _, seen, rows = probed
    _, rest, again = fit(tiny, tmp_path, Probe(corpora(tiny), every=2, steps=5), ckpt_path=folder / "step=3.ckpt")
    assert [loss for loss, *_ in rest] == [loss for loss, *_ in seen[3:]]
    for name in ("probe/pr_per", "probe/sid_accuracy"):
        assert figures(again, name) == {4: figures(rows, name)[4]}


def test_a_rate_of_a_task_that_is_not_probed_is_refused():
    with pytest.raises(UserError, match="learning_rates names sid, of which corpora names no corpus"):
        Probe({"pr": "somewhere"}, learning_rates={"sid": 1e-3})


def test_mistakes_are_found_before_the_run_begins(tiny, tmp_path):
    with pytest.raises(UserError, match="corpora names ks"):
        Probe({"ks": "x"})
    with pytest.raises(UserError, match="corpora is empty"):
        Probe({})
    with pytest.raises(UserError, match="must be at least 1"):
        Probe(corpora(tiny), every=0)
    with pytest.raises(UserError, match=r"no corpus\.json here"):
        fit(tiny, tmp_path, Probe({"pr": str(tmp_path / "nowhere")}, every=2))
    body = json.loads((tiny / "pr" / "corpus.json").read_text())
    body["inventories"]["phones"] = None
    (tmp_path / "corpus.json").write_text(json.dumps(body))
    with pytest.raises(UserError, match="has no 'phones' labels"):
        fit(tiny, tmp_path, Probe({"pr": str(tmp_path)}, every=2))
    with pytest.raises(UserError, match="no split 'train'"):
        fit(tiny, tmp_path, Probe({"sid": str(tiny / "er")}, every=2))
    trainer = quiet_trainer(max_steps=1, callbacks=[Probe(corpora(tiny))])
    with pytest.raises(UserError, match="works in pre-training, not with KeywordSpotting"):
        trainer.fit(KeywordSpotting(Fbank()), TaskData(str(tiny / "ks")))


@pytest.mark.slow
def test_from_a_configuration(tiny, tmp_path):
    """As a callback in YAML, in a run of `wavlm fit`."""
    probe = {"corpora": corpora(tiny), "every": 2, "steps": 2}
    callbacks = [{"class_path": "wavlm_lightning.callbacks.Probe", "init_args": probe}]
    (tmp_path / "probe.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": callbacks}}))
    arguments = ["fit", "-c", "configs/pretrain/tiny_waveform.yaml", "-c", str(tmp_path / "probe.yaml")]
    arguments += ["--data.corpus", str(tiny / "pretrain"), "--trainer.default_root_dir", str(tmp_path / "run")]
    arguments += ["--trainer.accelerator", "cpu", "--trainer.precision", "32-true", "--trainer.max_steps", "2"]
    assert main(arguments) == 0
    rows = list(csv.DictReader((tmp_path / "run" / "curves" / "version_0" / "metrics.csv").open()))
    assert set(figures(rows, "probe/pr_per")) == {2}
    assert 0 <= figures(rows, "probe/sid_accuracy")[2] <= 1


@pytest.mark.slow
def test_other_processes_wait(tiny, tmp_path):
    """The first of two processes probes, its metrics do not wait for the other, and both go on together."""
    together(2, tmp_path / "log", one_of_two_processes, tiny, tmp_path)
    rows = list(csv.DictReader((tmp_path / "metrics.csv").open()))
    assert set(figures(rows, "probe/pr_per")) == set(figures(rows, "probe/sid_accuracy")) == {1, 2}
    assert {path.name for path in tmp_path.glob("rank*")} == {"rank0", "rank1"}


def one_of_two_processes(tiny: Path, out: Path) -> None:
    probe = Probe(corpora(tiny), every=1, steps=2)
    trained = fit(tiny, out, probe, steps=2, devices=2, strategy="ddp", limit_val_batches=0)[0]
    (out / f"rank{trained.global_rank}").touch()


def test_a_snapshot_of_a_compiled_encoder_runs_its_own_layers(monkeypatch):
    """In its own mode and with its own weights, not the compiled functions of the run's layers."""
    monkeypatch.setattr(torch, "compile", lambda run, **_: lambda *values: run(*values))
    encoder = WavLM(WavLMConfig.preset("tiny", layers=2, dropout=0.1)).train()
    encoder.encoder.run_layers(recomputed=False, compiled=True)
    snapshot, audio = Snapshot(encoder), torch.randn(1, 8000)
    lengths = torch.tensor([8000])
    first = snapshot(audio, lengths).hidden
    torch.testing.assert_close(snapshot(audio, lengths).hidden, first)
    with torch.no_grad():
        for weight in encoder.encoder.layers.parameters():
            weight.zero_()
    torch.testing.assert_close(snapshot(audio, lengths).hidden, first)
