"""Frames that a mask leaves visible, gathered so that the transformer runs on them alone (data2vec 2.0, MAE)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from wavlm_lightning.encoder.layers import padding_mask


@dataclass(frozen=True)
class VisibleFrames:
    """Where the visible frames of each row lie.

    A row without any visible frame keeps its first frame, which holds the mask embedding.

    Source: data2vec 2.0, arXiv 2212.07525, section 3.1; He et al., arXiv 2111.06377.

    Attributes:
        places: int64 `(batch, most)`: the visible frames of each row in their order, then, up to the `most` of the batch, masked
            ones, which are padding.
        lengths: how many of them are visible, int64 `(batch,)`.
        frames: frames of a row with the masked ones.
        padding: bool `(batch, most)`, true where a place is padding; None if all rows have as many visible frames.

    Example:
        >>> visible = VisibleFrames.of(torch.tensor([[False, True, True, False]]), torch.tensor([4]))
        >>> visible.places, visible.gather(torch.arange(4.0).view(1, 4, 1)).flatten()
        (tensor([[0, 3]]), tensor([0., 3.]))
    """

    places: Tensor
    lengths: Tensor
    frames: int
    padding: Tensor | None

    @classmethod
    def of(cls, mask: Tensor, frame_lengths: Tensor) -> VisibleFrames:
        """Those of a mask, bool `(batch, frames)`, whose rows have `frame_lengths` valid frames, int64 `(batch,)`."""
        frames = mask.shape[1]
        hidden = mask | padding_mask(frame_lengths, frames)
        lengths = (~hidden).sum(1).clamp(min=1)
        order = hidden.to(torch.uint8).argsort(stable=True, dim=1)
        fewest, most = (int(length) for length in torch.stack(lengths.aminmax()).tolist())
        padding = padding_mask(lengths, most) if fewest < most else None
        return cls(order[:, :most], lengths, frames, padding)

    def gather(self, x: Tensor) -> Tensor:
        """The visible frames of `(batch, frames, dim)`, `(batch, most, dim)`."""
        return x.flatten(0, 1).index_select(0, self._rows()).view(*self.places.shape, -1)

    def scatter(self, x: Tensor) -> Tensor:
        """Visible frames `(batch, most, dim)` at their places in `(batch, frames, dim)`, and zeros at the others."""
        if self.padding is not None:
            x = x.masked_fill(self.padding[:, :, None], 0.0)
        # No row is written twice, so that the gradient has no sums whose order could differ.
        whole = x.new_zeros(len(x) * self.frames, x.shape[2])
        return whole.index_copy(0, self._rows(), x.flatten(0, 1)).view(len(x), self.frames, -1)

    def bias(self, table: Tensor) -> Tensor:
        """The position bias of all pairs of visible frames by their distance in the whole row.

        Args:
            table: of all offsets, `(heads, 2 * frames - 1)`, see `RelativePositionTable`.

        Returns:
            `(batch, heads, most, most)`, keys in reverse order, as `attention_backends` takes it.
        """
        queries, keys = self.places[:, :, None], self.places.flip(1)[:, None, :]
        offsets = queries - keys + (self.frames - 1)
        if table.device.type == "cpu":
            return table.index_select(1, offsets.flatten()).view(len(table), *offsets.shape).transpose(0, 1)
        return table[:, offsets].transpose(
            0, 1
        )  # its gradient is sorted sums on CUDA, and not atomic ones in any order

    def _rows(self) -> Tensor:
        """The places in all rows put one behind another, int64 `(batch * most,)`."""
        first = torch.arange(len(self.places), device=self.places.device)[:, None] * self.frames
        return (self.places + first).flatten()
