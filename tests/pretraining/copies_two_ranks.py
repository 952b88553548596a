"""What test_copies lets two processes do: five updates on masked copies, as one process draws them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from quiet import quiet_trainer
from teacher_two_ranks import AsTwo
from test_pretraining_runs import SMALL, data, module
from two_ranks import weights

from wavlm_lightning.pretraining import DecoderSizes, LogMelRegression, MaskedCopies, MaskedPrediction

COPIES = MaskedCopies(copies=2, decoder=DecoderSizes(layers=2, groups=4))
SHAPE = {**SMALL, "layers": 3, "layer_drop": 0.3, "dropout": 0.1}


def targets() -> list[Any]:
    """Masked prediction at two layers, each with its own decoder, and a term that needs no mask."""
    return [MaskedPrediction(final_dim=16, unmasked_weight=1.0), MaskedPrediction(16, layer=2), LogMelRegression()]


def copied(tiny: Path, ranks: int, **settings: Any) -> dict[str, torch.Tensor]:
    """Weights after five updates."""
    model = module(AsTwo, encoder_overrides=SHAPE, objectives=targets(), copies=COPIES)
    trainer = quiet_trainer(
        max_steps=5,
        devices=ranks,
        accumulate_grad_batches=2 // ranks,
        limit_train_batches=12 // ranks,
        limit_val_batches=0,
        gradient_clip_val=1.0,
        **settings,
    )
    trainer.fit(model, data(tiny, batch_seconds=2.0))
    return weights(model)


def everything(tiny: Path, out: Path) -> None:
    """Under each strategy."""
    found = {strategy: copied(tiny, 2, strategy=strategy) for strategy in ("ddp", "fsdp2")}
    torch.save(found, out / f"rank{os.environ['RANK']}.pt")
