"""`wavlm plan NAME --cluster`: fills in the scripts of `configs/cluster` for a configuration."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.reading import read_text
from wavlm_lightning.system.shipped_configs import configs_folder
from wavlm_lightning.workflows.plan.assumptions import section
from wavlm_lightning.workflows.plan.costs import StagePlan
from wavlm_lightning.workflows.recipe.chain import Configuration, chain
from wavlm_lightning.workflows.recipe.stage import pasteable
from wavlm_lightning.workflows.recipe.stages import RecipeRun

GPUS_A_NODE = 8  # assumed if the number of nodes is not given


def cluster_files(system: str, configuration: str, plan: StagePlan, nodes: int | None = None) -> dict[str, str]:
    """The scripts that train a configuration, and label its corpus, on a cluster.

    Args:
        system: `slurm` or `torchrun`.
        configuration: name in `configs/pretrain`, or path.
        plan: the last entry of its plan.
        nodes: number of machines; None for one per eight GPUs.

    Returns:
        File name -> content.

    Raises:
        UserError: the number of GPUs is not a multiple of the number of nodes, or there is no GPU.
    """
    stage, run = chain(configuration)[-1], plan.training
    if run.wall_hours is None:
        raise UserError(f"--cluster {system}: {stage.path} is planned for a CPU; name the GPUs with --gpu and --gpus")
    nodes = nodes or math.ceil(run.gpus / GPUS_A_NODE)
    if run.gpus % nodes:
        raise UserError(f"--nodes {nodes}: {run.gpus} GPUs cannot be divided among them; change --nodes or --gpus")
    accumulation = math.ceil(run.accumulation)
    if accumulation != run.accumulation and section(stage, "data", "init_args").get("batch_growth") is not None:
        raise UserError(
            f"--cluster {system}: {run.gpus} GPUs need other batches than {stage.path} names, and data.batch_growth.start would "
            "not follow; change --gpus, or batch_seconds and batch_growth there"
        )
    values: dict[str, Any] = {
        "CONFIG": shlex.quote(pasteable(stage.path)),
        "RUN": shlex.quote(_run_folder(stage)),
        "ACCUMULATE": accumulation,
        # Rounded down: a longer batch would need more memory than planned.
        "BATCH_SECONDS": f"{math.floor(1e4 * run.batch_seconds * run.accumulation / accumulation) / 1e4:.10g}",
    }
    devices = run.gpus // nodes
    if system == "torchrun":
        return {"torchrun_fit.sh": fill("torchrun_fit.sh", {}, {**values, "NODES": nodes, "DEVICES": devices})}
    workers = int(section(stage, "data", "init_args").get("num_workers") or 0)
    header: dict[str, Any] = {
        "job-name": stage.name,
        "nodes": nodes,
        "ntasks-per-node": devices,
        "gpus-per-node": devices,
    }
    header |= {"cpus-per-task": workers + 1, "time": time_limit(run.wall_hours)}
    files = {"slurm_fit.sh": fill("slurm_fit.sh", header, values)}
    labels = _labels(stage, plan)
    return files if labels is None else {**files, "slurm_labels.sh": labels}


def _labels(stage: Configuration, plan: StagePlan) -> str | None:
    """The script of the labelling job array; None if the configuration needs no labels, or several label sets."""
    data = section(stage, "data", "init_args")
    if plan.labelling is None or plan.labelling.clusters is None or isinstance(data.get("labels"), list):
        return None  # phones come from `wavlm align`; `wavlm recipe` refuses several label sets, too
    corpora = data.get("corpus")
    entries = corpora if isinstance(corpora, list) else [corpora]
    folders = [str(each.get("path") if isinstance(each, Mapping) else each) for each in entries]
    # The parent of the run folder holds the runs of earlier configurations, whose encoders are clustered.
    recipe = RecipeRun([stage], Path(folders[0]), Path(_run_folder(stage)).parent)
    fit = next(each for each in recipe.stages if each.name.startswith("codebook/")).command
    labels = str(recipe.label_set(stage))
    tasks, gpu = plan.training.gpus, plan.labelling.cpu_hours == 0
    hours = (plan.labelling.gpu_hours or 0.0) if gpu else plan.labelling.cpu_hours
    header: dict[str, Any] = {"job-name": f"{stage.name}-labels", "array": f"1-{tasks}"}
    header |= {"gpus-per-task": 1 if gpu else None, "time": time_limit(hours / tasks)}
    values = {
        # Without the leading `codebook fit CORPUS` and the final `--out CODEBOOK`.
        "FIT_OPTIONS": f'"{shlex.join(fit[3:-2])}"',
        "CODEBOOK": shlex.quote(fit[-1]),
        "LABELS": shlex.quote(labels),
        "CORPORA": f"({shlex.join(folders)})",
    }
    return fill("slurm_labels.sh", header, values)


def fill(template: str, header: Mapping[str, Any], values: Mapping[str, Any]) -> str:
    """A script of `configs/cluster` with other values.

    `header` maps an option of #SBATCH to its value, None removes the line; `values` maps a shell variable to its value,
    quoted for bash. The script must contain each of them exactly once.
    """
    path = configs_folder() / "cluster" / template
    text = read_text(path)
    lines = {f"#SBATCH --{name}=": value for name, value in header.items()}
    lines |= {f"{name}=": value for name, value in values.items()}
    for begin, value in lines.items():
        line = "" if value is None else f"{begin}{value}\n".replace("\\", r"\\")  # re would read a backslash as a group
        text, count = re.subn(f"^{re.escape(begin)}.*\n", line, text, flags=re.M)
        if count != 1:
            raise UserError(f"{path} must have exactly one line that begins with {begin}; restore the published file")
    return text


def time_limit(hours: float) -> str:
    """1.5 times `hours` plus one, in whole hours, in SLURM's format `days-hours:minutes:seconds`."""
    days, rest = divmod(math.ceil(1.5 * hours + 1), 24)
    return f"{days}-{rest:02d}:00:00"


def _run_folder(stage: Configuration) -> str:
    return str(section(stage, "trainer").get("default_root_dir") or f"runs/{stage.name}")
