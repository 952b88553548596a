"""Ctrl-C in the middle of an update: the run ends after it, and goes on as if nothing had been."""

from __future__ import annotations

import csv
import os
import signal
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from quiet import quiet_trainer

from wavlm_lightning.callbacks.checkpoints import Newest, StopBetweenUpdates, best, kept
from wavlm_lightning.tasks import KeywordSpotting, SpeechRecognition, TaskData
from wavlm_lightning.upstreams import Fbank


class Stop(pl.Callback):
    """Between the gradient and the step of one update, or in its first micro-batch."""

    def __init__(self, number: signal.Signals, update: int, early: bool) -> None:
        self.number, self.update, self.early = number, update, early

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        if self.early and trainer.global_step == self.update:
            os.kill(os.getpid(), self.number)
            self.update = -1

    def on_before_optimizer_step(self, trainer, pl_module, optimizer) -> None:
        if not self.early and trainer.global_step == self.update:
            os.kill(os.getpid(), self.number)


def accumulated(tiny, *callbacks, ckpt_path=None, **settings):
    """Seven updates of two micro-batches; dropout and SpecAugment draw at random in every step."""
    head = SpeechRecognition(Fbank(), learning_rate=1e-2, hidden=8)
    trainer = quiet_trainer(
        **{"max_steps": 7, "limit_val_batches": 0, "accumulate_grad_batches": 2, **settings},
        callbacks=[*callbacks[:1], StopBetweenUpdates(), *callbacks[1:]],
    )
    data = TaskData(str(tiny / "pr"), batch_size=1, train_split="valid+test")
    trainer.fit(head, data, ckpt_path=ckpt_path, weights_only=True)
    return head


@pytest.fixture(scope="module")
def whole(tiny):
    """The weights of a run that nothing stops."""
    handlers = [signal.getsignal(which) for which in (signal.SIGINT, signal.SIGTERM)]
    head = accumulated(tiny)
    assert [signal.getsignal(which) for which in (signal.SIGINT, signal.SIGTERM)] == handlers
    return head.state_dict()


@pytest.mark.parametrize(
    ("number", "early", "update"),
    # Four updates an epoch: the last of these is the epoch's last. Both signals take the same way, so one has three cases.
    [
        *((signal.SIGINT, early, update) for early in (True, False) for update in (1, 2, 3)),
        *((signal.SIGTERM, early, update) for early, update in ((True, 2), (False, 1), (False, 3))),
    ],
)
def test_an_interrupted_run_resumes_exactly(tiny, tmp_path, whole, number, early, update):
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    handlers = [signal.getsignal(which) for which in (signal.SIGINT, signal.SIGTERM)]
    try:
        with pytest.raises(SystemExit):
            accumulated(tiny, Stop(number, update, early), Newest(tmp_path, every=1000))
    finally:
        for which, handler in zip((signal.SIGINT, signal.SIGTERM), handlers, strict=True):
            signal.signal(which, handler)  # Lightning leaves them changed, since the process is to end
    kept = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert kept["global_step"] == update + 1
    resumed = accumulated(tiny, ckpt_path=tmp_path / "last.ckpt")
    for name, value in whole.items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_a_run_of_a_pool_that_has_ended_stops_without_a_signal(tiny, tmp_path, monkeypatch, whole):
    """Such as when what the signal raised was lost in a destructor."""
    number, asked = signal.getsignal(signal.SIGINT), []
    monkeypatch.setattr("wavlm_lightning.callbacks.checkpoints.is_ending", lambda: len(asked.append(1) or asked) == 2)
    try:
        with pytest.raises(SystemExit):
            accumulated(tiny, Newest(tmp_path, every=1000))
    finally:
        signal.signal(signal.SIGINT, number)
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 2
    resumed = accumulated(tiny, ckpt_path=tmp_path / "last.ckpt")
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in whole.items())


