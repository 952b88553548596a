"""WavLM's relative position bias before gating (arXiv 2110.13900, section III-B): one learned number per bucket and head."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wavlm_lightning.encoder.config import WavLMConfig


def distance_buckets(num_buckets: int, max_distance: int) -> list[int]:
    """The bucket of each distance |j - i| from 0 to `max_distance`, for one direction: each below `num_buckets / 2`.

    With h = num_buckets / 2 and e = h / 2, distances below e have a bucket each; larger distances d have bucket
    min(h - 1, e + floor((h - e) · ln(d / e) / ln(max_distance / e))).
    """
    half = num_buckets // 2
    exact = half // 2
    steps = half - exact
    buckets = list(range(exact))
    step = 0
    for distance in range(exact, max_distance + 1):
        # By powers of integers, so that rounding of a logarithm cannot move a boundary:
        # floor(...) > step  <=>  (d / e)^(h - e) >= (max_distance / e)^(step + 1)
        while step < steps - 1 and distance**steps * exact ** (step + 1) >= max_distance ** (step + 1) * exact**steps:
            step += 1
        buckets.append(exact + step)
    return buckets


class RelativePositionTable(nn.Embedding):
    """One learned number for each relative-position bucket and head, expanded to the offsets of keys from queries.

    The parameter lies in layer 0 as `rel_attn_embed`, where every published checkpoint has it, but the encoder calls
    it before the stack: LayerDrop of layer 0 must not remove the bias from all other layers.

    Args:
        config: sizes of the encoder.

    Example:
        >>> RelativePositionTable(WavLMConfig.tiny())(49).shape
        torch.Size([4, 97])
    """

    buckets: Tensor

    def __init__(self, config: WavLMConfig):
        super().__init__(config.num_buckets, config.heads)
        nn.init.normal_(self.weight, std=0.02)
        self.max_distance = config.max_distance
        self.register_buffer("buckets", self.make_buckets(), persistent=False)

    def make_buckets(self) -> Tensor:
        """Bucket of each distance, int64 `(max_distance + 1,)`; rebuilds the buffer of a model created on `meta`."""
        return torch.tensor(distance_buckets(self.num_embeddings, self.max_distance))

    def forward(self, frames: int) -> Tensor:
        """The bias before gating, as a vector: the frames x frames matrix has only 2 · frames − 1 different entries.

        Returns:
            `(heads, 2 * frames - 1)`: entry m is the bias of all keys that lie `frames - 1 - m` after their query. With
            the keys in reverse order, the row of query i is the window of this vector that begins at entry i.
        """
        offset = torch.arange(frames - 1, -frames, -1, device=self.weight.device)
        bucket = self.buckets[offset.abs().clamp(max=self.max_distance)]
        bucket = bucket + (offset > 0) * (self.num_embeddings // 2)
        return super().forward(bucket).t().contiguous()
