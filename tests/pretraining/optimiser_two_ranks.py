"""What test_optimiser_switches lets two processes do: a run with Muon and a moving average."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from quiet import quiet_trainer
from test_pretraining_runs import SMALL, data, module
from two_ranks import Recorded, weights

from wavlm_lightning.training.averaging import Average
from wavlm_lightning.training.muon import Muon


def trained(tiny: Path, ranks: int) -> dict[str, dict[str, torch.Tensor]]:
    """The average and the last weights of five updates on one process or two, on the same crops."""
    model = module(
        Recorded, encoder_overrides={**SMALL, "layers": 2, "layer_drop": 0.3}, muon=Muon(), average=Average(0.7)
    )
    trainer = quiet_trainer(
        max_steps=5,
        devices=ranks,
        strategy="ddp" if ranks > 1 else "auto",
        accumulate_grad_batches=2 // ranks,
        limit_train_batches=10 // ranks,
        limit_val_batches=0,
        gradient_clip_val=1.0,
    )
    trainer.fit(model, data(tiny, batch_seconds=2.0))
    mean = weights(model)
    model.on_fit_start()
    return {"mean": mean, "last": weights(model)}


def two_processes(tiny: Path, folder: Path) -> None:
    torch.save(trained(tiny, 2), folder / f"rank{os.environ['RANK']}.pt")
