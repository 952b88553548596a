"""The moving average of trained weights: a run is validated with it and others read it, while the weights are trained on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor, nn

from wavlm_lightning.encoder.checkpoints.tensor_files import CheckpointError, check_finite
from wavlm_lightning.system.errors import UserError

# Keys of a checkpoint, as of Lightning's `WeightAveraging`: `state_dict` is the average, these are what a run goes on with.
TRAINED, AVERAGING = "current_model_state", "averaging_state"


@dataclass(frozen=True)
class Average:
    """Evaluate and keep the exponential mean of the weights of many updates instead of the last ones.

    Args:
        decay: weight of the update before relative to an update; 0.999 averages over about 1,000 updates. The weights of the
            mean sum to 1 from the first update on, so that initial weights have no share.
        from_update: the mean begins after this update; until then a run is evaluated with its weights as they are.

    Example:
        >>> # in a YAML of pre-training: average: {decay: 0.999, from_update: 500}
        >>> Average(decay=0.999, from_update=500)
    """

    decay: float = 0.999
    from_update: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.decay < 1:
            raise UserError(f"model.average.decay {self.decay:g}: it must be between 0 and 1, such as 0.999")
        if self.from_update < 0:
            raise UserError(f"model.average.from_update {self.from_update}: give a number of updates, 0 or more")

    def check_reached(self, updates: int) -> None:
        """Refuse a `from_update` that a run of `updates` updates never gets past."""
        if 0 < updates <= self.from_update:
            raise UserError(
                f"model.average.from_update {self.from_update}: the run ends after {updates} updates (trainer.max_steps), before "
                "anything is averaged; give a smaller number, or remove model.average"
            )

    def check_run(self, callbacks: Iterable[object]) -> None:
        """Refuse a second average beside this one."""
        if also := next((type(each).__name__ for each in callbacks if isinstance(each, WeightAveraging)), None):
            raise UserError(f"model.average and the callback {also} both average the weights; remove one of them")


class MovingAverage:
    """Keeps the mean of the trained parameters of a module, and exchanges them for it and back.

    Args:
        how: decay and begin.

    Attributes:
        updates: averaged so far.
        shown: whether the module has the mean, and `values` its trained weights, or the other way round.
        values: name of a parameter -> tensor of its shape; empty until the first update.
    """

    def __init__(self, how: Average) -> None:
        self.how, self.updates, self.shown = how, 0, False
        self.values: dict[str, Tensor] = {}

    @torch.no_grad()
    def follow(self, module: nn.Module, update: int) -> None:
        """Take the weights after an update (numbered from 1) into the mean."""
        if update <= self.how.from_update:
            return
        trained = _trained(module)
        self.updates += 1
        if self.updates == 1:
            self.values = {name: value.detach().clone() for name, value in trained.items()}
            return
        share = (1 - self.how.decay) / (1 - self.how.decay**self.updates)
        torch._foreach_lerp_([self.values[name] for name in trained], list(trained.values()), share)

    @torch.no_grad()
    def show(self, module: nn.Module, mean: bool) -> None:
        """Give the module the mean, or its trained weights back; nothing happens before there is a mean."""
        if mean is self.shown or not self.values:
            return
        for name, value in _trained(module).items():
            before = value.clone()
            value.copy_(self.values[name])  # in place, because caches of prepared weights count writes
            self.values[name].copy_(before)
        self.shown = mean

    def to(self, device: torch.device) -> None:
        """Move the mean to the device of the module."""
        self.values = {name: value.to(device) for name, value in self.values.items()}

    def save(self, checkpoint: dict[str, Any]) -> None:
        """Make `state_dict` of a checkpoint the mean, and keep the weights that training goes on with beside it."""
        checkpoint[AVERAGING] = {
            "updates": self.updates,
            "decay": self.how.decay,
            "from_update": self.how.from_update,
        }
        if not self.values:
            return
        state = checkpoint["state_dict"]
        checkpoint[TRAINED] = dict(self.values) if self.shown else {name: state[name] for name in self.values}
        if not self.shown:
            state.update(self.values)

    def load(self, checkpoint: dict[str, Any]) -> None:
        """Take mean and count from a checkpoint, and make its `state_dict` that of the weights to train."""
        found = checkpoint[AVERAGING]
        self.updates, self.shown, self.values = found["updates"], False, {}
        if TRAINED not in checkpoint:
            return
        trained, state = checkpoint[TRAINED], checkpoint["state_dict"]
        try:
            check_finite(trained, "the checkpoint")
        except CheckpointError as error:
            raise UserError(f"resume: {error}") from error
        self.values = {name: state[name].clone() for name in trained}
        state.update(trained)


def check_average(asked: Average | None, checkpoint: dict[str, Any]) -> None:
    """Refuse to go on with another moving average than that of the checkpoint's run."""
    kept = checkpoint.get(AVERAGING) or {}
    # Lightning's callback, which restores itself, has other entries there.
    there = _shown(kept["decay"], kept["from_update"]) if "decay" in kept else "not set"
    here = "not set" if asked is None else _shown(asked.decay, asked.from_update)
    if here != there:
        raise UserError(
            f"resume: model.average is {here} here and {there} in the checkpoint; give that of the run, or begin a new run with "
            "its weights (model.encoder)"
        )


def _shown(decay: Any, from_update: Any) -> str:
    return f"{{decay: {decay}, from_update: {from_update}}}"


def _trained(module: nn.Module) -> dict[str, nn.Parameter]:
    return {name: value for name, value in module.named_parameters() if value.requires_grad}
