"""Matrix products of linear layers: `F.linear`, or on CPUs oneDNN's product where that is asked for and faster.

PyTorch's fp32 products on CPUs are MKL's, which run at half speed on some processors that are not Intel's; those of oneDNN,
which PyTorch ships as well, do not. On other processors both are equally fast. oneDNN is reached through private
operators of PyTorch (`torch.ops.mkldnn`, see `onednn`); where they are missing, `F.linear` is used.

The default is `plain`: oneDNN sums in another order, and if a timing chose the library, two runs would differ in the last
bits. `use("auto")` or the environment variable `WAVLM_LINEARS=auto` allows the timing.
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
SMALLEST = 2**24  # multiply-adds from which the fixed cost of a call into oneDNN is negligible
ALL = Gains(forward=2.0, packed=2.0, input_gradient=2.0, weight_gradient=2.0)
NONE = Gains(forward=0.0, packed=0.0, input_gradient=0.0, weight_gradient=0.0)

_chosen: str | None = None


def use(kind: str | None) -> None:
    """Choose how this process computes fp32 products on the CPU from now on.

    Args:
        kind: `plain`: PyTorch's own product. `auto`: oneDNN where a timing of a tenth of a second, taken once, finds it
            faster, decided for the forward product and each of its two gradients. `onednn`: always oneDNN. None: the
            environment variable `WAVLM_LINEARS`, or `plain` if it is not set.

    Raises:
        ValueError: unknown kind.
    """
    global _chosen
    if kind is not None and kind not in KINDS:
        raise ValueError(f"linears: unknown kind {kind!r}; choose one of {', '.join(KINDS)}")
    _chosen = kind


def in_use() -> str:
    """The kind in use now: `plain`, `auto` or `onednn`; ValueError if `WAVLM_LINEARS` has another value."""
    kind = _chosen or os.environ.get("WAVLM_LINEARS") or "plain"
    if kind not in KINDS:
        raise ValueError(f"environment variable WAVLM_LINEARS={kind}: choose one of {', '.join(KINDS)}")
    return kind


def gains() -> Gains:
    """Gain of oneDNN that decides for each kind of product, under the kind in use now."""
    kind = in_use()
    if kind == "plain" or torch.are_deterministic_algorithms_enabled():
        return NONE
    return ALL if kind == "onednn" else onednn_gains()


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x Wᵀ + b, like `torch.nn.functional.linear`, with gradients: `(..., inputs)` to `(..., outputs)`."""
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
    """GELU(x Wᵀ + b), `(..., inputs)` to `(..., outputs)`."""
    if _eligible(x, weight) and not _wants_gradient(x, weight, bias):
        packed = kept("packed", (weight,))
        if packed is not None:
            return onednn_product(x, packed, bias, gelu=True)  # GELU alone takes a tenth of the time of the product
    return F.gelu(product(x, weight, bias))


def pack(weight: Tensor) -> bool:
    """Cache a fp32 weight in oneDNN's own layout, for products without gradient; False if oneDNN cannot take it."""
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
    """Whether oneDNN can compute this product, and the product is large enough."""
    if x.dtype != torch.float32 or weight.dtype != torch.float32 or x.device.type != "cpu":
        return False
    if torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu"):
        return False
    if type(x) is not Tensor or type(weight) not in (Tensor, nn.Parameter):  # DTensor, functorch's, meta's fakes
        return False
    return x.numel() * weight.shape[0] >= SMALLEST


class _Product(torch.autograd.Function):
    """x Wᵀ + b, with the forward product and both gradients each computed by the faster library."""

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
