"""Checkpoints that hold the head and its upstream if it is trained; of a frozen one, its fingerprint to check on loading."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import lightning.pytorch as pl
from torch import Tensor

from wavlm_lightning.encoder.checkpoints.labels_seen import LABELLED, joined
from wavlm_lightning.encoder.checkpoints.tensor_files import CheckpointError, check_finite
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.reading import reason_of
from wavlm_lightning.tasks.contract import Served
from wavlm_lightning.upstreams import Upstream

# The weights in a checkpoint: of Lightning's callback `WeightAveraging`, the average first and then those of the last update.
STATES = {"state_dict", "current_model_state"}
NEEDED = {"name", "labels", "upstream_sha256", "protocol"}  # of the entry `task`


class HeadCheckpoint(pl.LightningModule, ABC):
    """The part of `Task` that writes and reads checkpoints."""

    name: ClassVar[str]
    # Beginnings of the names of weights that this task adds to the head of another: a run that starts from the other's head
    # (`start_from`) keeps their initial values.
    added_parts: ClassVar[tuple[str, ...]] = ()
    upstream: Upstream
    learning_rate: float
    seed: int
    protocol: Any
    labels: Any
    data: Served | None
    trained: dict[str, Any]
    trained_level: float = 1.0  # `Served.level` of the run that `trained_task` has read the head from
    fit_began: float | None = None  # reading of the clock
    validated_at: int | None = None  # the update after which the newest validation was
    seconds_before: float = 0.0  # of training, when the run that goes on stopped
    fitted: dict[str, Any]
    fitted_tensors: dict[str, Tensor]
    started: dict[str, Any]
    monitor: Any

    @abstractmethod
    def build(self, labels: Any) -> None:
        """Create the head for a label inventory."""

    def on_fit_start(self) -> None:
        self.fit_began = time.perf_counter()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Drop the frozen upstream, or say how to rebuild the trained one; add the labels and how the head was trained."""
        if self.upstream.from_source:
            for part in STATES & checkpoint.keys():
                state = checkpoint[part]
                checkpoint[part] = {k: v for k, v in state.items() if not self.comes_from_source(k)}
        if not self.upstream.frozen:
            checkpoint |= self.upstream.checkpoint_entries()
        seen = self._labels_seen()
        if seen:
            checkpoint[LABELLED] = seen
        if self.fit_began is not None:
            # Beside the entry `task`, which is equal for equal runs.
            checkpoint["training_seconds"] = self.seconds_before + time.perf_counter() - self.fit_began
        if self.fitted_tensors:
            checkpoint["fitted_tensors"] = self.fitted_tensors
        metric, mode = self.monitor
        # Of these weights: those of other updates were measured when they were validated, or not at all.
        measured = self.validated_at == self.trainer.global_step
        value = self.trainer.callback_metrics.get(metric) if measured else None
        checkpoint["task"] = {
            "name": self.name,
            "labels": self.labels,
            # A trained upstream is part of the state dict, so its initial weights need not match on loading.
            "upstream_sha256": self.upstream.source_fingerprint() if self.upstream.from_source else None,
            "learning_rate": self.learning_rate,
            "seed": self.seed,
            "protocol": self.protocol,
            "processing": {} if self.data is None else self.data.processing,
            "steps": self._planned_updates(),
            "best_step": checkpoint["global_step"],
            "fitted": self.fitted,
            "started": self.started,
            "selection": None if value is None else {"metric": metric, "mode": mode, "value": float(value)},
        }
        for name in (LABELLED, "pseudo_labelled"):  # of the head; those of a run that goes on are in its checkpoint
            if counts := dict(getattr(self.data, name, {}) or self.trained.get(name, {})):
                checkpoint["task"][name] = counts

    def _planned_updates(self) -> int:
        """Updates of the whole run; those made so far where it ends by its epochs and their length is not known."""
        if self.trainer.max_steps > 0:
            return self.trainer.max_steps
        planned = self.trainer.estimated_stepping_batches
        return int(planned) if math.isfinite(planned) else self.trainer.global_step

    def comes_from_source(self, name: str) -> bool:
        """Whether a weight is one of the frozen upstream, which checkpoints leave out."""
        return name.startswith(tuple(f"upstream.{beginning}" for beginning in self.upstream.from_source))

    def _labels_seen(self) -> list[dict[str, Any]]:
        """Labelled speech that the encoder in the checkpoint has learned from; that of a frozen one is its source's matter."""
        if self.upstream.frozen:
            return []
        before = self.upstream.labelled
        if self.data is None:
            return [dict(each) for each in before]
        own = {**self.data.labelled, "task": self.name} if self.data.labelled else {}
        return joined(before, own, self.data.pseudo_labelled.get(LABELLED))

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Build the head, after checking that it belongs to this task, upstream and protocol."""
        kept = checkpoint.get("task", {})
        if not isinstance(kept, dict) or not (kept.keys() >= NEEDED or kept.get("name") != self.name):
            raise UserError(
                "this checkpoint does not say how its head was trained; it is damaged, or another program wrote it"
            )
        if kept.get("name") != self.name:
            raise UserError(f"this checkpoint holds a head for {kept.get('name', 'another use')}, not for {self.name}")
        if kept["upstream_sha256"] is not None and kept["upstream_sha256"] != self.upstream.source_fingerprint():
            raise UserError(
                f"this {self.name} head was trained on another upstream than {self.upstream.label!r}; "
                "set model.upstream to the one used in training"
            )
        if kept["protocol"] != self.protocol:
            raise UserError(
                f"this {self.name} head was trained with protocol: {kept['protocol']}; "
                "set model.protocol to the same value"
            )
        fitting = self._trainer is not None and self.trainer.state.fn == "fit"
        if fitting and kept.get("seed", self.seed) != self.seed:
            raise UserError(
                f"resume: the seed of {self.name} is {self.seed} here and {kept['seed']} in the checkpoint; give that of the run"
            )
        if "averaged" in kept and fitting:
            raise UserError(
                "this checkpoint holds averaged weights, with which no optimiser goes on; start a new run with "
                "model.start_from"
            )
        self.upgrade(checkpoint)
        try:
            self.build(kept["labels"])
        except UserError:
            raise
        except Exception as error:
            raise UserError(
                f"the labels in this checkpoint are not those of a {self.name} head ({reason_of(error)})"
            ) from error
        if self.upstream.from_source and checkpoint.keys() >= STATES:
            # Lightning's `WeightAveraging` wants every weight of the average, the frozen ones included.
            own = self.state_dict()
            checkpoint["state_dict"] |= {name: value for name, value in own.items() if self.comes_from_source(name)}
        self.trained = {k: v for k, v in kept.items() if k != "labels"}
        if not self.upstream.frozen:
            self.upstream.labelled = tuple(joined(checkpoint.get(LABELLED)))
        self.seconds_before = float(checkpoint.get("training_seconds", 0.0))
        self.fitted, self.started = kept.get("fitted", {}), kept.get("started", {})
        self.fitted_tensors = checkpoint.get("fitted_tensors", {})

    def upgrade(self, checkpoint: dict[str, Any]) -> None:
        """Bring a checkpoint of an older version of the task to today's form, in place; a task without one does nothing."""

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        """Load a head; only parameters of a frozen upstream may be missing."""
        try:
            check_finite(state_dict, f"the checkpoint of {self.name}")
        except CheckpointError as error:
            raise UserError(str(error)) from error
        try:
            result = super().load_state_dict(state_dict, strict=False, assign=assign)
        except RuntimeError as error:  # torch lists every tensor of another shape, on a line each
            first = reason_of(RuntimeError(str(error).splitlines()[-1]))
            raise UserError(f"the checkpoint does not fit this {self.name} head ({first})") from error
        wrong = [k for k in result.missing_keys if not self.comes_from_source(k)] + list(result.unexpected_keys)
        if wrong:
            raise UserError(f"{self.name}: the checkpoint does not fit the head ({', '.join(wrong[:3])}, ...)")
        return result
