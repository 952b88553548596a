"""Job sharding: which part of a job this process handles, from `--part I/N` or from SLURM or torchrun variables."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.hardware import usable_cores

Item = TypeVar("Item")
# Hours of audio below which starting another process (4 s) takes longer than it saves, by kind of features.
HOURS_PER_PROCESS = {"phones": 1000.0, "mfcc": 5.0, "context": 1.0, "layer": 0.1, "layers": 0.1}


@dataclass(frozen=True)
class JobShard:
    """Part `number` (from 0) of a job that has `of` parts.

    Example:
        >>> JobShard.parse("2/3").deal("abcdefg")
        ['b', 'e']
    """

    number: int = 0
    of: int = 1

    @classmethod
    def parse(cls, text: str) -> JobShard:
        """Read `I/N` (from 1/N to N/N), or `auto`, which reads the environment."""
        if text == "auto":
            return cls.from_environment(os.environ)
        first, _, last = text.partition("/")
        if not (first.isdecimal() and last.isdecimal() and 1 <= int(first) <= int(last)):
            raise UserError(f"--part {text}: write I/N from 1/N to N/N, or auto in a job array or torchrun")
        return cls(int(first) - 1, int(last))

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> JobShard:
        """The part of this process among the tasks of a SLURM job array, the ranks of each task, or both.

        Ranks are those of torchrun (RANK, WORLD_SIZE), else those of srun (SLURM_PROCID, SLURM_NTASKS).
        """

        def whole(name: str) -> int | None:
            value = environment.get(name, "")
            return int(value) if value.isdecimal() else None

        rank, ranks = whole("RANK"), whole("WORLD_SIZE")
        if rank is None or ranks is None:
            rank, ranks = whole("SLURM_PROCID"), whole("SLURM_NTASKS")
        task, tasks, first = (whole(f"SLURM_ARRAY_TASK_{name}") for name in ("ID", "COUNT", "MIN"))
        if task is None or tasks is None or first is None:
            if rank is None or ranks is None:
                raise UserError("--part auto: neither a SLURM job array nor ranks of torchrun or srun here; write I/N")
            return cls(rank, ranks)
        if task - first >= tasks:
            raise UserError(f"--part auto: tasks of the array must be numbered without gaps, as --array=1-{tasks} does")
        return cls((task - first) * (ranks or 1) + (rank or 0), tasks * (ranks or 1))

    def deal(self, items: Sequence[Item]) -> list[Item]:
        """Every `of`-th item, starting with `number`: neighbours have similar sizes, so parts have, too."""
        return list(items[self.number :: self.of])


def jobs_for_audio(kind: str, hours: float) -> int:
    """How many processes pay off: at most one per GPU for layers of an encoder, else one per core."""
    usable = usable_cores()
    if kind in ("layer", "layers") and torch.cuda.is_available():
        usable = torch.cuda.device_count()
    usable //= int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # torchrun's ranks on this machine share it
    return max(1, min(usable, math.ceil(hours / HOURS_PER_PROCESS.get(kind, 1.0))))
