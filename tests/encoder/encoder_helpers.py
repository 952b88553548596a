"""Small encoders of every kind, with weights far enough from their initial values for every part to matter."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from wavlm_lightning.encoder import WavLM, WavLMConfig

SMALL: dict[str, Any] = {
    "conv_channels": (24,) * 7,
    "dim": 64,
    "ffn_dim": 96,
    "layers": 3,
    "heads": 4,
    "pos_conv_kernel": 16,
    "pos_conv_groups": 4,
}
CONFIGS = {
    "base": WavLMConfig.preset("base", **SMALL),
    "large": WavLMConfig.preset("large", **SMALL),
    "tiny": WavLMConfig.tiny(),
    "hubert base": WavLMConfig.preset("hubert_base", **SMALL),
    "hubert large": WavLMConfig.preset("hubert_large", **SMALL),
    "ungated": WavLMConfig.preset("base", **SMALL, position_bias="ungated"),
}


def shake(model: nn.Module, seed: int = 0) -> None:
    """Move every parameter: at the published initialisation gates, norms and biases are too uniform to test."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


def make(kind: str, **overrides: Any) -> WavLM:
    torch.manual_seed(0)
    encoder = WavLM(replace(CONFIGS[kind], **overrides))
    shake(encoder)
    return encoder.eval()


def noise(*shape: int, seed: int = 0) -> Tensor:
    """Waveforms louder in one row than in the next, with an offset that only a norm can remove."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return 0.05 + 0.1 * x * torch.arange(1, shape[0] + 1)[:, None]


def padded(waveforms: Tensor, lengths: Tensor) -> Tensor:
    return waveforms * (torch.arange(waveforms.shape[1])[None] < lengths[:, None])


def distance(ours: Tensor, theirs: Tensor) -> float:
    """Largest absolute difference, relative to the largest absolute value."""
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()
