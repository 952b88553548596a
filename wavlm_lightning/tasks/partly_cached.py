"""Batches that mix cached features with random crops that must still pass through the upstream."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from wavlm_lightning.data.batch import Transferable, Waveforms
from wavlm_lightning.encoder import Layers
from wavlm_lightning.upstreams import Upstream
from wavlm_lightning.upstreams.cache import Level, pooled


@dataclass(frozen=True)
class PartlyCached(Transferable):
    """Inputs of a batch of which some rows come from the feature cache.

    Attributes:
        cached: cached layers of the rows `cached_rows`.
        crops: audio of the rows `crop_rows`, which are cropped anew in every epoch.
        cached_rows: int64 `(cached,)`.
        crop_rows: int64 `(crops,)`.
        level: of the cache.
    """

    cached: Layers
    crops: Waveforms
    cached_rows: Tensor
    crop_rows: Tensor
    level: Level

    def complete(self, upstream: Upstream) -> Layers:
        """Run the upstream over the crops. An upstream's rows are independent, so this equals running the whole batch."""
        layers = upstream(self.crops.audio, self.crops.lengths)
        fresh, frames = layers.hidden, layers.lengths
        if self.level == "utterance":
            # A cached mean is a sequence of one frame.
            fresh, frames = pooled(layers)[:, :, None], torch.ones_like(frames)
        kept = self.cached.hidden
        rows = kept.shape[1] + fresh.shape[1]
        hidden = kept.new_zeros(kept.shape[0], rows, max(kept.shape[2], fresh.shape[2]), kept.shape[3])
        hidden[:, self.cached_rows, : kept.shape[2]] = kept
        hidden[:, self.crop_rows, : fresh.shape[2]] = fresh.to(hidden.dtype)
        lengths = torch.empty(rows, dtype=torch.int64, device=hidden.device)
        lengths[self.cached_rows], lengths[self.crop_rows] = self.cached.lengths, frames
        return Layers(hidden, lengths, self.cached.frame_rate)
