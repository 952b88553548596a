"""How fast oneDNN multiplies fp32 matrices on this machine, against PyTorch's own product."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from wavlm_lightning.encoder.cpu.onednn import onednn_packed, onednn_product

CLEARLY = 1.05
"""The gain from which on oneDNN is taken: the timing repeats itself to 3 %."""
ROUNDS = 4
_alone = threading.Lock()


@dataclass(frozen=True)
class Gains:
    """Time of PyTorch's own product by that of oneDNN; 0 where oneDNN cannot be used.

    Attributes:
        forward: x Wᵀ + b, the weight as it lies.
        packed: the same, the weight in oneDNN's own layout.
        input_gradient: the gradient of x.
        weight_gradient: the gradient of W.
    """

    forward: float
    packed: float
    input_gradient: float
    weight_gradient: float


def onednn_gains() -> Gains:
    """Time the four kinds of product, alternated, 0.3 GFLOP each: a tenth of a second, once a process.

    It is the processor time of one thread that counts: on a busy machine the clock on the wall, or threads that wait for
    each other, would say anything.
    """
    with _alone:  # two threads that time at once would time one another
        return _measure()


@functools.cache
def _measure() -> Gains:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _ratios()
    except (AttributeError, RuntimeError):  # a build without oneDNN, or one whose private operators have changed
        return Gains(0.0, 0.0, 0.0, 0.0)
    finally:
        torch.set_num_threads(threads)


def _ratios() -> Gains:
    rows, inputs, outputs = 256, 768, 768
    x, weight = torch.ones(rows, inputs), torch.ones(outputs, inputs)
    bias, gradient = torch.ones(outputs), torch.ones(rows, outputs)
    with torch.no_grad(), torch.autocast("cpu", enabled=False):
        packed = onednn_packed(weight)
        return Gains(
            forward=_ratio(lambda: F.linear(x, weight, bias), lambda: onednn_product(x, weight, bias)),
            packed=_ratio(lambda: F.linear(x, weight, bias), lambda: onednn_product(x, packed, bias)),
            input_gradient=_ratio(lambda: gradient @ weight, lambda: onednn_product(gradient, weight.t())),
            weight_gradient=_ratio(lambda: gradient.t() @ x, lambda: onednn_product(gradient.t(), x.t())),
        )


def _ratio(plain: Callable[[], Tensor], other: Callable[[], Tensor]) -> float:
    """Of the fastest runs: other programs in the caches only ever add time."""
    fastest = [float("inf"), float("inf")]
    for _ in range(ROUNDS + 1):  # the first run of each builds its kernel, and is never the fastest
        for index, run in enumerate((plain, other)):
            start = time.thread_time()
            run()
            fastest[index] = min(fastest[index], time.thread_time() - start)
    return fastest[0] / fastest[1]
