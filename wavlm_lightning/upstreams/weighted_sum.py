"""Learned softmax-weighted sum of layers, the input of every SUPERB head."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from wavlm_lightning.encoder import Layers
from wavlm_lightning.system.errors import UserError


class WeightedSum(nn.Module):
    """Softmax-weighted sum over layers, uniform at the start (SUPERB, arXiv 2105.01051, section 3.3).

    Args:
        num_layers: number of hidden states; with one there is no parameter.
        normalize: first apply layer norm without affine to each frame of each layer; off in SUPERB.

    Example:
        >>> WeightedSum(13)(layers).shape    # layers.hidden is (13, batch, frames, dim)
        torch.Size([2, 49, 768])
    """

    def __init__(self, num_layers: int, normalize: bool = False) -> None:
        super().__init__()
        self.normalize = normalize
        self.logits = nn.Parameter(torch.zeros(num_layers)) if num_layers > 1 else None

    def forward(self, layers: Layers) -> Tensor:
        """Mix the layers into `(batch, frames, dim)`."""
        hidden = layers.hidden
        if self.normalize:
            hidden = nn.functional.layer_norm(hidden, hidden.shape[-1:])
        if self.logits is None:
            return hidden[0]
        return torch.einsum("l,lbtd->btd", self.logits.softmax(0).to(hidden.dtype), hidden)

    def weights(self) -> list[float]:
        """The weight of each layer (they sum to 1); empty if there is only one layer.

        Sharded weights (fsdp2) are gathered, so all processes must call it.
        """
        if self.logits is None:
            return []
        logits: Any = self.logits.detach()
        return (logits.full_tensor() if hasattr(logits, "full_tensor") else logits).float().softmax(0).tolist()


class OneLayer(WeightedSum):
    """One hidden state alone, for a head that reads no other.

    Args:
        layer: its number, from 0 (the input of the first transformer layer) or, backwards, from -1.
        num_layers: number of hidden states.
        label: of the upstream, for the error message.
        normalize: apply layer norm without affine to each frame.

    Raises:
        UserError: there is no such layer.
    """

    def __init__(self, layer: int, num_layers: int, label: str, normalize: bool = False) -> None:
        super().__init__(1, normalize)
        if not -num_layers <= layer < num_layers:
            raise UserError(
                f"model.layer {layer}: {label} has {num_layers} layer{'s' if num_layers > 1 else ''}; give 0 to "
                f"{num_layers - 1}, or -1 for the last"
            )
        self.layer = layer % num_layers

    def forward(self, layers: Layers) -> Tensor:
        """`(batch, frames, dim)` of the layer."""
        hidden = layers.hidden[self.layer]
        return nn.functional.layer_norm(hidden, hidden.shape[-1:]) if self.normalize else hidden


class TopLayer(WeightedSum):
    """The last hidden state alone, where a head reads no other: fine-tuning with a linear layer."""

    def __init__(self, normalize: bool = False) -> None:
        super().__init__(1, normalize)

    def forward(self, layers: Layers) -> Tensor:
        """`(batch, frames, dim)` of the last layer."""
        hidden = layers.hidden[-1]
        return nn.functional.layer_norm(hidden, hidden.shape[-1:]) if self.normalize else hidden
