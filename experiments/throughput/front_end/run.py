"""Convolutions on a CPU: the front-end in chunks of several sizes and by products, and the positional convolution by its
spectrum, against torch's convolutions one after the other over the whole batch; and log-mel frames in their place.

    python experiments/throughput/front_end/run.py --seconds 6 --batch 2

Alternated in one process. Seconds are those of the processor, not of the clock: other jobs disturb them less.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Mapping
from functools import partial
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wavlm_lightning.encoder import WavLMConfig, log_mel
from wavlm_lightning.encoder.cpu import chunks, spectral_convolution, strided_products
from wavlm_lightning.encoder.frontend import FrontEnd
from wavlm_lightning.encoder.transformer import PositionalConvolution

SIZES = (22, 23, 24, 25, 26, 40)
"""Powers of two: bytes of the first layer's output in a chunk; the last means no chunks."""


def plain(module: FrontEnd, waveforms: Tensor) -> Tensor:
    """Convolution, norm, GELU, layer by layer."""
    x = waveforms[:, None]
    for layer in module.conv_layers:
        x = layer.conv(x)
        if isinstance(layer.layer_norm, nn.LayerNorm):
            x = layer.layer_norm(x.mT).mT
        elif layer.layer_norm is not None:
            x = layer.layer_norm(x)
        x = F.gelu(x)
    return x.mT


def chunked(module: FrontEnd, size: int, products: bool, waveforms: Tensor) -> Tensor:
    """The front-end as it is, with chunks of that many bytes; by torch's convolutions unless told otherwise."""
    chunks.CACHE_FRIENDLY = 1 << size
    strided_products.NARROWEST = 512 if products else 1 << 30
    return module(waveforms)


def positional(module: PositionalConvolution, spectral: bool, x: Tensor) -> Tensor:
    """The positional convolution, by its spectrum or as torch does it."""
    spectral_convolution.LEAST_WORK = 0 if spectral else 1 << 30
    return module(x)


def log_power_by_matrix(windows: Tensor, window: Tensor, size: int, filters: Tensor) -> Tensor:
    """`log_mel.log_power` by a product with the matrix of the transform."""
    angles = torch.arange(len(filters))[:, None] * torch.arange(len(window)) * math.tau / size
    real, imaginary = (windows @ (torch.cat([angles.cos(), angles.sin()]) * window).T).chunk(2, dim=-1)
    return ((real.square() + imaginary.square()) @ filters).clamp(min=log_mel.FLOOR).log()


def log_mel_frames(module: log_mel.LogMelFrontEnd, way: Callable[..., Tensor], waveforms: Tensor) -> Tensor:
    """The log-mel front-end with that transform."""
    log_mel.log_power = way
    return module(waveforms)


def seconds(run: Callable[[Tensor], Tensor], waveforms: Tensor, training: bool) -> float:
    """Processor time of a pass, forward or both ways."""
    begin = time.process_time()
    features = run(waveforms)
    if training:
        features.float().square().sum().backward()
    return time.process_time() - begin


def main() -> None:
    """Print a table of ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="base")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    config = WavLMConfig.preset(arguments.preset)
    module = FrontEnd(config)
    waveforms = torch.randn(arguments.batch, round(arguments.seconds * 16_000))
    runs = {f"2^{size}": partial(chunked, module, size, False) for size in SIZES}
    runs["2^23, products"] = partial(chunked, module, 23, True)
    table({"plain": partial(plain, module), **runs}, module, waveforms, arguments.rounds)
    print("\nThe positional convolution:\n")
    embedding = PositionalConvolution(config)
    x = torch.randn(arguments.batch, config.frames(waveforms.shape[1]), config.dim, requires_grad=True)
    ways = {"plain": partial(positional, embedding, False), "spectrum": partial(positional, embedding, True)}
    table(ways, embedding, x, arguments.rounds)
    print("\nThe front-end of tiny_mel:\n")
    frames, convolutions = log_mel.LogMelFrontEnd(WavLMConfig.tiny_mel()), FrontEnd(WavLMConfig.tiny())
    ways = {
        "plain": partial(log_mel_frames, frames, log_mel.log_power),
        "by a matrix": partial(log_mel_frames, frames, log_power_by_matrix),
        "that of tiny": partial(chunked, convolutions, 23, False),
    }
    table(ways, nn.ModuleList([frames, convolutions]), waveforms, arguments.rounds)


def table(runs: Mapping[str, Callable[[Tensor], Tensor]], module: nn.Module, x: Tensor, rounds: int) -> None:
    """Print how many times faster than `plain` each is: the median over the rounds, after one that is not counted."""
    print("| | " + " | ".join(runs) + " |\n|---" + "|---" * len(runs) + "|")
    for training in (False, True):
        for half in (False, True):
            taken: dict[str, list[float]] = {name: [] for name in runs}
            with torch.set_grad_enabled(training), torch.autocast("cpu", torch.bfloat16, enabled=half):
                for number in range(rounds + 1):
                    for name, run in runs.items():
                        module.zero_grad()
                        x.grad = None
                        spent = seconds(run, x, training)
                        if number:
                            taken[name].append(spent)
            ratios = [median(p / t for p, t in zip(taken["plain"], taken[name], strict=True)) for name in runs]
            title = f"{'training' if training else 'inference'}, {'bf16' if half else 'fp32'}"
            print(f"| {title} | " + " | ".join(f"{ratio:.2f}" for ratio in ratios) + " |", flush=True)


if __name__ == "__main__":
    main()
