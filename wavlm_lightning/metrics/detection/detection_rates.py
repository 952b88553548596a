"""F1, average precision and detection error rate of speech and of overlap, over a data set and a grid of settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import BinaryAveragePrecision

from wavlm_lightning.metrics.detection.regions import overlap_seconds, regions_of_scores, regions_of_turns

EVENTS = ("speech", "overlap")
"""At least one speaker, at least two."""

MICROSECONDS = 1_000_000


class DetectionSetting(NamedTuple):
    """How frame scores become regions; see `regions_of_scores`."""

    onset: float
    offset: float
    shortest: float
    shortest_gap: float


SETTINGS: tuple[DetectionSetting, ...] = tuple(
    DetectionSetting(onset, round(onset - lower, 2), shortest, gap)
    for onset, lower, shortest, gap in product(
        (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9), (0.0, 0.05, 0.1, 0.2), (0.0, 0.1, 0.2), (0.0, 0.1, 0.25)
    )
    if onset > lower
)


@dataclass(frozen=True)
class DetectionCounts:
    """Seconds of reference and hypothesis that agree or do not, of any number of recordings.

    Attributes:
        hit: in both.
        false_alarm: in the hypothesis alone.
        missed: in the reference alone.
    """

    hit: float
    false_alarm: float
    missed: float

    @property
    def f1(self) -> float:
        """2 PR / (P + R) of time. Without reference: 1 for an empty hypothesis, else 0."""
        found = 2 * self.hit + self.false_alarm + self.missed
        return 2 * self.hit / found if found > 0 else 1.0

    @property
    def precision(self) -> float:
        """Share of the hypothesis that is right; 1 for an empty hypothesis, as in pyannote.metrics."""
        return self.hit / (self.hit + self.false_alarm) if self.hit + self.false_alarm > 0 else 1.0

    @property
    def recall(self) -> float:
        """Share of the reference that is found; 1 without reference, as in pyannote.metrics."""
        return self.hit / (self.hit + self.missed) if self.hit + self.missed > 0 else 1.0

    @property
    def error(self) -> float:
        """Detection error rate: (false alarm + missed) / reference. Without reference: 0 without false alarm, else 1."""
        wrong, reference = self.false_alarm + self.missed, self.hit + self.missed
        return wrong / reference if reference > 0 else float(wrong > 0)


class DetectionErrors(Metric):
    """Hits, false alarms and misses of both events under every setting, and the average precision of the frames.

    Sums of whole microseconds, so that nothing depends on the order of recordings and ranks. Equal to pyannote.metrics'
    `DetectionErrorRate` and `DetectionPrecisionRecallFMeasure` on the union of both time lines (no collar).

    Args:
        rate: frames per second of the scores.
        centre: seconds at which the first frame lies.
        settings: to try.

    Example:
        >>> metric = DetectionErrors(rate=50.0, centre=0.0125)
        >>> metric.update(scores, [("anna", 0.0, 3.2), ("ben", 2.9, 7.0)])
        >>> metric.counts("overlap", 0).f1
    """

    full_state_update = False
    is_differentiable = False
    totals: Tensor
    frames: Tensor  # all, and those of each event

    def __init__(
        self, rate: float, centre: float, settings: Sequence[DetectionSetting] = SETTINGS, **options: Any
    ) -> None:
        super().__init__(**options)
        self.rate, self.centre = rate, centre
        self.settings = tuple(DetectionSetting(*setting) for setting in settings)
        empty = torch.zeros(len(EVENTS), len(self.settings), 3, dtype=torch.int64)
        self.add_state("totals", empty, dist_reduce_fx="sum")
        self.add_state("frames", torch.zeros(1 + len(EVENTS), dtype=torch.int64), dist_reduce_fx="sum")
        self.precision_of = torch.nn.ModuleDict({event: BinaryAveragePrecision() for event in EVENTS})

    def update(self, scores: Tensor, turns: Sequence[Sequence[Any]]) -> None:
        """Add one recording.

        Args:
            scores: probabilities of speech and of overlap at each frame, `(frames, 2)`, without padding.
            turns: the reference, `(speaker, start, end)` in seconds.
        """
        rows, middles = scores.detach().float().cpu().numpy(), self.centre + np.arange(len(scores)) / self.rate
        self.frames[0] += len(rows)
        for number, event in enumerate(EVENTS):
            reference = regions_of_turns(turns, number + 1)
            whole = float((reference[:, 1] - reference[:, 0]).sum())
            counts = [self._counts(rows[:, number], reference, whole, setting) for setting in self.settings]
            self.totals[number] += torch.tensor(np.rint(np.array(counts) * MICROSECONDS)).long().to(self.totals.device)
            inside = np.searchsorted(reference.reshape(-1), middles, side="right") % 2
            self.frames[number + 1] += int(inside.sum())
            self.precision_of[event].update(scores[:, number].float(), torch.from_numpy(inside).to(scores.device))

    def _counts(
        self, scores: np.ndarray, reference: np.ndarray, whole: float, setting: DetectionSetting
    ) -> tuple[float, float, float]:
        found = regions_of_scores(scores, self.rate, *setting, centre=self.centre)
        hit = overlap_seconds(found, reference)
        return hit, float((found[:, 1] - found[:, 0]).sum()) - hit, whole - hit

    def counts(self, event: str, setting: int) -> DetectionCounts:
        """Seconds of an event under a setting, by its number; outside `compute` and `sync_context`, of this process alone."""
        return DetectionCounts(*(self.totals[EVENTS.index(event), setting].double() / MICROSECONDS).tolist())

    def best(self, event: str) -> int:
        """The number of the setting with the highest F1; among equals the first."""
        return max(range(len(self.settings)), key=lambda number: self.counts(event, number).f1)

    def average_precision(self, event: str) -> float:
        """Area under the precision-recall curve of the frames, as scikit-learn's; 0 without a frame of the event."""
        value = float(self.precision_of[event].compute())
        return 0.0 if np.isnan(value) else value

    def share(self, event: str) -> float:
        """Share of the frames at which the event is: the average precision of scores that say nothing."""
        return float(self.frames[1 + EVENTS.index(event)] / self.frames[0].clamp(min=1))

    def compute(self) -> Tensor:
        """The F1 of the best setting of speech and of overlap, `(2,)`."""
        return torch.tensor([self.counts(event, self.best(event)).f1 for event in EVENTS], device=self.totals.device)

    def reset(self) -> None:
        super().reset()
        for metric in self.precision_of.values():
            metric.reset()
