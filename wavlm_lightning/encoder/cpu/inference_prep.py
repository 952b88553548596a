"""An encoder made ready for inference: all that a pass computes from the weights alone, computed once.

Nothing of it lies in the module (see `kept`), so checkpoints and copies are those of any encoder; a copy is not prepared.
Weights that change afterwards are noticed: the encoder goes on, right as ever, at its usual speed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from wavlm_lightning.encoder.cpu import linears, spectral_convolution, strided_products
from wavlm_lightning.encoder.cpu.linear_timing import CLEARLY, onednn_gains
from wavlm_lightning.encoder.cpu.onednn import onednn_packed
from wavlm_lightning.encoder.cpu.weight_cache import forget, keep, kept

if TYPE_CHECKING:
    from wavlm_lightning.encoder.wavlm import WavLM


def prepare(encoder: WavLM, packed: bool | None = None) -> None:
    """Resolve the weight norm and its spectrum, lay out the front-end's weights, and pack all weights for oneDNN.

    Args:
        encoder: in eval mode.
        packed: keep a copy of every linear weight in oneDNN's layout (Base: 0.34 GB), which sums in another order. None
            does so where a timing finds it faster (`linear_timing`).

    Raises:
        ValueError: the encoder is in training mode.
    """
    if encoder.training:
        raise ValueError("prepare_for_inference: the encoder is in training mode; call .eval() first")
    release(encoder)
    if packed is None:
        packed = onednn_gains().packed >= CLEARLY
    with torch.no_grad():
        conv = encoder.encoder.pos_conv_embed.conv
        weight = conv.weight
        keep("weight norm", norm_parameters(conv), weight)
        if weight.device.type == "cpu" and spectral_convolution.wide(weight):
            keep("spectrum", norm_parameters(conv), spectral_convolution.spectrum(weight))
        convolutions = [layer.conv for layer in encoder.feature_extractor.conv_layers[1:]]
        if strided_products.usable(convolutions, torch.empty(0)):
            for conv in convolutions:
                matrices = strided_products.taps(conv.weight)
                keep("taps", (conv.weight,), tuple(map(onednn_packed, matrices)) if packed else matrices)
    weights = [encoder.feature_projection.projection.weight]
    for layer in encoder.encoder.layers:
        attention, feed_forward = layer.attention, layer.feed_forward
        linear = [attention.q_proj, attention.k_proj, attention.v_proj, attention.out_proj]
        linear += [feed_forward.intermediate_dense, feed_forward.output_dense]
        weights += [module.weight for module in linear]
    if packed:
        for weight in weights:
            linears.pack(weight)


def norm_parameters(conv: nn.Module) -> tuple[Tensor, ...]:
    """What a convolution with weight norm makes its weight of: lengths and directions."""
    return tuple(conv.parametrizations.weight.parameters())


def positional_weight(conv: nn.Conv1d) -> Tensor:
    """The weight of a convolution with weight norm, without computing it again where `prepare` kept it."""
    found = kept("weight norm", norm_parameters(conv))
    return conv.weight if found is None else found


def positional_spectrum(conv: nn.Conv1d) -> Tensor | None:
    """Its spectrum, if `prepare` kept it; see `spectral_convolution`."""
    found: Tensor | None = kept("spectrum", norm_parameters(conv))
    return found


def release(encoder: WavLM) -> None:
    """Let go of everything that `prepare` kept."""
    forget(list(encoder.parameters()))
