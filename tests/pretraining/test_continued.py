"""Going on: from an exported encoder with its head, and after a kill that left no time to say goodbye."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from quiet import quiet_trainer
from ranks import ended, start
from test_pretraining_runs import codebooks, data, fit, module

from wavlm_lightning.cli import main
from wavlm_lightning.pretraining import MaskedPrediction, WavLMPretraining
from wavlm_lightning.system.errors import UserError


@pytest.fixture(scope="module")
def stopped(tiny, tmp_path_factory) -> tuple[Path, float]:
    """A run folder after two updates, and the loss of the third, had it gone on."""
    folder = tmp_path_factory.mktemp("stopped")
    saver = ModelCheckpoint(
        folder / "checkpoints", filename="last", every_n_train_steps=2, enable_version_counter=False
    )
    curve = fit(module(), data(tiny), 3, callbacks=[saver])
    assert main(["export", str(folder), str(folder / "exported")]) == 0
    return folder, curve.losses[2]


@pytest.mark.parametrize("source", ["exported", "."])
def test_exported_and_imported_the_next_loss_is_that_of_a_run_that_never_stopped(tiny, stopped, source):
    folder, expected = stopped
    source_data = data(tiny)
    source_data.setup("fit")
    loader = source_data.train_dataloader()
    batch = loader.dataset[list(loader.sampler)[2]]
    losses = {}
    for keep_head in (True, False):
        model = module(encoder=str(folder / source), encoder_overrides=None, keep_head=keep_head)
        model.build(codebooks(source_data))
        model.trainer = quiet_trainer(max_steps=3, log_every_n_steps=1000)
        losses[keep_head] = model.training_step(batch, 2).item()
    assert losses[True] == expected
    assert losses[False] != expected  # a fresh head


def test_a_head_goes_with_its_codebook_and_its_objectives(tiny, stopped, tmp_path):
    folder = str(stopped[0] / "exported")
    books = {"other": {"size": 20, "sha256": "another"}}
    with pytest.raises(UserError, match=r"predicts another codebook than data\.labels"):
        module(encoder=folder, encoder_overrides=None, keep_head=True).build(books)
    source = data(tiny)
    source.setup("fit")
    with pytest.raises(UserError, match="has other objectives than this configuration"):
        model = module(encoder=folder, encoder_overrides=None, keep_head=True, objectives=[MaskedPrediction()])
        model.build(codebooks(source))
    module().encoder.save_pretrained(tmp_path / "bare")
    with pytest.raises(UserError, match="no pre-training head there"):
        module(encoder=str(tmp_path / "bare"), encoder_overrides=None, keep_head=True).build(codebooks(source))


def save(run: WavLMPretraining, folder: Path) -> None:
    """The newest checkpoint of a run in `folder`."""
    checkpoint = {"state_dict": run.state_dict(), "global_step": 1}
    run.on_save_checkpoint(checkpoint)
    (folder / "checkpoints").mkdir(exist_ok=True)
    torch.save(checkpoint, folder / "checkpoints" / "last.ckpt")


def test_a_head_goes_with_the_labels_of_each_objective(tiny, tmp_path):
    """Two codebooks of one size: nothing but their hashes tells the objectives apart."""
    books = {"first": {"size": 20, "sha256": "a"}, "second": {"size": 20, "sha256": "b"}}

    def of(*labels: str | None, **changes) -> WavLMPretraining:
        objectives = [MaskedPrediction(final_dim=16, labels=each) for each in labels]
        return module(objectives=objectives, **changes)

    run = of(None, "second")
    run.build(books)
    save(run, tmp_path)
    assert main(["export", str(tmp_path), str(tmp_path / "exported")]) == 0
    for source in (tmp_path, tmp_path / "exported"):
        kept = {"encoder": str(source), "encoder_overrides": None, "keep_head": True}
        of("first", "second", **kept).build(books)
        for labels, wrong in ((("second", "first"), "0, 1"), ((None, None), "1")):
            with pytest.raises(UserError, match=rf"objectives {wrong} \(counted from 0\) predict other labels"):
                of(*labels, **kept).build(books)


def test_the_head_of_a_run_is_as_new_as_its_encoder(tiny, tmp_path):
    """Also where an older state of the run was exported into its own folder."""
    run = module()
    run.build({"labels": {"size": 20, "sha256": "a"}})
    for value in (1.0, 2.0):
        with torch.no_grad():
            run.objectives[0].codewords.fill_(value)
            run.encoder.masked_spec_embed.fill_(value)
        save(run, tmp_path)
        if value == 1.0:
            assert main(["export", str(tmp_path), str(tmp_path)]) == 0
    on = module(encoder=str(tmp_path), encoder_overrides=None, keep_head=True)
    on.build({"labels": {"size": 20, "sha256": "a"}})
    assert on.encoder.masked_spec_embed.unique().tolist() == on.objectives[0].codewords.unique().tolist() == [2.0]


@pytest.mark.slow
def test_killed_in_the_middle_of_a_step_it_ends_with_the_same_weights(tiny, tmp_path):
    """SIGKILL, at whatever instruction it hits; then on to the weights of an uninterrupted run, bit for bit."""

    def command(folder: Path, *more: str) -> list[str]:
        where = ["--data.corpus", str(tiny / "pretrain"), "--trainer.default_root_dir", str(folder)]
        how = ["--trainer.accelerator", "cpu", "--trainer.precision", "32-true", "--trainer.max_steps", "24"]
        small = ["--data.batch_seconds", "5", "--checkpoint_every", "3", "--trainer.val_check_interval", "4"]
        return ["fit", "-c", "configs/pretrain/tiny_waveform.yaml", *where, *how, *small, *more]

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    newest, log = killed / "checkpoints" / "last.ckpt", tmp_path / "log"
    assert ended(start(1, log, main, command(whole)), 120) == [0], log.read_text()[-2000:]
    run = start(1, log, main, command(killed))
    deadline = time.monotonic() + 120
    while not newest.exists() and run[0].is_alive() and time.monotonic() < deadline:
        time.sleep(0.02)
    run[0].kill()
    assert ended(run, 60) == [-signal.SIGKILL] and newest.exists(), log.read_text()[-2000:]
    stopped_at = torch.load(newest, weights_only=True)["global_step"]
    assert 0 < stopped_at < 24
    assert ended(start(1, log, main, command(killed, "--ckpt_path", "last")), 120) == [0], log.read_text()[-2000:]
    weights = [
        torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"] for folder in (whole, killed)
    ]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
