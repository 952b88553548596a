"""Short timings of a training step that choose CPU threads and precision for a run.

OpenMP's threads wait for each other by spinning: beside one busy process on the same two cores a run with two threads is up to
five times slower, and one thread is faster (experiments/busy_cores). bf16 is faster than fp32 on some processors with bf16
instructions and slower on others. Neither can be read off the processor's name, so a few steps decide.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable

import torch

from wavlm_lightning.encoder import WavLM, WavLMConfig
from wavlm_lightning.system.hardware import cpu_bf16_instructions

ROUNDS = 4
GAIN = 1.2
"""Fewer threads than cores must be this many times faster: a choice within the noise would change a run's last digits."""


def seconds_of(trials: dict[str, Callable[[], object]], rounds: int = ROUNDS) -> dict[str, float]:
    """Median seconds of each trial; the trials take turns, so that a change of load meets all of them."""
    times: dict[str, list[float]] = {name: [] for name in trials}
    for number in range(rounds + 1):
        for name, trial in trials.items():
            begin = time.perf_counter()
            trial()
            if number:  # the first call allocates memory and builds oneDNN's primitives
                times[name].append(time.perf_counter() - begin)
    return {name: statistics.median(some) for name, some in times.items()}


def training_step(precision: str) -> Callable[[], None]:
    """Forward and backward pass of the tiny encoder on 8 crops of 2.5 s, as `configs/pretrain/tiny_waveform.yaml` trains.

    Args:
        precision: `32-true` or `bf16-mixed`.
    """
    with torch.random.fork_rng(devices=[]):  # the run's own random numbers stay as they were
        torch.manual_seed(0)
        encoder = WavLM(WavLMConfig.preset("tiny")).train()
        audio, lengths = 0.1 * torch.randn(8, 40000), torch.full((8,), 40000)

    def step() -> None:
        with (
            torch.random.fork_rng(devices=[]),
            torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed"),
        ):
            loss = encoder(audio, lengths).hidden[-1].float().square().mean()
        loss.backward()
        encoder.zero_grad(set_to_none=True)

    return step


def fastest_threads(precision: str = "32-true") -> int:
    """The number of torch's CPU threads at which a training step is fastest now: all of them, or fewer beside other work.

    Takes a few seconds; torch's setting is left as it was.
    """
    every = torch.get_num_threads()
    candidates = sorted({every, every - 1, every // 2, 1} - {0}, reverse=True)
    if len(candidates) == 1:
        return every
    step = training_step(precision)

    def with_threads(threads: int) -> Callable[[], None]:
        def trial() -> None:
            torch.set_num_threads(threads)
            step()

        return trial

    try:
        seconds = seconds_of({str(threads): with_threads(threads) for threads in candidates})
    finally:
        torch.set_num_threads(every)
    best = min(candidates, key=lambda threads: seconds[str(threads)])
    return best if seconds[str(every)] > GAIN * seconds[str(best)] else every


def faster_precision() -> str:
    """`bf16-mixed` or `32-true`, whichever trains the tiny encoder faster on this CPU now; takes a few seconds."""
    if cpu_bf16_instructions() == []:  # emulated bf16 is several times slower
        return "32-true"
    seconds = seconds_of({precision: training_step(precision) for precision in ("bf16-mixed", "32-true")})
    return min(seconds, key=lambda precision: seconds[precision])


def threads_are_set() -> bool:
    """Whether the user, or the pool that started this process, has set the number of OpenMP threads."""
    return bool(os.environ.get("OMP_NUM_THREADS") or os.environ.get("MKL_NUM_THREADS"))
