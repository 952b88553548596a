"""A number of the model that moves over the updates: the margin of a softmax, the weight of a term of the loss."""

from __future__ import annotations

import ast
import inspect
import textwrap
from dataclasses import FrozenInstanceError, replace
from typing import Any

import lightning.pytorch as pl

from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks import Task

# Numbers that are read once, when the run begins, so that moving them would change nothing.
READ_ONCE = {
    "learning_rate": "the optimiser has its own; give a learning-rate schedule instead",
    "weight_decay": "the optimiser has its own; give it a fixed one",
    "seed": "it is read when the run begins; give a fixed one",
    "warmup": "the schedule is made when the run begins; give model.schedule",
}


BUILDING = ("__init__", "__post_init__", "build", "build_head")  # what these read, they may have copied


class MoveValue(pl.Callback):
    """Moves a number in a straight line: `start` up to update `from_update`, `end` from update `to_update` on.

    The value depends on the number of the update alone, so that a resumed run goes on exactly. It is logged as
    `train/NAME`, and of several heads each has its own.

    Args:
        name: attribute of the task, or of a part of it (`objective.margin`), that the loss reads in every step. Of pre-training
            `objectives.1.weight` (the second objective), or what masking, mixing and voices say can move (`mixing.probability`).
        start: the value before the first update.
        end: the value at the end.
        from_update: update after which the value moves.
        to_update: update at which it has arrived.

    Example:
        >>> # trainer.callbacks of a YAML: the margin of AM-softmax grows over the first 1000 updates
        >>> MoveValue(name="margin", start=0.0, end=0.4, to_update=1000)
    """

    def __init__(self, name: str, start: float, end: float, to_update: int, from_update: int = 0) -> None:
        if not 0 <= from_update < to_update:
            raise UserError(
                f"MoveValue {name}: to_update ({to_update}) must be greater than from_update ({from_update}), which is 0 or more"
            )
        self.name, self.start, self.end = name, start, end
        self.from_update, self.to_update = from_update, to_update
        self._restored = 0  # updates behind a checkpoint that was read, until this process makes one

    def at(self, update: int) -> float:
        """The value for the next update, after `update` updates have been made."""
        share = (update - self.from_update) / (self.to_update - self.from_update)
        share = min(1.0, max(0.0, share))
        return (1 - share) * self.start + share * self.end  # exactly `end` at the end

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Refuse a name that is missing, no number, or read only when the run begins."""
        for head in _heads(pl_module):
            holder, last = self._holder(head)
            value = getattr(holder, last, None)
            if isinstance(value, bool) or not isinstance(value, float | int):
                known = "is missing" if value is None else f"is {type(value).__name__}"
                raise UserError(
                    f"MoveValue: {self.name} of {type(head).__name__} {known}, not a number; name one that its loss reads"
                )
            if holder is head and last in READ_ONCE:
                raise UserError(f"MoveValue: {self.name} cannot move: {READ_ONCE[last]}")
            if holder is head and isinstance(head, Task) and not _is_read_later(type(head), last):
                raise UserError(
                    f"MoveValue: {self.name} cannot move: {type(head).__name__} reads it only when it is built; name the number "
                    f"of the part that got it, such as objective.{last} or head.{last}"
                )
            if _is_frozen(holder, last):
                moves = getattr(type(holder), "moves", ())
                if last not in moves:
                    known = f"; of {type(holder).__name__} move {' or '.join(moves)}" if moves else ""
                    raise UserError(f"MoveValue: {self.name} cannot move: it is read when the run begins{known}")
                for value in (self.start, self.end):
                    replace(holder, **{last: value})  # which refuses a value out of its range
            elif not isinstance(head, Task) and isinstance(value, int):
                raise UserError(
                    f"MoveValue: {self.name} cannot move: it is a whole number, {value}, and of pre-training those are sizes, "
                    "which are read when the run begins; name a weight, a temperature or a probability"
                )

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        value, self._restored = self.at(trainer.global_step), 0
        for head in _heads(pl_module):
            self._set(head, value)
            head.log(f"train/{self.name}", value)

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._restored = int(checkpoint.get("global_step", 0))

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Evaluate a checkpoint, and make up a validation before a resumed run trains, with the value of the last update."""
        if self._restored > 0:
            for head in _heads(pl_module):
                self._set(head, self.at(self._restored - 1))

    on_test_start = on_validation_start

    def _set(self, head: Any, value: float) -> None:
        holder, last = self._holder(head)
        if not _is_frozen(holder, last):
            setattr(holder, last, value)
            return
        # Another object of the same settings: the one of this run may be the default of others.
        *path, attribute = self.name.split(".")[:-1]
        for part in path:
            head = getattr(head, part)
        setattr(head, attribute, replace(holder, **{last: value}))

    def _holder(self, head: Any) -> tuple[Any, str]:
        """The object that has the number, and the number's name there."""
        *path, last = self.name.split(".")
        for part in path:
            head = getattr(head, part, None)
        return head, last


def _is_read_later(kind: type, name: str) -> bool:
    """Whether a method of a class, other than those that build its object, reads an attribute; True if it cannot be seen."""
    if isinstance(getattr(kind, name, None), property):
        return True
    for each in kind.__mro__:
        if each.__module__.partition(".")[0] in ("builtins", "torch", "lightning"):
            continue
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(each)))
        except (OSError, TypeError, SyntaxError):
            return True
        for method in ast.walk(tree):
            if isinstance(method, ast.FunctionDef) and method.args.args and method.name not in BUILDING:
                own = f"{method.args.args[0].arg}.{name}"
                for node in ast.walk(method):
                    if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load) and ast.unparse(node) == own:
                        return True
    return False


def _is_frozen(holder: Any, name: str) -> bool:
    try:
        setattr(holder, name, getattr(holder, name))
    except FrozenInstanceError:
        return True
    return False


def _heads(module: pl.LightningModule) -> list[Any]:
    """The task, each of several heads, or what is pre-trained."""
    return list(module.heads().values()) if isinstance(module, Task) else [module]
