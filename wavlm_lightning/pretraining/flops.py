"""What a pass through the encoder costs in floating-point operations, and what GPUs could do at best.

Counted are matrix products and convolutions, two operations a multiply-add. Left out are norms, activations, softmax,
dropout, the T x T product of gate and position table and the optimiser: under 2 % of the operations, though not of the
time, because they are bound by memory.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from wavlm_lightning.encoder import WavLMConfig


@dataclass(frozen=True)
class StepFlops:
    """Operations of one forward pass by part, and what follows from them.

    Attributes:
        front_end: the convolutions.
        projection: convolution features to the width of the transformer.
        positional: the convolutional positional embedding.
        linears: attention projections, gates and feed-forward blocks of all layers.
        attention: queries by keys and weights by values of all layers.
        front_end_backward: the backward pass of the convolutions, which may be none or only a part.
        objectives: the heads of pre-training; 0 unless added.
        layer_drop: share of the layers that a training step skips on average.
    """

    front_end: float
    projection: float
    positional: float
    linears: float
    attention: float
    front_end_backward: float
    objectives: float = 0.0
    layer_drop: float = 0.0

    @property
    def forward(self) -> float:
        """A forward pass of all layers, as for labels, features and validation."""
        return self.front_end + self.projection + self.positional + self.linears + self.attention + self.objectives

    @property
    def training(self) -> float:
        """Forward and backward pass of a training step, in expectation over LayerDrop.

        Each product has two in the backward pass, one for the gradient of either factor: everything behind the
        convolutions, even where those are frozen, because the layer norm before the projection is trained. What the
        backward pass computes again (attention, the first convolution, checkpointed layers) is not counted:
        utilisation is about the model, not about the implementation.
        """
        layers = (1.0 - self.layer_drop) * (self.linears + self.attention)
        return (
            self.front_end
            + self.front_end_backward
            + 3 * (self.projection + self.positional + layers + self.objectives)
        )


def linear_flops(rows: float, inputs: int, outputs: int) -> float:
    """Operations of `(rows, inputs) @ (inputs, outputs)`."""
    return 2.0 * rows * inputs * outputs


def encoder_flops(config: WavLMConfig, batch: float, samples: int) -> StepFlops:
    """Operations of the encoder on a batch.

    Args:
        config: shape of the encoder.
        batch: utterances; a fraction is a part of one.
        samples: length of each at 16 kHz.

    Returns:
        Operations by part, objectives apart (`objective_flops`).
    """
    front_end, first, inputs = 0.0, 0.0, 1
    whole = config.frames(samples)
    steps = (whole - 1) * config.hop + config.receptive_field if whole else 0  # samples that no frame sees cost nothing
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


def objective_flops(frames: float, dim: int, final_dim: int, codewords: int) -> float:
    """Operations of masked prediction: project the hidden states, then their cosines to all codewords.

    Args:
        frames: frames that are predicted (the masked ones).
        dim: width of the encoder.
        final_dim: width of the codewords.
        codewords: their number.
    """
    return linear_flops(frames, dim, final_dim) + linear_flops(frames, final_dim, codewords)


def masked_share(probability: float, span: int) -> float:
    """Share of the frames that random spans hide (wav2vec 2.0, arXiv 2006.11477): 1 − (1 − p/l)^l, 57 % for WavLM.

    Args:
        probability: share of the frames that spans would hide if none overlapped.
        span: frames of a span.
    """
    return 1.0 - (1.0 - probability / span) ** span


@dataclass(frozen=True)
class Gpu:
    """What a GPU could do.

    Attributes:
        peak: dense matrix products in half precision with sums in fp32, operations a second.
        memory_gb: memory of its variants, 10^9 bytes.
        precision: Lightning's name of the half precision its peak stands for; V100 have no bf16.
    """

    peak: float
    memory_gb: tuple[int, ...]
    precision: str = "bf16-mixed"


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
"""Peaks without sparsity from NVIDIA's data sheets; without a suffix the SXM form."""

UNLIKE = {"laptop", "mig", "d", "nvl"}
"""Words in the name of a device that is slower than its namesake in the table."""


def find_gpu(name: str) -> Gpu | None:
    """The entry for a device: our own name for it or what `torch.cuda.get_device_name` says; None if unknown.

    Example:
        >>> find_gpu("NVIDIA A100-SXM4-80GB").peak
        312000000000000.0
    """
    words = set(re.split(r"[^a-z0-9]+", name.lower()))
    fitting = [key for key in GPUS if set(key.split("-")) <= words]
    return GPUS[max(fitting, key=len)] if fitting and not words & UNLIKE else None


def model_flops_utilisation(flops_per_second: float, gpu_name: str) -> float | None:
    """Share of a GPU's peak that a run reaches.

    Args:
        flops_per_second: operations of the model (`StepFlops.training`) a second on one GPU.
        gpu_name: of that GPU, see `find_gpu`.

    Returns:
        Between 0 and 1; None for a device whose peak is not known.
    """
    gpu = find_gpu(gpu_name)
    return flops_per_second / gpu.peak if gpu and math.isfinite(flops_per_second) else None
