"""Where phones begin: a label for each frame, and a metric of one's own."""

from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from wavlm_lightning.encoder import padding_mask
from wavlm_lightning.tasks import Task


class RValue(Metric):
    """R-value of boundaries, each to be found within 20 ms (Räsänen et al., Interspeech 2009); 1 is perfect.

    It punishes finding too many, which alone would raise the share of those that are hit.
    """

    full_state_update = False

    def __init__(self) -> None:
        super().__init__()
        for name in ("hits", "found", "wanted"):
            self.add_state(name, torch.tensor(0.0), dist_reduce_fx="sum")

    def update(self, found: list[int], wanted: list[int], tolerance: int) -> None:
        """Add an utterance: frames in order, and how many of them a boundary may be off."""
        pairs, place = 0, 0
        for frame in found:
            while place < len(wanted) and wanted[place] < frame - tolerance:
                place += 1
            if place < len(wanted) and wanted[place] <= frame + tolerance:
                pairs, place = pairs + 1, place + 1
        self.hits += pairs
        self.found += len(found)
        self.wanted += len(wanted)

    def compute(self) -> Tensor:
        """From the hit rate and the over-segmentation."""
        hit, over = self.hits / self.wanted, self.found / self.wanted - 1
        return 1 - (((1 - hit).square() + over.square()).sqrt() + (hit - 1 - over).abs() / 2**0.5) / 2


class PhoneBoundaries(Task):
    """Convolution over five frames; binary cross-entropy; peaks above a half are boundaries.

    See `Task` for the arguments.
    """

    name, metric, better = "BOUND", "r_value", "higher"
    cache_level = "frame"

    def read_labels(self, corpus) -> str:
        return "begins"

    def read_target(self, meta: dict[str, Any]) -> Tensor:
        """1 where a phone begins, `(frames,)`."""
        begins = [round(start * self.upstream.frame_rate) for _, start, _ in meta["phones"][1:]]
        target = torch.zeros(begins[-1] + 1, dtype=torch.int64)
        target[begins] = 1
        return target

    def build_head(self, dim: int) -> None:
        self.context, self.classifier = nn.Conv1d(dim, 128, 5, padding=2), nn.Linear(128, 1)

    def outputs(self, features: Tensor, lengths: Tensor) -> Tensor:  # logits (batch, frames)
        valid = ~padding_mask(lengths, features.shape[1])
        frames = self.context((features * valid[:, :, None]).transpose(1, 2)).relu()
        return self.classifier(frames.transpose(1, 2))[:, :, 0]

    def loss(self, outputs, lengths, targets) -> Tensor:
        width, valid = outputs.shape[1], ~padding_mask(lengths, outputs.shape[1])
        wanted = nn.functional.pad(targets.values, (0, max(0, width - targets.values.shape[1])))[:, :width]
        return nn.functional.binary_cross_entropy_with_logits(outputs[valid].float(), wanted[valid].float())

    def peaks(self, outputs: Tensor, lengths: Tensor) -> list[list[int]]:
        """Frames of each row that are likelier than not, and than both neighbours."""
        rows = []
        for row, length in zip(outputs.float().cpu(), lengths.tolist(), strict=True):
            padded = nn.functional.pad(row[:length], (1, 1), value=float("-inf"))
            peak = (row[:length] > 0) & (row[:length] >= padded[:-2]) & (row[:length] > padded[2:])
            rows.append(peak.nonzero()[:, 0].tolist())
        return rows

    def build_metric(self) -> RValue:
        return RValue()

    def update_metric(self, metric, outputs, lengths, batch) -> None:
        tolerance = round(0.02 * self.upstream.frame_rate)
        for found, target in zip(self.peaks(outputs, lengths), batch.targets.values, strict=True):
            metric.update(found, target.nonzero()[:, 0].tolist(), tolerance)

    def readable(self, outputs, lengths) -> list[dict[str, list[float]]]:
        return [{"begins": [frame / self.upstream.frame_rate for frame in row]} for row in self.peaks(outputs, lengths)]
