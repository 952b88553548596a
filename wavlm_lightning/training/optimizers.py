"""Parameter groups, Adam's moments, and the guard that skips an update whose gradient is not finite."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from wavlm_lightning.training.fsdp import whole
from wavlm_lightning.training.schedules import Schedule


def parameter_groups(
    parameters: nn.Module | Iterable[nn.Parameter], weight_decay: float, decay_all: bool, **settings: Any
) -> list[dict[str, Any]]:
    """Parameter groups for Adam or AdamW: those that decay and those that do not.

    `decay_all` is how fairseq trained HuBERT and WavLM; False spares all but matrices and kernels (biases, norms,
    gates, the mask embedding), which is the better practice today.

    Args:
        parameters: all parameters of a module, or these; those that require no gradient are left out.
        weight_decay: of those that decay.
        decay_all: see above.
        settings: further entries of each group, such as `lr` and `name`.
    """
    decaying: list[nn.Parameter] = []
    spared: list[nn.Parameter] = []
    for parameter in parameters.parameters() if isinstance(parameters, nn.Module) else parameters:
        if parameter.requires_grad:
            # Squeezed: the gates' constants and the norms of the weight norm are vectors with further dimensions of 1.
            (decaying if decay_all or parameter.squeeze().ndim > 1 else spared).append(parameter)
    groups = [{**settings, "params": decaying, "weight_decay": weight_decay}]
    named = {"name": f"{settings['name']}, no decay"} if "name" in settings else {}
    groups.append({**settings, **named, "params": spared, "weight_decay": 0.0})
    return [group for group in groups if group["params"]]


def learning_rate_factor(step: int, total: int, warmup: float, decay: str = "linear") -> float:
    """Factor on the peak learning rate of pre-training, 0 to 1, after `step` of `total` updates.

    `warmup` is the share of the run over which the rate rises from zero (0.08 in HuBERT and WavLM).
    """
    return pretraining_schedule(decay, warmup, total).factor(step, total)


def pretraining_schedule(decay: str, warmup: float, total: int) -> Schedule:
    """The schedule of the arguments `decay` (`linear` or `cosine`) and `warmup` of pre-training.

    `warmup` up to 1 is a share of all updates, above 1 a number of updates; it lasts one update at least.
    """
    return Schedule(decay, max(1.0, warmup * total if warmup <= 1 else warmup))  # type: ignore[arg-type]


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


class Untouched(torch.autograd.Function):
    """A loss unchanged, and zeros as gradients of parameters that had no part in it.

    DDP waits for a gradient of every parameter; with zeros it needs no search for unused ones in every step.
    """

    @staticmethod
    def forward(ctx: Any, loss: Tensor, *parameters: Tensor) -> Tensor:
        ctx.save_for_backward(*parameters)
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        return gradient, *(torch.zeros_like(parameter) for parameter in ctx.saved_tensors)
