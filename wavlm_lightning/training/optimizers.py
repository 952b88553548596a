"""Parameter groups of an optimiser, and the guard that skips an update whose gradient is not finite."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from wavlm_lightning.training.fsdp import whole


def parameter_groups(module: nn.Module, weight_decay: float, decay_all: bool) -> list[dict[str, Any]]:
    """Parameter groups for AdamW.

    `decay_all` is how fairseq trained HuBERT and WavLM; False spares all but matrices and kernels (biases, norms, gates,
    the mask embedding), which is the better practice today.
    """
    decaying: list[nn.Parameter] = []
    spared: list[nn.Parameter] = []
    for parameter in module.parameters():
        if parameter.requires_grad:
            # Squeezed: the gates' constants and the norms of the weight norm are vectors with further dimensions of 1.
            (decaying if decay_all or parameter.squeeze().ndim > 1 else spared).append(parameter)
    groups = [(decaying, weight_decay), (spared, 0.0)]
    return [{"params": members, "weight_decay": decay} for members, decay in groups if members]


def drop_gradient_unless_finite(parameters: Iterable[nn.Parameter]) -> tuple[Tensor, bool]:
    """Set all gradients to None if their norm is not finite, so that the optimiser skips the update; the norm and whether it is.

    One such update would put NaN into the weights and into the moments of Adam. An optimiser leaves a parameter without
    gradient unchanged, and its moments as well. All ranks must hold the same gradients, so that they skip together.
    """
    parameters = list(parameters)
    norm = whole(torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None]))
    finite = bool(norm.isfinite())
    if not finite:
        for parameter in parameters:
            parameter.grad = None
    return norm, finite
