"""Which of Lightning's hooks each of several heads gets, and that no head counts on another."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from lightning.pytorch.core.hooks import DataHooks, ModelHooks

from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks.base import Task

FORWARDED = (
    *("on_fit_start", "on_fit_end", "on_train_start", "on_train_end", "on_train_epoch_start", "on_train_epoch_end"),
    *(f"on_{stage}_{when}" for stage in ("validation", "test") for when in ("start", "end")),
    *(f"on_{stage}_epoch_{when}" for stage in ("validation", "test") for when in ("start", "end")),
)
"""Hooks that each head gets in turn, without arguments."""
SHARED = ("upstream_layers", "optimizer_step")
"""Not hooks of Lightning's, or not among those it lists, and made once for all heads."""


def forwarded(hook: str) -> Callable[[Any], None]:
    """A hook of the whole that calls that of each head."""

    def call(self: Any) -> None:
        for _, head in self.each():
            getattr(head, hook)()

    call.__name__ = hook
    return call


def check_hooks(head: Task, handled: Iterable[str]) -> None:
    """Make sure that a head is one of several as it is alone.

    Args:
        head: of any class.
        handled: names of what the whole does for its heads, or lets them do, beside `FORWARDED`.

    Raises:
        UserError: it makes its outputs itself, or counts on a hook that only a head alone gets.
    """
    if type(head).forward is not Task.forward:
        raise UserError(f"{head.name}: has no head that could share the upstream's forward; run it alone")
    listed = {name for hooks in (ModelHooks, DataHooks) for name in vars(hooks) if not name.startswith("_")}
    known = {*FORWARDED, *handled, "on_train_batch_start"}
    for name in [*SHARED, *sorted(listed - known)]:
        if "predict" not in name and getattr(type(head), name) is not getattr(Task, name):
            raise UserError(f"{head.name}: overrides {name}, which is not done for one of several heads; run it alone")
    if not head.automatic_optimization:
        raise UserError(f"{head.name}: optimises by hand, which one of several heads cannot; run it alone")
