"""Units of speech: k-means of the frames of an encoder's layer, in the place of a weighted sum."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from wavlm_lightning.encoder import Layers
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.upstreams import Upstream
from wavlm_lightning.upstreams.weighted_sum import OneLayer


class FrameUnits(OneLayer):
    """Number of the nearest of k means of a layer's frames; the means are kept in the checkpoint.

    Args:
        layer: number of the hidden state, from 0 (the input of the first transformer layer) or, backwards, from -1.
        count: means.
        upstream: whose layer it is.

    Raises:
        UserError: there is no such layer.
    """

    means: Tensor

    def __init__(self, layer: int, count: int, upstream: Upstream) -> None:
        super().__init__(layer, upstream.num_layers, upstream.label)
        self.register_buffer("means", torch.zeros(count, upstream.dim))

    @property
    def fitted(self) -> bool:
        """Whether the means are those of a corpus."""
        return bool(self.means.any())

    def fit(self, frames: np.ndarray, seed: int) -> None:
        """k-means of float32 frames `(frames, dim)`.

        Raises:
            UserError: there are fewer frames than means.
        """
        from sklearn.cluster import KMeans

        if len(frames) < len(self.means):
            raise UserError(
                f"model.units {len(self.means)}: the training split has {len(frames)} frames; give fewer units, or more speech"
            )
        found = KMeans(len(self.means), n_init=1, random_state=seed).fit(frames)
        self.means.copy_(torch.from_numpy(found.cluster_centers_))

    @torch.no_grad()
    def forward(self, layers: Layers) -> Tensor:
        """Numbers of the means, int64 `(batch, frames)`."""
        frames = super().forward(layers).float()
        with torch.autocast(frames.device.type, enabled=False):  # near means differ in digits that bf16 has not
            # Squared distances without the frame's own square, which all means share.
            return (self.means.square().sum(1) - 2 * frames @ self.means.T).argmin(2)
