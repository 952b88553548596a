"""From the gradients of all micro-steps and ranks to one update: normalised, measured, clipped, or left out."""

from __future__ import annotations

from typing import Any, Literal

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from wavlm_lightning.system.errors import UserError
from wavlm_lightning.training.fsdp import whole
from wavlm_lightning.training.schedules import learning_rate_factor

NOMINAL_FRAMES = 1000.0
"""Losses are summed over frames and divided by this constant before backward, which keeps fp16 gradients in range;
the true number of masked frames, over all ranks and micro-steps, divides the gradient before the update."""


class NormalisedUpdates(pl.LightningModule):
    """A module whose loss is a sum over masked frames, and whose gradient is a mean over those of the whole update.

    Args:
        learning_rate: peak of the schedule.
        warmup: share of the steps over which the rate climbs.
        decay: `linear` or `cosine` to zero at `trainer.max_steps`.
        betas: of AdamW.
        eps: of AdamW.
        weight_decay: of AdamW.
        decay_all: on all parameters, as fairseq does; false spares biases, norms and other vectors.

    Attributes:
        skipped_updates: updates left out so far because their gradient was not finite.
        skipped_in_a_row: how many of them are the last ones.
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
    ) -> None:
        super().__init__()
        self.learning_rate, self.warmup, self.decay = learning_rate, warmup, decay
        self.betas, self.eps, self.weight_decay, self.decay_all = betas, eps, weight_decay, decay_all
        self.skipped_updates = self.skipped_in_a_row = 0
        self._masked_frames: Tensor | float = 0.0
        self._norm: Tensor | None = None

    @property
    def logs_this_step(self) -> bool:
        """Whether Lightning will write what is logged now."""
        return (self.trainer.global_step + 1) % self.trainer.log_every_n_steps == 0

    def count_masked_frames(self, frames: Tensor) -> None:
        """Add those of a micro-step."""
        self._masked_frames = self._masked_frames + frames

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the counts."""
        checkpoint["skipped_updates"] = [self.skipped_updates, self.skipped_in_a_row]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on counting."""
        self.skipped_updates, self.skipped_in_a_row = checkpoint["skipped_updates"]

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Divide the gradient by the masked frames of all ranks and micro-steps of this update; leave out what is no number.

        Runs before clipping and after fp16's unscaling. Lightning has averaged over ranks and divided by
        `accumulate_grad_batches`: undo both. All ranks hold the same gradient here, so they skip together.
        """
        frames = torch.as_tensor(self._masked_frames, dtype=torch.float32, device=self.device)
        frames = self.trainer.strategy.reduce(frames, reduce_op="sum")
        factor = NOMINAL_FRAMES * self.trainer.world_size * self.trainer.accumulate_grad_batches / frames
        gradients = [parameter.grad for parameter in self.parameters() if parameter.grad is not None]
        torch._foreach_mul_(gradients, factor)
        self._norm = whole(torch.nn.utils.get_total_norm(gradients))
        self._masked_frames = 0.0
        if bool(torch.isfinite(self._norm)):
            self.skipped_in_a_row = 0
        else:
            self.skipped_updates += 1
            self.skipped_in_a_row += 1
            optimizer.zero_grad(set_to_none=True)  # AdamW leaves a parameter without gradient alone, moments included
        if self.logs_this_step:
            self.log("train/gradient_norm", self._norm)
            self.log("train/skipped_updates", float(self.skipped_updates))

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip by global norm; Lightning's own clipping refuses fused optimisers even where nothing is scaled."""
        if gradient_clip_algorithm not in (None, "norm"):
            raise UserError(f"trainer.gradient_clip_algorithm {gradient_clip_algorithm!r}: pre-training clips by norm")
        if gradient_clip_val and self._norm is not None:
            torch.nn.utils.clip_grads_with_norm_(self.parameters(), gradient_clip_val, self._norm)

    def configure_optimizers(self) -> dict[str, Any]:
        """AdamW with warm-up and decay over `trainer.max_steps`.

        Raises:
            UserError: `trainer.max_steps` is not set.
        """
        total = self.trainer.max_steps
        if total <= 0:
            raise UserError("pre-training needs trainer.max_steps: the schedule ends there")
        optimizer = torch.optim.AdamW(
            parameter_groups(self, self.weight_decay, self.decay_all),
            lr=self.learning_rate,
            betas=self.betas,
            eps=self.eps,
            # A fused step unscales fp16's gradients itself, after they should have been normalised and clipped.
            fused=self.trainer.scaler is None and self.device.type in ("cpu", "cuda"),
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: learning_rate_factor(step, total, self.warmup, self.decay)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def parameter_groups(module: nn.Module, weight_decay: float, decay_all: bool) -> list[dict[str, Any]]:
    """What AdamW is given.

    Args:
        module: whose parameters are trained.
        weight_decay: of the parameters that decay.
        decay_all: all of them, as fairseq trained HuBERT and WavLM; False leaves out whatever is no matrix or kernel
            (biases, norms, gates, the mask embedding), which is the better practice today.
    """
    decaying: list[nn.Parameter] = []
    spared: list[nn.Parameter] = []
    for parameter in module.parameters():
        if parameter.requires_grad:
            (decaying if decay_all or parameter.squeeze().ndim > 1 else spared).append(parameter)
    groups = [(decaying, weight_decay), (spared, 0.0)]
    return [{"params": members, "weight_decay": decay} for members, decay in groups if members]
