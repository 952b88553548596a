"""What a row of the benchmark measured, and the file it is kept in."""

from __future__ import annotations

import datetime
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.hardware import processor_name
from wavlm_lightning.system.timing import Rounds


@dataclass(frozen=True)
class Place:
    """Where a row finds and makes what it needs; not part of what was measured.

    Attributes:
        work: folder for corpora, which are made once.
        original: folder with unilm's `WavLM.py` and `modules.py`, or None.
    """

    work: Path
    original: Path | None = None


@dataclass
class Result:
    """One row.

    Attributes:
        row: its name.
        settings: what it was measured with: sizes, precision, rounds, clock, threads.
        unit: of the values: `s` or `GiB`.
        values: by variant, one value a round.
        ours: the variant that the goal is about.
        peers: those that it is compared with, the best of them in the headline.
        work: what one value stands for, by unit: `{"audio-s": 40}` makes audio-seconds per second.
        flops: operations of the model in one value, for its use of the processor; 0 if unknown.
        parity: largest relative difference from each peer, checked before timing.
        notes: anything else that was measured, by name.
        machine: where.
        when: ISO date.
    """

    row: str
    settings: dict[str, Any]
    unit: str
    values: dict[str, list[float]]
    ours: str
    peers: list[str]
    work: dict[str, float] = field(default_factory=dict)
    flops: float = 0.0
    parity: dict[str, float] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=dict)
    when: str = ""

    @property
    def rounds(self) -> Rounds:
        """The values, to be compared."""
        return Rounds(self.values)

    @property
    def best_peer(self) -> str:
        """The peer with the least."""
        return self.rounds.best(self.peers)

    @property
    def key(self) -> str:
        """Two results with the same key are the same measurement."""
        return json.dumps([self.row, self.settings], sort_keys=True)


def machine(device: str) -> dict[str, Any]:
    """The machine and versions that a figure belongs to."""
    facts = {
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
    }
    if device == "cuda":
        facts["gpu"] = torch.cuda.get_device_name()
    return facts


class ResultFile:
    """Results as JSON, written after every row, so that an interruption loses only the row under way.

    Args:
        path: of the file.
        resume: keep what it holds already.
    """

    def __init__(self, path: Path, resume: bool) -> None:
        self.path = path
        self.results = {result.key: result for result in read_results(path)} if resume and path.exists() else {}

    def holds(self, row: str, settings: dict[str, Any]) -> bool:
        """Whether this row has been measured with these settings."""
        return json.dumps([row, settings], sort_keys=True) in self.results

    def add(self, result: Result, device: str) -> None:
        """Keep a result and write the file."""
        result.machine, result.when = machine(device), datetime.datetime.now().isoformat(timespec="minutes")
        self.results[result.key] = result
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_suffix(".partial")
        partial.write_text(json.dumps([asdict(kept) for kept in self.results.values()], indent=1) + "\n")
        partial.replace(self.path)


def read_results(path: Path) -> list[Result]:
    """What an earlier run wrote.

    Raises:
        UserError: it is not a file of this benchmark.
    """
    try:
        return [Result(**entry) for entry in json.loads(path.read_text())]
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path}: no results of this benchmark ({error}); give the file that --out wrote") from error
