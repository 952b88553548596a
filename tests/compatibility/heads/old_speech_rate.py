"""How fast somebody speaks, in phones a second: a number instead of a class."""

from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics.regression import ConcordanceCorrCoef

from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.encoder import padding_mask
from wavlm_lightning.errors import UserError
from wavlm_lightning.tasks import Task
from wavlm_lightning.upstreams import Upstream


def phones_per_second(meta: dict[str, Any]) -> float:
    """Articulation rate: phones over the time in which they are spoken, pauses apart."""
    spoken = [(start, end) for phone, start, end in meta.get("phones", []) if phone not in ("SIL", "")]
    if not spoken:
        raise UserError("RATE: an utterance has no phones with their times; use a corpus that has, such as mini's pr")
    return len(spoken) / sum(end - start for start, end in spoken)


class SpeechRate(Task):
    """Regression from the mean and the deviation of the frames; concordance correlation (Lin 1989), mean squared error.

    Args:
        upstream: where features come from.
        hidden: width of the head.
        settings: see `Task`: learning_rate, normalize, seed, protocol.
    """

    name, metric, better = "RATE", "ccc", "higher"
    cache_level = "frame"

    def __init__(self, upstream: Upstream, hidden: int = 64, **settings) -> None:
        super().__init__(upstream, **settings)
        self.hidden = hidden

    def read_labels(self, corpus: Corpus) -> dict[str, float]:
        """Mean and deviation in training: the head predicts in units of them, and the checkpoint keeps them."""
        rates = torch.tensor([phones_per_second(meta) for meta in corpus.split("train").metas()])
        return {"mean": round(rates.mean().item(), 4), "deviation": round(rates.std().item(), 4)}

    def read_target(self, meta: dict[str, Any]) -> Tensor:
        return torch.tensor((phones_per_second(meta) - self.labels["mean"]) / self.labels["deviation"])

    def build_head(self, dim: int) -> None:
        self.projector = nn.Linear(dim, self.hidden)
        self.regressor = nn.Linear(2 * self.hidden, 1)

    def outputs(self, features: Tensor, lengths: Tensor) -> Tensor:
        frames = self.projector(features).relu()
        valid = (~padding_mask(lengths, frames.shape[1]))[:, :, None]
        mean = (frames * valid).sum(1) / lengths[:, None]
        variance = ((frames - mean[:, None]).square() * valid).sum(1) / lengths[:, None]
        return self.regressor(torch.cat([mean, (variance + 1e-5).sqrt()], dim=1))[:, 0]

    def loss(self, outputs, lengths, targets) -> Tensor:
        return nn.functional.mse_loss(outputs.float(), targets.values)

    def build_metric(self) -> ConcordanceCorrCoef:
        return ConcordanceCorrCoef()

    def update_metric(self, metric, outputs, lengths, batch) -> None:
        metric.update(outputs.float(), batch.targets.values)

    def readable(self, outputs, lengths) -> list[dict[str, float]]:
        rates = outputs.float() * self.labels["deviation"] + self.labels["mean"]
        return [{"phones_per_second": round(rate, 2)} for rate in rates.tolist()]
