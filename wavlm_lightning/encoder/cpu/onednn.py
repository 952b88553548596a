"""Matrix products by oneDNN through private operators of PyTorch (`torch.ops.mkldnn`, as in torch 2.11).

The only file that calls them. Where they are missing, `linears` and `strided_products` use plain PyTorch, unless oneDNN was
demanded by `linears.use("onednn")` or `prepare_for_inference(packed=True)`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def has_onednn() -> bool:
    """Whether this build of torch has the operator that `onednn_product` calls."""
    operators: Any = torch.ops.mkldnn
    return torch.backends.mkldnn.is_available() and hasattr(operators, "_linear_pointwise")


def onednn_product(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, gelu: bool = False) -> Tensor:
    """fp32 x Wᵀ + b without gradients, `(..., inputs)` to `(..., outputs)`; W may be transposed or packed."""
    after, variant = ("gelu", "none") if gelu else ("none", "")
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, after, [], variant)


def onednn_packed(weight: Tensor) -> Tensor:
    """A copy of a fp32 weight `(outputs, inputs)` in oneDNN's own layout, which only `onednn_product` can read."""
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.detach())
    return packed
