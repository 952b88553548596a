"""Floating-point operations of a pass through the encoder, and the peak performance of GPUs.

Matrix products and convolutions are counted, with two operations per multiply-add. Norms, activations, softmax, dropout,
the T x T product of gate and position table, and the optimiser are not: they make up less than 2 % of the operations (but
more of the time, because memory bandwidth limits them).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from wavlm_lightning.encoder import WavLMConfig


@dataclass(frozen=True)
class StepFlops:
    """Operations of one forward pass by part, and the totals."""

    front_end: float  # the convolutions
    projection: float  # convolution features to the width of the transformer
    positional: float
    linears: float  # attention projections, gates and feed-forward blocks of all layers
    attention: float  # queries by keys and weights by values of all layers
    front_end_backward: float  # 0 if the convolutions are frozen
    objectives: float = 0.0  # their forward pass
    layer_drop: float = 0.0  # share of the layers that a training step skips on average

    @property
    def forward(self) -> float:
        """A forward pass through all layers, as for labels, features and validation."""
        return self.front_end + self.projection + self.positional + self.linears + self.attention + self.objectives

    @property
    def training(self) -> float:
        """Forward and backward pass of a training step, in expectation over LayerDrop.

        Each product behind the convolutions has two products in the backward pass, one for the gradient of either
        factor; with frozen convolutions as well, because the layer norm before the projection is trained. Operations
        that the backward pass repeats (attention, the first convolution, checkpointed layers) are not counted:
        utilisation describes the model, not the implementation.
        """
        layers = (1.0 - self.layer_drop) * (self.linears + self.attention)
        tripled = self.projection + self.positional + layers + self.objectives
        return self.front_end + self.front_end_backward + 3 * tripled


def linear_flops(rows: float, inputs: int, outputs: int) -> float:
    """Operations of `(rows, inputs) @ (inputs, outputs)`."""
    return 2.0 * rows * inputs * outputs


def encoder_flops(config: WavLMConfig, batch: float, samples: int) -> StepFlops:
    """Operations of the encoder on a batch of utterances (a fraction is allowed) of `samples` at 16 kHz, by part.

    Those of the objectives are not included; see `Objective.cost`.
    """
    front_end, first, inputs = 0.0, 0.0, 1
    whole = config.frames(samples)
    # Samples outside every frame cost nothing.
    steps = (whole - 1) * config.hop + config.receptive_field if whole else 0
    for channels, kernel, stride in zip(config.conv_channels, config.conv_kernels, config.conv_strides, strict=True):
        steps = max((steps - kernel) // stride + 1, 0)
        convolution = linear_flops(batch * steps, inputs * kernel, channels)
        first = first or convolution
        front_end, inputs = front_end + convolution, channels
    frames, dim = batch * steps, config.dim
    # An even kernel computes one frame more than it keeps.
    positions = batch * (steps + 1 - config.pos_conv_kernel % 2) if steps else 0
    linears = linear_flops(frames, dim, 4 * dim + 2 * config.ffn_dim)
    if config.position_bias == "gated":
        linears += linear_flops(frames, dim, 2)  # heads x (head dim -> 2)
    return StepFlops(
        front_end=front_end,
        projection=linear_flops(frames, inputs, dim),
        positional=linear_flops(positions, dim // config.pos_conv_groups * config.pos_conv_kernel, dim),
        linears=config.layers * linears,
        attention=config.layers * 2 * linear_flops(frames, steps, dim),
        # The waveform needs no gradient, so the first convolution has only that of its weight.
        front_end_backward=2 * front_end - first if config.feature_grad_mult > 0 else 0.0,
        layer_drop=config.layer_drop,
    )


@dataclass(frozen=True)
class Gpu:
    """The peak performance of a GPU."""

    peak: float  # operations per second of dense matrix products in half precision with fp32 sums
    memory_gb: tuple[int, ...]  # of its variants, in 10^9 bytes
    precision: str = "bf16-mixed"  # Lightning's name of the half precision of `peak`; V100s have no bf16


# Peaks without sparsity from NVIDIA's data sheets; names without suffix are SXM modules.
GPUS: dict[str, Gpu] = {
    "v100": Gpu(125e12, (16, 32), "16-mixed"),
    "v100-pcie": Gpu(112e12, (16, 32), "16-mixed"),
    "a100": Gpu(312e12, (40, 80)),
    "h100": Gpu(989e12, (80,)),
    "h100-pcie": Gpu(756e12, (80,)),
    "h200": Gpu(989e12, (141,)),
    "l40s": Gpu(362e12, (48,)),
    "rtx-4090": Gpu(165e12, (24,)),
}

# Words in the names of devices that are slower than the GPU of the same name in the table
UNLIKE = {"laptop", "mig", "d", "nvl"}


def find_gpu(name: str) -> Gpu | None:
    """The entry of a device, by its name in the table or by `torch.cuda.get_device_name`; None if unknown.

    Example:
        >>> find_gpu("NVIDIA A100-SXM4-80GB").peak
        312000000000000.0
    """
    words = set(re.split(r"[^a-z0-9]+", name.lower()))
    fitting = [key for key in GPUS if set(key.split("-")) <= words]
    return GPUS[max(fitting, key=len)] if fitting and not words & UNLIKE else None


def model_flops_utilisation(flops_per_second: float, gpu_name: str) -> float | None:
    """Model FLOPs utilisation, 0 to 1: the share of a GPU's peak that a run reaches; None if the peak is unknown."""
    gpu = find_gpu(gpu_name)
    return flops_per_second / gpu.peak if gpu and math.isfinite(flops_per_second) else None
