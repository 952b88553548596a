"""Matrix products of linear layers, on CPUs through oneDNN where that is asked for and faster.

PyTorch's fp32 products on CPUs are MKL's, which run at half speed on some processors that are not Intel's; oneDNN,
which PyTorch ships as well, does not. On others the two are equal. The way in are private operators of PyTorch
(`torch.ops.mkldnn`), so everything falls back to `torch.nn.functional.linear` where they are missing.

By default nothing here depends on a clock: sums are added up in another order by oneDNN, and whether a run's last bits
are those of an earlier run must not be decided by who else used the machine. `use("auto")` or the environment variable
`WAVLM_LINEARS=auto` allows it.
"""

from __future__ import annotations

import os
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from wavlm_lightning.encoder.cpu.linear_timing import CLEARLY, Gains, onednn_gains
from wavlm_lightning.encoder.cpu.onednn import onednn_packed, onednn_product
from wavlm_lightning.encoder.cpu.weight_cache import keep, kept

KINDS = ("plain", "auto", "onednn")
SMALLEST = 2**24
"""Multiply-adds from which on the fixed cost of a call into oneDNN no longer shows."""
ALL = Gains(forward=2.0, packed=2.0, input_gradient=2.0, weight_gradient=2.0)
NONE = Gains(forward=0.0, packed=0.0, input_gradient=0.0, weight_gradient=0.0)

_chosen: str | None = None


def use(kind: str | None) -> None:
    """Choose for this process how fp32 products on the CPU are computed from now on.

    Args:
        kind: `plain`: by PyTorch's own product. `auto`: by oneDNN where a timing of a tenth of a second, taken
            once, finds it faster: for the forward product and its two gradients apart. `onednn`: always by oneDNN. None: what the
            environment variable `WAVLM_LINEARS` says, `plain` if it is not set.

    Raises:
        ValueError: another word.
    """
    global _chosen
    if kind is not None and kind not in KINDS:
        raise ValueError(f"linears: {kind!r} is none of {', '.join(KINDS)}")
    _chosen = kind


def in_use() -> str:
    """The choice that holds now: `plain`, `auto` or `onednn`.

    Raises:
        ValueError: the environment variable `WAVLM_LINEARS` holds another word.
    """
    kind = _chosen or os.environ.get("WAVLM_LINEARS") or "plain"
    if kind not in KINDS:
        raise ValueError(f"WAVLM_LINEARS={kind} is none of {', '.join(KINDS)}")
    return kind


def gains() -> Gains:
    """How many times faster oneDNN is taken to be here, for each kind of product, under the choice that holds now."""
    kind = in_use()
    if kind == "plain" or torch.are_deterministic_algorithms_enabled():
        return NONE
    return ALL if kind == "onednn" else onednn_gains()


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x Wᵀ + b, as `torch.nn.functional.linear`.

    Args:
        x: `(..., inputs)`.
        weight: `(outputs, inputs)`.
        bias: `(outputs,)`, or None.

    Returns:
        `(..., outputs)`.
    """
    if not _eligible(x, weight):
        return F.linear(x, weight, bias)
    if _wants_gradient(x, weight, bias):
        found = gains()
        if max(found.forward, found.input_gradient, found.weight_gradient) < CLEARLY:
            return F.linear(x, weight, bias)
        return _Product.apply(x, weight, bias, found)
    packed = kept("packed", (weight,))
    if packed is not None:
        return onednn_product(x, packed, bias)
    return onednn_product(x, weight, bias) if gains().forward >= CLEARLY else F.linear(x, weight, bias)


def gelu_product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """GELU(x Wᵀ + b), in one pass where the weight is packed: GELU alone is a tenth of such a product's time.

    Args:
        x: `(..., inputs)`.
        weight: `(outputs, inputs)`.
        bias: `(outputs,)`, or None.

    Returns:
        `(..., outputs)`.
    """
    if _eligible(x, weight) and not _wants_gradient(x, weight, bias):
        packed = kept("packed", (weight,))
        if packed is not None:
            return onednn_product(x, packed, bias, gelu=True)
    return F.gelu(product(x, weight, bias))


def pack(weight: Tensor) -> bool:
    """Keep a copy of a weight in oneDNN's own layout, for the products without gradient from now on (see `kept`).

    Args:
        weight: fp32 `(outputs, inputs)` on the CPU.

    Returns:
        Whether there is a copy now; False where oneDNN cannot take it.
    """
    if weight.dtype != torch.float32 or weight.device.type != "cpu" or type(weight) not in (Tensor, nn.Parameter):
        return False
    try:
        with torch.no_grad():
            packed = onednn_packed(weight)
    except (AttributeError, RuntimeError):
        return False
    keep("packed", (weight,), packed)
    return True


def _wants_gradient(*tensors: Tensor | None) -> bool:
    return torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors)


def _eligible(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN could compute this product at all, and it is large enough to be worth a look."""
    if x.dtype != torch.float32 or weight.dtype != torch.float32 or x.device.type != "cpu":
        return False
    if torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu"):
        return False
    if type(x) is not Tensor or type(weight) not in (Tensor, nn.Parameter):  # DTensor, functorch's, meta's fakes
        return False
    return x.numel() * weight.shape[0] >= SMALLEST


class _Product(torch.autograd.Function):
    """x Wᵀ + b with each of its three products by whichever library is faster for it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, found: Gains) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.found = found
        return onednn_product(x, weight, bias) if found.forward >= CLEARLY else F.linear(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        to_x, to_weight, to_bias = None, None, None
        rows = gradient.flatten(0, -2)
        if ctx.needs_input_grad[0]:
            faster = ctx.found.input_gradient >= CLEARLY
            to_x = onednn_product(gradient, weight.t()) if faster else gradient @ weight
        if ctx.needs_input_grad[1]:
            inputs = x.flatten(0, -2)
            faster = ctx.found.weight_gradient >= CLEARLY
            to_weight = onednn_product(rows.t(), inputs.t()) if faster else rows.t() @ inputs
        if ctx.needs_input_grad[2]:
            to_bias = rows.sum(0)
        return to_x, to_weight, to_bias, None
