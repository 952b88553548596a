"""Attention's backends against torch's fused kernel without any bias, alternated: forward, and forward + backward.

python experiments/throughput/attention/run.py --device cuda --precision bf16 --model large --seconds 16 --batch 16
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from wavlm_lightning.encoder.attention_backends import attend

HEADS = {"base": 12, "large": 16}
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


def candidates(inputs: list[Tensor], table: Tensor, gate: Tensor, cuda: bool) -> dict[str, Callable[[], Tensor]]:
    """By name; `flex, table fixed` spares the atomic additions of the table's gradient, and only them."""
    query, key, value = (x.transpose(1, 2) for x in inputs)

    def by(backend: str, table: Tensor = table) -> Tensor:
        return attend(backend, query, key, value, table=table, gate=gate)

    found: dict[str, Callable[[], Tensor]] = {
        "no bias": lambda: F.scaled_dot_product_attention(query, key, value),
        "sdpa": lambda: by("sdpa"),
        "recomputed": lambda: by("recomputed"),
    }
    if cuda:
        found["flex"] = lambda: by("flex")
        found["flex, table fixed"] = lambda: by("flex", table.detach())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", choices=PRECISIONS, default="bf16")
    parser.add_argument("--model", choices=HEADS, default="base")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    cuda = options.device.startswith("cuda")
    heads, frames = HEADS[options.model], int(options.seconds * 50) - 1
    kind = {"device": options.device, "dtype": PRECISIONS[options.precision]}

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, **kind).requires_grad_()

    inputs = [draw(options.batch, frames, heads, 64) for _ in range(3)]
    table, gate = draw(heads, 2 * frames - 1), draw(options.batch, heads, frames)
    runs = candidates(inputs, table, gate, cuda)
    leaves = [*inputs, table, gate]

    def once(run: Callable[[], Tensor], train: bool) -> float:
        for leaf in leaves:
            leaf.grad = None
        if cuda:
            torch.cuda.synchronize()
        start = time.perf_counter()
        with torch.set_grad_enabled(train):
            output = run()
        if train:
            output.sum().backward()
        if cuda:
            torch.cuda.synchronize()
        return time.perf_counter() - start

    name = torch.cuda.get_device_name() if cuda else f"CPU, {torch.get_num_threads()} threads"
    print(f"{name}, torch {torch.__version__}, {options.model}, {options.precision}, {options.batch} x {frames} frames")
    print(
        "| | forward ms | to no bias | forward + backward ms | to no bias | peak added MiB |\n|---|---|---|---|---|---|"
    )
    times: dict[tuple[str, bool], list[float]] = {(name, train): [] for name in runs for train in (False, True)}
    peaks: dict[str, str] = dict.fromkeys(runs, "")
    for number in range(options.rounds + 2):  # the first two compile, and fill caches
        for (name, train), found in times.items():
            before = 0
            if cuda:
                torch.cuda.reset_peak_memory_stats()
                before = torch.cuda.memory_allocated()
            seconds = once(runs[name], train)
            if number >= 2:
                found.append(seconds)
            if cuda and train:
                peaks[name] = f"{(torch.cuda.max_memory_allocated() - before) / 2**20:.0f}"
    for name in runs:
        cells = []
        for train in (False, True):
            ratios = [ours / bare for ours, bare in zip(times[name, train], times["no bias", train], strict=True)]
            cells += [f"{1000 * min(times[name, train]):.2f}", f"{statistics.median(ratios):.2f}"]
        print(f"| {name} | {' | '.join(cells)} | {peaks[name]} |")


if __name__ == "__main__":
    main()
