"""What the encoder is asked to predict; several objectives may be summed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from wavlm_lightning.audio import log_mel
from wavlm_lightning.encoder import Layers, WavLMConfig


@dataclass(frozen=True)
class Prediction:
    """One masked forward pass, and what it is held against.

    Attributes:
        layers: hidden states of the masked, mixed input.
        features: raw output of the convolutions, `(batch, frames, channels)`.
        projected: input of the transformer before masking, `(batch, frames, dim)`.
        mask: bool `(batch, frames)`, true where frames were hidden.
        labels: codebook labels of the clean audio, int64 `(batch, frames)`.
        audio: the clean crops, float32 `(batch, samples)`.
    """

    layers: Layers
    features: Tensor
    projected: Tensor
    mask: Tensor
    labels: Tensor
    audio: Tensor


class Objective(nn.Module, ABC):
    """A term of the pre-training loss.

    The module multiplies the sum of all terms by the number of masked frames and divides by that number over all
    ranks and micro-steps, so `forward` returns a mean per masked frame.

    Attributes:
        name: under which the term is logged.
        weight: factor in the sum.
    """

    name: str
    weight: float = 1.0

    @abstractmethod
    def build(self, encoder: WavLMConfig, label_count: int) -> None:
        """Make the layers, once encoder and codebook are known."""

    @abstractmethod
    def forward(self, prediction: Prediction) -> Tensor:
        """The unweighted term, a float32 scalar."""


class MaskedPrediction(Objective):
    """HuBERT's masked prediction: cosine to a codeword over a temperature, cross-entropy on masked frames.

    Source: HuBERT, arXiv 2106.07447, equations 1-3; fairseq's criterion picks one positive against all codewords, which
    equals this softmax.

    Args:
        final_dim: dimensions of projection and codewords: 256 for Base, 768 for Large.
        temperature: divides the cosine.
        unmasked_weight: cross-entropy over the visible frames is added with this weight; published: 0.
        codeword_init: `uniform` in [0, 1) as published, or `normal`: with uniform codewords all cosines are alike at
            first and short runs stay on the majority class.
        extra_codewords: rows that are never a target; fairseq's dictionary adds 4 (bos, pad, eos, unk).
        weight: factor in the sum of objectives.
    """

    name = "masked_prediction"

    def __init__(
        self,
        final_dim: int = 256,
        temperature: float = 0.1,
        unmasked_weight: float = 0.0,
        codeword_init: Literal["uniform", "normal"] = "uniform",
        extra_codewords: int = 4,
        weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.final_dim, self.temperature, self.weight = final_dim, temperature, weight
        self.unmasked_weight, self.codeword_init, self.extra_codewords = unmasked_weight, codeword_init, extra_codewords

    def build(self, encoder: WavLMConfig, label_count: int) -> None:
        """Projection `(dim -> final_dim)` and codewords `(labels + extra, final_dim)`."""
        self.project = nn.Linear(encoder.dim, self.final_dim)
        draw = torch.rand if self.codeword_init == "uniform" else torch.randn
        self.codewords = nn.Parameter(draw(label_count + self.extra_codewords, self.final_dim))

    def logits(self, hidden: Tensor) -> Tensor:
        """Cosine of each frame to each codeword over the temperature.

        Args:
            hidden: `(frames, dim)`.

        Returns:
            float32 `(frames, codewords)`: in fp32 whatever the run's precision, because cosines differ in the third digit.
        """
        projected = self.project(hidden)
        with torch.autocast(hidden.device.type, enabled=False):
            frames = nn.functional.normalize(projected.float(), dim=-1)
            codewords = nn.functional.normalize(self.codewords.float(), dim=-1)
            return frames @ codewords.T / self.temperature

    def forward(self, prediction: Prediction) -> Tensor:
        """Mean cross-entropy in nats over the masked frames (plus the visible ones, weighted)."""
        hidden = prediction.layers.hidden[-1]
        loss = self._cross_entropy(hidden, prediction.labels, prediction.mask)
        if self.unmasked_weight:
            visible = ~prediction.mask & ~prediction.layers.padding
            loss = loss + self.unmasked_weight * self._cross_entropy(hidden, prediction.labels, visible)
        return loss

    def _cross_entropy(self, hidden: Tensor, labels: Tensor, where: Tensor) -> Tensor:
        return nn.functional.cross_entropy(self.logits(hidden[where]), labels[where])


class FeaturePenalty(Objective):
    """Mean square of the convolutions' raw output, which keeps it small (fairseq `features_pen`).

    Args:
        weight: factor in the sum of objectives; published: 10.
    """

    name = "feature_penalty"

    def __init__(self, weight: float = 10.0) -> None:
        super().__init__()
        self.weight = weight

    def build(self, encoder: WavLMConfig, label_count: int) -> None:
        """Nothing to make."""

    def forward(self, prediction: Prediction) -> Tensor:
        """Mean over all frames and channels."""
        return prediction.features.float().square().mean()


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

    def build(self, encoder: WavLMConfig, label_count: int) -> None:
        """One linear layer `(dim -> bins)`."""
        self.predict = nn.Linear(encoder.dim, self.bins)
        self.hop = encoder.hop

    def forward(self, prediction: Prediction) -> Tensor:
        """Mean squared error against log-mels of zero mean and unit variance a filter (over the batch)."""
        target = log_mel(prediction.audio, self.bins, self.hop)[:, : prediction.projected.shape[1]]
        target = target - target.mean(1, keepdim=True).mean(2, keepdim=True)  # group norm cannot see the level
        target = (target - target.mean((0, 1))) / target.std((0, 1)).clamp(min=1e-5)
        return (self.predict(prediction.projected).float() - target).square().mean()
