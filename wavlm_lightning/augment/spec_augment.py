"""SpecAugment on features: time warping, time masks and feature masks, in training only."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wavlm_lightning.encoder import padding_mask


class SpecAugment(nn.Module):
    """Time warping, feature masks and time masks (Park et al. 2019, arXiv 1904.08779) with SUPERB's values for ASR and SF.

    All draws of a batch come at once from the global generator of the features' device. Does nothing in eval mode.

    Source: s3prl `downstream/specaug.py` with the values of `downstream/asr/config.yaml`. There, time masks are placed
    within the padded length of the batch, so that short utterances are masked less, and start early enough for the
    batch's widest mask to fit; with `own_length` each mask is placed within its own utterance.

    Args:
        warp: largest distance in frames that a point of an utterance moves; utterances of at most twice that stay unwarped.
        feature_masks: number of feature masks.
        feature_width: a feature mask is narrower than this number of dimensions.
        time_masks: number of time masks.
        time_width: a time mask is shorter than this number of frames.
        own_length: place time masks within the utterance, not within the padded batch.

    Example:
        >>> SpecAugment()(torch.ones(2, 100, 768), torch.tensor([100, 60])).shape
        torch.Size([2, 100, 768])
    """

    def __init__(
        self,
        warp: int = 5,
        feature_masks: int = 4,
        feature_width: int = 50,
        time_masks: int = 2,
        time_width: int = 40,
        own_length: bool = False,
    ) -> None:
        super().__init__()
        self.warp = warp
        self.feature_masks, self.feature_width = feature_masks, feature_width
        self.time_masks, self.time_width = time_masks, time_width
        self.own_length = own_length

    def forward(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Augment a batch.

        Args:
            features: `(batch, frames, dim)`.
            lengths: valid frames, int64 `(batch,)`, on the same device.

        Returns:
            `(batch, frames, dim)`; in training zeros after the end of a row.
        """
        if not self.training:
            return features
        batch, frames, dim = features.shape
        warped = time_warp(features, lengths, *self.draw_warp(lengths))
        bands = self.draw_masks(self.feature_masks, self.feature_width, dim, lengths.new_full((batch,), dim), False)
        room = lengths if self.own_length else lengths.new_full((batch,), frames)
        stretches = self.draw_masks(self.time_masks, self.time_width, frames, room, self.own_length)
        return warped.masked_fill(bands[:, None, :] | stretches[:, :, None], 0.0)

    def draw_warp(self, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """The frame that moves and the frame it moves to, int64 `(batch,)` each; both 0 for too short utterances."""
        places = lengths - 2 * self.warp
        draw = torch.rand(2, len(lengths), device=lengths.device)
        center = self.warp + (draw[0] * places).long()
        moved = center - self.warp + (draw[1] * 2 * self.warp).long() + 1
        return torch.where(places > 0, center, 0), torch.where(places > 0, moved, 0)

    @staticmethod
    def draw_masks(count: int, width_below: int, size: int, room: Tensor, own: bool) -> Tensor:
        """The union of `count` random masks in each row, bool `(batch, size)`, with widths from 0 to `width_below - 1`.

        `room` is the number of leading positions in which masks lie, int64 `(batch,)`. With `own`, room is reserved for
        each mask's own width instead of the batch's widest.
        """
        shape = len(room), count
        if count == 0:
            return torch.zeros(len(room), size, dtype=torch.bool, device=room.device)
        width = torch.randint(0, width_below, shape, device=room.device)
        starts = (room[:, None] - (width if own else width.max())).clamp(min=1)
        start = (torch.rand(shape, device=room.device) * starts).long()
        place = torch.arange(size, device=room.device)
        return ((start[..., None] <= place) & (place < (start + width)[..., None])).any(1)


def time_warp(features: Tensor, lengths: Tensor, center: Tensor, moved: Tensor) -> Tensor:
    """Move a point in time: the frames before it are stretched, those after it squeezed (or vice versa), by cubic interpolation.

    The two parts of `(batch, frames, dim)` are interpolated separately: frames before `center` become those before
    `moved`. Both are int64 `(batch,)` and below the length. A row where they are equal stays unchanged; zeros follow
    the end of a row.
    """
    dim = features.shape[2]
    lengths, center, moved = lengths[:, None], center[:, None], moved[:, None]
    frame = torch.arange(features.shape[1], device=features.device)
    before = frame < moved
    source, target = torch.where(before, 0, center), torch.where(before, 0, moved)
    size = torch.where(before, center, lengths - center)
    new_size = torch.where(before, moved, lengths - moved)
    # Frame centres are half a frame from the edges, as in torch's `interpolate(align_corners=False)`.
    position = (frame - target + 0.5) * (size.float() / new_size) - 0.5
    whole = position.floor()
    result = torch.zeros(1, device=features.device)
    for tap, weight in zip((-1, 0, 1, 2), _cubic(position - whole), strict=True):
        place = source + torch.minimum((whole.long() + tap).clamp(min=0), size - 1)
        result = result + features.gather(1, place[..., None].expand(-1, -1, dim)) * weight[..., None]
    padding = padding_mask(lengths[:, 0], features.shape[1])
    return result.to(features.dtype).masked_fill(padding[..., None], 0.0)


def _cubic(t: Tensor, a: float = -0.75) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Weights of four neighbours at distances 1 + t, t, 1 - t, 2 - t (Keys 1981), with torch's and OpenCV's parameter."""

    def near(x: Tensor) -> Tensor:
        return ((a + 2) * x - (a + 3)) * x * x + 1

    def far(x: Tensor) -> Tensor:
        return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a

    return far(1 + t), near(t), near(1 - t), far(2 - t)
