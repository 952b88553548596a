"""Memory of a training step of the encoder, computed from its shape.

The formulas follow this package's encoder tensor by tensor. For CPUs they are tested against the tensors that a real
forward pass keeps; for CUDA against torch's shape rules for autocast and fused attention kernels, but not on a GPU.
Temporary workspace of kernels and fragmentation of the allocator are not included. Layers that torch.compile fuses are
counted like others.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Literal

import torch

from wavlm_lightning.encoder import WavLM, WavLMConfig
from wavlm_lightning.encoder.attention_backends.blocks import DEVICE_BYTES
from wavlm_lightning.encoder.cpu.chunks import CACHE_FRIENDLY, ROOMY
from wavlm_lightning.encoder.log_mel import mel_convolution
from wavlm_lightning.system.errors import UserError

# Share of a GPU's memory that a step may fill, a rule of thumb; CUDA's context, workspaces and fragmentation take the
# rest.
USABLE = 0.85

# `trainer.precision` -> bytes of a number in matrix products; weights, gradients and optimiser are fp32 in all three.
COMPUTE_BYTES = {"32-true": 4, "bf16-mixed": 2, "16-mixed": 2}


@dataclass(frozen=True)
class StepMemory:
    """Bytes of a training step at its peak: at the start of the backward pass, or at its end if that needs more."""

    parameters: float  # weights in fp32; with FSDP2 the process's share, here and in the next two
    gradients: float  # in fp32
    optimiser: float  # both moments of AdamW, the one of Muon, the moving average of the weights
    exchanged: float  # gradient copies that DDP sums, or weights that FSDP2 gathers temporarily
    casts: float  # weight copies kept for the backward pass, in half precision or normalised
    front_end: float  # activations of the convolutions
    projection: float  # activations from the convolutions to the first layer
    layers: float  # activations of the transformer; only the inputs of checkpointed layers
    # Temporary tensors that the backward pass computes again: at its start the frames x frames tensors of some
    # utterances, or all activations of a checkpointed layer; or, if the end of the backward pass needs more, the amount
    # by which the first convolution raises the peak there.
    recomputed: float
    objectives: float = 0.0  # activations of the objectives

    @property
    def kept(self) -> float:
        """Bytes that the forward pass of the encoder keeps for the backward pass."""
        return self.casts + self.front_end + self.projection + self.layers

    @property
    def total(self) -> float:
        return sum(getattr(self, field.name) for field in fields(self))

    def fits(self, memory_gb: float) -> bool:
        """Whether the step fits into a GPU with `memory_gb` 10^9 bytes of memory, by the rule of `USABLE`."""
        return self.total <= USABLE * memory_gb * 1e9


@lru_cache(maxsize=64)  # a plan asks for each of its stages several times
def parameter_count(config: WavLMConfig) -> int:
    """Number of parameters of an encoder, counted on the meta device."""
    with torch.device("meta"):
        one, two = (WavLM(replace(config, layers=layers)).parameter_count() for layers in (1, 2))
    return one + (config.layers - 1) * (two - one)  # layers behind the first are alike, and each takes 20 ms to build


def step_memory(
    config: WavLMConfig,
    batch: float,
    samples: int,
    precision: str = "bf16-mixed",
    *,
    device: Literal["cpu", "cuda"] = "cuda",
    processes: int = 1,
    sharded: bool = False,
    checkpointed: bool = False,
    head_parameters: int = 0,
    head_bytes: float = 0.0,
    teacher_parameters: int = 0,
    copies: int = 1,
    visible: float | None = None,
    muon_parameters: int = 0,
    averaged: bool = False,
) -> StepMemory:
    """Memory of a training step in one process, for crops of `samples` at 16 kHz.

    Args:
        batch: crops of a micro-step in this process; a fraction stands for space that shorter crops fill.
        device: where the kernels run; neither device keeps frames x frames tensors for the backward pass.
        sharded: whether FSDP2 (`trainer.strategy: fsdp2`) shards the weights; otherwise DDP copies them.
        checkpointed: whether the layers run again in the backward pass (`model.activation_checkpointing`).
        head_parameters: number of parameters of the objectives.
        head_bytes: bytes of the activations that the objectives keep.
        teacher_parameters: number of parameters of the objectives' teachers, which have neither gradients nor moments.
        copies: masked copies of each crop, see `MaskedCopies`.
        visible: share of the frames that the layers run on, if it is the visible ones alone; None for all frames.
        muon_parameters: number of parameters that Muon trains, with one moment (`model.muon`).
        averaged: whether a moving average of the weights is kept (`model.average`).

    Raises:
        UserError: the formulas do not cover the precision.
    """
    if precision not in COMPUTE_BYTES:
        raise UserError(
            f"trainer.precision {precision}: memory is known only for {', '.join(COMPUTE_BYTES)}; take one of them"
        )
    compute = COMPUTE_BYTES[precision]
    # CUDA's autocast runs norms in fp32 and keeps their inputs and outputs in fp32; the CPU's autocast does not.
    norm = 4 if device == "cuda" else compute
    sharded = sharded and processes > 1
    weights = 4 * (parameter_count(config) + head_parameters)
    share = weights / processes if sharded else weights
    frames = config.frames(samples)
    rows, seen = batch * copies, frames * (1.0 if visible is None else visible)  # of the layers
    layer = _layer(config, rows, seen, compute, norm, device)
    # The position bias of all pairs of visible frames, and the offsets by which its gradient is summed.
    biased = visible is not None and config.position_bias != "none"
    bias, offsets = (rows * seen**2 * width if biased else 0.0 for width in (config.heads * compute, 8))
    first_layer = _projection(config, batch, frames, rows, seen, compute, norm, device) + bias + offsets
    # After a layer norm the residual stream has the norm's precision, before the first one that of the products.
    kept = rows * seen * config.dim * (compute if config.pre_norm else norm) if checkpointed else layer
    # `behind` is freed by the time the backward pass reaches the convolutions; `first` is allocated there.
    behind = first_layer + config.layers * kept + head_bytes
    trained = config.feature_grad_mult > 0
    over_waveform = trained and config.front_end == "waveform"
    first = _first_convolution(config, batch, samples, compute, device) if over_waveform else 0
    # The gradient of the bias of pairs lives as long as the pass.
    again = _attention(config, rows, seen, compute, device) + bias
    if checkpointed:  # half of it, the feed-forward block, is freed before attention runs
        again = max(layer, again + layer / 2)
    return StepMemory(
        parameters=share + 4 * teacher_parameters / (processes if sharded else 1),
        gradients=share,
        optimiser=(3 if averaged else 2) * share - 4 * muon_parameters,
        exchanged=(_gathered(config, weights, compute) if sharded else weights) if processes > 1 else 0,
        casts=_casts(config, compute, sharded or checkpointed),
        front_end=(_front_end if over_waveform else _log_mel)(config, batch, samples, compute) if trained else 0,
        projection=first_layer,
        layers=config.layers * kept,
        recomputed=max(again, first - behind),
        objectives=head_bytes,
    )


def _gathered(config: WavLMConfig, weights: int, compute: int) -> int:
    """Unsharded weights of a process: all outside the layers, the current layer with its gradients, and the next layer."""
    layer = 4 * config.dim**2 + 2 * config.dim * config.ffn_dim
    return weights - 4 * config.layers * layer + (2 * compute + 4) * layer


def _casts(config: WavLMConfig, compute: int, without_layers: bool) -> int:
    positional = config.dim * config.dim // config.pos_conv_groups * config.pos_conv_kernel
    if compute == 4:  # the normalised weight of the positional convolution
        return 4 * positional
    # Not kept: casts of convolutions and checkpointed layers, which run again, and of sharded layers, gathered in half precision.
    layers = 0 if without_layers else config.layers * (4 * config.dim**2 + 2 * config.dim * config.ffn_dim)
    over_mel = 0  # convolutions over mel frames do not run again
    if config.front_end == "log_mel" and config.feature_grad_mult > 0:
        inputs = (config.mel_bins, *config.mel_channels)
        sizes = zip(inputs, config.mel_channels, strict=False)
        over_mel = sum(mel_convolution(config, index)[0] * a * b for index, (a, b) in enumerate(sizes))
    return compute * (config.feature_dim * config.dim + positional + layers + over_mel)


def _front_end(config: WavLMConfig, batch: float, samples: int, compute: int) -> float:
    kept, steps = batch * samples * 4, samples
    last = len(config.conv_channels) - 1
    sizes = zip(config.conv_channels, config.conv_kernels, config.conv_strides, strict=True)
    for index, (channels, kernel, stride) in enumerate(sizes):
        steps = (steps - kernel) // stride + 1
        if index == 0 < last:
            continue  # recomputed, as are norm and GELU of every convolution but the last
        width = channels * compute  # output of the convolution
        if index == last and config.conv_norm == "layer":
            width += channels * compute + 8  # input of GELU; statistics of the norm
        kept += batch * steps * width
    return kept


def _log_mel(config: WavLMConfig, batch: float, samples: int, compute: int) -> float:
    steps, kept, last = 2 * config.frames(samples), 0.0, len(config.mel_channels) - 1
    if config.mel_channels:
        kept = batch * steps * config.mel_bins * compute  # input of the first convolution
    for index, channels in enumerate(config.mel_channels):
        steps //= mel_convolution(config, index)[1]
        width = channels * compute  # input of GELU
        if config.conv_norm == "layer":
            width += channels * compute + 8  # input of the norm, and its statistics
        if index < last:
            width += channels * compute  # input of the next convolution
        kept += batch * steps * width
    return kept


def _first_convolution(config: WavLMConfig, batch: float, samples: int, compute: int, device: str) -> float:
    """Outputs of convolution, norm and GELU with their gradients; the number alive at once was counted on fake tensors."""
    steps = (samples - config.conv_kernels[0]) // config.conv_strides[0] + 1
    output = min(batch * steps * config.conv_channels[0], CACHE_FRIENDLY if device == "cpu" else ROOMY)
    return (3.5 if config.conv_norm == "layer" else 2.5) * output * compute


def _projection(
    config: WavLMConfig, batch: float, frames: int, rows: float, seen: float, compute: int, norm: int, device: str
) -> float:
    if config.front_end == "log_mel" and not config.mel_channels:
        features = 4  # log-mel frames are fp32 in every precision
    else:
        features = norm
    kept = batch * frames * config.feature_dim * (features + compute)  # inputs of the layer norm and of the projection
    kept += 2 * rows * frames * config.dim * compute  # of the positional convolution and of its GELU
    kept += rows * seen * config.dim * norm  # of the one layer norm: before the first layer or after the last
    kept += batch * frames * config.dim * _mask(config.dropout_input, compute, device)
    kept += rows * seen * config.dim * _mask(config.dropout, compute, device)
    return kept


def _layer(config: WavLMConfig, batch: float, frames: float, compute: int, norm: int, device: str) -> float:
    width = 2 * norm  # inputs of both layer norms
    width += 2 * compute  # of the three projections together and of the feed-forward block
    width += 3 * compute  # queries, keys, values
    width += compute  # output of attention, the input of the last projection
    width += 2 * _mask(config.dropout, compute, device)
    hidden = 2 * compute + _mask(config.activation_dropout, compute, device)  # before and after GELU
    rows = batch * frames
    fused = config.position_bias == "none" and (device == "cuda" or config.attention_dropout == 0)
    statistics = 16 + config.heads * (4 if fused else 0)  # two norms; the softmax, unless it is recomputed
    gate = config.heads * 6 * compute if config.position_bias == "gated" else 0
    return rows * (config.dim * width + config.ffn_dim * hidden + statistics + gate)


def _attention(config: WavLMConfig, batch: float, frames: float, compute: int, device: str) -> float:
    """Temporary frames x frames tensors, for as many utterances at a time as `DEVICE_BYTES` allow."""
    if device == "cpu" or config.position_bias == "none":  # works in cache-sized blocks; a kernel without bias
        return 0
    # The kernel requires rows of the bias to be aligned to 8 numbers.
    one = config.heads * frames * (-(-frames // 8) * 8) * compute
    # The position bias and its gradient, and a second gradient if the bias is gated.
    copies = 3 if config.position_bias == "gated" else 2
    return copies * min(batch * one, max(one, DEVICE_BYTES))


def _mask(probability: float, compute: int, device: str) -> int:
    """Bytes per number that dropout keeps: a bool on CUDA, a factor on a CPU."""
    if probability == 0:
        return 0
    return 1 if device == "cuda" else compute
