"""Convolutions in front of a Transformer encoder that make the frames fewer."""

from __future__ import annotations

from torch import Tensor, nn

from wavlm_lightning.encoder import padding_mask

KERNEL = 5  # frames


class ConvolutionalSubsampler(nn.Module):
    """Convolutions over time of kernel 5 and stride 2, each with a gated linear unit: every one halves the frame rate.

    Source: fairseq's `s2t_transformer` (arXiv 2010.05171), which s3prl's speech translation uses with two of them.

    Args:
        dim: of the features.
        width: of the output.
        convolutions: their number; 0 for a linear layer, which keeps all frames.
        channels: outputs of all but the last convolution, before the gate halves them; 1024 in s3prl.

    Example:
        >>> hidden = ConvolutionalSubsampler(768, 512)(torch.randn(2, 100, 768), torch.tensor([100, 60]))
        >>> hidden.shape
        torch.Size([2, 25, 512])
    """

    def __init__(self, dim: int, width: int, convolutions: int = 2, channels: int = 1024) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList()
        for place in range(convolutions):
            wide = 2 * width if place == convolutions - 1 else channels
            self.convolutions.append(
                nn.Conv1d(dim if place == 0 else channels // 2, wide, KERNEL, stride=2, padding=KERNEL // 2)
            )
        self.projection = nn.Identity() if convolutions else nn.Linear(dim, width)

    def lengths(self, frames: Tensor) -> Tensor:
        """Frames `(batch,)` of the output, from valid frames of the input."""
        for _ in self.convolutions:
            frames = (frames + 1) // 2
        return frames

    def forward(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Hidden states `(batch, fewer frames, width)` from features `(batch, frames, dim)` and valid frames `(batch,)`."""
        hidden = features
        for convolution in self.convolutions:
            # A row sees zeros behind its end, as it does alone.
            hidden = hidden.masked_fill(padding_mask(lengths, hidden.shape[1])[..., None], 0.0)
            hidden = nn.functional.glu(convolution(hidden.transpose(1, 2)), dim=1).transpose(1, 2)
            lengths = (lengths + 1) // 2
        return self.projection(hidden)
