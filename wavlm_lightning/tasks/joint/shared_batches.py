"""What several tasks that train on the same batches must have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import lightning.pytorch as pl

from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks.base import Task
from wavlm_lightning.tasks.joint.many_heads import ManyHeads
from wavlm_lightning.upstreams.cache import Level


def tasks_of(module: pl.LightningModule) -> list[Task]:
    """What trains on a module's batches: the task that it is, or those of its heads, of several for one task the first.

    Raises:
        UserError: it is no task.
    """
    if isinstance(module, ManyHeads):
        return list(module.tasks.values())
    if not isinstance(module, Task):
        raise UserError(f"TaskData serves tasks, not {type(module).__name__}; for pre-training use PretrainingData")
    return [module]


def check_alike(tasks: Sequence[Task], decided_by: Callable[[Task], dict[str, Any]]) -> None:
    """Make sure that every task would have got the same batches alone.

    Args:
        tasks: that are to share them.
        decided_by: what a task has a say in, by what it is called.

    Raises:
        UserError: two do not say the same.
    """
    first, *others = tasks
    wanted = decided_by(first)
    for task in others:
        for what, value in decided_by(task).items():
            if value != wanted[what]:
                raise UserError(
                    f"{first.name} and {task.name} cannot share batches: {what} is {wanted[what]!r} for the one and "
                    f"{value!r} for the other; choose protocols that agree on it, or train them one at a time"
                )


def common_level(tasks: Sequence[Task]) -> Level:
    """What a cache keeps for all tasks, so that each has exactly what it would have of a cache of its own.

    Raises:
        UserError: a task rules a cache out, or they need different ones.
    """
    names: dict[Level, str] = {}
    for task in tasks:
        if task.cache_level is None or (task.cache_level == "utterance" and task.weighted_sum.normalize):
            raise UserError(f"cache: {task.name} needs every frame of every pass; set data.cache: null")
        names[task.cache_level] = task.name
    if len(names) > 1:
        raise UserError(
            f"cache: {names['utterance']} takes means over time and {names['frame']} every frame, and a cache keeps one "
            "of the two; set data.cache: null, or train them one at a time"
        )
    return next(iter(names))
