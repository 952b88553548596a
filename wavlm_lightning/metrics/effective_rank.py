"""Effective rank of a representation, which detects collapse without labels."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric

RESOLUTION = 1e-6  # variation below this share of the frames' length counts as rounding (float32 resolves 1e-7)


class EffectiveRank(Metric):
    """Effective rank of centred frames (Roy & Vetterli, EUSIPCO 2007, equation 4).

    exp of the entropy of the normalised singular values: 1 if all frames lie on a line, and the number of dimensions if
    they vary equally in all of them. 0 if all frames are equal or one is not finite. The singular values come from sums
    over frames in fp64, so batches and processes add up exactly.

    Args:
        dim: features of a frame.

    Example:
        >>> rank = EffectiveRank(192)
        >>> rank.update(torch.randn(5000, 192))
        >>> rank.compute() > 190
        tensor(True)
    """

    full_state_update = False
    frames: Tensor
    total: Tensor
    products: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        for name, shape in (("frames", ()), ("total", (dim,)), ("products", (dim, dim))):
            self.add_state(name, torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, frames: Tensor) -> None:
        """Add frames `(frames, dim)`."""
        exact = frames.double()
        self.frames += len(exact)
        self.total += exact.sum(0)
        self.products += exact.T @ exact

    def compute(self) -> Tensor:
        scatter = self.products - torch.outer(self.total, self.total) / self.frames.clamp(min=1)
        if not scatter.isfinite().all():
            return torch.zeros((), device=scatter.device)
        squares = torch.linalg.eigvalsh(scatter)  # of the singular values
        floor = RESOLUTION**2 * self.products.trace()
        singular = squares.where(squares > floor, torch.zeros_like(squares)).sqrt()
        total = singular.sum()
        if total == 0:
            return total.float()
        return torch.special.entr(singular / total).sum().exp().float()
