"""What tests of several heads in one run share."""

from __future__ import annotations

import lightning.pytorch as pl
from quiet import quiet_trainer

from wavlm_lightning.upstreams import Fbank


class CountedFbank(Fbank):
    """Counts its forwards."""

    calls = 0

    def forward(self, waveforms, lengths):
        self.calls += 1
        return super().forward(waveforms, lengths)


def brief_trainer(updates: int) -> pl.Trainer:
    """A few updates with clipping, accumulation and a validation: all that one head could get wrong beside others."""
    return quiet_trainer(
        max_steps=updates,
        gradient_clip_val=0.3,
        accumulate_grad_batches=2,
        check_val_every_n_epoch=None,
        val_check_interval=4,
        limit_val_batches=2,
    )
