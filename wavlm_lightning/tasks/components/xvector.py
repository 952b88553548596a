"""The x-vector network and the additive-margin softmax that speaker verification trains it with."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from wavlm_lightning.encoder import padding_mask

CONTEXTS = ((5, 1), (3, 2), (3, 3), (1, 1), (1, 1))
"""Frames that a layer sees at once, and the distance between them."""
LOST_FRAMES = sum((context - 1) * dilation for context, dilation in CONTEXTS)
"""Without padding the layers shorten a sequence by this: 14."""


def statistics_pooling(frames: Tensor, lengths: Tensor) -> Tensor:
    """Mean and unbiased standard deviation over the valid frames of each row.

    The deviation of a single frame is 0, and so is the gradient of a deviation of 0, where the square root has none.

    Args:
        frames: `(batch, frames, dim)`.
        lengths: valid frames, int64 `(batch,)`, at least 1.

    Returns:
        `(batch, 2 dim)`.
    """
    valid = (~padding_mask(lengths, frames.shape[1]))[:, :, None]
    count = lengths[:, None].to(frames.dtype)
    mean = (frames * valid).sum(1) / count
    variance = ((frames - mean[:, None]) * valid).square().sum(1) / (count - 1).clamp(min=1)
    varies = variance > 0
    deviation = torch.where(varies, variance, 1).sqrt() * varies
    return torch.cat([mean, deviation], dim=1)


class XVector(nn.Module):
    """Five time-delay layers, statistics pooling, an affine layer (Snyder et al. 2018), as small as SUPERB has it.

    A time-delay layer is an affine layer over spliced frames and a ReLU, which is a convolution without padding. There
    is no batch norm and no dropout.

    Source: s3prl `downstream/sv_voxceleb1/model.py` (`XVector`, `SP`, `UtteranceExtractor.inference`). Its pooling
    takes one frame of padding in with every padded row of a training batch; here a row's length is its length.

    Args:
        dim: of the features.
        widths: of the five layers.
        embedding: width of the affine layer.

    Example:
        >>> XVector(512)(torch.randn(2, 400, 512), torch.tensor([400, 250])).shape
        torch.Size([2, 512])
    """

    def __init__(self, dim: int, widths: Sequence[int] = (512, 512, 512, 512, 1500), embedding: int = 512) -> None:
        super().__init__()
        self.time_delay = nn.ModuleList(
            nn.Conv1d(before, after, context, dilation=dilation)
            for (before, after), (context, dilation) in zip(pairwise([dim, *widths]), CONTEXTS, strict=True)
        )
        self.affine = nn.Linear(2 * widths[-1], embedding)

    def forward(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Embeddings, which no number below 0 stands in.

        Rows too short for the layers are prolonged by their last frame, so that every utterance has an embedding;
        s3prl's fails on them.

        Args:
            features: `(batch, frames, dim)`.
            lengths: valid frames, int64 `(batch,)`, at least 1.

        Returns:
            `(batch, embedding)`.
        """
        shortest = LOST_FRAMES + 1
        places = torch.arange(max(features.shape[1], shortest), device=features.device)
        # Padding becomes copies of a row's last frame: seen by rows that are too short, masked out of all others.
        places = torch.minimum(places[None, :], lengths[:, None] - 1)
        hidden = features.gather(1, places[:, :, None].expand(-1, -1, features.shape[2])).transpose(1, 2)
        for layer in self.time_delay:
            hidden = layer(hidden).relu()
        pooled = statistics_pooling(hidden.transpose(1, 2).float(), lengths.clamp(min=shortest) - LOST_FRAMES)
        return self.affine(pooled).relu()


class AdditiveMarginSoftmax(nn.Module):
    """Cross-entropy of scaled cosines, a margin off the true class (Wang et al. 2018, arXiv 1801.05599, eq. 6).

    s3prl (`downstream/sv_voxceleb1/model.py::AMSoftmaxLoss`) adds exponentials up as they are; the logarithm of the
    softmax here is the same number without overflow.

    Args:
        dim: of the vectors.
        classes: how many.
        scale: of the cosines.
        margin: off the cosine with the true class, in training.
    """

    def __init__(self, dim: int, classes: int, scale: float = 30.0, margin: float = 0.4) -> None:
        super().__init__()
        self.scale, self.margin = scale, margin
        self.weight = nn.Parameter(torch.empty(dim, classes))
        nn.init.xavier_normal_(self.weight)

    def forward(self, vectors: Tensor, classes: Tensor) -> Tensor:
        """The loss, mean over rows in nats.

        Args:
            vectors: `(batch, dim)`.
            classes: int64 `(batch,)`.
        """
        directions = nn.functional.normalize(self.weight.float(), dim=0)
        cosines = nn.functional.normalize(vectors.float(), dim=1) @ directions
        margins = self.margin * nn.functional.one_hot(classes, cosines.shape[1])
        return nn.functional.cross_entropy(self.scale * (cosines - margins), classes)
