"""A Lightning trainer that shows and writes nothing."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ModelCheckpoint


def quiet_trainer(**settings: Any) -> pl.Trainer:
    """A CPU trainer; checkpoints are written only if a ModelCheckpoint is among the callbacks."""
    callbacks = settings.get("callbacks", [])
    silent = {
        "accelerator": "cpu",
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": any(isinstance(callback, ModelCheckpoint) for callback in callbacks),
        "use_distributed_sampler": False,
        "num_sanity_val_steps": 0,
    }
    return pl.Trainer(**{**silent, **settings})
