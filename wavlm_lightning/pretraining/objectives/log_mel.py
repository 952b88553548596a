"""Spectral analysis as a regression: what a run of minutes needs and a published recipe does not."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from wavlm_lightning.audio import log_mel
from wavlm_lightning.encoder import WavLMConfig
from wavlm_lightning.pretraining.objectives.base import Objective, Prediction


class LogMelRegression(Objective):
    """Regression of the unmasked input features to the log-mel spectrogram of the clean audio; not published.

    Learning spectral analysis from the wave is the bottleneck of a run of minutes: with this term the convolutions
    learn it directly. Full-size recipes leave it out.

    Args:
        bins: mel filters.
        weight: factor in the sum of objectives.
    """

    name = "log_mel_regression"

    def __init__(self, bins: int = 40, weight: float = 1.0) -> None:
        super().__init__()
        self.bins, self.weight = bins, weight

    def build(self, encoder: WavLMConfig, label_sizes: Mapping[str, int]) -> None:
        """One linear layer `(dim -> bins)`."""
        self.predict = nn.Linear(encoder.dim, self.bins)
        self.hop = encoder.hop

    def forward(self, prediction: Prediction) -> Tensor:
        """Mean squared error against log-mels of zero mean and unit variance a filter (over the batch)."""
        target = log_mel(prediction.audio, self.bins, self.hop)[:, : prediction.projected.shape[1]]
        target = target - target.mean(1, keepdim=True).mean(2, keepdim=True)  # group norm cannot see the level
        target = (target - target.mean((0, 1))) / target.std((0, 1)).clamp(min=1e-5)
        return (self.predict(prediction.projected).float() - target).square().mean()
