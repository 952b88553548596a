"""The x-vector network and additive-margin softmax of speaker verification."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from wavlm_lightning.encoder import padding_mask

CONTEXTS = ((5, 1), (3, 2), (3, 3), (1, 1), (1, 1))  # (Kernel size, dilation) of each time-delay layer, in frames
# Frames that the layers, which do not pad, take off a sequence: 14.
LOST_FRAMES = sum((context - 1) * dilation for context, dilation in CONTEXTS)
# The keys of transformers' `config.json` that describe the network beyond the shapes of its tensors.
TIME_DELAY = {"tdnn_kernel": [context for context, _ in CONTEXTS], "tdnn_dilation": [step for _, step in CONTEXTS]}


def statistics_pooling(frames: Tensor, lengths: Tensor) -> Tensor:
    """Mean and unbiased standard deviation over the valid frames of each row.

    `(batch, frames, dim)` with valid frames, int64 `(batch,)`, at least 1, become `(batch, 2 dim)`. A single frame has
    deviation 0. Where the deviation is 0 its gradient is 0 as well, since the square root has none there.
    """
    valid = (~padding_mask(lengths, frames.shape[1]))[:, :, None]
    count = lengths[:, None].to(frames.dtype)
    mean = (frames * valid).sum(1) / count
    variance = ((frames - mean[:, None]) * valid).square().sum(1) / (count - 1).clamp(min=1)
    varies = variance > 0  # `where` before the square root: its gradient at 0 is infinite, and inf * 0 is NaN
    deviation = torch.where(varies, variance, 1).sqrt() * varies
    return torch.cat([mean, deviation], dim=1)


class XVector(nn.Module):
    """Five time-delay layers, statistics pooling, an affine layer (Snyder et al. 2018), in SUPERB's reduced form.

    A time-delay layer is an affine layer over spliced frames and a ReLU: a convolution without padding. SUPERB uses neither
    batch norm nor dropout.

    Source: s3prl `downstream/sv_voxceleb1/model.py` (`XVector`, `SP`, `UtteranceExtractor.inference`). Its pooling
    includes one frame of padding with every padded row of a training batch; ours pools the valid frames only.

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
        """Non-negative embeddings `(batch, embedding)`, from `(batch, frames, dim)` and valid frames `(batch,)`, at least 1.

        Rows too short for the layers are extended by copies of their last frame, so that every utterance has an embedding;
        s3prl fails on them.
        """
        shortest = LOST_FRAMES + 1
        places = torch.arange(max(features.shape[1], shortest), device=features.device)
        # Replace padding by copies of a row's last frame: short rows use them, the pooling masks them in all others.
        places = torch.minimum(places[None, :], lengths[:, None] - 1)
        hidden = features.gather(1, places[:, :, None].expand(-1, -1, features.shape[2])).transpose(1, 2)
        for layer in self.time_delay:
            hidden = layer(hidden).relu()
        # Statistics in fp32, also under bf16 autocast.
        pooled = statistics_pooling(hidden.transpose(1, 2).float(), lengths.clamp(min=shortest) - LOST_FRAMES)
        return self.affine(pooled).relu()


class AdditiveMarginSoftmax(nn.Module):
    """Cross-entropy of scaled cosines, with a margin subtracted from the true class (Wang et al. 2018, arXiv 1801.05599, eq. 6).

    s3prl (`downstream/sv_voxceleb1/model.py::AMSoftmaxLoss`) sums plain exponentials; the log-softmax here gives the same
    value without overflow.

    Args:
        dim: of the vectors.
        classes: number of classes.
        scale: of the cosines.
        margin: subtracted from the cosine with the true class.
    """

    def __init__(self, dim: int, classes: int, scale: float = 30.0, margin: float = 0.4) -> None:
        super().__init__()
        self.scale, self.margin = scale, margin
        self.weight = nn.Parameter(torch.empty(dim, classes))
        nn.init.xavier_normal_(self.weight)

    def forward(self, vectors: Tensor, classes: Tensor) -> Tensor:
        """The loss of vectors `(batch, dim)` and classes, int64 `(batch,)`: mean over rows in nats."""
        # Cosines in fp32: the scale of 30 would multiply the rounding of bf16.
        with torch.autocast(vectors.device.type, enabled=False):
            directions = nn.functional.normalize(self.weight.float(), dim=0)
            cosines = nn.functional.normalize(vectors.float(), dim=1) @ directions
        margins = self.margin * nn.functional.one_hot(classes, cosines.shape[1])
        return nn.functional.cross_entropy(self.scale * (cosines - margins), classes)


def from_transformers(name: str, value: Tensor, affine: str) -> tuple[str, Tensor]:
    """Name and value of a tensor of `WavLMForXVector` as they are here; `affine` is our layer after the pooling."""
    for theirs, ours in (("classifier.", "affine."), ("feature_extractor.", f"{affine}.")):
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs), value
    if not name.startswith("tdnn."):
        return name, value
    if name.endswith(".weight"):  # `(outputs, context * inputs)` in transformers, `(outputs, inputs, context)` here
        context = CONTEXTS[int(name.split(".")[1])][0]
        value = value.unflatten(1, (context, -1)).transpose(1, 2).contiguous()
    return name.replace("tdnn.", "network.time_delay.").replace(".kernel.", "."), value


def to_transformers(name: str, value: Tensor, affine: str) -> tuple[str, Tensor]:
    """The inverse of `from_transformers`."""
    for theirs, ours in (("classifier.", "affine."), ("feature_extractor.", f"{affine}.")):
        if name.startswith(ours):
            return theirs + name.removeprefix(ours), value
    if name.startswith("network.time_delay."):
        layer, part = name.split(".")[2:]
        return f"tdnn.{layer}.kernel.{part}", value.transpose(1, 2).flatten(1) if part == "weight" else value
    return name, value
