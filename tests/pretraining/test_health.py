"""Health changes nothing, tells the truth, and stops what has collapsed."""

from __future__ import annotations

import csv
from functools import partial
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.strategies import SingleDeviceStrategy
from quiet import quiet_trainer
from ranks import together
from test_pretraining_runs import data, fit, module

from wavlm_lightning.callbacks.checkpoints import Newest, StopBetweenUpdates
from wavlm_lightning.encoder import WavLM, WavLMConfig
from wavlm_lightning.pretraining import MaskedCopies, WavLMPretraining, health
from wavlm_lightning.pretraining.flops import encoder_flops
from wavlm_lightning.pretraining.health import Health, Speed, padding_share
from wavlm_lightning.pretraining.objectives import ContrastivePrediction
from wavlm_lightning.system.errors import UserError


class Unwatched(WavLMPretraining):
    """Without the Health that every run has, so that a test can bring its own."""

    def configure_callbacks(self) -> list[pl.Callback]:
        return []


class Flatten(pl.Callback):
    """Ruins the top layer for some validations: its last norm forgets the input."""

    def __init__(self, *validations: int) -> None:
        self.validations, self.number = validations, 0

    def on_validation_start(self, trainer, pl_module) -> None:
        norm = pl_module.encoder.encoder.layer_norm.weight
        self.kept = norm.detach().clone()
        self.number += 1
        if self.number in self.validations:
            norm.data.zero_()

    def on_validation_end(self, trainer, pl_module) -> None:
        pl_module.encoder.encoder.layer_norm.weight.data.copy_(self.kept)


class Spoilt(Unwatched):
    """Whose gradients are no numbers from the third update on."""

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        return loss * float("nan") if self.trainer.global_step >= 2 else loss


def run(model, source, steps: int, *callbacks, **settings):
    """A run that validates after every update."""
    often = {"check_val_every_n_epoch": None, "val_check_interval": 1}
    return fit(model, source, steps, callbacks=list(callbacks), **{**often, **settings})


def effective_rank(frames: np.ndarray) -> float:
    """By definition."""
    values = np.linalg.svd(frames - frames.mean(0), compute_uv=False)
    shares = values / values.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def test_training_is_the_same_with_and_without(tiny):
    """With dropout, LayerDrop and mixing, whose random numbers it might disturb."""
    losses, weights = [], []
    for watch in ([], [Health()]):
        overrides = {**module().encoder.config.to_dict(), "dropout": 0.2, "layer_drop": 0.3}
        model = module(Unwatched, encoder_overrides=overrides)
        losses.append(run(model, data(tiny), 6, *watch, log_every_n_steps=1, val_check_interval=2).losses)
        weights.append(model.state_dict())
    assert losses[0] == losses[1]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def test_every_run_logs_its_health(tiny, tmp_path):
    model, source = module(), data(tiny)
    logger = CSVLogger(tmp_path, name="", version="")
    run(model, source, 4, logger=logger, log_every_n_steps=2, val_check_interval=4)
    rows = list(csv.DictReader((tmp_path / "metrics.csv").open()))
    figures = {name: [float(row[name]) for row in rows if row[name]] for name in rows[0]}
    for name in ("audio_seconds_per_second", "model_teraflops_per_second"):
        assert len(figures[f"health/{name}"]) == 2 and min(figures[f"health/{name}"]) > 0
    assert all(0 <= share < 0.2 for share in figures["health/padding_share"])
    assert "health/model_flops_utilisation" not in figures and "health/peak_memory_gib" not in figures
    batch = next(iter(source.val_dataloader()))
    with torch.no_grad():
        hidden = model.encoder.eval()(batch.audio).hidden
    for number, states in enumerate(hidden):
        expected = effective_rank(states.reshape(-1, states.shape[-1]).double().numpy())
        assert figures[f"health/effective_rank/layer_{number:02}"] == [pytest.approx(expected, rel=1e-3)]


@pytest.mark.parametrize("preset", ["tiny", "base", pytest.param("hubert_base", marks=pytest.mark.slow)])
def test_fresh_encoders_pass(tiny, preset):
    """By a factor of ten, on as little as six seconds of speech."""
    source = data(tiny)
    source.setup("fit")
    audio = next(iter(source.val_dataloader())).audio[:3, :32000]
    with torch.no_grad():
        top = WavLM(WavLMConfig.preset(preset)).eval()(audio).hidden[-1]
    assert effective_rank(top.reshape(-1, top.shape[-1]).double().numpy()) > 10 * Health().minimum_rank


def test_young_runs_pass(tiny):
    """Masked prediction and contrastive learning at a rate that is too low to learn anything."""
    watch = Health(patience=1)
    objectives = [*module().objectives, ContrastivePrediction(final_dim=16, entries=32)]
    run(module(Unwatched, objectives=objectives, learning_rate=1e-9), data(tiny), 3, watch)
    assert watch.collapsed_in_a_row == 0


