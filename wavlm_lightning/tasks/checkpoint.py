"""Checkpoints that hold the head without its frozen upstream, and the upstream's fingerprint to check on loading."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import lightning.pytorch as pl

from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks.contract import Served
from wavlm_lightning.upstreams import Upstream


class HeadCheckpoint(pl.LightningModule, ABC):
    """The part of `Task` that writes and reads checkpoints."""

    name: ClassVar[str]
    upstream: Upstream
    learning_rate: float
    seed: int
    protocol: Any
    labels: Any
    data: Served | None
    trained: dict[str, Any]
    monitor: Any

    @abstractmethod
    def build(self, labels: Any) -> None:
        """Create the head for a label inventory."""

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Drop the frozen upstream; add its fingerprint, the labels and how the head was trained."""
        if self.upstream.frozen:
            state = checkpoint["state_dict"]
            checkpoint["state_dict"] = {k: v for k, v in state.items() if not k.startswith("upstream.")}
        metric, mode = self.monitor
        value = self.trainer.callback_metrics.get(metric)  # missing before the first validation
        checkpoint["task"] = {
            "name": self.name,
            "labels": self.labels,
            # A trained upstream is part of the state dict, so its initial weights need not match on loading.
            "upstream_sha256": self.upstream.fingerprint() if self.upstream.frozen else None,
            "learning_rate": self.learning_rate,
            "seed": self.seed,
            "protocol": self.protocol,
            "processing": {} if self.data is None else self.data.processing,
            "steps": self.trainer.max_steps,
            "best_step": checkpoint["global_step"],
            "selection": None if value is None else {"metric": metric, "mode": mode, "value": float(value)},
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Build the head, after checking that it belongs to this task, upstream and protocol."""
        kept = checkpoint.get("task", {})
        if kept.get("name") != self.name:
            raise UserError(f"this checkpoint holds a head for {kept.get('name', 'another use')}, not for {self.name}")
        if kept["upstream_sha256"] not in (None, self.upstream.fingerprint()):
            raise UserError(
                f"this {self.name} head was trained on another upstream than {self.upstream.label!r}; "
                "set model.upstream to the one used in training"
            )
        if kept["protocol"] != self.protocol:
            raise UserError(
                f"this {self.name} head was trained with protocol: {kept['protocol']}; "
                "set model.protocol to the same value"
            )
        self.build(kept["labels"])
        self.trained = {k: v for k, v in kept.items() if k != "labels"}

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        """Load a head; only parameters of a frozen upstream may be missing."""
        result = super().load_state_dict(state_dict, strict=False, assign=assign)
        allowed = "upstream." if self.upstream.frozen else "\0"  # no parameter begins with \0
        wrong = [k for k in result.missing_keys if not k.startswith(allowed)] + list(result.unexpected_keys)
        if wrong:
            raise UserError(f"{self.name}: the checkpoint does not fit the head ({', '.join(wrong[:3])}, ...)")
        return result
