"""Speech rate in phones per second, as it changes over an utterance: regression of a number for each frame."""

from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import MeanAbsoluteError, Metric, MetricCollection
from torchmetrics.regression import ConcordanceCorrCoef

from wavlm_lightning.audio import SAMPLE_RATE
from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.encoder import padding_mask
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks import Task, Unit

WINDOW = 1.0  # seconds, centred at the frame


class SpeechRate(Task):
    """Articulation rate over the second around each frame, pauses apart; squared error; mean absolute error and CCC.

    See `Task` for the arguments.
    """

    name, metric, better = "RATE", "mae", "lower"
    others, headlines = {"ccc": "higher"}, ("mae", "ccc")  # ccc: concordance correlation (Lin 1989), 1 is perfect
    units = {"mae": Unit("phones/s", 1.0, 2), "ccc": Unit("", 1.0, 3)}
    answer, cache_level = "frames", "frame"

    def rates(self, meta: dict[str, Any]) -> Tensor:
        """Phones per second of speech, `(frames,)`; NaN where no phone lies within the window."""
        spoken = [
            (start, end) for phone, start, end in meta.get("phones", []) if phone not in ("SIL", "") and end > start
        ]
        if not spoken:
            raise UserError(
                "RATE: an utterance has no phones with their times; use a corpus that has, such as mini's pr"
            )
        start, end = torch.tensor(spoken, dtype=torch.float64)[:, :, None].unbind(1)  # (phones, 1)
        rate = self.upstream.frame_rate
        centre = (torch.arange(round(spoken[-1][1] * rate)) + 0.5) / rate
        inside = (end.minimum(centre + WINDOW / 2) - start.maximum(centre - WINDOW / 2)).clamp(min=0)
        return ((inside / (end - start)).sum(0) / inside.sum(0)).float()

    def read_labels(self, corpus: Corpus) -> dict[str, float]:
        """Mean and deviation in training: the head predicts in units of them, and the checkpoint keeps them."""
        rates = torch.cat([self.rates(meta) for meta in corpus.split("train").metas()])
        rates = rates[rates.isfinite()]
        return {"mean": round(rates.mean().item(), 4), "deviation": round(rates.std().item(), 4)}

    def read_target(self, meta: dict[str, Any]) -> Tensor:
        return (self.rates(meta) - self.labels["mean"]) / self.labels["deviation"]

    def crop_target(self, target: Tensor, start: int, samples: int) -> Tensor:
        first = round(start * self.upstream.frame_rate / SAMPLE_RATE)
        return target[first : first + round(samples * self.upstream.frame_rate / SAMPLE_RATE)]

    def build_head(self, dim: int) -> None:
        self.context, self.regressor = nn.Conv1d(dim, 128, 5, padding=2), nn.Linear(256, 1)

    def outputs(self, features: Tensor, lengths: Tensor) -> Tensor:  # (batch, frames), in units of the deviation
        valid = ~padding_mask(lengths, features.shape[1])[:, None]
        frames = self.context(features.transpose(1, 2) * valid).relu() * valid
        half = round(WINDOW / 2 * self.upstream.frame_rate)

        def over_the_window(values: Tensor) -> Tensor:  # mean of those frames of the utterance that lie within it
            sums = nn.functional.avg_pool1d(values, 2 * half + 1, stride=1, padding=half)
            return sums / nn.functional.avg_pool1d(valid.to(values), 2 * half + 1, stride=1, padding=half).clamp(
                min=1e-3
            )

        mean = over_the_window(frames)
        deviation = ((over_the_window(frames.square()) - mean.square()).clamp(min=0) + 1e-5).sqrt()
        return self.regressor(torch.cat([mean, deviation], 1).transpose(1, 2))[:, :, 0]

    def paired(self, outputs: Tensor, lengths: Tensor, targets) -> tuple[Tensor, Tensor]:
        """Outputs and targets of all frames that have both, `(counted,)`."""
        width = min(outputs.shape[1], targets.values.shape[1])
        wanted = targets.values[:, :width]
        counted = ~padding_mask(torch.minimum(lengths, targets.lengths), width) & wanted.isfinite()
        return outputs[:, :width][counted].float(), wanted[counted]

    def loss(self, outputs, lengths, targets) -> Tensor:
        return nn.functional.mse_loss(*self.paired(outputs, lengths, targets))

    def build_metric(self) -> Metric:
        return MetricCollection({"mae": MeanAbsoluteError(), "ccc": ConcordanceCorrCoef()})

    def update_metric(self, metric, outputs, lengths, batch) -> None:
        found, wanted = (each * self.labels["deviation"] for each in self.paired(outputs, lengths, batch.targets))
        metric.update(found + self.labels["mean"], wanted + self.labels["mean"])

    def readable(self, outputs, lengths) -> list[dict[str, Any]]:
        rates = [
            row * self.labels["deviation"] + self.labels["mean"] for row in self.answer_rows(outputs.float(), lengths)
        ]
        return [{"phones_per_second": [round(rate, 2) for rate in row.tolist()]} for row in rates]
