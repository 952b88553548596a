"""One pre-training update from the gradients of all micro-steps and ranks: normalised, clipped, skipped if not finite; AdamW."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from wavlm_lightning.system.errors import UserError
from wavlm_lightning.training.module import Optimization, Trainable
from wavlm_lightning.training.optimizers import pretraining_schedule
from wavlm_lightning.training.schedules import Schedule

# Losses are summed over frames and divided by this constant before backward, which keeps fp16 gradients in range; the
# true number of masked frames, over all ranks and micro-steps, divides the gradient before the update.
NOMINAL_FRAMES = 1000.0


class NormalisedUpdates(Trainable):
    """Makes the gradient of a loss that sums over masked frames the mean over the masked frames of an update.

    For the arguments see `WavLMPretraining`.
    """

    def __init__(
        self,
        learning_rate: float,
        warmup: float,
        decay: Literal["linear", "cosine"],
        betas: tuple[float, float],
        eps: float,
        weight_decay: float,
        decay_all: bool,
        schedule: Schedule | None = None,
    ) -> None:
        super().__init__(learning_rate, Optimization(schedule, betas, eps, weight_decay, decay_all))
        self.warmup, self.decay = warmup, decay
        self._masked_frames: Tensor | float = 0.0

    @property
    def logs_this_step(self) -> bool:
        """Whether Lightning will write what is logged in this step."""
        return (self.trainer.global_step + 1) % self.trainer.log_every_n_steps == 0

    def count_masked_frames(self, frames: Tensor) -> None:
        self._masked_frames = self._masked_frames + frames

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["skipped_updates"] = [self.skipped_updates, self.skipped_in_a_row]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.skipped_updates, self.skipped_in_a_row = checkpoint["skipped_updates"]

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Divide the gradient by the masked frames of all ranks and micro-steps; skip the update if it is not finite.

        Runs before clipping and after fp16's unscaling.
        """
        self.divide_gradient(self._masked_frames, NOMINAL_FRAMES)
        self._masked_frames = 0.0
        self.guard_gradient()
        if self.logs_this_step:
            assert self._norm is not None
            self.log("train/gradient_norm", self._norm)
            self.log("train/skipped_updates", float(self.skipped_updates))

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        # Lightning's own clipping refuses fused optimisers even without a loss scale.
        if gradient_clip_algorithm not in (None, "norm"):
            raise UserError(f"trainer.gradient_clip_algorithm {gradient_clip_algorithm!r}: pre-training clips by norm")
        if gradient_clip_val and self._norm is not None:
            torch.nn.utils.clip_grads_with_norm_(self.parameters(), gradient_clip_val, self._norm)

    def build_optimizer(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """AdamW, also without decay."""
        return torch.optim.AdamW(
            groups,
            lr=self.learning_rate,
            betas=self.optimization.betas,
            eps=self.optimization.eps,
            # With fp16 a fused step would unscale the gradients itself, after they have been normalised and clipped.
            fused=self.trainer.scaler is None and self.device.type in ("cpu", "cuda"),
        )

    @property
    def follows_max_steps(self) -> bool:
        return self.optimization.schedule is None or super().follows_max_steps

    def schedule_of_run(self) -> Schedule:
        total = self.trainer.max_steps
        if total <= 0:
            raise UserError("pre-training needs trainer.max_steps, where the learning-rate schedule ends; set it")
        return self.optimization.schedule or pretraining_schedule(self.decay, self.warmup, total)
