"""Checks that several tasks can train on the same batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks.contract import Needs
from wavlm_lightning.upstreams.cache import Level


def check_alike(needs: Sequence[Needs], decided_by: Callable[[Needs], dict[str, Any]]) -> None:
    """Refuse tasks that would get different batches alone; `decided_by` returns the settings a task decides, by name."""
    first, *others = needs
    wanted = decided_by(first)
    for task in others:
        for what, value in decided_by(task).items():
            if value != wanted[what]:
                raise UserError(
                    f"{first.name} and {task.name} cannot share batches: {what} is {wanted[what]!r} for the first and "
                    f"{value!r} for the second; choose protocols that agree on it, or train them one at a time"
                )


def common_level(needs: Sequence[Needs]) -> Level:
    """The level of a feature cache that gives each task exactly the features of a cache of its own."""
    names: dict[Level, str] = {}
    for task in needs:
        if task.cache_level is None or (task.cache_level == "utterance" and task.normalize):
            raise UserError(f"cache: {task.name} needs every frame of every pass; set data.cache: null")
        names[task.cache_level] = task.name
    if len(names) > 1:
        raise UserError(
            f"cache: {names['utterance']} takes means over time and {names['frame']} every frame, and a cache keeps one "
            "of the two; set data.cache: null, or train them one at a time"
        )
    return next(iter(names))