def test_collapse_of_the_top_layer_ends_the_run(tiny):
    model = module(Unwatched)
    with pytest.raises(UserError, match=r"step 3: .* at 2 validations in a row \(effective rank .* 0.00, below 4\)"):
        run(model, data(tiny), 9, Flatten(2, 3), Health(patience=2))
    assert model.trainer.global_step == 3


class Overflow(pl.Callback):
    """Makes the top layer infinite in every validation, as fp16 does when it overflows."""

    def on_validation_start(self, trainer, pl_module) -> None:
        norm = pl_module.encoder.encoder.layer_norm.weight
        self.kept = norm.detach().clone()
        norm.data.fill_(torch.inf)

    def on_validation_end(self, trainer, pl_module) -> None:
        pl_module.encoder.encoder.layer_norm.weight.data.copy_(self.kept)


def test_states_that_are_no_numbers_are_a_collapse_and_no_crash(tiny):
    with pytest.raises(UserError, match="the run has collapsed"):
        fit(module(Unwatched), data(tiny), 9, callbacks=[Overflow(), Health(patience=3)], val_check_interval=1)


def test_a_passing_spike_does_not(tiny):
    watch = Health(patience=2)
    run(module(Unwatched), data(tiny), 5, Flatten(1, 3, 5), watch)
    assert watch.collapsed_in_a_row == 1


def test_collapse_of_the_predictions_ends_the_run(tiny):
    """All predictions are below a perplexity of 1000; that of the targets is none of them."""
    with pytest.raises(UserError) as caught:
        run(module(Unwatched), data(tiny), 5, Health(patience=1, minimum_perplexity=1000.0))
    assert str(caught.value).startswith("step 1: the run has collapsed, at 1 validations in a row (valid/perplexity ")
    assert "target_perplexity 1" not in str(caught.value)


def test_codes_are_judged_by_codebook(tiny):
    """Two collapsed codebooks have a perplexity of 2 together."""
    model = module(Unwatched, objectives=[ContrastivePrediction(final_dim=16, entries=32)])
    signs = Health()._signs
    assert not signs(model, {"valid/code_perplexity": torch.tensor(30.0)})
    assert signs(model, {"valid/code_perplexity": torch.tensor(2.0)}) == ["valid/code_perplexity 2.00, below 4"]


def test_resume_goes_on_counting(tiny, tmp_path):
    saver = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1)
    whole = run(module(Unwatched), data(tiny), 4, Flatten(2), Health(), saver)
    watch = Health(patience=2)
    callbacks = [Flatten(1), watch]
    with pytest.raises(UserError, match="2 validations in a row"):
        run(module(Unwatched), data(tiny), 4, *callbacks, ckpt_path=tmp_path / "step=3.ckpt")
        # the checkpoint of step 3 was written before its validation, so it knows of the collapse at step 2
    rest = run(module(Unwatched), data(tiny), 4, Health(), ckpt_path=tmp_path / "step=2.ckpt")
    assert rest.losses == whole.losses[2:]


class Heard(pl.Callback):
    """Seconds of the crops of a run, and frames of them."""

    def __init__(self) -> None:
        self.audio = self.frames = 0.0

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        rows, samples = batch.audio.shape
        self.audio += rows * samples / 16000
        self.frames += rows * pl_module.encoder.config.frames(samples)


@pytest.mark.parametrize("copies", [None, MaskedCopies(3, visible_only=False), MaskedCopies(3)])
def test_a_run_counts_its_audio_and_the_frames_of_all_copies(tiny, tmp_path, copies):
    saver = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1)
    heard, whole = Heard(), Health()
    run(module(Unwatched, copies=copies), data(tiny), 4, heard, whole, saver, log_every_n_steps=2)
    again = Health()
    run(module(Unwatched, copies=copies), data(tiny), 4, again, ckpt_path=tmp_path / "step=1.ckpt", log_every_n_steps=2)
    assert whole.totals.state() == again.totals.state()
    assert whole.totals.audio == pytest.approx(heard.audio) and whole.totals.new == [0.0, 0.0]
    frames = heard.frames * (1 if copies is None else copies.copies)
    if copies is not None and copies.visible_only:  # about half of them are visible
        assert 0.3 * frames < whole.totals.frames < 0.7 * frames
    else:
        assert whole.totals.frames == frames


