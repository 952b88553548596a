"""Log-mel regression: teaches the convolutions spectral analysis within minutes of training."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from wavlm_lightning.audio import log_mel
from wavlm_lightning.encoder import WavLMConfig
from wavlm_lightning.pretraining.flops import linear_flops
from wavlm_lightning.pretraining.objectives.base import Objective, ObjectiveCost, Prediction


class LogMelRegression(Objective):
    """Regression from the unmasked input features to the log-mel spectrogram of the clean audio; not published.

    Learning spectral analysis from the waveform is the bottleneck of a run of minutes; with this term the convolutions
    learn it directly. Full-size recipes do not need it.

    Args:
        bins: number of mel filters.
        weight: factor in the sum of objectives.
    """

    name = "log_mel_regression"
    per_crop = True

    def __init__(self, bins: int = 40, weight: float = 1.0) -> None:
        super().__init__()
        self.bins, self.weight = bins, weight

    def build(self, encoder: WavLMConfig, label_sizes: Mapping[str, int]) -> None:
        self.predict = nn.Linear(encoder.dim, self.bins)
        self.hop = encoder.hop

    def cost(
        self, encoder: WavLMConfig, labels: int, frames: float, masked: float, compute_bytes: int
    ) -> ObjectiveCost | None:
        return ObjectiveCost(
            parameters=(encoder.dim + 1) * self.bins,
            flops=linear_flops(frames, encoder.dim, self.bins),
            kept=4 * frames * self.bins,
        )

    def forward(self, prediction: Prediction) -> Tensor:
        """Mean squared error against log-mels with zero mean and unit variance per filter over the batch, a float32 scalar."""
        target = log_mel(prediction.audio, self.bins, self.hop)[:, : prediction.projected.shape[1]]
        # Group norm removes the level of the waveform, so the model cannot predict it.
        target = target - target.mean(1, keepdim=True).mean(2, keepdim=True)
        target = (target - target.mean((0, 1))) / target.std((0, 1)).clamp(min=1e-5)
        return (self.predict(prediction.projected).float() - target).square().mean()
