"""What one of several heads gets from Lightning: its hooks, a view of the trainer, and checks that this is enough."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.core.hooks import DataHooks, ModelHooks
from torch import Tensor

from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks.base import Task

# Hooks without arguments that `ManyHeads` calls on each head in turn.
FORWARDED = (
    *("on_fit_start", "on_fit_end", "on_train_start", "on_train_end", "on_train_epoch_start", "on_train_epoch_end"),
    *(f"on_{stage}_{when}" for stage in ("validation", "test") for when in ("start", "end")),
    *(f"on_{stage}_epoch_{when}" for stage in ("validation", "test") for when in ("start", "end")),
)
# Methods that are called once for all heads, or without the audio, and that Lightning's classes of hooks do not list.
SHARED = ("upstream_layers", "from_layers", "optimizer_step")


def forwarded(hook: str) -> Callable[[Any], None]:
    """A method of `ManyHeads` that calls a hook of each head."""

    def call(self: Any) -> None:
        for head in self.heads().values():
            getattr(head, hook)()

    call.__name__ = hook
    return call


def check_hooks(head: Task, handled: Iterable[str]) -> None:
    """Refuse a head whose training would differ from its training alone, given the hooks `handled` beside `FORWARDED`."""
    if type(head).forward is not Task.forward:
        raise UserError(f"{head.name}: has no head that could share the upstream's forward; run it alone")
    listed = {name for hooks in (ModelHooks, DataHooks) for name in vars(hooks) if not name.startswith("_")}
    known = {*FORWARDED, *handled, "on_train_batch_start"}
    for name in [*SHARED, *sorted(listed - known)]:
        if "predict" not in name and getattr(type(head), name) is not getattr(Task, name):
            raise UserError(f"{head.name}: overrides {name}, which several heads do not call one by one; run it alone")
    if not head.automatic_optimization:
        raise UserError(f"{head.name}: uses manual optimization, which several heads do not support; run it alone")


class TrainerOfHead:
    """The trainer as one of several heads sees it: its own metrics, under the names that it logged."""

    def __init__(self, trainer: pl.Trainer, label: str) -> None:
        self._trainer, self._prefix = trainer, f"{label}/"

    def __getattr__(self, name: str) -> Any:
        return getattr(self._trainer, name)

    @property
    def callback_metrics(self) -> dict[str, Tensor]:
        found = self._trainer.callback_metrics
        return {name.removeprefix(self._prefix): found[name] for name in found if name.startswith(self._prefix)}


def check_trainer(trainer: pl.Trainer) -> None:
    """Refuse a trainer under which several heads would influence each other."""
    if trainer.num_devices * trainer.num_nodes > 1:
        raise UserError(
            "several heads train in one process; set trainer.devices: 1 (and num_nodes: 1), or train one head at a time"
        )
    if trainer.scaler is not None:
        raise UserError(
            "trainer.precision 16-mixed has one loss scale for all heads, so that one head would change the others; "
            "use bf16-mixed or 32"
        )
