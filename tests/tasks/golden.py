"""Weights and features without a random generator, so that golden values mean the same everywhere."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wavlm_lightning.encoder import Layers


def wave(shape: tuple[int, ...], phase: float) -> Tensor:
    """Numbers in [-1, 1] that no two places of a small tensor share, float32."""
    count = int(torch.tensor(shape).prod())
    return torch.sin(torch.arange(count, dtype=torch.float64) * 0.7391 + phase).reshape(shape).float()


def fill(module: nn.Module) -> None:
    """Give every parameter, in the order of `named_parameters`, values of the size of a usual initialisation."""
    with torch.no_grad():
        for number, (_, parameter) in enumerate(module.named_parameters()):
            fan_in = parameter[0].numel() if parameter.ndim > 1 else parameter.numel()
            parameter.copy_(wave(tuple(parameter.shape), float(number)) / max(fan_in, 1) ** 0.5)


def features(lengths: list[int], dim: int = 24, layers: int = 3) -> Layers:
    """Hidden states `(layers, batch, frames, dim)` with zeros behind the end of each row."""
    hidden = wave((layers, len(lengths), max(lengths), dim), 0.5)
    for row, length in enumerate(lengths):
        hidden[:, row, length:] = 0
    return Layers(hidden, torch.tensor(lengths), 50.0)
