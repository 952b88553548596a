"""`Layers`, what every encoder and upstream returns: hidden states of all layers and the valid frames of each row."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


def padding_mask(lengths: Tensor, frames: int) -> Tensor:
    """Mask of padding frames; true means padding, unlike Hugging Face's attention mask.

    Args:
        lengths: valid frames of each row, int64 `(batch,)`.
        frames: number of columns of the mask.

    Returns:
        bool `(batch, frames)`, true where a frame is padding.
    """
    return torch.arange(frames, device=lengths.device)[None, :] >= lengths[:, None]


@dataclass(frozen=True)
class Layers:
    """Hidden states of all layers of a batch.

    Attributes:
        hidden: `(layers, batch, frames, dim)`; entry 0 is the input of layer 1, the last entry follows the
            Hugging Face / s3prl convention (after the final layer norm in pre-norm models).
        lengths: valid frames of each row, int64 `(batch,)`.
        frame_rate: frames per second (50 for WavLM, 100 for filter banks).

    Example:
        >>> layers = Layers(torch.zeros(13, 2, 49, 768), torch.tensor([49, 30]), 50.0)
        >>> layers.mean_over_time().shape
        torch.Size([13, 2, 768])
    """

    hidden: Tensor
    lengths: Tensor
    frame_rate: float

    @property
    def padding(self) -> Tensor:
        """bool `(batch, frames)`, true where a frame is padding."""
        return padding_mask(self.lengths, self.hidden.shape[2])

    def mean_over_time(self) -> Tensor:
        """Mean over the valid frames, `(layers, batch, dim)`."""
        valid = (~self.padding).to(self.hidden.dtype)[None, :, :, None]
        return (self.hidden * valid).sum(2) / valid.sum(2).clamp(min=1)
