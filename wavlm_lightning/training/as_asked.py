"""What a checkpoint restores: the optimiser's settings are compared with those asked for, the place in the epoch is corrected."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl

from wavlm_lightning.system.errors import UserError

# Of a parameter group: not settings, or without influence on the weights.
NOT_COMPARED = {
    "params",
    "name",
    "lr",
    "initial_lr",
    "fused",
    "foreign",
    "capturable",
    "differentiable",
    "decoupled_weight_decay",
}
OPTIONS = {"weight_decay": "model.weight_decay", "betas": "model.betas", "eps": "model.eps"}
REMEDY = (
    "a run that goes on keeps its optimiser: give the values of the run, or begin a new run with its weights "
    "(model.start_from, in pre-training model.encoder)"
)


class OptimizerAsAsked(pl.Callback):
    """Refuses to go on from a checkpoint whose optimiser or schedulers differ from those of this run.

    Lightning would silently continue with the learning rate, decay, betas and eps of the checkpoint. Every
    LightningModule of ours brings this callback, so that it also works without a command line. It also lets a run go on in
    the epoch in which the run of the checkpoint ended, see `reopen_epoch`.
    """

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] | None = None  # parameter groups of this run, before anything is restored
        self.kept: list[dict[str, Any]] | None = None  # and those of the checkpoint
        self.schedulers = 0

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Note the settings in the checkpoint; a `UserError` if it holds weights alone."""
        if trainer.state.fn != "fit":
            return
        reopen_epoch(checkpoint.get("loops", {}))
        states, schedulers = checkpoint.get("optimizer_states"), checkpoint.get("lr_schedulers")
        if states is None and trainer.strategy.restore_checkpoint_after_setup:
            states = [each.state_dict() for each in trainer.optimizers]  # sharded: it has been loaded in place
        if states is None:
            raise UserError(
                "resume: this checkpoint holds weights and no optimiser, so no run can go on from it; begin a new run with "
                "model.start_from (pre-training: model.encoder)"
            )
        self.kept = _groups(states)
        self.schedulers = len(trainer.lr_scheduler_configs) if schedulers is None else len(schedulers)
        if self.asked is not None:  # fsdp2 restores after `on_fit_start`
            self._check(trainer)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Compare; the optimisers exist now, and Lightning has not restored them yet."""
        self.asked = _groups([optimizer.state_dict() for optimizer in trainer.optimizers])
        if self.kept is not None:
            self._check(trainer)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.asked = self.kept = None  # this object may be used for another fit

    def _check(self, trainer: pl.Trainer) -> None:
        assert self.asked is not None and self.kept is not None
        configs = trainer.lr_scheduler_configs
        if len(configs) != self.schedulers:
            which = "has a learning-rate schedule" if configs else "has a constant learning rate"
            raise UserError(f"resume: this run {which}, the checkpoint another (model.schedule); {REMEDY}")
        sizes = [[len(group["params"]) for group in groups] for groups in (self.asked, self.kept)]
        if sizes[0] != sizes[1]:
            raise UserError(
                f"resume: the groups of the optimiser have {sizes[0]} parameters here and {sizes[1]} in the checkpoint "
                f"(model.decay_all, model.weight_decay, model.muon, fine_tuning); {REMEDY}"
            )
        for ours, theirs in zip(self.asked, self.kept, strict=True):
            _compare(ours, theirs, bool(configs))


def reopen_epoch(loops: dict[str, Any]) -> None:
    """Give Lightning's counters the values that they had after the last batch of an epoch or of a run; in place.

    At the end of an epoch, and of a run even in the middle of one, Lightning counts the epoch as over. From a checkpoint that
    is written then, it would leave out the rest of that epoch, or count one more epoch without a batch.

    Args:
        loops: the section of that name of a checkpoint; one that was written between two batches is left as it is.
    """
    fit = loops.get("fit_loop", {})
    epochs, batches = fit.get("epoch_progress"), fit.get("epoch_loop.batch_progress")
    if not epochs or not batches or not epochs["current"]["ready"] or not batches["current"]["ready"]:
        return
    if epochs["current"]["processed"] < epochs["current"]["ready"]:
        return
    for span in ("total", "current"):
        epochs[span]["processed"] -= 1
        epochs[span]["completed"] = epochs[span]["processed"]
        batches[span]["completed"] -= 1
    stepped = fit.get("epoch_loop.state_dict", {})
    if "_batches_that_stepped" in stepped:
        stepped["_batches_that_stepped"] -= 1


def _groups(states: list[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The parameter groups of optimisers; of several heads (`HeadOptimizers`) those of each."""
    flat = [each for state in states for each in state.get("heads", [state])]
    # A module that trains nothing has an optimiser of Lightning's without groups.
    return [dict(group) for state in flat for group in state.get("param_groups", ())]


def _compare(ours: dict[str, Any], theirs: dict[str, Any], scheduled: bool) -> None:
    which = f" of {ours['name']!r}" if "name" in ours else ""
    # A schedule moves `lr`; schedulers other than torch's LambdaLR and the like keep no first value to compare.
    rate = "initial_lr" if scheduled else "lr"
    pairs = {"model.learning_rate": (ours.get(rate), theirs.get(rate))}
    pairs |= {OPTIONS.get(k, k): (ours[k], theirs[k]) for k in sorted((ours.keys() & theirs.keys()) - NOT_COMPARED)}
    for option, (asked, kept) in pairs.items():
        if asked is not None and kept is not None and not _equal(asked, kept):
            raise UserError(f"resume: {option}{which} is {asked} here and {kept} in the checkpoint; {REMEDY}")


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, tuple | list):
        return list(one) == list(other)
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-9)
    return bool(one == other)
