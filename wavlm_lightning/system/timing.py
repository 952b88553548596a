"""Compare the speed of variants on a shared machine: they take turns, and ratios within a round are compared."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}


@dataclass
class Rounds:
    """Seconds of each variant in each round; round k of all variants ran at about the same time."""

    seconds: dict[str, list[float]] = field(default_factory=dict)

    def median(self, variant: str) -> float:
        return statistics.median(self.seconds[variant])

    def fastest(self, variant: str) -> float:
        """Seconds of the fastest round, since disturbances only ever add time."""
        return min(self.seconds[variant])

    def ratio(self, variant: str, reference: str) -> float:
        """Speed relative to `reference`: the median over rounds of the ratio within a round."""
        pairs = zip(self.seconds[reference], self.seconds[variant], strict=False)
        return statistics.median(theirs / ours for theirs, ours in pairs)

    def fastest_ratio(self, variant: str, reference: str) -> float:
        """Speed relative to `reference`: fastest round against fastest round."""
        return self.fastest(reference) / self.fastest(variant)

    def best(self, variants: list[str]) -> str:
        return min(variants, key=self.median)


def time_side_by_side(
    variants: dict[str, Callable[[], object]],
    rounds: int,
    clock: str = "wall",
    tick: Callable[[], object] = lambda: None,
) -> Rounds:
    """Run variants in turns, each round in another order, after an uncounted warm-up round.

    Args:
        variants: functions to time, by name.
        rounds: half a dozen on a quiet machine, more on a busy one.
        clock: `wall`, or `processor` for the processor time of this process, which with one thread does not depend on
            other users of the machine.
        tick: called after each run, for a progress bar.

    """
    now, order, timed = CLOCKS[clock], list(variants), Rounds({name: [] for name in variants})
    for number in range(-1, rounds):  # -1 is the warm-up
        turn = number % len(order)
        for name in order[turn:] + order[:turn]:
            wait_for_gpu()
            start = now()
            variants[name]()
            wait_for_gpu()
            if number >= 0:
                timed.seconds[name].append(now() - start)
            tick()
    return timed


def wait_for_gpu() -> None:
    """Wait until the GPU has finished its work, so that timings include it; does nothing without a GPU."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()
