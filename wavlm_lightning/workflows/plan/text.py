"""The plan of a recipe as text and as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict

from wavlm_lightning.pretraining.memory import USABLE
from wavlm_lightning.workflows.plan.assumptions import Assumptions
from wavlm_lightning.workflows.plan.costs import StagePlan, totals
from wavlm_lightning.workflows.plan.fine_tuning import FineTuningPlan


def as_json(plans: Sequence[StagePlan], assumptions: Assumptions, tuned: Sequence[FineTuningPlan] = ()) -> str:
    """Assumptions, stages, fine-tunings and totals as JSON; memory in bytes, times in hours."""
    stages = []
    for stage in plans:
        values = asdict(stage)
        memory = stage.training.memory
        values["training"]["memory"] |= {"kept": memory.kept, "total": memory.total}
        stages.append(values)
    content = {"assumptions": asdict(assumptions), "stages": stages}
    content |= {"fine_tunings": [asdict(each) for each in tuned], "total": totals(plans, tuned)}
    return json.dumps(content, indent=2)


def as_text(plans: Sequence[StagePlan], assumptions: Assumptions, tuned: Sequence[FineTuningPlan] = ()) -> str:
    """One screen of text: one line per stage, and the needs of each run below it."""
    lines = [f"{'':52}{'EFLOP':>10}{'GPU-hours':>12}{'hours':>10}"]
    for stage in plans:
        lines.append(f"{stage.name}, {stage.hours:,.10g} h of audio")
        lines += [] if stage.teacher is None else _tuning_lines(stage.teacher, "teacher ")
        lines += _labelling_lines(stage) + _training_lines(stage)
        lines.append(f"  export: {stage.export_bytes / 1e6:,.0f} MB")
    if tuned:
        lines.append("fine-tuning of the exported encoder, without heads and tests")
    for each in tuned:
        lines += _tuning_lines(each)
    total = totals(plans, tuned)
    lines.append(_row("total", total["flops"] or 0.0, total["gpu_hours"], total["wall_hours"]))
    if total["cpu_hours"]:
        lines.append(f"  and {total['cpu_hours']:.2g} hours of one CPU core for MFCC or beam search, k-means apart")
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
    """Three digits; with an exponent only below 0.001."""
    if value == 0:
        return "0"
    if value < 0.001:
        return f"{value:.1e}"
    return f"{value:,.{max(0, 2 - math.floor(math.log10(value)))}f}"


def _labelling_lines(stage: StagePlan) -> list[str]:
    labels = stage.labelling
    if labels is None:
        return ["  no labels"]
    what = labels.source if labels.clusters is None else f"{labels.clusters} clusters of {labels.source}"
    lines = [_row(f"  labels: {what}", labels.flops, labels.gpu_hours, labels.gpu_hours)]
    if labels.clusters is None:
        search = f", {_figure(labels.cpu_hours)} hours of a CPU core for the beam search" if labels.cpu_hours else ""
        lines.append(f"    {_figure(labels.apply_hours)} h are aligned or decoded{search}")
    elif labels.fit_hours < 0.999 * labels.wanted_hours:
        lines.append(
            f"    k-means sees {_figure(labels.fit_hours)} h of the {_figure(labels.wanted_hours)} h it should; "
            f"--memory {math.ceil(labels.memory_gib)} holds all"
        )
    else:
        lines.append(f"    k-means sees {_figure(labels.fit_hours)} h")
    return lines


def _tuning_lines(plan: FineTuningPlan, role: str = "") -> list[str]:
    times = f"{plan.runs} x " if plan.runs > 1 else ""
    text = f"  {role}{plan.name}: {times}{plan.updates:,} updates"
    frozen = "all" if plan.head_updates == plan.updates else f"{plan.head_updates:,}"
    alone = f", {frozen} of the head alone" if plan.head_updates else ""
    lines = [
        _row(text, plan.flops, plan.gpu_hours, plan.wall_hours),
        f"    {plan.update_seconds:,.10g} s an update on {plan.gpus} x {plan.gpu}{alone}",
    ]
    if (decoding := plan.decoding) is not None:
        hours = decoding.gpu_hours
        lines.insert(0, _row(f"  pseudo-labels of {_figure(decoding.hours)} h", decoding.flops, hours, hours))
        if decoding.cpu_hours:
            lines.insert(1, f"    {_figure(decoding.cpu_hours)} hours of a CPU core for the beam search")
    return lines


def _training_lines(stage: StagePlan) -> list[str]:
    run = stage.training
    text = f"  pre-train: {run.updates:,} updates, {_figure(run.epochs)} epochs"
    processes = f"{run.gpus} x {run.gpu}"
    # The audio of a micro-step is fixed; a remark explains a fraction here.
    steps = f"{run.accumulation:.4g} micro-step{'s' if run.accumulation != 1 else ''}"
    memory = f"{_figure(run.memory.total / 1e9)} GB"
    verdicts = ", ".join(f"{'fits' if fits else 'does not fit'} {size} GB" for size, fits in run.fits.items())
    return [
        _row(text, run.flops, run.gpu_hours, run.wall_hours),
        f"    {run.update_seconds:,.10g} s an update = {processes} x {steps} x {run.batch_seconds:g} s",
        f"    {run.parameters / 1e6:,.1f} M parameters, {memory} a process{f': {verdicts}' if verdicts else ''}",
        *(f"    note: {remark}" for remark in run.remarks),
    ]
