"""Run by test_distributed: one update on two processes; each keeps the whole gradient that reaches the optimiser."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from quiet import quiet_trainer
from test_pretraining_runs import data, keeping

from wavlm_lightning.pretraining.sharding import whole

if __name__ == "__main__":
    tiny, out, strategy = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    model = keeping()
    trainer = quiet_trainer(max_steps=1, devices=2, strategy=strategy, accumulate_grad_batches=2, limit_val_batches=0)
    trainer.fit(model, data(tiny, batch_seconds=2.0))
    torch.save([whole(gradient) for gradient in model.kept], out / f"rank{trainer.global_rank}.pt")
