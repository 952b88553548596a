"""An objective with a teacher and a second mask, and what test_teachers lets two processes do with it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from quiet import quiet_trainer
from test_pretraining_runs import SMALL, data, module
from torch import nn
from two_ranks import Recorded, weights

from wavlm_lightning.pretraining import DinoSR, WavLMPretraining
from wavlm_lightning.pretraining.module import LAYER_DROP
from wavlm_lightning.pretraining.objectives import Objective, Teacher, View

DECAY, UPDATES = 0.8, 5


class Following(Objective):
    """Regression of the teacher's layers from two masked passes; remembers after which updates it was called."""

    name = "following"

    def layers(self, count):
        return (count,)

    def build(self, encoder, label_sizes):
        self.last, self.predict, self.calls = encoder.layers, nn.Linear(encoder.dim, encoder.dim), []

    def attach(self, encoder):
        self.teacher = Teacher(encoder)

    def views(self):
        self.target = View((self.last - 1, self.last), teacher=self.teacher)
        self.again = View((self.last,), mask=1, gradients=True)
        return self.target, self.again

    def after_update(self, encoder, step):
        self.calls.append(step)
        self.teacher.follow(encoder, DECAY)

    def forward(self, prediction):
        target = sum(prediction.views[self.target].hidden.values()) / 2
        total = 0.0
        for view in (prediction, prediction.views[self.again]):
            error = (self.predict(view.hidden[self.last]).float() - target).square().mean(2)
            total = total + (error * view.mask).sum() / prediction.mask.sum()
        return total


class Poisoned(WavLMPretraining):
    """Meets a NaN in the third update; keeps the teacher of each micro-step."""

    def training_step(self, batch, batch_idx):
        """Put a NaN into a crop, and note the teacher."""
        self.teachers = [*getattr(self, "teachers", []), weights(self.objectives[0].teacher)]
        if self.trainer.global_step == 2:
            batch.audio[0, 100] = torch.nan
        return super().training_step(batch, batch_idx)


class AsTwo(Recorded):
    """Alone, draws what two processes draw."""

    def _seed(self, stage, batch_idx, rank):
        if self.trainer.world_size == 1:
            batch_idx, rank = batch_idx // 2, 0 if stage == LAYER_DROP else batch_idx % 2
        return WavLMPretraining._seed(self, stage, batch_idx, rank)


def followed(
    tiny: Path, ranks: int, folder: Path | None = None, ckpt_path: Path | None = None, **settings: Any
) -> dict[str, torch.Tensor]:
    """Weights of encoder, heads, teachers and codebooks after five updates, with LayerDrop."""
    shape = {**SMALL, "layers": 3, "layer_drop": 0.3}
    model = module(AsTwo, encoder_overrides=shape, objectives=[Following(), DinoSR(top=2, codes=6, decay=DECAY)])
    trainer = quiet_trainer(
        max_steps=UPDATES,
        devices=ranks,
        accumulate_grad_batches=2 // ranks,
        limit_train_batches=12 // ranks,
        limit_val_batches=0,
        gradient_clip_val=1.0,
        callbacks=[] if folder is None else [ModelCheckpoint(folder, filename="after_3", every_n_train_steps=3)],
        **settings,
    )
    trainer.fit(model, data(tiny, batch_seconds=2.0), ckpt_path=ckpt_path, weights_only=True)
    return weights(model)


def everything(tiny: Path, out: Path) -> None:
    """Under each strategy: a whole run, and its second part resumed from the checkpoint of update 3."""
    found: dict[str, Any] = {}
    for strategy in ("ddp", "fsdp2"):
        folder = out / strategy
        straight = followed(tiny, 2, folder, strategy=strategy)
        resumed = followed(tiny, 2, ckpt_path=folder / "after_3.ckpt", strategy=strategy)
        found[strategy] = {"straight": straight, "resumed": resumed}
    torch.save(found, out / f"rank{os.environ['RANK']}.pt")
