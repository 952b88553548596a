"""OSD: overlapped speech detection and voice activity detection, how many speak at each frame (DIHARD III, AMI)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from wavlm_lightning.audio import SAMPLE_RATE
from wavlm_lightning.data.alignments.segments import WINDOW_CENTRE, frame_times
from wavlm_lightning.data.batch import Targets, TaskBatch
from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.encoder import padding_mask
from wavlm_lightning.metrics.detection import (
    EVENTS,
    SETTINGS,
    DetectionErrors,
    DetectionSetting,
    regions_of_scores,
    regions_of_turns,
)
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks.base import Direction, Protocol, Task
from wavlm_lightning.tasks.components.recurrent import run_both_ways
from wavlm_lightning.tasks.components.reference_turns import ReferenceTurns, checked_turns, cropped
from wavlm_lightning.upstreams import Upstream

CLASSES = ("silence", "one speaker", "overlap")
# In use until some are chosen on validation.
USUAL = DetectionSetting(0.5, 0.5, 0.0, 0.0)


class OverlapDetection(Task):
    """Bidirectional LSTM and Linear(2 hidden, 3) at every frame: nobody, one speaker, two or more; F1 of overlap.

    Lebourdais et al. (arXiv 2209.04167) put such three classes on frozen WavLM features. Speech is the probability of the
    second and third class, overlap that of the third. Two hysteresis thresholds and two minimum durations turn each into
    regions; they are those with the highest F1 on validation, for either event its own, and are kept in the checkpoint. The
    test never chooses them. F1, precision and detection error are of time, average precision is of frames: chance is the
    share of the event (`details` of the card name it), so that F1 and average precision of rare overlap say more than accuracy.

    Annotated edges are inexact: the targets of training pass through a window of twice `fuzzy` seconds, so that a frame near an
    edge is partly of both classes. A frame has the class at its middle.

    Args:
        upstream: where features come from.
        learning_rate: of Adam.
        hidden: cells of the LSTM in each direction.
        fuzzy: seconds around each edge over which targets change; 0 for sharp ones.
        protocol: `fixed`; there is no other.
        settings: see `Task`: normalize, seed, schedule, start_from.
    """

    name = "OSD"
    metric, better = "overlap_f1", "higher"
    headlines = ("overlap_f1", "speech_f1")
    others: ClassVar[dict[str, Direction]] = {
        "overlap_ap": "higher",
        "overlap_error": "lower",
        "speech_f1": "higher",
        "speech_ap": "higher",
        "speech_error": "lower",
    }
    answer, cache_level, every_talker = "frames", "frame", True

    def __init__(
        self,
        upstream: Upstream,
        learning_rate: float = 1e-3,
        hidden: int = 64,
        fuzzy: float = 0.1,
        protocol: Protocol = "fixed",
        **settings: Any,
    ) -> None:
        if protocol != "fixed":
            raise UserError("OSD: it is no task of SUPERB; leave model.protocol out")
        if not 0 <= fuzzy < 1:
            raise UserError(f"OSD: model.fuzzy {fuzzy:g} must be at least 0 and below 1 second")
        super().__init__(upstream, learning_rate, protocol=protocol, **settings)
        self.hidden, self.fuzzy = hidden, fuzzy
        self.rate = upstream.frame_rate
        self._references = ReferenceTurns(self.name)
        self._of_batch: list[np.ndarray] = []  # counts of each recording of the last batch, see `utterance_scores`

    def read_labels(self, corpus: Corpus) -> list[str]:
        return list(CLASSES)

    def read_target(self, meta: dict[str, Any]) -> Tensor:
        """The class of each frame up to the end of the last turn, int64 `(frames,)`."""
        turns = checked_turns(meta, self.name)
        frames = max(0, int(np.ceil((max((end for *_, end in turns), default=0.0) - WINDOW_CENTRE) * self.rate)))
        middles = frame_times(frames, self.rate)
        classes = np.zeros(frames, dtype=np.int64)
        for speakers in (1, 2):
            edges = regions_of_turns(turns, speakers).reshape(-1)
            classes += np.searchsorted(edges, middles, side="right") % 2
        return torch.from_numpy(classes)

    def crop_target(self, target: Tensor, start: int, samples: int) -> Tensor:
        return cropped(target, start, samples, SAMPLE_RATE / self.rate)

    def build_head(self, dim: int) -> None:
        self.recurrent = nn.LSTM(dim, self.hidden, batch_first=True, bidirectional=True)
        self.classifier = nn.Linear(2 * self.hidden, len(CLASSES))

    def outputs(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Logits `(batch, frames, 3)`."""
        return self.classifier(run_both_ways(self.recurrent, features, lengths))

    def soft_targets(self, classes: Tensor, lengths: Tensor) -> Tensor:
        """Shares of the classes around each frame, `(batch, frames, 3)`: means over `fuzzy` seconds on either side.

        Beyond both ends of a recording lies its first and its last frame.

        Args:
            classes: int64 `(batch, frames)`.
            lengths: valid frames, int64 `(batch,)`.
        """
        reach = round(self.fuzzy * self.rate)
        places = torch.arange(classes.shape[1], device=classes.device)
        inside = torch.minimum(places[None], lengths[:, None] - 1)
        shares = nn.functional.one_hot(classes.gather(1, inside), len(CLASSES)).float().transpose(1, 2)
        if reach:
            padded = nn.functional.pad(shares, (reach, reach), mode="replicate")
            shares = nn.functional.avg_pool1d(padded, 2 * reach + 1, stride=1)
        return shares.transpose(1, 2)

    def loss(self, outputs: Tensor, lengths: Tensor, targets: Targets) -> Tensor:
        """Cross-entropy against the soft targets, mean over the valid frames of the batch."""
        frames = outputs.shape[1]
        classes = targets.values[:, :frames]
        classes = nn.functional.pad(classes, (0, frames - classes.shape[1]))
        shares = self.soft_targets(classes, lengths)
        losses = -(shares * outputs.float().log_softmax(2)).sum(2)
        valid = ~padding_mask(lengths, frames)
        return (losses * valid).sum() / valid.sum()

    def _counted(self, lengths: Tensor, batch: TaskBatch) -> int | Tensor:
        """Frames, of which `loss` is the mean."""
        return lengths.sum()

    def event_scores(self, outputs: Tensor) -> Tensor:
        """Probabilities of speech and of overlap `(..., frames, 2)`, from logits `(..., frames, 3)`."""
        shares = outputs.float().softmax(-1)
        # A sum of two may exceed 1 by rounding, and torchmetrics takes such scores for logits.
        return torch.stack([(shares[..., 1] + shares[..., 2]).clamp(max=1), shares[..., 2]], -1)

    @property
    def chosen(self) -> dict[str, DetectionSetting]:
        """How the scores of each event become regions: as chosen on validation, or else above one half."""
        return {event: DetectionSetting(**self.fitted[event]) if self.fitted else USUAL for event in EVENTS}

    def build_metric(self) -> DetectionErrors:
        return DetectionErrors(self.rate, WINDOW_CENTRE)

    def update_metric(self, metric: Any, outputs: Tensor, lengths: Tensor, batch: TaskBatch) -> None:
        # The reference is the turns themselves, not the frame classes that the head is trained on.
        assert self.data is not None
        turns = self._references.of(self.data.opened["valid" if metric is self.valid_metric else "test"])
        scores = self.event_scores(outputs).cpu()
        self._of_batch = []
        for key, row, length in zip(batch.keys, scores, lengths.tolist(), strict=True):
            before = metric.totals.clone()
            metric.update(row[:length], turns[key])
            self._of_batch.append((metric.totals - before)[EVENTS.index("overlap")].cpu().numpy())

    def utterance_scores(
        self, outputs: Tensor, lengths: Tensor, batch: TaskBatch
    ) -> Sequence[tuple[float, ...]] | None:
        """Twice the seconds of overlap that are found, and what F1 divides them by, of each recording; see `update_metric`."""
        number = SETTINGS.index(self.chosen["overlap"])
        counts = [rows[number] / 1e6 for rows in self._of_batch]
        return [(2 * hit, 2 * hit + false_alarm + missed) for hit, false_alarm, missed in counts]

    def fit_on_validation(self, metric: Any) -> dict[str, Any]:
        """For either event the setting with the highest F1."""
        with metric.sync_context():
            return {event: SETTINGS[metric.best(event)]._asdict() for event in EVENTS}

    def score(self, metric: Any, stage: Literal["valid", "test"]) -> dict[str, Tensor]:
        """All figures under the settings that validation chose."""
        with metric.sync_context():
            counts = {event: metric.counts(event, SETTINGS.index(self.chosen[event])) for event in EVENTS}
            shares = {event: metric.share(event) for event in EVENTS}
        if (
            self.data is not None
            and not self.trainer.sanity_checking
            and not counts["speech"].hit + counts["speech"].missed
        ):
            raise UserError(
                f"OSD: no recording of split {self.data.opened[stage].name} has a turn, so there is nothing to detect; use a "
                "corpus with speaker turns"
            )
        values: dict[str, float] = {}
        details: dict[str, Any] = {}
        for event, found in counts.items():
            precision = metric.average_precision(event)
            values |= {f"{event}_f1": found.f1, f"{event}_ap": precision, f"{event}_error": found.error}
            details[event] = {
                "setting": self.chosen[event]._asdict(),
                "precision": found.precision,
                "recall": found.recall,
                "missed_seconds": found.missed,
                "false_alarm_seconds": found.false_alarm,
                "reference_seconds": found.hit + found.missed,
                "share_of_frames": shares[event],
            }
        if stage == "test":
            self.scored.what = "recordings"
            self.details = {**details, "setting_chosen_on": "valid" if self.fitted else "nothing: one half"}
        return {name: torch.tensor(value, dtype=torch.float32) for name, value in values.items()}

    def readable(self, outputs: Tensor, lengths: Tensor) -> list[dict[str, Any]]:
        """Regions of speech and of overlap in seconds, by the settings that validation chose."""
        rows = []
        for row, length in zip(self.event_scores(outputs.detach()).cpu().numpy(), lengths.tolist(), strict=True):
            found = {
                event: regions_of_scores(row[:length, place], self.rate, *self.chosen[event], centre=WINDOW_CENTRE)
                for place, event in enumerate(EVENTS)
            }
            rows.append({event: regions.round(3).tolist() for event, regions in found.items()})
        return rows
