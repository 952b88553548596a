"""An upstream that is nothing but sizes, for heads that are given features directly."""

from __future__ import annotations

import torch
from torch import Tensor

from wavlm_lightning.encoder import Layers
from wavlm_lightning.upstreams import Upstream


class Shaped(Upstream):
    """Zeros in the shape of a published upstream's hidden states."""

    label = "shaped"
    frame_rate = 50.0

    def __init__(self, layers: int, dim: int) -> None:
        super().__init__()
        self.num_layers, self.dim = layers, dim

    def layers(self, waveforms: Tensor, lengths: Tensor) -> Layers:
        frames = (lengths - 400) // 320 + 1
        return Layers(torch.zeros(self.num_layers, len(lengths), int(frames.max()), self.dim), frames, 50.0)
