"""Speaker turns of recordings as targets and reference of diarization and its kin: checked, by key, and as frames."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from torch import Tensor

from wavlm_lightning.audio import SAMPLE_RATE
from wavlm_lightning.data.corpus import Split
from wavlm_lightning.system.errors import UserError

Turn = tuple[str, float, float]


def checked_turns(meta: dict[str, Any], task: str) -> list[Turn]:
    """The turns of a recording, `(speaker, start, end)` in seconds.

    Raises:
        UserError: it has none, or one that ends before it begins.
    """
    if "turns" not in meta:
        raise UserError(f"{task}: a recording has no turns; use a corpus with speaker turns")
    for speaker, start, end in meta["turns"]:
        if not 0 <= start <= end < math.inf:
            raise UserError(
                f"{task}: the turn of {speaker!r} from {start:g} to {end:g} s ends before it begins; correct the turns"
            )
    return [(str(speaker), float(start), float(end)) for speaker, start, end in meta["turns"]]


def nearest_frame(seconds: float, hop: float) -> int:
    """The frame that begins nearest to a time, of frames of `hop` samples; the order of operations is s3prl's, for halves."""
    return int(np.rint(seconds * SAMPLE_RATE / hop))


def cropped(target: Tensor, start: int, samples: int, hop: float) -> Tensor:
    """The frames `(frames, ...)` of a crop that begins at the sample `start`; see `Task.crop_target`."""
    first = round(start / hop)
    return target[first : first + round(samples / hop)]


class ReferenceTurns:
    """Recording -> turns of the split that is evaluated; they are read once.

    Args:
        task: its name, for messages.
    """

    def __init__(self, task: str) -> None:
        self.task = task
        self._read: tuple[Split, dict[str, list[Turn]]] | None = None

    def of(self, split: Split) -> dict[str, list[Turn]]:
        """The turns of each recording of a split, by key."""
        if self._read is None or self._read[0] is not split:
            turns = (checked_turns(meta, self.task) for meta in split.metas())
            self._read = split, dict(zip(split.keys, turns, strict=True))
        return self._read[1]
