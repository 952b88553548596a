"""Several heads on one frozen upstream: one upstream forward a batch serves all, and each head trains as if alone."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.core.optimizer import _configure_optimizers, _configure_schedulers_automatic_opt
from torch import Tensor

from wavlm_lightning.data.batch import TaskBatch
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks.base import Task
from wavlm_lightning.tasks.joint.head_hooks import FORWARDED, TrainerOfHead, check_hooks, check_trainer, forwarded
from wavlm_lightning.tasks.windows import is_long
from wavlm_lightning.training.as_asked import OptimizerAsAsked
from wavlm_lightning.upstreams import Upstream


class HeadOptimizers(torch.optim.Optimizer):
    """Steps the optimiser of every head; Lightning's automatic optimisation takes one optimiser and counts one update."""

    def __init__(self, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        self.optimizers = list(optimizers)
        # The parameter groups are the same objects, so that schedulers reach them.
        super().__init__([group for optimizer in optimizers for group in optimizer.param_groups], {})

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None if closure is None else closure()  # the closure computes the gradients
        for optimizer in self.optimizers:
            optimizer.step()
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        return {"heads": [optimizer.state_dict() for optimizer in self.optimizers]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for optimizer, state in zip(self.optimizers, state_dict["heads"], strict=True):
            optimizer.load_state_dict(state)


class HeadScheduler:
    """The scheduler that a head configured, attached to the joined optimiser, as Lightning requires."""

    def __init__(self, scheduler: Any, head: pl.LightningModule, optimizer: HeadOptimizers) -> None:
        self.scheduler, self.head, self.optimizer = scheduler, head, optimizer

    def state_dict(self) -> dict[str, Any]:
        return self.scheduler.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.scheduler.load_state_dict(state_dict)


@Task.register  # so that isinstance(x, Task) holds; callers use .name and .upstream
class ManyHeads(pl.LightningModule):
    """Heads of one task that differ in learning rate or seed, or heads of several tasks, on the same batches.

    A head has its own random draws of dropout and masks (`Task.on_train_batch_start`), its own gradient clipped by its
    own norm, its own optimiser, scheduler and metrics. A non-finite gradient therefore skips the update of one head and
    changes no other. Metrics are logged as `LABEL/NAME`.

    Args:
        heads: label -> head, all on the same frozen upstream object. Heads of one task name have one class and
            protocol.

    Attributes:
        tasks: name of each task -> its first head.

    Example:
        >>> upstream = WavLMUpstream("tiny")
        >>> rates = (1e-2, 1e-3)
        >>> heads = ManyHeads({f"rate-{rate}": PhonemeRecognition(upstream, rate) for rate in rates})
        >>> trainer.fit(heads, TaskData("runs/demo/corpus/pr", batch_size=16))
    """

    def __init__(self, heads: Mapping[str, Task]) -> None:
        super().__init__()
        if any(not head.upstream.frozen for head in heads.values()):
            raise UserError(
                "model.upstream.frozen: false, or model.front_end, trains the upstream, which several heads cannot share; train "
                "one at a time"
            )
        self.head_labels = tuple(heads)
        self.members = torch.nn.ModuleList(heads.values())
        self.tasks: dict[str, Task] = {}
        for head in heads.values():
            task = self.tasks.setdefault(head.name, head)
            if type(head) is not type(task) or head.protocol != task.protocol or head.upstream is not self.upstream:
                raise ValueError(
                    f"the heads for {head.name} are not of one class and protocol, or not on one upstream object"
                )
            check_hooks(head, vars(ManyHeads))
        self.strict_loading = False  # each head checks its own keys
        self.optimizers_of: list[torch.optim.Optimizer] = []
        self.schedulers: list[HeadScheduler] = []
        self._alone: int | None = None  # number of the head that is being saved alone
        for label, head in heads.items():
            head.log = partial(self._log_of, label)

    @property
    def first(self) -> Task:  # represents all heads where only one can be shown
        return self.members[0]

    @property
    def name(self) -> str:
        return "+".join(self.tasks)  # such as `PR+ASR`

    @property
    def upstream(self) -> Upstream:
        return self.first.upstream

    def heads(self) -> dict[str, Task]:
        """Label of each head -> the head; the label is its folder in the run folder and the prefix of its metrics."""
        return dict(zip(self.head_labels, self.members, strict=True))

    def _log_of(self, label: str, name: str, value: Any, **options: Any) -> None:
        self.log(f"{label}/{name}", value, **{**options, "prog_bar": False})  # the bar has no room for every head

    # Construction.

    def setup(self, stage: str) -> None:
        check_trainer(self.trainer)
        for label, head in self.heads().items():
            head._trainer = TrainerOfHead(self.trainer, label)
            head.setup(stage)

    def configure_callbacks(self) -> list[pl.Callback]:
        return [OptimizerAsAsked()]

    def configure_model(self) -> None:
        for head in self.members:
            head.configure_model()

    def configure_optimizers(self) -> Any:
        found = [_configure_optimizers(head.configure_optimizers()) for head in self.members]
        self.optimizers_of = [optimizer for (optimizer,), _, _ in found]
        joined, configs = HeadOptimizers(self.optimizers_of), []
        self.schedulers = []
        for (label, head), (_, schedulers, monitor) in zip(self.heads().items(), found, strict=True):
            for config in _configure_schedulers_automatic_opt(schedulers, monitor):
                self.schedulers.append(HeadScheduler(config.scheduler, head, joined))
                watched = config.monitor and f"{label}/{config.monitor}"
                configs.append({**vars(config), "scheduler": self.schedulers[-1], "monitor": watched})
        return [joined], configs

    # Steps.

    def _shared(self, batch: TaskBatch) -> TaskBatch:
        """The batch with hidden states instead of audio, which heads take as they take cached features."""
        with self.first.named(batch):
            return replace(batch, inputs=self.first.upstream_layers(batch.inputs))

    def training_step(self, batch: TaskBatch, batch_idx: int) -> Tensor:
        """Forward and backward of one head after the other, so that only one head's graph is in memory.

        Returns the mean loss, for the progress bar; the gradients are already there.
        """
        shared, every, losses = self._shared(batch), self.trainer.accumulate_grad_batches, []
        for head, optimizer in zip(self.members, self.optimizers_of, strict=True):
            head.on_train_batch_start(batch.of(head.name), batch_idx)
            loss = head.training_step(shared.of(head.name), batch_idx)
            if batch_idx % every == 0:  # the first batch of an update
                head.optimizer_zero_grad(self.current_epoch, batch_idx, optimizer)
            # Lightning runs backward outside autocast, but this call is inside.
            with torch.autocast(self.device.type, enabled=False):
                head.backward(loss / every)
            losses.append(loss.detach())
        mean = torch.stack(losses).mean()
        self.log("train/loss", mean, prog_bar=True, logger=False, batch_size=len(batch.keys))
        return mean

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Any) -> None:
        pass  # Lightning calls it after `training_step`, which has already made the gradients

    def backward(self, loss: Tensor) -> None:
        pass  # done in `training_step`

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        for head, own in zip(self.members, self.optimizers_of, strict=True):
            head.on_before_optimizer_step(own)

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: Any = None, gradient_clip_algorithm: Any = None
    ) -> None:
        for head, own in zip(self.members, self.optimizers_of, strict=True):
            head.configure_gradient_clipping(own, gradient_clip_val, gradient_clip_algorithm)

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        scheduler.head.lr_scheduler_step(scheduler.scheduler, metric)

    def validation_step(self, batch: TaskBatch, batch_idx: int) -> None:
        shared = batch if is_long(batch.inputs) else self._shared(batch)
        for head in self.members:
            head.validation_step(shared.of(head.name), batch_idx)

    def test_step(self, batch: TaskBatch, batch_idx: int) -> None:
        shared = batch if is_long(batch.inputs) else self._shared(batch)
        for head in self.members:
            head.test_step(shared.of(head.name), batch_idx)

    # Checkpoints.

    @contextlib.contextmanager
    def alone(self, label: str) -> Iterator[None]:
        """Within this context, Lightning saves the checkpoint of one head, as its own run would have written it."""
        self._alone = self.head_labels.index(label)
        try:
            yield
        finally:
            self._alone = None

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the state of every head without the upstream, or of one head within `alone`."""
        if (place := self._alone) is not None:
            head: Task = self.members[place]
            checkpoint["state_dict"] = head.state_dict()
            checkpoint["callbacks"] = {}  # those of all heads do not belong to one
            if "optimizer_states" in checkpoint:
                checkpoint["optimizer_states"] = [self.optimizers_of[place].state_dict()]
                checkpoint["lr_schedulers"] = [s.state_dict() for s in self.schedulers if s.head is head]
            head.on_save_checkpoint(checkpoint)
            return
        checkpoint["heads"] = {}
        checkpoint["state_dict"] = {}
        for place, (label, head) in enumerate(self.heads().items()):
            kept = {"state_dict": head.state_dict(), "global_step": checkpoint["global_step"]}
            head.on_save_checkpoint(kept)
            state = kept.pop("state_dict")
            checkpoint["state_dict"].update({f"heads.{place}.{name}": value for name, value in state.items()})
            checkpoint["heads"][label] = kept

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        kept = checkpoint.get("heads", {})
        if tuple(kept) != self.head_labels:
            raise UserError(
                f"this checkpoint holds the heads {', '.join(kept) or '(one)'}, not {', '.join(self.head_labels)}; give "
                "the tasks, learning rates and seeds of the run that wrote it"
            )
        state = checkpoint["state_dict"]
        for place, (label, head) in enumerate(self.heads().items()):
            own = f"heads.{place}."
            # A head may bring old weights to today's form.
            alone = {name.removeprefix(own): state.pop(name) for name in [*state] if name.startswith(own)}
            head.on_load_checkpoint({**kept[label], "state_dict": alone})
            state.update({own + name: value for name, value in alone.items()})

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        for place, head in enumerate(self.members):
            own = f"heads.{place}."
            state = {name.removeprefix(own): value for name, value in state_dict.items() if name.startswith(own)}
            result = head.load_state_dict(state, strict, assign)
        return result


for _hook in FORWARDED:
    setattr(ManyHeads, _hook, forwarded(_hook))
