"""The learning rate over updates: constant, linear, cosine, 1-sqrt, exponential, tri-stage, warm-up then 1/sqrt; WSD."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch.optim.lr_scheduler import LambdaLR

from wavlm_lightning.system.errors import UserError

Shape = Literal["constant", "linear", "cosine", "one_minus_sqrt", "exponential", "tri_stage", "inverse_sqrt"]
HOLDS = ("linear", "cosine", "one_minus_sqrt", "tri_stage")  # shapes that may stay at the peak before they fall
ENDS = (*HOLDS, "exponential")  # shapes whose rate depends on where the schedule ends
FINAL = {"exponential": 0.01, "tri_stage": 0.05}


@dataclass(frozen=True)
class Schedule:
    """Factor on every learning rate, by updates made. Lengths below 1 are shares of all updates, others numbers of updates.

    After the warm-up, a straight line from `start` to 1, the shapes go on as follows. `constant`: 1. `linear`: a straight
    line to `final` at the last update. `cosine`: half a cosine to `final`. `one_minus_sqrt`: to `final` by one minus the
    square root of the share done (Hägele et al., arXiv 2405.18392), steep at first. `tri_stage`: exponentially to
    `final` (fairseq's `tri_stage`, wav2vec 2.0 fine-tuning). `inverse_sqrt`: the square root of warm-up over updates
    (Vaswani et al. 2017, section 5.3). `exponential`: from 1 at the first update to `final` at the last, and the warm-up is a
    factor on it (wespeaker).

    Warm-up, stable, decay (WSD, arXiv 2404.06395) is `linear` or `one_minus_sqrt` with `decay`: the rates before the decay do not
    depend on the length of the run if `warmup` is in updates, so that a checkpoint from there serves runs of any length.

    Args:
        shape: see above.
        warmup: how long the rate rises: 0.1 is a tenth of all updates, 4000 is 4000 updates.
        hold: how long it stays at its peak before `linear`, `cosine`, `one_minus_sqrt` and `tri_stage` fall.
        decay: how long these fall at the end of the run; in place of `hold`, which is then all between warm-up and decay.
        start: factor at the first update, if there is a warm-up; 0, of `tri_stage` 0.01.
        final: factor at the last update and after it; 0, of `tri_stage` 0.05, of
            `exponential` 0.01.
        updates: of the whole schedule, if not `trainer.max_steps`: HuBERT's 10 h run stops at 25000 of 80000.

    Example:
        >>> Schedule("tri_stage", warmup=0.1, hold=0.4).factor(1300, 13000)
        1.0
        >>> wsd = Schedule("one_minus_sqrt", warmup=100, decay=0.2)
        >>> [wsd.factor(update, 1000) for update in (50, 100, 800, 850, 1000)]
        [0.5, 1.0, 1.0, 0.5, 0.0]
    """

    shape: Shape = "constant"
    warmup: float = 0.0
    hold: float = 0.0
    start: float | None = None
    final: float | None = None
    updates: int | None = None
    decay: float | None = None

    def __post_init__(self) -> None:
        if self.warmup < 0 or self.hold < 0:
            raise UserError(
                "schedule: warmup and hold must not be negative; give a share below 1 or a number of updates"
            )
        for name, length in {"hold": self.hold, "decay": self.decay}.items():
            if length and self.shape not in HOLDS:
                raise UserError(f"schedule.{name} belongs to shapes {', '.join(HOLDS)}, not to {self.shape}; remove it")
        if self.decay is not None and self.decay <= 0:
            raise UserError(f"schedule.decay {self.decay:g}: give a share below 1 or a number of updates, or remove it")
        if self.hold and self.decay:
            raise UserError(
                "schedule.hold and schedule.decay: each says when the rate begins to fall; give one of them"
            )
        if self.final is not None and self.shape not in ENDS:
            raise UserError(f"schedule.final: shape {self.shape} has no end; remove it, or choose {', '.join(ENDS)}")
        if self.shape == "inverse_sqrt" and not self.warmup:
            raise UserError(
                "schedule.warmup: shape inverse_sqrt falls from the end of its warm-up; set it, such as 4000"
            )
        for name, value in {"start": self.start, "final": self.final}.items():
            if value is not None and not 0 <= value <= 1:
                raise UserError(f"schedule.{name} {value}: a factor on the learning rate; it must be from 0 to 1")
        if self.shape in ("exponential", "tri_stage") and self.final == 0:
            raise UserError("schedule.final 0: an exponential never gets there; set a value above 0, such as 0.05")

    @property
    def follows_max_steps(self) -> bool:
        """Whether the factors depend on `trainer.max_steps`."""
        return self.updates is None and (self.shape in ENDS or 0 < self.warmup < 1)

    def factor(self, update: int, total: int) -> float:
        """Factor on the learning rates of the update after `update` others; `total` is `trainer.max_steps`."""
        total = self.updates or total
        climb = self._long(self.warmup, total)
        published = self.shape == "tri_stage"
        start = self.start if self.start is not None else 0.01 if published else 0.0
        final = self.final if self.final is not None else FINAL.get(self.shape, 0.0)
        rising = start + (1.0 - start) * (update / climb) if update < climb else 1.0
        if self.shape == "exponential":
            return rising * final ** min(1.0, update / max(1, total))
        if update < climb:
            return rising
        if self.shape == "constant":
            return 1.0
        if self.shape == "inverse_sqrt":
            return math.sqrt(climb / max(1, update))
        begin = climb + self._long(self.hold, total) if self.decay is None else total - self._long(self.decay, total)
        rest = min(1.0, max(0.0, update - begin) / max(1.0, total - begin))
        if self.shape == "tri_stage":
            return final**rest
        falling = {
            "linear": 1.0 - rest,
            "cosine": 0.5 * (1.0 + math.cos(math.pi * rest)),
            "one_minus_sqrt": 1.0 - math.sqrt(rest),
        }
        return final + (1.0 - final) * falling[self.shape]

    def scheduler(self, optimizer: torch.optim.Optimizer, total: int) -> LambdaLR:
        """Apply it to every parameter group of an optimiser; step it after each update.

        Raises `UserError` if the schedule needs `trainer.max_steps` and `total` is not positive, or if it does not fit.
        """
        ends = self.shape in ENDS or 0 < self.warmup < 1
        total = self.updates or total
        if ends and total <= 0:
            raise UserError(
                "schedule: it depends on the number of updates; set trainer.max_steps (or schedule.updates), or choose "
                "shape constant or inverse_sqrt with a warm-up in updates"
            )
        rest = "decay" if self.decay else "hold"
        longest = self._long(self.warmup, total) + self._long(self.decay or self.hold, total)
        if self.shape in ENDS and longest > total:
            raise UserError(
                f"schedule: warmup and {rest} take {longest:g} updates, but the schedule has {total}; shorten them, or give "
                "shares below 1"
            )
        return LambdaLR(optimizer, lambda update: self.factor(update, total))

    @staticmethod
    def _long(value: float, total: int) -> float:
        return value * total if value < 1 else value
