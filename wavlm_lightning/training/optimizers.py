"""Parameter groups, the learning rate over steps, and the guard that skips an update whose gradient is not finite."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from wavlm_lightning.training.fsdp import whole


def parameter_groups(module: nn.Module, weight_decay: float, decay_all: bool) -> list[dict[str, Any]]:
    """Parameter groups for AdamW.

    `decay_all` is how fairseq trained HuBERT and WavLM; False spares all but matrices and kernels (biases, norms,
    gates, the mask embedding), which is the better practice today.
    """
    decaying: list[nn.Parameter] = []
    spared: list[nn.Parameter] = []
    for parameter in module.parameters():
        if parameter.requires_grad:
            # Squeezed: the gates' constants and the norms of the weight norm are vectors with further dimensions of 1.
            (decaying if decay_all or parameter.squeeze().ndim > 1 else spared).append(parameter)
    groups = [(decaying, weight_decay), (spared, 0.0)]
    return [{"params": members, "weight_decay": decay} for members, decay in groups if members]


def learning_rate_factor(step: int, total: int, warmup: float, decay: Literal["linear", "cosine"] = "linear") -> float:
    """Factor on the peak learning rate, 0 to 1, after `step` of `total` updates.

    `warmup` is the share of the run over which the rate rises from zero (0.08 in HuBERT and WavLM).
    """
    climb = max(1.0, warmup * total)
    if step < climb:
        return step / climb
    rest = min(1.0, (step - climb) / max(1.0, total - climb))
    return 1.0 - rest if decay == "linear" else 0.5 * (1.0 + math.cos(math.pi * rest))


def drop_gradient_unless_finite(parameters: Iterable[nn.Parameter]) -> tuple[Tensor, bool]:
    """Drop all gradients if their norm is not finite, so that the optimiser skips the update.

    Returns the norm, a scalar, and whether it is finite. All ranks must hold the same gradients, so that they skip
    together.
    """
    parameters = list(parameters)
    norm = whole(torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None]))
    finite = bool(norm.isfinite())
    if not finite:  # the update would put NaN into the weights and into the moments of Adam
        for parameter in parameters:
            parameter.grad = None  # an optimiser leaves the parameter and its moments unchanged
    return norm, finite
