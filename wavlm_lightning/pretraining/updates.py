"""One pre-training update from the gradients of all micro-steps and ranks: normalised, clipped, skipped if not finite.

AdamW, or Muon for the matrices of the transformer; a moving average of the weights if asked for.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from wavlm_lightning.system.errors import UserError
from wavlm_lightning.training.averaging import Average, MovingAverage, check_average
from wavlm_lightning.training.fsdp import FSDP2
from wavlm_lightning.training.module import Optimization, Trainable
from wavlm_lightning.training.muon import Muon, MuonAndAdamW, matrices
from wavlm_lightning.training.optimizers import parameter_groups, pretraining_schedule
from wavlm_lightning.training.schedules import Schedule

# Losses are summed over frames and divided by this constant before backward, which keeps fp16 gradients in range; the
# true number of masked frames, over all ranks and micro-steps, divides the gradient before the update.
NOMINAL_FRAMES = 1000.0
WARMUP = 0.08
"""Share of the updates over which the learning rate rises; WavLM Base's and HuBERT's."""


def check_whole(name: str, asked: Mapping[str, Any]) -> None:
    """Refuse under fsdp2 what works on whole weights alone: `muon` and `average`, if they are not None."""
    for key in ("muon", "average"):
        if asked.get(key) is not None:
            raise UserError(
                f"{name}: model.{key} needs whole weights, and trainer.strategy fsdp2 splits them; use ddp, or remove "
                f"model.{key}"
            )


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
        muon: Muon | None = None,
        average: Average | None = None,
    ) -> None:
        super().__init__(learning_rate, Optimization(schedule, betas, eps, weight_decay, decay_all))
        self.warmup, self.decay = warmup, decay
        self.muon, self.average = muon, average
        self._average = MovingAverage(average) if average else None
        self._masked_frames: Tensor | float = 0.0

    @property
    def logs_this_step(self) -> bool:
        """Whether Lightning will write what is logged in this step."""
        return (self.trainer.global_step + 1) % self.trainer.log_every_n_steps == 0

    def count_masked_frames(self, frames: Tensor) -> None:
        self._masked_frames = self._masked_frames + frames

    def transformer_layers(self) -> Sequence[nn.Module]:
        """The layers whose matrices Muon trains."""
        return []

    def check_strategy(self, name: str) -> None:
        super().check_strategy(name)
        if isinstance(self.trainer.strategy, FSDP2):
            check_whole(name, {"muon": self.muon, "average": self.average})

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["skipped_updates"] = [self.skipped_updates, self.skipped_in_a_row]
        if self._average is not None:
            self._average.save(checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.skipped_updates, self.skipped_in_a_row = checkpoint["skipped_updates"]
        if self._trainer is None or self.trainer.state.fn != "fit":
            return  # `state_dict` is what a run is evaluated with
        check_average(self.average, checkpoint)
        if self._average is not None:
            self._average.load(checkpoint)

    # The moving average. The module has the mean in validations, probes and after the last update.

    def on_fit_start(self) -> None:
        replaced = self.optimization.schedule is not None and (self.warmup, self.decay) != (WARMUP, "linear")
        if replaced and self.trainer.is_global_zero:
            print(
                f"note: model.schedule takes the place of model.warmup ({self.warmup:g}) and model.decay ({self.decay})",
                file=sys.stderr,
            )
        if self.average is not None and self._average is not None:
            self.average.check_reached(self.trainer.max_steps)
            self.average.check_run(self.trainer.callbacks)
            self._average.show(self, False)  # of a fit before this one
            self._average.to(self.device)

    def optimizer_step(self, *arguments: Any, **named: Any) -> None:
        super().optimizer_step(*arguments, **named)
        if self._average is not None and not self.skipped_in_a_row:
            self._average.follow(self, self.trainer.global_step + 1)  # Lightning counts the update after this hook

    @contextlib.contextmanager
    def evaluated_weights(self) -> Iterator[None]:
        """Inside, the module has the weights that a run is evaluated with: the moving average, if there is one."""
        if self._average is None or self._average.shown:
            yield
            return
        self._average.show(self, True)
        try:
            yield
        finally:
            self._average.show(self, False)

    def on_validation_start(self) -> None:
        if self._average is not None and self.trainer.state.fn == "fit":
            self._average.show(self, True)

    def on_validation_end(self) -> None:
        # After the callbacks, which have written `best.ckpt` by now; `save` knows which weights are where.
        if self._average is not None and self.trainer.state.fn == "fit":
            self._average.show(self, False)

    def on_fit_end(self) -> None:
        if self._average is not None:
            self._average.show(self, True)

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

    def optimizer_groups(self) -> list[dict[str, Any]]:
        """The groups of AdamW: all parameters, or those that Muon leaves."""
        taken = {id(weight) for weight in self._matrices()}
        rest = [parameter for parameter in self.parameters() if id(parameter) not in taken]
        return parameter_groups(rest, self.optimization.weight_decay, self.optimization.decay_all)

    def _matrices(self) -> list[nn.Parameter]:
        return matrices(self.transformer_layers()) if self.muon is not None else []

    def build_optimizer(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """AdamW, also without decay; beside it Muon if asked for."""
        adamw = torch.optim.AdamW(
            groups,
            lr=self.learning_rate,
            betas=self.optimization.betas,
            eps=self.optimization.eps,
            # With fp16 a fused step would unscale the gradients itself, after they have been normalised and clipped.
            fused=self.trainer.scaler is None and self.device.type in ("cpu", "cuda"),
        )
        if self.muon is None:
            return adamw
        rate, decay = self.muon.learning_rate, self.muon.weight_decay
        how = replace(
            self.muon,
            learning_rate=self.learning_rate if rate is None else rate,
            weight_decay=self.optimization.weight_decay if decay is None else decay,
        )
        return MuonAndAdamW(adamw, self._matrices(), how)

    @property
    def follows_max_steps(self) -> bool:
        return self.optimization.schedule is None or super().follows_max_steps

    def schedule_of_run(self) -> Schedule:
        total = self.trainer.max_steps
        if total <= 0:
            raise UserError("pre-training needs trainer.max_steps, where the learning-rate schedule ends; set it")
        return self.optimization.schedule or pretraining_schedule(self.decay, self.warmup, total)