def test_a_run_that_was_stopped_counts_its_last_update(tiny, tmp_path):
    class Asks(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
            stopping.asked = trainer.global_step == 1  # as a signal does

    whole, before, after = Health(), Health(), Health()
    run(module(Unwatched), data(tiny), 4, whole)
    stopping = StopBetweenUpdates()
    with pytest.raises(SystemExit):
        run(module(Unwatched), data(tiny), 4, Asks(), stopping, before, Newest(tmp_path, every=1000))
    run(module(Unwatched), data(tiny), 4, after, ckpt_path=tmp_path / "last.ckpt")
    assert sum(before.totals.new) > 0 and whole.totals.state() == after.totals.state()


def test_the_last_updates_are_in_the_logged_cost(tiny, tmp_path):
    heard, logger = Heard(), CSVLogger(tmp_path)
    fit(module(), data(tiny), 5, callbacks=[heard], logger=logger, log_every_n_steps=2)
    rows = list(csv.DictReader((Path(logger.log_dir) / "metrics.csv").open()))
    logged = {row["step"]: row for row in rows if row["health/audio_seconds"]}
    assert list(logged) == ["1", "3", "4"]
    assert float(logged["4"]["health/audio_seconds"]) == pytest.approx(heard.audio)
    assert float(logged["4"]["health/encoder_seconds"]) == pytest.approx(heard.frames / 50)


def test_the_cost_of_an_older_checkpoint_is_unknown():
    watch = Health()
    watch.load_state_dict({"collapsed_in_a_row": 0})
    watch.totals.count_audio(1.0)
    assert watch.totals.read(SingleDeviceStrategy("cpu"), 50.0) == {}


def test_updates_left_out_end_the_run(tiny):
    model = module(Spoilt)
    with pytest.raises(UserError, match=r"step 6: 4 updates in a row were skipped .* lower model\.learning_rate"):
        fit(model, data(tiny), 20, callbacks=[Health(stop_after_skipped=4)])
    assert all(value.isfinite().all() for value in model.state_dict().values())


def test_speed_counts_what_was_trained_and_not_validation(monkeypatch):
    clock = iter([10.0, 11.0, 14.0, 20.0, 24.0])  # first batch, validation from and to, reading twice
    monkeypatch.setattr(health.time, "perf_counter", lambda: next(clock))
    config, strategy = WavLMConfig.preset("tiny"), SingleDeviceStrategy("cpu")
    speed = Speed(partial(encoder_flops, config))
    assert speed.read(strategy) == {}
    speed.count(4, 16000)  # starts the clock
    speed.pause()
    speed.resume()
    speed.count(4, 16000)
    speed.count(2, 48000)
    flops = encoder_flops(config, 4, 16000).training + encoder_flops(config, 2, 48000).training
    figures = speed.read(strategy)
    assert figures == {
        "audio_seconds_per_second": pytest.approx(10 / 7),
        "model_teraflops_per_second": pytest.approx(flops / 7e12),
    }
    assert speed.read(strategy) == {}
    speed.count(4, 16000)
    assert speed.read(strategy)["audio_seconds_per_second"] == pytest.approx(1.0)


def test_padding_is_zeros_at_the_end_of_a_row():
    audio = torch.tensor([[0.0, 1.0, 0.0, 2.0], [3.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 0.0]])
    assert float(padding_share(audio)) == pytest.approx((0 + 3 + 4 + 1) / 16)


def test_two_processes_find_the_same(tiny, tmp_path):
    """Ranks are those of both first batches together, and both processes stop."""
    together(2, tmp_path / "log", one_of_two_processes, tiny, tmp_path)
    kept = [torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2)]
    both = torch.cat([part["top"] for part in kept])
    for part in kept:
        assert part["rank"] == pytest.approx(effective_rank(both.double().numpy()), rel=1e-4)
        assert part["rank"] != pytest.approx(effective_rank(part["top"].double().numpy()), rel=1e-4)
        assert part["speed"] > 0 and "2 validations in a row" in part["error"]


class Keep(pl.Callback):
    """What one of the processes found at its first validation."""

    def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0) -> None:
        if batch_idx == 0:
            self.top = pl_module.encoder(batch.audio).hidden[-1].flatten(0, 1).clone()

    def on_validation_end(self, trainer, pl_module) -> None:
        top = float(trainer.callback_metrics["health/effective_rank/layer_01"])
        self.found = {"top": self.top, "rank": top}


def one_of_two_processes(tiny: Path, out: Path) -> None:
    """Validate three times, collapsed in the eyes of one process alone, and write down what happened."""
    keep, watch = Keep(), Health(patience=2)
    settings = {"check_val_every_n_epoch": None, "val_check_interval": 2, "log_every_n_steps": 2}
    trainer = quiet_trainer(max_steps=6, devices=2, strategy="ddp", callbacks=[watch, keep], **settings)
    if trainer.global_rank == 1:
        watch.minimum_rank = 1000.0
    error = ""
    try:
        trainer.fit(module(Unwatched), data(tiny, batch_seconds=2.0))
    except UserError as caught:
        error = str(caught)
    speed = float(trainer.callback_metrics["health/audio_seconds_per_second"])
    torch.save({**keep.found, "speed": speed, "error": error}, out / f"rank{trainer.global_rank}.pt")
