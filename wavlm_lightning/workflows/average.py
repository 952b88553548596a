"""`wavlm average`: the mean of the weights of a run's last checkpoints, as a run folder that every verb reads.

Averaged weights need two things that no checkpoint has: the statistics of batch norms over the training data, and what is
fitted on the validation split (`Task.fit_on_validation`). Both are computed anew. Tests: `tests/workflows/test_average.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
import yaml
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.files import atomic_write, check_output, own_folder, remove, write_text
from wavlm_lightning.system.run_folder import BEST, CONFIG, CURVES, LAST, check_one_head, checkpoint, read_run_config
from wavlm_lightning.tasks import Task
from wavlm_lightning.upstreams.wavlm import read_run_checkpoint
from wavlm_lightning.workflows.fit import fit, validate
from wavlm_lightning.workflows.fit.going_on import PRECISIONS

# What belongs to one update: an average has no optimiser to resume.
DROPPED = ("optimizer_states", "lr_schedulers", "loops", "callbacks", "current_model_state", "averaging_state")
# What a killed command leaves and the next one replaces: the average until it is validated, the run over batch norms.
UNFINISHED, STATISTICS = "best.ckpt.new", "statistics"
STATISTICS_OF_A_NORM = ("running_mean", "running_var", "num_batches_tracked")
# Options of the short runs over the data: one device, no files, none of the run's callbacks.
BRIEF = [
    *("--trainer.devices", "1", "--trainer.num_nodes", "1", "--trainer.strategy", "auto"),
    *("--trainer.logger", "false", "--trainer.enable_checkpointing", "false", "--trainer.callbacks", "null"),
]


@dataclass(frozen=True)
class Average:
    """What `average` has written."""

    run: Path  # its folder
    steps: list[int]  # updates of the checkpoints
    metric: str | None  # the metric that selects checkpoints, and its value on the validation split
    value: float | None
    fitted: dict[str, Any]  # what was fitted on the validation split


def average(
    sources: Sequence[str | Path], out: str | Path, last: int | None = None, batches: int = 100, use_data: bool = True
) -> Average:
    """Average the weights of checkpoints, as `wavlm average` does.

    Numbers that are no fractions (counts) are those of the newest checkpoint.

    Args:
        sources: a run folder with kept checkpoints (`wavlm fit --keep_checkpoints N`, or a `ModelCheckpoint` of its own), or
            at least two checkpoints of one run.
        out: a new run folder, whose `best.ckpt` holds the average.
        last: how many of a run's kept checkpoints, the newest ones; all by default.
        batches: training batches over which the statistics of batch norms are computed, if there are any.
        use_data: compute these statistics and what is fitted on the validation split, and validate. False averages the
            statistics (mean and variance over all batches that the checkpoints have seen) and needs no corpus.

    Raises:
        UserError: too few checkpoints, they do not belong together, `out` holds a run, or the data are missing.

    Example:
        >>> average(["runs/ks"], "runs/ks-averaged", last=5).value
        0.971
    """
    out = Path(out)
    check_output(out)
    with own_folder(out, "average"):
        if any((out / "checkpoints").glob("*.ckpt")):
            raise UserError(f"{out} already holds a run; remove it, or choose another --out")
        paths = [Path(source) for source in sources]
        if len(paths) == 1:
            run = paths[0]
            paths = _kept(run, last)
        elif last is not None:
            raise UserError("--last counts the kept checkpoints of a run folder; give one folder, or leave --last out")
        else:
            run = paths[0].resolve().parent.parent
        config = read_run_config(run)
        if "model" not in config:
            raise UserError(
                f"{run / CONFIG}: no configuration of a run; give a run folder, or checkpoints in its folder"
            )
        content, steps, norms = _mean(paths)
        if not use_data and content.get("task", {}).get("fitted"):
            raise UserError(f"{run}: what was fitted on validation does not fit the average; leave --no-data out")
        return _write(content, steps, norms if use_data else [], config, out, batches, use_data)


def _write(
    content: dict[str, Any],
    steps: list[int],
    norms: Sequence[str],
    config: dict[str, Any],
    out: Path,
    batches: int,
    use_data: bool,
) -> Average:
    """Refresh `norms` and validate the average `content`, with its run's configuration, and write it as a run folder."""
    path = checkpoint(out, BEST)
    unfinished = path.with_name(UNFINISHED)
    path.parent.mkdir(parents=True, exist_ok=True)
    config["ckpt_path"] = None
    config["trainer"] = {**config["trainer"], "default_root_dir": str(out)}
    write_text(out / CONFIG, yaml.safe_dump(config, sort_keys=False))
    if "task" in content:
        content["task"] |= {"fitted": {}, "selection": None, "averaged": steps}
        content.pop("fitted_tensors", None)
    metric: str | None = None
    value: float | None = None
    try:
        if batches and norms:
            _refresh_batch_norms(content["state_dict"], norms, config, out, batches)
        if use_data:
            with atomic_write(unfinished) as temporary:
                torch.save(content, temporary)
            metric, value = _validate(content, out, unfinished)
        # Last, because half of an average must not look like a whole one; in place of the unfinished one.
        with atomic_write(path, unfinished, durable=True) as temporary:
            torch.save(content, temporary)
    except UserError as error:
        raise UserError(f"{error} (--no-data averages without the corpus)") from error
    finally:
        remove(unfinished)
    return Average(out, steps, metric, value, content.get("task", {}).get("fitted", {}))


