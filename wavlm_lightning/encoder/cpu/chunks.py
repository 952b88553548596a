"""Dividing a batch into chunks for the front-end, so that its memory is bounded and, on a CPU, its tensors stay in cache."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch

from wavlm_lightning.encoder.config import WavLMConfig

# Bytes of the first layer's output on a CPU: 1.3 s of one row of Base in fp32. Larger chunks leave the processor's
# caches and are slower (experiments/throughput/front_end).
CACHE_FRIENDLY = 8 << 20

ROOMY = 1 << 29  # bytes on other devices, which need large products: 160 s of audio in bf16. A guess, not measured.


class Chunk(NamedTuple):
    """Some rows of a batch, some frames of each of these rows, and the samples that these frames see."""

    rows: slice
    frames: slice
    samples: slice


def chunks(config: WavLMConfig, batch: int, samples: int, dtype: torch.dtype, device: str) -> Iterator[Chunk]:
    """Divide a batch of `samples` per row: whole rows as long as they fit, otherwise stretches of one row.

    Neighbouring chunks overlap by the samples that frames on both sides of the border see, so that every frame has the
    value it would have without a border. `dtype` is the precision of the convolutions' outputs.
    """
    frames, hop = config.frames(samples), config.hop
    a_frame = config.conv_channels[0] * (hop // config.conv_strides[0]) * dtype.itemsize
    fitting = max((CACHE_FRIENDLY if device == "cpu" else ROOMY) // a_frame, 1)
    height = max(fitting // frames, 1)
    width = math.ceil(frames / math.ceil(frames / fitting))
    for row in range(0, batch, height):
        for first in range(0, frames, width):
            last = min(first + width, frames)
            yield Chunk(
                slice(row, min(row + height, batch)),
                slice(first, last),
                slice(first * hop, (last - 1) * hop + config.receptive_field),
            )
