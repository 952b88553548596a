"""A run that ended in the middle or at the end of an epoch goes on as if it had not ended."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from quiet import quiet_trainer

from wavlm_lightning.callbacks.checkpoints import Newest
from wavlm_lightning.tasks import KeywordSpotting, TaskData
from wavlm_lightning.training.as_asked import reopen_epoch
from wavlm_lightning.upstreams import Fbank

BATCHES = 3  # of an epoch, of the four that there are


class Seen(KeywordSpotting):
    """Notes the batches that it is trained on."""

    def __init__(self) -> None:
        super().__init__(Fbank(cmvn=False), learning_rate=1e-2)
        self.batches: list[str] = []

    def on_train_batch_start(self, batch, batch_idx) -> None:
        super().on_train_batch_start(batch, batch_idx)
        self.batches.append(batch.keys[0])


def fit(tiny: Path, steps: int, every: int, workers: int, ckpt_path: Path | None = None, callbacks=()):
    head = Seen()
    settings = {"limit_train_batches": BATCHES, "accumulate_grad_batches": every, "limit_val_batches": 1}
    trainer = quiet_trainer(
        max_steps=steps, val_check_interval=2, check_val_every_n_epoch=None, callbacks=[*callbacks], **settings
    )
    data = TaskData(str(tiny / "ks"), batch_size=8, num_workers=workers)
    trainer.fit(head, data, ckpt_path=ckpt_path, weights_only=True)
    return head, trainer


@pytest.fixture(
    scope="module",
    params=[
        pytest.param((1, 0), id="each"),
        pytest.param((2, 0), id="accumulated", marks=pytest.mark.slow),
        pytest.param((1, 1), id="with a process", marks=pytest.mark.slow),
    ],
)
def whole(request, tiny):
    return request.param, fit(tiny, 5, *request.param)


@pytest.mark.parametrize("how", ["by hand", "last", "epoch's end"])
@pytest.mark.parametrize("steps", [2, 3, 4])
def test_it_goes_on_exactly(tiny, tmp_path, whole, how, steps):
    (every, workers), (expected, before) = whole
    callbacks = {
        "by hand": [],
        "last": [Newest(tmp_path, every=1000)],  # written at the end of the run
        "epoch's end": [ModelCheckpoint(tmp_path, filename="last", save_on_train_epoch_end=True)],
    }[how]
    first, trainer = fit(tiny, steps, every, workers, callbacks=callbacks)
    if how == "by hand":
        trainer.save_checkpoint(tmp_path / "last.ckpt")
    resumed, after = fit(tiny, 5, every, workers, tmp_path / "last.ckpt")
    assert first.batches + resumed.batches == expected.batches
    assert after.current_epoch == before.current_epoch
    for name, value in expected.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_a_checkpoint_between_two_batches_is_left_alone():
    counts = {"ready": 1, "processed": 0, "completed": 0}
    batches = {"ready": 2, "processed": 2, "completed": 1}
    loops = {
        "fit_loop": {
            "epoch_progress": {"total": {**counts}, "current": {**counts}},
            "epoch_loop.batch_progress": {"total": {**batches}, "current": {**batches}},
        }
    }
    reopen_epoch(loops)
    assert loops["fit_loop"]["epoch_progress"]["current"] == counts
    assert loops["fit_loop"]["epoch_loop.batch_progress"]["total"] == batches
    reopen_epoch({})  # of weights alone
