"""Keeping the convolutions' output small."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from wavlm_lightning.encoder import WavLMConfig
from wavlm_lightning.pretraining.objectives.base import Objective, Prediction


class FeaturePenalty(Objective):
    """Mean square of the convolutions' raw output, which keeps it small (fairseq `features_pen`).

    Args:
        weight: factor in the sum of objectives; published: 10.
    """

    name = "feature_penalty"

    def __init__(self, weight: float = 10.0) -> None:
        super().__init__()
        self.weight = weight

    def build(self, encoder: WavLMConfig, label_sizes: Mapping[str, int]) -> None:
        """Nothing to make."""

    def forward(self, prediction: Prediction) -> Tensor:
        """Mean over all frames and channels."""
        return prediction.features.float().square().mean()
