"""Run by test_distributed: twenty updates on one process or two, on the same crops with the same random numbers."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from quiet import quiet_trainer
from test_pretraining_runs import SMALL, data, module

from wavlm_lightning.pretraining import WavLMPretraining
from wavlm_lightning.pretraining.module import LAYER_DROP
from wavlm_lightning.pretraining.sharding import whole
from wavlm_lightning.pretraining.updates import NOMINAL_FRAMES

UPDATES, AN_EPOCH = 20, 4


class Recorded(WavLMPretraining):
    """Keeps what every micro-step saw and gave; alone, it draws what the two processes would."""

    def training_step(self, batch, batch_idx):
        """Note sums, not means: they add up over micro-steps."""
        self.step = {"audio": float(batch.audio.double().sum())}
        loss = super().training_step(batch, batch_idx)
        self.step["sum"] = float(loss.detach()) * NOMINAL_FRAMES
        self.micro = [*getattr(self, "micro", []), self.step]
        return loss

    def count_masked_frames(self, frames):
        """Note them."""
        self.step["frames"] = int(frames)
        super().count_masked_frames(frames)

    def _dropped_layers(self, batch_idx):
        self.step["dropped"] = super()._dropped_layers(batch_idx)
        return self.step["dropped"]

    def _seed(self, stage, batch_idx, rank):
        if self.trainer.world_size == 1:
            batch_idx, rank = batch_idx // 2, 0 if stage == LAYER_DROP else batch_idx % 2
        return super()._seed(stage, batch_idx, rank)


if __name__ == "__main__":
    tiny, out, strategy, ranks = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
    model = module(Recorded, encoder_overrides={**SMALL, "layers": 3, "layer_drop": 0.3, "dropout": 0.1})
    trainer = quiet_trainer(
        max_steps=UPDATES,
        devices=ranks,
        strategy=strategy,
        accumulate_grad_batches=2 // ranks,
        limit_train_batches=AN_EPOCH * 2 // ranks,
        limit_val_batches=0,
        gradient_clip_val=1.0,
    )
    trainer.fit(model, data(tiny, batch_seconds=2.0))
    weights = {name: whole(value) for name, value in model.state_dict().items()}
    torch.save({"micro": model.micro, "weights": weights}, out / f"{strategy}-{ranks}-{trainer.global_rank}.pt")
