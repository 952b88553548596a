"""Run by test_distributed: four updates on two processes with LayerDrop; the second process meets a NaN in one of them."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from quiet import quiet_trainer
from test_pretraining_runs import SMALL, data, module

from wavlm_lightning.pretraining import MaskedPrediction, WavLMPretraining
from wavlm_lightning.pretraining.sharding import whole

POISONED = 2


class Poisoned(WavLMPretraining):
    """Keeps which layers were dropped."""

    def training_step(self, batch, batch_idx):
        """Put a NaN into one crop of one rank."""
        if self.global_rank == 1 and self.trainer.global_step == POISONED:
            batch.audio[0, 100] = torch.nan
        return super().training_step(batch, batch_idx)

    def _dropped_layers(self, batch_idx):
        dropped = super()._dropped_layers(batch_idx)
        self.dropped = [*getattr(self, "dropped", []), dropped]
        return dropped


if __name__ == "__main__":
    tiny, out, strategy = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    shape = {**SMALL, "layers": 4, "layer_drop": 0.5, "feature_grad_mult": 0.0}  # frozen convolutions wait for nobody
    model = module(Poisoned, encoder_overrides=shape, objectives=[MaskedPrediction(final_dim=16)])
    trainer = quiet_trainer(max_steps=4, devices=2, strategy=strategy, limit_val_batches=0)
    trainer.fit(model, data(tiny, batch_seconds=2.0))
    found = {
        "dropped": model.dropped,
        "skipped": [model.skipped_updates, model.skipped_in_a_row],
        "weights": {name: whole(value) for name, value in model.state_dict().items()},
    }
    torch.save(found, out / f"together{trainer.global_rank}.pt")
