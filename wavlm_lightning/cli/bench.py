"""`wavlm bench`: speed of inference and training of an encoder on this machine."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from wavlm_lightning.system.files import check_output, write_json


def build_parser() -> argparse.ArgumentParser:
    """The parser of `wavlm bench`; names of options are those of arguments of `workflows.bench.bench`."""
    parser = argparse.ArgumentParser(
        prog="wavlm bench",
        description="Time an encoder on this machine: inference, and a training pass (forward and backward, no update). The "
        "comparison with other implementations is `python -m experiments.throughput` in a checkout.",
    )
    presets = "a preset (tiny, base, large; random weights) or a checkpoint"
    parser.add_argument("source", nargs="?", default="base", metavar="encoder", help=presets)
    parser.add_argument("--batch", type=int, default=4, help="utterances")
    parser.add_argument("--seconds", type=float, nargs="+", default=[10.0], help="length of each; a line for every one")
    precisions = ["fp32", "bf16"]
    parser.add_argument("--precision", choices=precisions, nargs="+", default=precisions, dest="precisions")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="the GPU if there is one")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file, too")
    return parser


def main(argv: list[str]) -> int:
    """Print one line for each timed variant."""
    options = vars(build_parser().parse_args(argv))
    target: Path | None = options.pop("json")
    if target:
        check_output(target.parent, "--json")
    from wavlm_lightning.workflows.bench import bench

    found = []
    print(f"{'':22} {'seconds':>8} {'audio-s/s':>10} {'GFLOP/s':>9} {'of peak':>8}")
    for figure in bench(**options):
        found.append(figure)
        print(_line(figure), flush=True)
    if target:
        write_json(target, found)
    return 0


def _line(figure: dict[str, Any]) -> str:
    share = figure["utilisation"]
    return (
        f"{figure['what']:22} {figure['seconds_per_pass']:8.3f} {figure['audio_seconds_per_second']:10,.1f} "
        f"{figure['flops_per_second'] / 1e9:9,.0f} {'-' if share is None else f'{100 * share:.1f} %':>8}  "
        f"{figure['precision']}, {figure['batch']} x {figure['seconds']:g} s"
    )
