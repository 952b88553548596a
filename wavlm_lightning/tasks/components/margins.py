"""Additive angular margin softmax (ArcFace) with sub-centres and inter-top-k penalty, for speaker embeddings."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class AngularMarginSoftmax(nn.Module):
    """Cross-entropy over scaled cosines whose angle to the right class is made larger by a margin (arXiv 1801.07698).

    With `centres` above 1 a class has several and its cosine is that of the nearest (sub-centre ArcFace, ECCV 2020). With
    `hardest` above 0 the angles to the wrong classes with the largest cosines are made smaller by `penalty` (inter-top-k,
    arXiv 2110.05042). A margin from the first update on often diverges: `callbacks.MoveValue` raises `margin` from 0, and
    the penalty grows with it.

    Args:
        dim: of the embeddings.
        classes: speakers.
        scale: of the cosines; 32 in wespeaker, 30 elsewhere.
        margin: in radians; 0.2 in most recipes.
        centres: of each class; 3 is usual.
        hardest: wrong classes that get the penalty; 5 in wespeaker.
        penalty: in radians at margin 0.2; 0.06 in wespeaker.

    Example:
        >>> AngularMarginSoftmax(192, 1251)(torch.randn(4, 192), torch.tensor([0, 5, 7, 1250]))
        tensor(..., grad_fn=<NllLossBackward0>)
    """

    def __init__(
        self,
        dim: int,
        classes: int,
        scale: float = 32.0,
        margin: float = 0.2,
        centres: int = 1,
        hardest: int = 0,
        penalty: float = 0.06,
    ) -> None:
        super().__init__()
        self.scale, self.margin, self.hardest, self.penalty = scale, margin, min(hardest, classes - 1), penalty
        self.classes = classes
        self.weight = nn.Parameter(torch.empty(centres * classes, dim))
        nn.init.xavier_uniform_(self.weight)

    def forward(self, embeddings: Tensor, targets: Tensor) -> Tensor:
        """The mean loss of embeddings `(batch, dim)` and classes, int64 `(batch,)`, in fp32."""
        return nn.functional.cross_entropy(self.scale * self.with_margin(self.cosines(embeddings), targets), targets)

    def cosines(self, embeddings: Tensor) -> Tensor:
        """Of each class' nearest centre, fp32 `(batch, classes)`."""
        with torch.autocast(embeddings.device.type, enabled=False):  # an angle near 0 has no digits in half precision
            directions = nn.functional.normalize(self.weight.float())
            found = nn.functional.linear(nn.functional.normalize(embeddings.float()), directions)
        return found.view(len(embeddings), -1, self.classes).amax(1)

    def with_margin(self, cosines: Tensor, targets: Tensor) -> Tensor:
        """The cosines with the margin at the right class and the penalty at the hardest wrong ones."""
        right = torch.zeros_like(cosines, dtype=torch.bool).scatter_(1, targets[:, None], True)
        found = torch.where(right, _turned(cosines, self.margin), cosines)
        if self.hardest:
            hard = cosines.detach().masked_fill(right, -2.0).topk(self.hardest, dim=1).indices
            turned = _turned(cosines, -self.penalty * self.margin / 0.2)
            found = torch.where(torch.zeros_like(right).scatter_(1, hard, True), turned, found)
        return found


def _turned(cosines: Tensor, angle: float) -> Tensor:
    """cos(theta + angle); a straight line where theta + angle would leave 0 to pi, so that it never turns back."""
    # The slope of the sine is infinite at cosines of 1 and -1.
    sines = (1 - cosines.square()).clamp(min=1e-7).sqrt()
    turned = cosines * math.cos(angle) - sines * math.sin(angle)
    if angle >= 0:
        edge = math.cos(math.pi - angle)
        return torch.where(cosines > edge, turned, cosines - (1 + edge))
    return torch.where(cosines < math.cos(-angle), turned, cosines + 1 - math.cos(-angle))