def _kept(run: Path, last: int | None) -> list[Path]:
    """The newest `last` checkpoints of a run beside `best.ckpt` and `last.ckpt`, by their updates."""
    if not run.is_dir():
        raise UserError(f"{run}: no run folder; give one, or at least two checkpoints")
    check_one_head(run)
    own = {checkpoint(run, name) for name in (BEST, LAST)}
    # Lightning's own ModelCheckpoint writes beside the curves unless it is given a folder.
    found = [*run.glob("checkpoints/*.ckpt"), *run.glob(f"{CURVES}/version_*/checkpoints/*.ckpt")]
    kept = sorted((_step(path), path) for path in found if path not in own)
    wanted = len(kept) if last is None else last
    if wanted < 2 or wanted > len(kept):
        asked = "at least 2 are needed" if wanted < 2 else f"not {wanted}"
        raise UserError(
            f"{run}: {len(kept)} kept checkpoints, {asked}; train with --keep_checkpoints N, or give another --last"
        )
    return [path for _, path in kept[-wanted:]]


def _step(path: Path) -> int:
    return int(read_run_checkpoint(path)["global_step"])


def _mean(paths: Sequence[Path]) -> tuple[dict[str, Any], list[int], list[str]]:
    """The newest checkpoint with the mean of all weights, the updates of all, and the batch norms that batches update.

    The statistics of other norms, such as those of a fine-tuned encoder, are the same in all checkpoints.
    """
    for path in paths:
        if not path.exists():
            raise UserError(f"{path}: no such checkpoint")
    found = sorted(((read_run_checkpoint(path), path) for path in paths), key=lambda pair: pair[0]["global_step"])
    newest, where = found[-1]
    if "heads" in newest:
        raise UserError(f"{where}: holds several heads; give the checkpoints of one")
    states = [content["state_dict"] for content, _ in found]
    for content, path in found[:-1]:
        differ = {name: value.shape for name, value in content["state_dict"].items()} != {
            name: value.shape for name, value in newest["state_dict"].items()
        }
        if differ or _identity(content) != _identity(newest):
            raise UserError(f"{path} and {where} are not checkpoints of one run; give those of one run")
    mean = {name: _mean_of([state[name] for state in states]) for name in states[-1]}
    norms = []
    for name in mean:
        if name.endswith("running_var"):
            norm = name.removesuffix("running_var")
            parts = [norm + part for part in STATISTICS_OF_A_NORM if norm + part in mean]
            if not all(torch.equal(state[part], states[-1][part]) for part in parts for state in states):
                norms.append(norm.removesuffix("."))
            # The variance of all data that the checkpoints have seen: that within each, and that of their means.
            means = [state[name.removesuffix("var") + "mean"].double() for state in states]
            centre = sum(means) / len(means)
            between = sum((one - centre).square() for one in means) / len(means)
            mean[name] = (mean[name].double() + between).to(mean[name].dtype)
    content = {name: value for name, value in newest.items() if name not in DROPPED}
    steps = [int(content["global_step"]) for content, _ in found]
    return {**content, "state_dict": mean, "averaged": steps}, steps, norms


