"""The optimisers and schedulers of several heads, as the one optimiser that Lightning's automatic optimisation takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import lightning.pytorch as pl
import torch


class HeadOptimizers(torch.optim.Optimizer):
    """Steps each head's optimiser; counts as one update.

    Args:
        optimizers: one a head. The parameter groups here are theirs, the same objects.
    """

    def __init__(self, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        self.optimizers = list(optimizers)
        super().__init__([group for optimizer in optimizers for group in optimizer.param_groups], {})

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of every head, after the closure has made the gradients."""
        loss = None if closure is None else closure()
        for optimizer in self.optimizers:
            optimizer.step()
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Of every head."""
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """The states by head."""
        return {"heads": [optimizer.state_dict() for optimizer in self.optimizers]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` gave."""
        for optimizer, state in zip(self.optimizers, state_dict["heads"], strict=True):
            optimizer.load_state_dict(state)


class HeadScheduler:
    """A head's scheduler, which Lightning is to find attached to the joined optimiser.

    Args:
        scheduler: what the head made.
        head: whose it is.
        optimizer: the joined one.
    """

    def __init__(self, scheduler: Any, head: pl.LightningModule, optimizer: HeadOptimizers) -> None:
        self.scheduler, self.head, self.optimizer = scheduler, head, optimizer

    def state_dict(self) -> dict[str, Any]:
        """Of the head's scheduler."""
        return self.scheduler.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Into the head's scheduler."""
        self.scheduler.load_state_dict(state_dict)
