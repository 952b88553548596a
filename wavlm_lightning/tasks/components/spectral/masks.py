"""Masks on a spectrogram: the network that estimates them, what they are trained towards, and the best that there is."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks.components.recurrent import run_both_ways

Activation = Literal["relu", "sigmoid"]
ACTIVATIONS = {"relu": torch.relu, "sigmoid": torch.sigmoid}
Scale = Literal["linear", "log"]


class MaskNetwork(nn.Module):
    """Bidirectional LSTMs, each followed by dropout, and for each source a linear layer with one value for every frequency.

    Source: s3prl `downstream/separation_stft/model.py`, with the values of its configuration.

    Args:
        dim: of the features.
        bins: frequencies of a frame.
        sources: masks of a frame.
        hidden: cells of the LSTMs in each direction; 896 in SUPERB.
        layers: stacked LSTMs; 3 in SUPERB.
        dropout: after each LSTM; 0.5 in SUPERB.
        activation: `relu`, of masks without an upper bound, in SUPERB; `sigmoid`, between 0 and 1.

    Example:
        >>> MaskNetwork(768, 257, sources=2)(torch.randn(1, 50, 768), torch.tensor([50])).shape
        torch.Size([1, 2, 50, 257])
    """

    def __init__(
        self,
        dim: int,
        bins: int,
        sources: int = 1,
        hidden: int = 896,
        layers: int = 3,
        dropout: float = 0.5,
        activation: Activation = "relu",
    ) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise UserError(f"a mask with the activation {activation!r}: must be one of {', '.join(ACTIVATIONS)}")
        self.activation = ACTIVATIONS[activation]
        self.recurrent = nn.ModuleList(
            nn.LSTM(dim if layer == 0 else 2 * hidden, hidden, batch_first=True, bidirectional=True)
            for layer in range(layers)
        )
        self.dropout = nn.Dropout(dropout)
        self.masks = nn.ModuleList(nn.Linear(2 * hidden, bins) for _ in range(sources))

    def forward(self, features: Tensor, frames: Tensor) -> Tensor:
        """Masks `(batch, sources, frames, bins)` from features `(batch, frames, dim)` and valid frames, int64 `(batch,)`."""
        hidden = features
        for recurrent in self.recurrent:
            hidden = self.dropout(run_both_ways(recurrent, hidden, frames))
        return torch.stack([self.activation(mask(hidden).float()) for mask in self.masks], 1)


def apply_mask(masks: Tensor, mixture: Tensor, scale: Scale = "linear") -> tuple[Tensor, Tensor]:
    """What masks leave of a mixture: spectrograms, complex `(batch, sources, frames, bins)`, and what the loss compares.

    On the scale `linear` both hold `mask * |X|`, with the phase of the mixture X; on `log` the mask multiplies log(1 + |X|), and
    this is what the loss compares (s3prl `separation_stft2`).

    Args:
        masks: `(batch, sources, frames, bins)`.
        mixture: spectrogram, complex `(batch, frames, bins)`.
        scale: of the masks.
    """
    magnitude = mixture.abs()[:, None]
    if scale == "linear":
        return masks * mixture[:, None], masks * magnitude
    compared = masks * magnitude.log1p()
    return compared.expm1() * unit_phase(mixture)[:, None], compared


def unit_phase(spectrogram: Tensor) -> Tensor:
    """The spectrogram with magnitudes of 1; the phase of zero is 0."""
    magnitude = spectrogram.abs()
    return torch.where(magnitude > 0, spectrogram / magnitude.clamp(min=1e-30), 1.0)


def phase_sensitive_magnitude(sources: Tensor, mixture: Tensor) -> Tensor:
    """The part of each source that has the phase of the mixture, never below 0 (Kolbæk et al., arXiv 1703.06284, section III).

    From spectrograms of sources `(batch, sources, frames, bins)` and mixture `(batch, frames, bins)`: |S| relu(cos(S, X)).
    """
    return torch.relu((sources * unit_phase(mixture).conj()[:, None]).real)


def distances(estimates: Tensor, references: Tensor, frames: Tensor, power: int = 2) -> Tensor:
    """How far each estimate is from each reference, `(batch, estimates, references)`.

    The sum over time and frequency of the absolute difference to a power, divided by the frames of the utterance.

    Args:
        estimates: magnitudes `(batch, estimates, frames, bins)`.
        references: magnitudes `(batch, references, frames, bins)`.
        frames: valid ones, int64 `(batch,)`; what lies behind them does not count.
        power: 2 for squares, 1 for absolute values.
    """
    inside = (torch.arange(estimates.shape[2], device=frames.device) < frames[:, None])[:, None, :, None]
    columns = []
    for reference in references.unbind(1):
        error = (estimates - reference[:, None]) * inside
        columns.append((error.square() if power == 2 else error.abs()).sum((2, 3)))
    return torch.stack(columns, 2) / frames[:, None, None]


def best_mask(source: Tensor, mixture: Tensor, most: float | None = 1.0) -> Tensor:
    """The real mask between 0 and `most` whose product with a mixture is nearest to a source; spectrograms of one shape."""
    mask = (source * mixture.conj()).real / mixture.abs().square().clamp(min=1e-12)
    return mask.clamp(0, most)
