"""`wavlm plan CONFIG`: what a recipe will cost, before anything is started."""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wavlm_lightning.workflows.plan.assumptions import Assumptions
    from wavlm_lightning.workflows.plan.costs import StagePlan


def main(argv: list[str]) -> int:
    """Parse, compute, print."""
    parser = argparse.ArgumentParser(
        prog="wavlm plan",
        description="Cost of a pre-training recipe, from labels to export: memory, updates, operations, hours.",
    )
    parser.add_argument("configuration", help="a name in configs/pretrain (wavlm_base), or a path ending in .yaml")
    parser.add_argument("--gpus", type=_whole, metavar="N", help="processes (default: those of the configuration)")
    parser.add_argument("--gpu", help="their kind: a100, h100, ... (default: that of the configuration)")
    parser.add_argument("--mfu", type=_share, default=0.25, help="share of the GPU's peak, 0 to 1 (default 0.25)")
    parser.add_argument("--hours", type=_positive, metavar="H", help="audio of your corpus (default: as published)")
    parser.add_argument("--memory", type=_positive, default=64.0, metavar="GIB", help="for k-means (default 64 GiB)")
    parser.add_argument("--json", action="store_true", help="everything as JSON")
    parser.add_argument("--cluster", choices=("slurm", "torchrun"), help="scripts that train it, instead of its cost")
    parser.add_argument("--nodes", type=_whole, metavar="N", help="machines (default: as many as hold the GPUs by 8)")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--out", type=Path, help="folder for the scripts")
    where.add_argument("--print", action="store_true", help="print the scripts instead (default without --out)")
    arguments = parser.parse_args(argv)
    if arguments.cluster is None and (arguments.nodes or arguments.out or arguments.print):
        parser.error("--nodes, --out and --print go with --cluster; give it, too")

    from wavlm_lightning.workflows.plan.assumptions import Assumptions
    from wavlm_lightning.workflows.plan.costs import plan
    from wavlm_lightning.workflows.recipe.chain import chain

    assumptions = Assumptions(arguments.mfu, arguments.gpus, arguments.gpu, arguments.hours, arguments.memory)
    stages = chain(arguments.configuration)
    plans = plan(stages, assumptions)
    if arguments.cluster is not None:
        from wavlm_lightning.workflows.plan.cluster import cluster_files

        _write(cluster_files(arguments.cluster, stages[-1], plans[-1], arguments.nodes), arguments.out)
        for remark in plans[-1].training.remarks:
            print(f"note: {remark}", file=sys.stderr)
        return 0
    print(as_json(plans, assumptions) if arguments.json else as_text(plans, assumptions))
    return 0


def _write(files: dict[str, str], folder: Path | None) -> None:
    """Into a folder, or on the screen."""
    for name, content in files.items():
        if folder is None:
            print(content, end="")
            continue
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content, encoding="utf-8")
        print(folder / name)


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be above 0, not {text}")
    return value


def _share(text: str) -> float:
    value = _positive(text)
    if value > 1:
        raise argparse.ArgumentTypeError(f"is a share of the peak, between 0 and 1, not {text}")
    return value


