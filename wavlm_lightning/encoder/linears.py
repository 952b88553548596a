"""Matrix products of linear layers."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x Wᵀ + b, as `torch.nn.functional.linear`.

    Args:
        x: `(..., inputs)`.
        weight: `(outputs, inputs)`.
        bias: `(outputs,)`, or None.

    Returns:
        `(..., outputs)`.
    """
    return F.linear(x, weight, bias)