class StopInValidation(pl.Callback):
    """In the first validation, which comes between the two batches of update 2."""

    def on_validation_batch_start(self, trainer, *_) -> None:
        if trainer.global_step == 1:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("ask", [StopInValidation(), Stop(signal.SIGTERM, 1, early=True)])
def test_a_validation_within_an_update_does_not_lose_its_first_batches(tiny, tmp_path, whole, ask):
    """One batch has given its gradient when the validation begins; the run ends after the update, and keeps all of it."""
    within = {"limit_val_batches": 1, "val_check_interval": 3, "check_val_every_n_epoch": None}
    handlers = [signal.getsignal(which) for which in (signal.SIGINT, signal.SIGTERM)]
    try:
        with pytest.raises(SystemExit):
            accumulated(tiny, ask, Newest(tmp_path, every=1000), **within)
    finally:
        for which, handler in zip((signal.SIGINT, signal.SIGTERM), handlers, strict=True):
            signal.signal(which, handler)
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 2
    resumed = accumulated(tiny, ckpt_path=tmp_path / "last.ckpt", **within)
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in whole.items())


class IsToStop(pl.Callback):
    """As a time limit does after any batch, and early stopping after any validation."""

    def __init__(self, after: str) -> None:
        self.after, self.batches = after, 0

    def on_train_batch_end(self, trainer, *_) -> None:
        self.batches += 1
        if self.after == "batch" and self.batches == 3:
            trainer.should_stop = True

    def on_validation_end(self, trainer, pl_module) -> None:
        if self.after == "validation":
            trainer.should_stop = True


@pytest.mark.parametrize("after", ["batch", "validation"])
def test_a_time_limit_ends_a_run_between_updates(tiny, tmp_path, whole, after):
    within = {"limit_val_batches": 1, "val_check_interval": 3, "check_val_every_n_epoch": None}
    accumulated(tiny, IsToStop(after), Newest(tmp_path, every=1000), **within)
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 2
    resumed = accumulated(tiny, ckpt_path=tmp_path / "last.ckpt", **within)
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in whole.items())


def test_the_update_after_which_a_run_ends_is_logged_and_kept(tiny, tmp_path):
    """A run that goes on from there does neither again."""
    handlers = [signal.getsignal(which) for which in (signal.SIGINT, signal.SIGTERM)]
    logger = CSVLogger(tmp_path)
    try:
        with pytest.raises(SystemExit):
            keeps = (kept(tmp_path, 3, 2), Newest(tmp_path, every=3))
            accumulated(tiny, Stop(signal.SIGTERM, 2, False), *keeps, logger=logger, log_every_n_steps=1)
    finally:
        for which, handler in zip((signal.SIGINT, signal.SIGTERM), handlers, strict=True):
            signal.signal(which, handler)
    assert torch.load(tmp_path / "update-3.ckpt", weights_only=True)["global_step"] == 3
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert state["global_step"] == 3 and any("update-3" in str(each) for each in state["callbacks"].values())
    with (Path(logger.log_dir) / "metrics.csv").open() as file:
        assert [row["step"] for row in csv.DictReader(file) if row["train/loss"]] == ["0", "1", "2"]


class StopAtOnce(pl.Callback):
    """A second Ctrl-C, while the optimiser is changing the weights."""

    def on_before_zero_grad(self, trainer, pl_module, optimizer) -> None:
        if trainer.global_step == 3:
            raise KeyboardInterrupt


class Fails(pl.Callback):
    """An error after the last batch of an epoch whose last update has one micro-step only."""

    def on_train_epoch_end(self, trainer, pl_module) -> None:
        raise RuntimeError("of another callback")


def fit_quickly(tiny, *callbacks, **settings):
    trainer = quiet_trainer(max_steps=7, limit_val_batches=0, callbacks=[*callbacks, StopBetweenUpdates()], **settings)
    source = TaskData(str(tiny / "pr"), batch_size=1, train_split="valid+test")
    trainer.fit(SpeechRecognition(Fbank(), hidden=8), source)


