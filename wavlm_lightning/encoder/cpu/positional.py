"""The positional convolution with its weight norm and its spectrum taken from the weight cache where they are there."""

from __future__ import annotations

from torch import Tensor, nn

from wavlm_lightning.encoder.cpu import spectral_convolution
from wavlm_lightning.encoder.cpu.weight_cache import keep, kept


def norm_parameters(conv: nn.Module) -> tuple[Tensor, ...]:
    """The parameters behind the weight of a convolution with weight norm: lengths and directions."""
    return tuple(conv.parametrizations.weight.parameters())


def positional_weight(conv: nn.Conv1d) -> Tensor:
    """`conv.weight`, without computing the weight norm again after `prepare_positional`."""
    found = kept("weight norm", norm_parameters(conv))
    return conv.weight if found is None else found


def positional_embedding(x: Tensor, weight: Tensor, conv: nn.Conv1d) -> Tensor:
    """The convolution with its bias, by `spectral_convolution`, before GELU.

    Args:
        x: `(batch, frames, channels)`, for which `spectral_convolution.usable` holds.
        weight: what `positional_weight` gave.
        conv: the convolution itself.

    Returns:
        fp32 `(batch, frames, channels)`.
    """
    spectrum = kept("spectrum", norm_parameters(conv))
    return spectral_convolution.convolve(x, weight, spectrum) + conv.bias


def prepare_positional(conv: nn.Conv1d) -> None:
    """Compute the weight norm, and the spectrum where it can be used, once."""
    weight = conv.weight
    keep("weight norm", norm_parameters(conv), weight)
    if weight.device.type == "cpu" and spectral_convolution.wide(weight):
        keep("spectrum", norm_parameters(conv), spectral_convolution.spectrum(weight))
