"""MOS: prediction of the mean opinion score of a recording (SSL-MOS), over utterances and over systems."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from typing import Any, ClassVar, Literal, NoReturn

import numpy as np
import torch
from torch import Tensor, nn
from torchmetrics import Metric

from wavlm_lightning.data.batch import Targets, TaskBatch
from wavlm_lightning.data.corpus import Corpus, Split
from wavlm_lightning.encoder import padding_mask
from wavlm_lightning.metrics.rating_agreement import LEVELS, MEASURES, RatingAgreement, constant
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks.base import Direction, Task, Unit
from wavlm_lightning.upstreams import Upstream
from wavlm_lightning.upstreams.cache import Level

MILLIONTHS = 1_000_000  # of a point: targets are integers, because a batch in half precision would round a score
SYSTEM, MEAN = 0, 1  # rows of a target
MEAN_LISTENER = 0
SELECTION = "srcc_then_mse"
_TIE = 1e-6  # weight of the error in the selection: less than one exchanged pair among some hundred systems


class QualityPrediction(Task):
    """Mean of the features over valid frames, Linear(dim, 1), L1 to the mean rating: SSL-MOS (Cooper et al., arXiv 2110.02635).

    The bias of the linear layer begins at the mean rating of the training utterances: from 0 it would have to climb to about
    3 first. Scores are on the scale of the corpus and are not clipped. With a frozen upstream it is a linear probe, whose
    features a cache may hold; SSL-MOS trains the encoder (`upstream.frozen: false`).

    Where it departs from SSL-MOS: the mean leaves padding out, in training as in the test; features are the weighted sum of
    all layers, not the last one; the optimiser is Adam. The checkpoint is the one of the highest Spearman correlation
    over the systems of the validation split, as UTMOS does, and not of the lowest L1; of equal ones, that with the
    lower mean square error over systems.

    Reads `rating` (the mean of the ratings) and `system` of each utterance, and the corpus' `rating_scale`, two numbers. A
    correlation with a constant, such as an untrained head's, is 0.

    Args:
        upstream: where features come from.
        learning_rate: of Adam, of the head; `upstream.fine_tuning.learning_rate` is that of a trained encoder.
        settings: see `Task`: normalize, seed, schedule.
    """

    name = "MOS"
    metric = "system_srcc"
    better = "higher"
    others: ClassVar[dict[str, Direction]] = {
        f"{level}_{name}": "lower" if name == "mse" else "higher"
        for level in reversed(LEVELS)
        for name in MEASURES
        if f"{level}_{name}" != "system_srcc"
    }
    headlines = ("system_srcc", "utterance_srcc", "utterance_mse")
    units: ClassVar[dict[str, Unit]] = {f"{level}_{name}": Unit("", 1.0, 3) for level in LEVELS for name in MEASURES}
    answer = "vector"
    cache_level: ClassVar[Level | None] = "utterance"

    def __init__(self, upstream: Upstream, learning_rate: float = 1e-4, **settings: Any) -> None:
        super().__init__(upstream, learning_rate, **settings)

    def read_labels(self, corpus: Corpus) -> dict[str, Any]:
        """The scale of the ratings, `{"rating_scale": [lowest, highest]}`."""
        scale = corpus.inventory("rating_scale")
        if len(scale) != 2 or not float(scale[0]) < float(scale[1]):
            raise UserError(f"{corpus.directory}: `rating_scale` is {scale}; give the lowest and the highest score")
        return {"rating_scale": [float(end) for end in scale]}

    def read_target(self, meta: dict[str, Any]) -> Tensor:
        """int64 `(2, 2)`: the number of the system and 0; then the mean listener, 0, and the rating in millionths."""
        system = meta.get("system")
        if not isinstance(system, str):
            raise UserError(
                f"{self.name}: an utterance has no `system`, over which ratings are averaged; `wavlm prepare ratings` writes it"
            )
        rows = [(system_number(system), 0), (MEAN_LISTENER, self._score(meta.get("rating"), "rating"))]
        return torch.tensor(rows)

    def _score(self, value: Any, what: str) -> int:
        """A score in millionths of a point; `UserError` unless it is a number on the scale."""
        low, high = self.labels["rating_scale"]
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise UserError(
                f"{self.name}: an utterance has {what} {value!r}, and the corpus' scale is {low:g} to {high:g}; prepare the "
                "corpus again with the right --scale, or correct the rating"
            )
        return round(value * MILLIONTHS)

    def configure_model(self) -> None:
        """As every head, after a look at the ratings that are about to choose a checkpoint or to be scored."""
        super().configure_model()
        if self._trainer is not None and self.data is not None:
            for stage in ("valid", "test"):
                if stage in self.data.opened:
                    self._check_ratings(self.data.opened[stage])

    def _check_ratings(self, split: Split) -> None:
        """Refuse a split on which no correlation is defined."""
        metas = split.metas()
        systems = Counter(str(meta.get("system")) for meta in metas)
        if len(systems) < 2:
            raise UserError(
                f"{self.name}: split {split.name} has ratings of {len(systems)} system, and a correlation over systems needs at "
                "least two; name the systems with `wavlm prepare ratings --system-column`, or leave that option out"
            )
        means = np.array([float(meta.get("rating", math.nan)) for meta in metas])
        if np.isfinite(means).all() and constant(means):
            raise UserError(
                f"{self.name}: every utterance of split {split.name} has the rating {means[0]:g}, so that no prediction can be "
                "told from another"
            )

    def build_head(self, dim: int) -> None:
        self.regressor = nn.Linear(dim, 1)
        nn.init.constant_(self.regressor.bias, self._mean_rating())

    def _mean_rating(self) -> float:
        """The mean rating of the training utterances; the middle of the scale for a head that a checkpoint fills."""
        if self.data is None or "train" not in self.data.opened:
            return sum(self.labels["rating_scale"]) / 2
        ratings = [float(self.read_target(meta)[MEAN, 1]) for meta in self.data.opened["train"].metas()]
        return sum(ratings) / len(ratings) / MILLIONTHS

    def outputs(self, features: Tensor, lengths: Tensor) -> Tensor:
        """The score of each utterance, `(batch, 1)`."""
        valid = (~padding_mask(lengths, features.shape[1]))[:, :, None]
        mean = (features.float() * valid).sum(1) / lengths[:, None]
        # In bfloat16 the scores from 2 to 4 lie 1/64 apart: ties that no listener gave.
        with torch.autocast(mean.device.type, enabled=False):
            return self.regressor(mean)

    def loss(self, outputs: Tensor, lengths: Tensor, targets: Targets) -> Tensor:
        """Mean absolute error in points."""
        return nn.functional.l1_loss(outputs.float()[:, 0], points(targets.values[:, MEAN, 1]))

    @property
    def chance(self) -> float:
        """0: the correlation of scores in a random order."""
        return 0.0

    @property
    def monitor(self) -> tuple[str, str]:
        """Spearman's correlation over systems less a trace of the error, which decides between equal ones."""
        return f"valid/{SELECTION}", "max"

    def build_metric(self) -> Metric:
        """MSE, LCC, SRCC and KTAU over utterances and over systems."""
        return RatingAgreement()

    def update_metric(self, metric: Metric, outputs: Tensor, lengths: Tensor, batch: TaskBatch) -> None:
        targets = batch.targets.values
        metric.update(outputs[:, 0], points(targets[:, MEAN, 1]), targets[:, SYSTEM, 0])

    def score(self, metric: Metric, stage: Literal["valid", "test"]) -> dict[str, Tensor]:
        """The measures; those of a validation with what selects the checkpoint."""
        try:
            values = super().score(metric, stage)
        except ValueError as error:
            raise UserError(
                f"{self.name}: the head predicts scores that are not finite; lower model.learning_rate or that of the encoder"
            ) from error
        if stage == "valid":
            off = values["system_mse"].double()
            values = {**values, SELECTION: values["system_srcc"].double() - _TIE * off / (1 + off)}
        elif self.data is not None:
            self.details = self._described(self.data.opened["test"])
        return values

    def _described(self, split: Split) -> dict[str, Any]:
        """Systems and ratings behind the figures, and whether it was people who rated."""
        metas = split.metas()
        found: dict[str, Any] = {"systems": len({meta["system"] for meta in metas})}
        given = [len(meta["ratings"]) for meta in metas if meta.get("ratings")]
        if given:
            found["ratings"] = sum(given)
        if any("quality" in meta for meta in metas):
            found["listeners"] = "simulated; no human rated"
        return found

    def utterance_scores(self, outputs: Tensor, lengths: Tensor, batch: TaskBatch) -> NoReturn:
        """A correlation over systems is no sum over utterances, so the headline has no interval; the card says why."""
        raise ValueError("a correlation over systems is not a mean over utterances")

    def readable(self, outputs: Tensor, lengths: Tensor) -> list[dict[str, Any]]:
        """The predicted mean rating, on the scale of the training corpus."""
        return [{"rating": round(value, 4)} for value in outputs[:, 0].float().tolist()]


def system_number(name: str) -> int:
    """A number of a system, the same for every corpus and process: 63 bits of a hash of its name."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big") >> 1


def points(millionths: Tensor) -> Tensor:
    """Scores as float32, from the integers of a target."""
    return (millionths.double() / MILLIONTHS).float() if millionths.device.type != "mps" else millionths / MILLIONTHS
