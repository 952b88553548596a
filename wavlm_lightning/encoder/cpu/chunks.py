"""Which stretches of a batch the convolutions of the front-end work on at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch

from wavlm_lightning.encoder.config import WavLMConfig

CACHE_FRIENDLY = 8 << 20
"""On a CPU: bytes of the first layer's output, 1.3 s of one row of Base in fp32. What is larger than the caches of the
processor is slower (experiments/throughput/front_end)."""

ROOMY = 1 << 29
"""Bytes on other devices, which like large products: 160 s of audio in bf16. A guess, not measured."""


class Chunk(NamedTuple):
    """Some rows and some frames of a batch.

    Attributes:
        rows: which rows.
        frames: which frames of them.
        samples: the samples that those frames see.
    """

    rows: slice
    frames: slice
    samples: slice


def chunks(config: WavLMConfig, batch: int, samples: int, dtype: torch.dtype, device: str) -> Iterator[Chunk]:
    """Divide a batch.

    Neighbours share the samples that frames on both sides of the border see, so that every frame is as it would be
    without a border.

    Args:
        config: sizes of the encoder.
        batch: rows.
        samples: of each row.
        dtype: of the convolutions' outputs.
        device: type of the device, such as `cpu`.

    Yields:
        Whole rows as long as they fit, otherwise stretches of one row, of equal length but the last.
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
