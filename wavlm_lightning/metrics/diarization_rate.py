"""Diarization error over a data set, as torchmetrics metrics: for SUPERB's ten ways to make segments, and of several systems."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric

from wavlm_lightning.metrics.diarization import (
    DiarizationErrors,
    PyannoteErrors,
    diarization_errors,
    frames_to_segments,
)

MICROSECONDS = 1_000_000


class DiarizationSetting(NamedTuple):
    """How frame scores become segments: speech above `threshold`, then a median over `median_filter` frames."""

    threshold: float
    median_filter: int


# s3prl downstream/diarization/score.sh. SUPERB reports the lowest of these ten error rates on the test set.
SETTINGS = tuple(DiarizationSetting(threshold, width) for width in (1, 11) for threshold in (0.3, 0.4, 0.5, 0.6, 0.7))


class DiarizationErrorRate(Metric):
    """Sum of errors over sum of reference speech of all recordings, one value for each setting.

    Each recording chooses its own mapping of speakers. False alarms in a recording without reference speech count;
    dscore drops such recordings from its total (SUPERB has none).

    Args:
        frame_rate: frames per second of the scores.
        settings: thresholds and filters to try.
        collar: see `diarization_errors`.

    Example:
        >>> metric = DiarizationErrorRate(frame_rate=50.0)
        >>> metric.update(logits.sigmoid(), [("anna", 0.0, 3.2), ("ben", 2.9, 7.0)])
        >>> metric.compute().min()
    """

    full_state_update = False
    is_differentiable = False
    higher_is_better = False
    # Whole microseconds, so that sums do not depend on the order of recordings and ranks, or need float64 on a device.
    errors: Tensor

    def __init__(
        self, frame_rate: float, settings: Sequence[DiarizationSetting] = SETTINGS, collar: float = 0.0, **options: Any
    ) -> None:
        super().__init__(**options)
        self.frame_rate = frame_rate
        self.settings = tuple(DiarizationSetting(*setting) for setting in settings)
        self.collar = collar
        empty = torch.zeros(len(self.settings), 4, dtype=torch.int64)
        self.add_state("errors", empty, dist_reduce_fx="sum")

    def update(self, scores: Tensor, turns: Sequence[Sequence[Any]]) -> None:
        """Add one recording.

        Args:
            scores: `(frames, speakers)` of the recording without padding, probabilities.
            turns: the reference, `(speaker, start, end)` in seconds.
        """
        frames = scores.detach().float().cpu().numpy()
        rows = []
        for threshold, median_filter in self.settings:
            segments = frames_to_segments(frames, self.frame_rate, threshold, median_filter)
            found = diarization_errors(turns, segments, self.collar)
            rows.append([found.missed, found.false_alarm, found.confusion, found.total])
        microseconds = torch.tensor(rows, dtype=torch.float64).mul(MICROSECONDS).round().to(torch.int64)
        self.errors += microseconds.to(self.errors.device)

    def compute(self) -> Tensor:
        """Diarization error rates, fractions `(settings,)`; torchmetrics turns that of a single setting into a scalar."""
        return torch.tensor([errors.rate for errors in self.details()], device=self.errors.device)

    def details(self) -> list[DiarizationErrors]:
        """Missed, false alarm, confused and total seconds of each setting; outside `compute`, of this process alone."""
        return [DiarizationErrors(*(value / MICROSECONDS for value in row)) for row in self.errors.tolist()]


class SystemErrors(Metric):
    """Sums of errors of several systems, or several settings of one, over recordings and processes.

    Args:
        systems: their number.

    Example:
        >>> metric = SystemErrors(2)
        >>> metric.update(1, pyannote_errors([("anna", 0, 4)], [("0", 1, 5)], 5.0))
        >>> metric.errors_of(1).diarization.rate
        0.5
    """

    full_state_update = False
    is_differentiable = False
    higher_is_better = False
    # Whole microseconds and millionths of a speaker, for the reason given at `DiarizationErrorRate`.
    sums: Tensor

    def __init__(self, systems: int, **options: Any) -> None:
        super().__init__(**options)
        self.add_state("sums", torch.zeros(systems, 6, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, system: int, errors: PyannoteErrors) -> None:
        """Add one recording of one system."""
        seconds = errors.diarization
        row = [seconds.missed, seconds.false_alarm, seconds.confusion, seconds.total, errors.jaccard, errors.speakers]
        millionths = torch.tensor(row, dtype=torch.float64).mul(MICROSECONDS).round().to(torch.int64)
        self.sums[system] += millionths.to(self.sums.device)

    def compute(self) -> Tensor:
        """Diarization error rates, fractions `(systems,)`."""
        rates = [self.errors_of(system).diarization.rate for system in range(len(self.sums))]
        return torch.tensor(rates, device=self.sums.device)

    def errors_of(self, system: int) -> PyannoteErrors:
        """The sums of a system; outside `compute` and `sync_context`, of this process alone."""
        *seconds, jaccard, speakers = (value / MICROSECONDS for value in self.sums[system].tolist())
        return PyannoteErrors(DiarizationErrors(*seconds), jaccard, round(speakers))
