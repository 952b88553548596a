"""Inference preparation: values that every pass would compute from the weights alone, computed once.

They lie in `weight_cache`, not in the module, so checkpoints and copies are those of any encoder; a copy is not prepared.
If a weight changes afterwards, the cached values are ignored and the encoder runs at its usual speed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from wavlm_lightning.encoder.cpu import linears, spectral_convolution, strided_products
from wavlm_lightning.encoder.cpu.linear_timing import CLEARLY, onednn_gains
from wavlm_lightning.encoder.cpu.onednn import onednn_packed
from wavlm_lightning.encoder.cpu.weight_cache import keep, kept


@torch.no_grad()
def prepare(
    convolutions: Sequence[nn.Conv1d], positional: nn.Conv1d, weights: Iterable[Tensor], packed: bool | None = None
) -> None:
    """Resolve the weight norm and its spectrum, lay out the front-end's weights, and pack linear weights for oneDNN.

    `convolutions` are those of the front-end but the first, `weights` those of the linear layers. For `packed`, see
    `WavLM.prepare_for_inference`.
    """
    if packed is None:
        packed = onednn_gains().packed >= CLEARLY
    weight = positional.weight  # computed by the weight norm
    keep("weight norm", norm_parameters(positional), weight)
    if weight.device.type == "cpu" and spectral_convolution.wide(weight):
        keep("spectrum", norm_parameters(positional), spectral_convolution.spectrum(weight))
    if strided_products.usable(convolutions, torch.empty(0)):
        for conv in convolutions:
            matrices = strided_products.taps(conv.weight)
            keep("taps", (conv.weight,), tuple(map(onednn_packed, matrices)) if packed else matrices)
    if packed:
        for matrix in weights:
            linears.pack(matrix)


def norm_parameters(conv: nn.Module) -> tuple[Tensor, ...]:
    """The parameters behind the weight of a convolution with weight norm: lengths and directions."""
    return tuple(conv.parametrizations.weight.parameters())


def positional_weight(conv: nn.Conv1d) -> Tensor:
    """`conv.weight`, without computing the weight norm again after `prepare`."""
    found = kept("weight norm", norm_parameters(conv))
    return conv.weight if found is None else found


def positional_embedding(x: Tensor, weight: Tensor, conv: nn.Conv1d) -> Tensor:
    """The convolution of `(batch, frames, channels)` by `spectral_convolution` with its bias, fp32, before GELU."""
    spectrum = kept("spectrum", norm_parameters(conv))
    return spectral_convolution.convolve(x, weight, spectrum) + conv.bias
