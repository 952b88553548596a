"""The feature penalty: an L2 term that keeps the output of the convolutions small."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from wavlm_lightning.encoder import WavLMConfig
from wavlm_lightning.pretraining.objectives.base import Objective, ObjectiveCost, Prediction


class FeaturePenalty(Objective):
    """Mean square of the convolutions' raw output, which keeps that output small (fairseq `features_pen`).

    Args:
        weight: factor in the sum of objectives; published: 10.
    """

    name = "feature_penalty"

    def __init__(self, weight: float = 10.0) -> None:
        super().__init__()
        self.weight = weight

    def build(self, encoder: WavLMConfig, label_sizes: Mapping[str, int]) -> None:
        pass  # no parameters

    def cost(
        self, encoder: WavLMConfig, labels: int, frames: float, masked: float, compute_bytes: int
    ) -> ObjectiveCost | None:
        # Mixed precision keeps a copy of the features in fp32.
        return ObjectiveCost(kept=4 * frames * encoder.feature_dim if compute_bytes < 4 else 0.0)

    def forward(self, prediction: Prediction) -> Tensor:
        """Mean square over all frames and channels, a float32 scalar."""
        return prediction.features.float().square().mean()
