"""Timing of fp32 matrix products on this machine's CPU: oneDNN against PyTorch's own product (usually MKL)."""

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

CLEARLY = 1.05  # gain from which oneDNN is used: two timings agree within 3 %
ROUNDS = 4
_alone = threading.Lock()


@dataclass(frozen=True)
class Gains:
    """Time of PyTorch's own product divided by that of oneDNN; 0 where oneDNN cannot be used."""

    forward: float  # x Wᵀ + b, with the weight in row-major layout
    packed: float  # the same, with the weight in oneDNN's own layout
    input_gradient: float
    weight_gradient: float


def onednn_gains() -> Gains:
    """Time the four kinds of product, alternated, 0.3 GFLOP each: a tenth of a second, once per process."""
    with _alone:  # two threads that measure at once would disturb each other
        return _measure()


@functools.cache
def _measure() -> Gains:
    # One thread and its processor time (`thread_time`): on a busy machine wall time, and threads that wait for each other
    # at barriers, would measure the other processes.
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
    # Fastest of several runs: other programs only ever add time. The first run builds the kernel and is never the fastest.
    fastest = [float("inf"), float("inf")]
    for _ in range(ROUNDS + 1):
        for index, run in enumerate((plain, other)):
            start = time.thread_time()
            run()
            fastest[index] = min(fastest[index], time.thread_time() - start)
    return fastest[0] / fastest[1]
