"""What listeners said of a recording, as metadata and label sets: the mean rating, the ratings by listener, the system."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from wavlm_lightning.data.recordings import Inventories, Meta
from wavlm_lightning.system.errors import UserError


@dataclass
class Rated:
    """The scores of one recording so far."""

    scores: list[float] = field(default_factory=list)
    by_listener: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def add(self, score: float, listener: str | None = None) -> None:
        self.scores.append(score)
        if listener:
            self.by_listener[listener].append(score)

    def meta(self, system: str, mean: float | None = None) -> Meta:
        """`system`, `rating` (the given mean, or that of all scores) and, where listeners are known, `ratings` by listener.

        A listener who scored a recording several times has the mean of his scores.
        """
        found: Meta = {"system": system, "rating": sum(self.scores) / len(self.scores) if mean is None else mean}
        if self.by_listener:
            found["ratings"] = {name: sum(each) / len(each) for name, each in self.by_listener.items()}
        return found


def score_of(text: str, scale: Sequence[float], where: str) -> float:
    """A score on the scale; `UserError`, beginning with `where`, for anything else."""
    try:
        score = float(text)
    except ValueError:
        score = math.nan
    if not scale[0] <= score <= scale[1]:
        raise UserError(
            f"{where}: the score {text!r} is not a number from {scale[0]:g} to {scale[1]:g}; correct it, or give the scale "
            "of the listening test with --scale LOWEST HIGHEST"
        )
    return score


def label_sets(splits: dict[str, list[Any]], scale: Sequence[float]) -> Inventories:
    """The scale, the systems of all splits, the listeners of the training, and the speakers if they are known.

    From metadata by split. A split `train` names the listeners, because a model can learn no others; without it all do.
    """
    everyone = [meta for part in splits.values() for meta in part]
    found: Inventories = {
        "rating_scale": list(scale),
        "systems": _sorted(meta["system"] for meta in everyone),
        "listeners": _sorted(name for meta in splits.get("train", everyone) for name in meta.get("ratings", {})),
        "speakers": _sorted(str(meta["speaker"]) for meta in everyone if meta.get("speaker")),
    }
    return {name: values for name, values in found.items() if values}


def _sorted(names: Iterable[str]) -> list[str]:
    return sorted(set(names))
