"""data2vec: masked frames predict what a slowly moving copy of the encoder makes of the whole crop."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric

from wavlm_lightning.encoder import WavLMConfig
from wavlm_lightning.pretraining.flops import linear_flops
from wavlm_lightning.pretraining.objectives.base import ObjectiveCost, Prediction
from wavlm_lightning.pretraining.objectives.self_distillation import SelfDistillation


class Data2Vec(SelfDistillation):
    """Regression of the mean of the teacher's top layers on masked frames; arguments are those of `SelfDistillation`.

    Differences from the paper: targets are hidden states of whole layers, not of their feed-forward blocks before the
    residual sum, and the error is squared. `target_deviation` in the log tells a collapse, in which all frames have one
    target: it falls to 0.

    Source: data2vec, arXiv 2202.03555, section 3.
    """

    name = "data2vec"

    def build(self, encoder: WavLMConfig, label_sizes: Mapping[str, int]) -> None:
        super().build(encoder, label_sizes)
        self.predict = nn.Linear(encoder.dim, encoder.dim)
        self.losses, self.spreads = MeanMetric(), MeanMetric()

    def cost(
        self, encoder: WavLMConfig, labels: int, frames: float, masked: float, compute_bytes: int
    ) -> ObjectiveCost | None:
        return ObjectiveCost(
            parameters=(encoder.dim + 1) * encoder.dim,
            flops=linear_flops(masked, encoder.dim, encoder.dim),
            kept=masked * encoder.dim * (compute_bytes + 4),  # the hidden state and the error
            passes=self.teacher_pass(encoder),
        )

    @torch.no_grad()
    def targets(self, prediction: Prediction) -> Tensor:
        """Mean of the teacher's normalised top layers, float32 `(masked, dim)`."""
        return self.teacher_states(prediction).mean(0)[prediction.mask]

    def errors(self, prediction: Prediction) -> tuple[Tensor, Tensor]:
        """Squared error of each masked frame over its channels `(masked,)`, and the targets `(masked, dim)`."""
        targets = self.targets(prediction)
        predicted = self.predict(prediction.hidden[self.last][prediction.mask]).float()
        return (predicted - targets).square().mean(1), targets

    def forward(self, prediction: Prediction) -> Tensor:
        """Mean squared error over masked frames and channels, a float32 scalar."""
        return self.errors(prediction)[0].mean()

    @torch.no_grad()
    def scores(self, prediction: Prediction) -> dict[str, Tensor]:
        errors, targets = self.errors(prediction)
        return {"loss": errors.mean(), "target_deviation": targets.std(0).mean()}

    @torch.no_grad()
    def update_scores(self, prediction: Prediction) -> None:
        errors, targets = self.errors(prediction)
        self.losses.update(errors)
        self.spreads.update(targets.std(0))

    def compute_scores(self) -> dict[str, Tensor]:
        found = {"loss": self.losses.compute(), "target_deviation": self.spreads.compute()}
        self.losses.reset()
        self.spreads.reset()
        return found
