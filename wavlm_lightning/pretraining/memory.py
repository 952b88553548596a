"""How much memory a training step of the encoder takes, by arithmetic.

The formulas follow this package's encoder tensor by tensor. On a CPU they are tested against what a real forward pass
keeps. For CUDA they are tested against torch's own shape rules for CUDA's autocast and fused attention kernels, but
were not measured on a GPU; what kernels allocate for a moment, and what the allocator wastes, is not in them.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

import torch

from wavlm_lightning.encoder import WavLM, WavLMConfig
from wavlm_lightning.errors import UserError

USABLE = 0.85
"""Share of a GPU's memory that a step may fill: a rule of thumb. The rest is for CUDA's context, workspaces, temporary
tensors and fragmentation."""

COMPUTE_BYTES = {"32-true": 4, "bf16-mixed": 2, "16-mixed": 2}
"""Bytes of a number in matrix products by `trainer.precision`; weights, gradients and optimiser are fp32 in all three."""


@dataclass(frozen=True)
class StepMemory:
    """Bytes of a training step at its peak, where the forward pass ends.

    Attributes:
        parameters: weights in fp32.
        gradients: theirs.
        optimiser: both averages of AdamW.
        buckets: copies of the gradients that DistributedDataParallel sums over processes.
        casts: weights made for the backward pass: half-precision copies, and joined or normalised ones.
        front_end: activations of the convolutions.
        projection: activations from the convolutions to the first layer.
        layers: activations of the transformer whose size is linear in the frames.
        attention: tensors of frames by frames.
        objectives: activations of the heads.
    """

    parameters: float
    gradients: float
    optimiser: float
    buckets: float
    casts: float
    front_end: float
    projection: float
    layers: float
    attention: float
    objectives: float = 0.0

    @property
    def kept(self) -> float:
        """What the forward pass of the encoder keeps for the backward pass."""
        return self.casts + self.front_end + self.projection + self.layers + self.attention

    @property
    def total(self) -> float:
        """All of it."""
        return sum(getattr(self, field.name) for field in fields(self))

    def fits(self, memory_gb: float) -> bool:
        """Whether a GPU with so much memory (10^9 bytes) holds it, by the rule of `USABLE`."""
        return self.total <= USABLE * memory_gb * 1e9


def parameter_count(config: WavLMConfig) -> int:
    """Parameters of an encoder, without making it."""
    with torch.device("meta"):
        return WavLM(config).parameter_count()


def step_memory(
    config: WavLMConfig,
    batch: float,
    samples: int,
    precision: str = "bf16-mixed",
    *,
    device: Literal["cpu", "cuda"] = "cuda",
    processes: int = 1,
    head_parameters: int = 0,
    head_bytes: float = 0.0,
) -> StepMemory:
    """Memory of one process.

    Args:
        config: shape of the encoder.
        batch: crops of a micro-step in this process; a fraction stands for room that shorter crops fill.
        samples: length of each at 16 kHz.
        precision: `trainer.precision`.
        device: on which kernels run. CPUs keep the attention weights; CUDA's fused kernels compute them again, but
            keep the position bias they add.
        processes: of data-parallel training.
        head_parameters: parameters of the objectives.
        head_bytes: activations that the objectives keep.

    Raises:
        UserError: a precision that the formulas do not cover.
    """
    if precision not in COMPUTE_BYTES:
        raise UserError(
            f"trainer.precision {precision}: memory is known for {', '.join(COMPUTE_BYTES)} only; take one of them"
        )
    compute = COMPUTE_BYTES[precision]
    # CUDA's autocast runs norms in fp32, so what goes in and out of them is kept in fp32; the CPU's does not.
    norm = 4 if device == "cuda" else compute
    weights = 4 * (parameter_count(config) + head_parameters)
    frames = config.frames(samples)
    return StepMemory(
        parameters=weights,
        gradients=weights,
        optimiser=2 * weights,
        buckets=weights if processes > 1 else 0,
        casts=_casts(config, compute),
        front_end=_front_end(config, batch, samples, compute, norm) if config.feature_grad_mult > 0 else 0,
        projection=_projection(config, batch, frames, compute, norm, device),
        layers=config.layers * _layer(config, batch, frames, compute, norm, device),
        attention=_attention(config, batch, frames, compute, device),
        objectives=head_bytes,
    )


def _casts(config: WavLMConfig, compute: int) -> int:
    positional = config.dim * config.dim // config.pos_conv_groups * config.pos_conv_kernel
    if compute == 4:  # the normalised weight of the convolution, and queries, keys and values joined
        return 4 * (positional + config.layers * 3 * config.dim**2)
    inputs, front_end = 1, 0
    for channels, kernel in zip(config.conv_channels, config.conv_kernels, strict=True):
        front_end, inputs = front_end + inputs * channels * kernel, channels
    if config.feature_grad_mult == 0:
        front_end = 0
    layer = 4 * config.dim**2 + 2 * config.dim * config.ffn_dim
    return compute * (front_end + inputs * config.dim + positional + config.layers * layer)


def _front_end(config: WavLMConfig, batch: float, samples: int, compute: int, norm: int) -> float:
    kept, steps = batch * samples * compute, samples
    last = len(config.conv_channels) - 1
    sizes = zip(config.conv_channels, config.conv_kernels, config.conv_strides, strict=True)
    for index, (channels, kernel, stride) in enumerate(sizes):
        steps = (steps - kernel) // stride + 1
        normed = config.conv_norm == "layer" or index == 0
        width = 2 * norm if normed else compute  # inputs of the norm and of GELU
        width += compute if index < last else 0  # input of the next convolution
        statistics = 8 if config.conv_norm == "layer" else 0
        kept += batch * steps * (channels * width + statistics)
    return kept


def _projection(config: WavLMConfig, batch: float, frames: int, compute: int, norm: int, device: str) -> float:
    rows, channels = batch * frames, config.conv_channels[-1]
    kept = rows * channels * (norm + compute)  # inputs of the layer norm and of the projection
    kept += 2 * rows * config.dim * compute  # of the positional convolution and of its GELU
    kept += rows * config.dim * norm  # of the one layer norm: before the first layer or after the last
    kept += rows * config.dim * sum(_mask(p, compute, device) for p in (config.dropout_input, config.dropout))
    return kept


def _layer(config: WavLMConfig, batch: float, frames: int, compute: int, norm: int, device: str) -> float:
    width = 2 * norm  # inputs of both layer norms
    width += 2 * compute  # of the joined projection and of the feed-forward block
    width += 3 * compute  # queries, keys, values
    width += compute  # what attention gives, input of the last projection
    width += 2 * _mask(config.dropout, compute, device)
    if config.position_bias == "gated" and norm != compute:
        width += compute  # the gate casts its input for itself
    hidden = 2 * compute + _mask(config.activation_dropout, compute, device)  # before and after GELU
    rows = batch * frames
    statistics = 16 + config.heads * (4 if device == "cuda" else 0)  # of two norms; of the softmax
    gate = config.heads * 6 * compute if config.position_bias == "gated" else 0
    return rows * (config.dim * width + config.ffn_dim * hidden + statistics + gate)


def _attention(config: WavLMConfig, batch: float, frames: int, compute: int, device: str) -> float:
    square = config.heads * frames**2 * compute
    table = square if config.position_bias == "gated" else 0  # before gating, for all layers
    if device == "cpu":
        if config.position_bias == "none":
            # The fused kernel has no dropout; in its place torch computes in fp32.
            square = square // compute * 4 if config.attention_dropout > 0 else 0
        weights = 3 if config.attention_dropout > 0 else 1  # softmax; factors of dropout and what they leave
        return table + config.layers * batch * square * weights
    if config.position_bias == "none":
        return 0
    # The kernel wants rows of the bias that begin at multiples of 8 numbers, and makes a copy where they do not.
    if config.position_bias == "ungated":  # the table itself, for all rows of the batch; its rows interleave the heads
        return config.layers * config.heads * frames * (frames // 8 * 8 + 8) * compute
    return table + config.layers * batch * config.heads * frames * (-(-frames // 8) * 8) * compute


def _mask(probability: float, compute: int, device: str) -> int:
    """Bytes a number that dropout keeps: a bool on CUDA, a factor on a CPU."""
    if probability == 0:
        return 0
    return 1 if device == "cuda" else compute
