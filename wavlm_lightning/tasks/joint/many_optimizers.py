"""Optimisers and schedulers of several heads, joined because Lightning's automatic optimisation takes one optimiser."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import lightning.pytorch as pl
import torch


class HeadOptimizers(torch.optim.Optimizer):
    """Steps the optimiser of every head; Lightning counts that as one update.

    Args:
        optimizers: one for each head. Their parameter groups are used as the same objects, so that schedulers reach them.
    """

    def __init__(self, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        self.optimizers = list(optimizers)
        super().__init__([group for optimizer in optimizers for group in optimizer.param_groups], {})

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of every head; the closure computes the gradients."""
        loss = None if closure is None else closure()
        for optimizer in self.optimizers:
            optimizer.step()
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        return {"heads": [optimizer.state_dict() for optimizer in self.optimizers]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for optimizer, state in zip(self.optimizers, state_dict["heads"], strict=True):
            optimizer.load_state_dict(state)


class HeadScheduler:
    """A head's scheduler, attached to the joined optimiser, as Lightning requires.

    Args:
        scheduler: the scheduler that the head configured.
        head: the head.
        optimizer: the joined optimiser.
    """

    def __init__(self, scheduler: Any, head: pl.LightningModule, optimizer: HeadOptimizers) -> None:
        self.scheduler, self.head, self.optimizer = scheduler, head, optimizer

    def state_dict(self) -> dict[str, Any]:
        return self.scheduler.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.scheduler.load_state_dict(state_dict)