def test_stopped_at_once_nothing_is_written_over_the_regular_checkpoint(tiny, tmp_path):
    before = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(SystemExit):
            fit_quickly(tiny, StopAtOnce(), Newest(tmp_path, every=2))
    finally:
        signal.signal(signal.SIGINT, before)
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 2


def test_an_epoch_that_ends_with_half_an_update_is_kept(tiny, tmp_path):
    with pytest.raises(RuntimeError, match="another callback"):
        fit_quickly(tiny, Fails(), Newest(tmp_path, every=1000), accumulate_grad_batches=2, limit_train_batches=3)
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 2


@pytest.mark.parametrize(("every", "number", "newest"), [(1, 2, [6, 7]), (2, 3, [4, 5, 6]), (1, 5, [3, 4, 5, 6, 7])])
def test_a_run_that_goes_on_keeps_the_newest_checkpoints_as_it_is_told_now(tiny, tmp_path, every, number, newest):
    """Fewer than before, fewer and another interval, more."""

    def fit(steps, every, number, ckpt_path=None):
        callbacks = [kept(tmp_path, every, number), Newest(tmp_path, every)]
        trainer = quiet_trainer(max_steps=steps, limit_val_batches=0, callbacks=callbacks)
        head = KeywordSpotting(Fbank(cmvn=False), learning_rate=1e-2)
        trainer.fit(head, TaskData(str(tiny / "ks"), batch_size=4), ckpt_path=ckpt_path, weights_only=True)

    fit(5, 1, 4)
    fit(7, every, number, tmp_path / "last.ckpt")
    assert sorted(path.stem for path in tmp_path.glob("update-*")) == [f"update-{step}" for step in newest]


def test_another_interval_of_checkpoints_does_not_lose_a_validation(tiny, tmp_path):
    """The process dies between `last.ckpt` and the validation, and the run goes on with another `--checkpoint_every`."""

    class Dies(pl.Callback):
        def on_validation_start(self, trainer, pl_module) -> None:
            raise RuntimeError("killed")

    def fit(*callbacks, ckpt_path=None):
        chosen = best(tmp_path, "valid/accuracy", "max")
        head = KeywordSpotting(Fbank(cmvn=False), learning_rate=1e-2)
        trainer = quiet_trainer(max_steps=3, val_check_interval=2, callbacks=[chosen, *callbacks])
        trainer.fit(head, TaskData(str(tiny / "ks"), batch_size=4), ckpt_path=ckpt_path, weights_only=True)
        return chosen

    with pytest.raises(RuntimeError, match="killed"):
        fit(Dies(), Newest(tmp_path, every=2))
    assert not (tmp_path / "best.ckpt").exists()
    assert fit(Newest(tmp_path, every=7), ckpt_path=tmp_path / "last.ckpt").best_model_score is not None
    assert torch.load(tmp_path / "best.ckpt", weights_only=True)["global_step"] == 2


def test_a_checkpoint_of_a_validation_step_knows_its_score(tiny, tmp_path):
    def fit(steps, ckpt_path=None):
        chosen = best(tmp_path, "valid/accuracy", "max")
        head = KeywordSpotting(Fbank(cmvn=False), learning_rate=1e-2)
        trainer = quiet_trainer(
            max_steps=steps,
            val_check_interval=2,
            callbacks=[chosen, Newest(tmp_path, every=2)],
        )
        data = TaskData(str(tiny / "ks"), batch_size=4)
        trainer.fit(head, data, ckpt_path=ckpt_path, weights_only=True)
        return chosen

    after = fit(2)
    score = after.best_model_score
    assert score is not None
    kept = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert kept["global_step"] == 2 and kept["callbacks"][after.state_key]["best_model_score"] == score
    resumed = fit(4, ckpt_path=tmp_path / "last.ckpt")
    assert resumed.best_model_score >= score
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 4