def _whole(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, not {text}")
    return value


def totals(plans: list[StagePlan]) -> dict[str, float | None]:
    """Sums over all stages: operations, GPU-hours and hours of one GPU after the other; None without a GPU."""
    flops = sum(stage.training.flops for stage in plans)
    gpu: list[float | None] = [stage.training.gpu_hours for stage in plans]
    wall: list[float | None] = [stage.training.wall_hours for stage in plans]
    cpu = 0.0
    for stage in plans:
        if stage.labelling is not None:
            flops += stage.labelling.fit_flops + stage.labelling.apply_flops
            cpu += stage.labelling.cpu_hours
            gpu.append(stage.labelling.gpu_hours)
            wall.append(stage.labelling.gpu_hours)
    return {"flops": flops, "cpu_hours": cpu, "gpu_hours": _sum(gpu), "wall_hours": _sum(wall)}


def _sum(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None


def as_json(plans: list[StagePlan], assumptions: Assumptions) -> str:
    """Assumptions, stages and totals; memory in bytes, times in hours."""
    import json
    from dataclasses import asdict

    stages = []
    for stage in plans:
        values = asdict(stage)
        memory = stage.training.memory
        values["training"]["memory"] |= {"kept": memory.kept, "total": memory.total}
        stages.append(values)
    return json.dumps({"assumptions": asdict(assumptions), "stages": stages, "total": totals(plans)}, indent=2)


def as_text(plans: list[StagePlan], assumptions: Assumptions) -> str:
    """One screen: a line a stage, and below each run what it needs."""
    from wavlm_lightning.pretraining.memory import USABLE

    lines = [f"{'':52}{'EFLOP':>10}{'GPU-hours':>12}{'hours':>10}"]
    for stage in plans:
        lines.append(f"{stage.name}, {stage.hours:,.10g} h of audio")
        lines += _labelling_lines(stage) + _training_lines(stage)
        lines.append(f"  export: {stage.export_bytes / 1e6:,.0f} MB")
    total = totals(plans)
    lines.append(_row("total", total["flops"] or 0.0, total["gpu_hours"], total["wall_hours"]))
    if total["cpu_hours"]:
        lines.append(f"  and {total['cpu_hours']:.2g} hours of one CPU core for MFCC, k-means apart")
    lines.append("")
    if total["gpu_hours"] is not None:
        lines.append(
            f"Hours assume {100 * assumptions.mfu:.3g} % of the peak (--mfu): public codes reach 9-12 % on an H100 and 23 % on "
            "an A100;\nours is unmeasured on GPUs. Labels of a layer are counted as if one GPU ran the layers up to it at that "
            "share;\non a CPU they take many times as long."
        )
    lines.append(
        f"Memory is arithmetic, not measured on a GPU; 'fits' is up to {100 * USABLE:.0f} % of it. Epochs and operations "
        "take\nevery batch as full of crops of the greatest length."
    )
    return "\n".join(lines)


def _row(text: str, flops: float, gpu_hours: float | None, wall_hours: float | None) -> str:
    hours = ["-" if value is None else _figure(value) for value in (gpu_hours, wall_hours)]
    return f"{text:52}{_figure(flops / 1e18):>10}{hours[0]:>12}{hours[1]:>10}"


def _figure(value: float) -> str:
    """Three digits, without an exponent where one can read it."""
    if value == 0:
        return "0"
    if value < 0.001:
        return f"{value:.1e}"
    return f"{value:,.{max(0, 2 - math.floor(math.log10(value)))}f}"


def _labelling_lines(stage: StagePlan) -> list[str]:
    labels = stage.labelling
    if labels is None:
        return ["  no labels"]
    total = labels.fit_flops + labels.apply_flops
    lines = [
        _row(f"  labels: {labels.clusters} clusters of {labels.source}", total, labels.gpu_hours, labels.gpu_hours)
    ]
    if labels.fit_hours < 0.999 * labels.wanted_hours:
        lines.append(
            f"    k-means sees {_figure(labels.fit_hours)} h of the {_figure(labels.wanted_hours)} h it should; "
            f"--memory {math.ceil(labels.memory_gib)} holds all"
        )
    else:
        lines.append(f"    k-means sees {_figure(labels.fit_hours)} h")
    return lines


def _training_lines(stage: StagePlan) -> list[str]:
    run = stage.training
    text = f"  pre-train: {run.updates:,} updates, {_figure(run.epochs)} epochs"
    processes = f"{run.gpus} x {run.gpu}"
    # The audio of a micro-step is fixed, so a fraction here is explained by a remark.
    steps = f"{run.accumulation:.4g} micro-step{'s' if run.accumulation != 1 else ''}"
    memory = f"{_figure(run.memory.total / 1e9)} GB"
    verdicts = ", ".join(f"{'fits' if fits else 'does not fit'} {size} GB" for size, fits in run.fits.items())
    return [
        _row(text, run.flops, run.gpu_hours, run.wall_hours),
        f"    {run.update_seconds:,.10g} s an update = {processes} x {steps} x {run.batch_seconds:g} s",
        f"    {run.parameters / 1e6:,.1f} M parameters, {memory} a process{f': {verdicts}' if verdicts else ''}",
        *(f"    note: {remark}" for remark in run.remarks),
    ]
