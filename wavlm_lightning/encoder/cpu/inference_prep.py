"""Inference preparation: values that every pass would compute from the weights alone, computed once.

They lie in `weight_cache`, not in the module, so checkpoints and copies are those of any encoder; a copy is not prepared.
If a weight changes afterwards, the cached values are ignored and the encoder runs at its usual speed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from wavlm_lightning.encoder.cpu import linears, strided_products
from wavlm_lightning.encoder.cpu.linear_timing import CLEARLY, onednn_gains
from wavlm_lightning.encoder.cpu.onednn import onednn_packed
from wavlm_lightning.encoder.cpu.positional import prepare_positional
from wavlm_lightning.encoder.cpu.weight_cache import keep


@torch.no_grad()
def prepare(
    convolutions: Sequence[nn.Conv1d], positional: nn.Conv1d, weights: Iterable[Tensor], packed: bool | None = None
) -> None:
    """Resolve the weight norm and its spectrum, lay out the front-end's weights, and pack linear weights for oneDNN.

    Args:
        convolutions: those of the front-end but the first.
        positional: the convolution of the positional embedding.
        weights: of the linear layers, `(outputs, inputs)` each.
        packed: keep a copy of every linear weight in oneDNN's layout (Base: 0.34 GB), which sums in another order. None
            does so where a timing finds it faster (`linear_timing`).
    """
    if packed is None:
        packed = onednn_gains().packed >= CLEARLY
    prepare_positional(positional)
    if strided_products.usable(convolutions, torch.empty(0)):
        for conv in convolutions:
            matrices = strided_products.taps(conv.weight)
            keep("taps", (conv.weight,), tuple(map(onednn_packed, matrices)) if packed else matrices)
    if packed:
        for weight in weights:
            linears.pack(weight)