def _mean_of(values: Sequence[Tensor]) -> Tensor:
    newest = values[-1]
    if not newest.is_floating_point():
        return newest.clone()
    total = torch.zeros_like(newest, dtype=torch.float64)
    for value in values:
        total += value
    return (total / len(values)).to(newest.dtype)


def _identity(content: dict[str, Any]) -> list[Any]:
    """What checkpoints of one run have in common."""
    task = content.get("task", {})
    return [task.get(name) for name in ("name", "labels", "upstream_sha256", "protocol")] + [content.get("codebooks")]


class Statistics(pl.Callback):
    """Gives the model the averaged weights `state`, and lets batches pass through its batch `norms` without an optimiser."""

    def __init__(self, state: dict[str, Tensor], norms: Sequence[str]) -> None:
        self.state, self.norms = state, norms

    def setup(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        pl_module.configure_optimizers = lambda: None  # no update changes the weights
        if isinstance(pl_module, Task):
            pl_module.go_on()  # the average has its weights already

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        pl_module.load_state_dict(self.state)
        for name, module in pl_module.named_modules():
            if isinstance(module, _BatchNorm) and name in self.norms and module.training:
                module.reset_running_stats()
                module.momentum = None  # the mean over all batches


def _refresh_batch_norms(
    state: dict[str, Any], norms: Sequence[str], config: dict[str, Any], out: Path, batches: int
) -> None:
    """Replace the statistics of batch norms by those of training batches under the averaged weights, in place.

    The short run has a folder in `out`, which is removed.
    """
    folder = out / STATISTICS
    # `max_steps` counts updates, each of which is one batch here.
    steps = ["--trainer.max_steps", str(batches), "--trainer.accumulate_grad_batches", "1"]
    steps += ["--trainer.limit_val_batches", "0"]
    steps += ["--trainer.default_root_dir", str(folder), "--trainer.num_sanity_val_steps", "0"]
    precision = str(config["trainer"].get("precision"))
    if PRECISIONS.get(precision, precision) == "16-mixed":
        # Its loss scaler asks for gradients of an optimizer, and there is none.
        steps += ["--trainer.precision", "32-true"]
    remove(folder)  # of an average that was killed
    try:
        run = fit("-c", str(out / CONFIG), *steps, *BRIEF, callbacks=[Statistics(state, norms)])
    finally:
        remove(folder)
    for name, value in run.model.state_dict().items():
        norm, _, part = name.rpartition(".")
        if norm in norms and part in STATISTICS_OF_A_NORM:
            state[name] = value.detach().cpu().clone()


def _validate(content: dict[str, Any], out: Path, path: Path) -> tuple[str | None, float | None]:
    """Validate the average, which is in the file `path`; into `content` go what is fitted there and the monitored metric."""
    run = validate("-c", str(out / CONFIG), "--ckpt_path", str(path), *BRIEF)
    metric, mode = getattr(run.model, "monitor", (None, None))
    found = run.trainer.callback_metrics.get(metric)
    value = None if found is None else float(found)
    if "task" in content:
        selection = None if value is None else {"metric": metric, "mode": mode, "value": value}
        content["task"] |= {"fitted": run.model.fitted, "selection": selection}
        if tensors := getattr(run.model, "fitted_tensors", {}):
            content["fitted_tensors"] = tensors
    return metric, value
