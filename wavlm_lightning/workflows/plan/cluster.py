"""`wavlm plan NAME --cluster`: the scripts of `configs/cluster`, filled in for a configuration."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.shipped_configs import configs_folder
from wavlm_lightning.workflows.plan.assumptions import section
from wavlm_lightning.workflows.plan.costs import StagePlan
from wavlm_lightning.workflows.recipe.chain import RecipeStage
from wavlm_lightning.workflows.recipe.stages import Road, pasteable

SYSTEMS = ("slurm", "torchrun")
GPUS_A_NODE = 8
"""Assumed where nobody says how many nodes there are."""


def cluster_files(system: str, stage: RecipeStage, plan: StagePlan, nodes: int | None) -> dict[str, str]:
    """The scripts of a configuration.

    Args:
        system: one of `SYSTEMS`.
        stage: the configuration.
        plan: its cost.
        nodes: machines; None for as many as hold its GPUs by eight.

    Returns:
        By file name, the content.

    Raises:
        UserError: the GPUs do not divide by the nodes, or there is no GPU.
    """
    run = plan.training
    if run.wall_hours is None:
        raise UserError(f"--cluster {system}: {stage.path} is planned for a CPU; say which GPUs with --gpu and --gpus")
    nodes = nodes or math.ceil(run.gpus / GPUS_A_NODE)
    if run.gpus % nodes:
        raise UserError(f"--nodes {nodes}: {run.gpus} GPUs do not divide by them; change --nodes or --gpus")
    accumulation = math.ceil(run.accumulation)
    values: dict[str, Any] = {
        "CONFIG": shlex.quote(pasteable(stage.path)),
        "RUN": shlex.quote(_run_folder(stage)),
        "ACCUMULATE": accumulation,
        # Rounded down: an update may be a little shorter, never longer than what the memory was planned for.
        "BATCH_SECONDS": f"{math.floor(1e4 * run.batch_seconds * run.accumulation / accumulation) / 1e4:.10g}",
    }
    devices = run.gpus // nodes
    if system == "torchrun":
        return {"torchrun_fit.sh": fill("torchrun_fit.sh", {}, {**values, "NODES": nodes, "DEVICES": devices})}
    workers = int(section(stage, "data", "init_args").get("num_workers") or 0)
    header = {
        "job-name": stage.name,
        "nodes": nodes,
        "ntasks-per-node": devices,
        "gpus-per-node": devices,
        "cpus-per-task": workers + 1,
        "time": time_limit(run.wall_hours),
    }
    files = {"slurm_fit.sh": fill("slurm_fit.sh", header, values)}
    labels = _labels(stage, plan)
    return files if labels is None else {**files, "slurm_labels.sh": labels}


def _labels(stage: RecipeStage, plan: StagePlan) -> str | None:
    """The script of the job array; None if the configuration needs none, or several sets."""
    data = section(stage, "data", "init_args")
    if plan.labelling is None or isinstance(data.get("labels"), list):
        return None  # several label sets are made by hand, as `wavlm recipe` says too
    corpora = data.get("corpus")
    entries = corpora if isinstance(corpora, list) else [corpora]
    folders = [str(each.get("path") if isinstance(each, Mapping) else each) for each in entries]
    # The road knows the commands; its output folder is where runs of configurations lie by their names.
    out = Path(_run_folder(stage)).parent
    road = Road([stage], Path(folders[0]), out)
    fit = next(each for each in road.stages if each.name.startswith("codebook/")).command
    labels = str(road.label_set(stage))
    tasks, gpu = plan.training.gpus, plan.labelling.cpu_hours == 0
    hours = (plan.labelling.gpu_hours or 0.0) if gpu else plan.labelling.cpu_hours
    header = {
        "job-name": f"{stage.name}-labels",
        "array": f"1-{tasks}",
        "gpus-per-task": 1 if gpu else None,
        "time": time_limit(hours / tasks),
    }
    values = {
        # Without `codebook fit CORPUS` in front and `--out CODEBOOK` at the end.
        "FIT_OPTIONS": f'"{shlex.join(fit[3:-2])}"',
        "CODEBOOK": shlex.quote(fit[-1]),
        "LABELS": shlex.quote(labels),
        "CORPORA": f"({shlex.join(folders)})",
    }
    return fill("slurm_labels.sh", header, values)


def fill(template: str, header: Mapping[str, Any], values: Mapping[str, Any]) -> str:
    """A script of `configs/cluster` with other values.

    Args:
        template: its file name.
        header: options of #SBATCH, by name; None takes the line out.
        values: variables, by name, as bash reads them.

    Raises:
        UserError: the script does not have one of them, once.
    """
    path = configs_folder() / "cluster" / template
    text = path.read_text(encoding="utf-8")
    lines = {rf"#SBATCH --{name}=": value for name, value in header.items()} | {
        f"{name}=": value for name, value in values.items()
    }
    for begin, value in lines.items():
        pattern = re.compile(f"^{re.escape(begin)}.*\n", flags=re.M)
        if len(pattern.findall(text)) != 1:
            raise UserError(
                f"{path}: it must have one line that begins with {begin}; take the file as it was published"
            )
        line = "" if value is None else f"{begin}{value}\n"
        text = pattern.sub(lambda _, line=line: line, text)  # type: ignore[misc]
    return text


def time_limit(hours: float) -> str:
    """Half as much again and one hour, in whole hours, as SLURM writes it: `days-hours:minutes:seconds`."""
    days, rest = divmod(math.ceil(1.5 * hours + 1), 24)
    return f"{days}-{rest:02d}:00:00"


def _run_folder(stage: RecipeStage) -> str:
    return str(section(stage, "trainer").get("default_root_dir") or f"runs/{stage.name}")
