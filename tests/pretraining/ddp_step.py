"""Run by test_distributed: one update on two processes; rank 0 keeps the gradient that reaches the optimiser."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from quiet import quiet_trainer
from test_pretraining_runs import data, keeping

if __name__ == "__main__":
    tiny, out = Path(sys.argv[1]), Path(sys.argv[2])
    model = keeping()
    trainer = quiet_trainer(max_steps=1, devices=2, strategy="ddp", accumulate_grad_batches=2, limit_val_batches=0)
    trainer.fit(model, data(tiny, batch_seconds=2.0))
    torch.save(model.kept, out / f"rank{trainer.global_rank}.pt")
