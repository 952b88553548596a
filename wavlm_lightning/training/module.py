"""What every LightningModule of ours shares: groups, optimiser, schedule, guard, streams, sharding, an encoder that waits."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from torch import Tensor, nn

from wavlm_lightning.system.errors import UserError
from wavlm_lightning.training.as_asked import OptimizerAsAsked
from wavlm_lightning.training.fsdp import FSDP2
from wavlm_lightning.training.optimizers import Untouched, drop_gradient_unless_finite, parameter_groups
from wavlm_lightning.training.schedules import Schedule


@dataclass(frozen=True)
class Optimization:
    """How weights change over updates, beside the learning rate.

    Args:
        schedule: learning rate over updates; None keeps it constant.
        betas: of Adam.
        eps: of Adam.
        weight_decay: above 0 the optimiser is AdamW, which decays the weights by this times the learning rate.
        decay_all: decay all parameters; false spares biases, norms and other vectors.
    """

    schedule: Schedule | None = None
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    decay_all: bool = True


class Trainable(pl.LightningModule):
    """Base of pre-training and of tasks.

    On several processes, and with `accumulate_grad_batches`, an update takes the mean of the gradients of its batches: each
    batch counts the same, whatever its size. So two processes make the update that one process makes of the same two
    batches. A loss that is a mean over utterances is thus a mean of such means; pre-training, whose batches differ much in
    masked frames, and recognition by fine-tuning correct this (`divide_gradient`).

    Args:
        learning_rate: peak of the schedule.
        optimization: the rest.

    Attributes:
        sharded_checkpoints: whether a checkpoint may be a folder with one file per process (fsdp2).
        precisions: of the trainer that are tested; all keep the weights in float32.
        skipped_updates: updates left out because their gradient was not finite.
        skipped_in_a_row: the same since the last update that was made.
    """

    sharded_checkpoints: ClassVar[bool] = True
    precisions: ClassVar[tuple[str, ...]] = ("32-true", "bf16-mixed", "16-mixed")

    def __init__(self, learning_rate: float, optimization: Optimization) -> None:
        super().__init__()
        self.learning_rate, self.optimization = learning_rate, optimization
        self.skipped_updates = self.skipped_in_a_row = 0
        self._norm: Tensor | None = None  # of the gradient of this update

    # What a subclass says about itself.

    def sharded_blocks(self) -> Sequence[nn.Module]:
        """Trained layers that fsdp2 gathers one by one, in the order in which they run."""
        return []

    def waiting_parameters(self) -> Iterable[nn.Parameter]:
        """Parameters that take part in later updates only; the forward passes of this one give them no gradient."""
        return []

    def configure_callbacks(self) -> list[pl.Callback]:
        return [OptimizerAsAsked()]

    # Distribution.

    def check_strategy(self, name: str) -> None:
        """Refuse, in the name of the task or model, a trainer whose processes would train models of their own or miss data."""
        strategy = self.trainer.strategy
        if not isinstance(strategy, SingleDeviceStrategy | DDPStrategy | FSDP2):
            raise UserError(
                f"{name}: trainer.strategy {type(strategy).__name__} would not average the gradients over processes; "
                "use ddp or fsdp2"
            )
        if isinstance(strategy, FSDP2) and self.trainer.lightning_module is not self:
            raise UserError(f"{name}: trainer.strategy fsdp2 shards one head; use one device, or train one at a time")
        if self.trainer.overfit_batches:
            raise UserError(
                f"{name}: trainer.overfit_batches replaces the order of batches that our data have planned; remove it, and take "
                "a corpus of a few utterances"
            )
        if self.trainer.world_size > 1 and self.trainer._accelerator_connector.use_distributed_sampler:
            raise UserError(
                f"{name}: Lightning would share batches among processes that our data have shared already, and leave most out; "
                "give Trainer(use_distributed_sampler=False), as `wavlm fit` does"
            )

    def check_precision(self, name: str) -> None:
        """Refuse, in the name of the task or model, weights in another type: in bfloat16 small updates are rounded away."""
        if (precision := str(self.trainer.precision)) not in self.precisions:
            raise UserError(
                f"{name}: trainer.precision {precision}: weights in another type than float32 are not supported; use "
                f"{', '.join(self.precisions[:-1])} or {self.precisions[-1]}"
            )

    def shard_parameters(self, ignored: Iterable[nn.Parameter] = ()) -> None:
        """Shard the parameters under fsdp2, all but `ignored`; call it at the end of `configure_model`.

        Raises:
            UserError: nothing is trained.
        """
        if isinstance(self.trainer.strategy, FSDP2):
            if not any(parameter.requires_grad for parameter in self.parameters()):
                name = getattr(self, "name", type(self).__name__)
                raise UserError(
                    f"{name}: trainer.strategy fsdp2 shards what is trained, and nothing is; use one device"
                )
            self.trainer.strategy.shard(self, self.sharded_blocks(), ignored, self.sharded_checkpoints)

    def gather_parameters(self) -> None:
        """Make sharded weights whole, to be read at the end of a test, also by the first process alone."""
        if isinstance(self.trainer.strategy, FSDP2):
            self.trainer.strategy.gather(self)

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        if isinstance(self.trainer.strategy, DDPStrategy) and (waiting := list(self.waiting_parameters())):
            loss = Untouched.apply(loss, *waiting)
        super().backward(loss, *args, **kwargs)

    # Updates.

    def divide_gradient(self, count: Tensor | float, nominal: float = 1.0) -> None:
        """Make the gradient that of a mean over all units (utterances, frames) of an update, whatever batches they came in.

        Call it before `guard_gradient`, on all ranks. The losses of the update's batches are sums over their units, each
        divided by `nominal`.

        Args:
            count: units of this process' batches since the last update.
            nominal: a constant that keeps gradients in the range of fp16.
        """
        total = torch.as_tensor(count, dtype=torch.float32, device=self.device)
        total = self.trainer.strategy.reduce(total, reduce_op="sum")
        # Lightning has averaged over ranks and divided by `accumulate_grad_batches`: undo both.
        factor = nominal * self.trainer.world_size * self.trainer.accumulate_grad_batches / total
        gradients = [parameter.grad for parameter in self.parameters() if parameter.grad is not None]
        torch._foreach_mul_(gradients, factor)

    def guard_gradient(self) -> bool:
        """Make the gradient fit for an update: none for what waits, none at all unless it is finite. Returns if it is.

        Call it before clipping, and on all ranks.
        """
        for parameter in self.waiting_parameters():
            parameter.grad = None  # the optimiser neither decays it nor starts its moments
        self._norm, finite = drop_gradient_unless_finite(self.parameters())
        self.skipped_in_a_row = 0 if finite else self.skipped_in_a_row + 1
        self.skipped_updates += not finite
        return finite

    def optimizer_groups(self) -> list[dict[str, Any]]:
        """The optimiser's parameter groups."""
        return parameter_groups(self, self.optimization.weight_decay, self.optimization.decay_all)

    def schedule_of_run(self) -> Schedule | None:
        """The learning rate over updates; None for a constant one."""
        return self.optimization.schedule

    @property
    def follows_max_steps(self) -> bool:
        """Whether the learning rate depends on `trainer.max_steps`."""
        schedule = self.optimization.schedule
        return schedule is not None and schedule.follows_max_steps

    def build_optimizer(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """Adam, or AdamW if weights decay."""
        how = self.optimization
        kind = torch.optim.AdamW if how.weight_decay else torch.optim.Adam
        return kind(groups, lr=self.learning_rate, betas=how.betas, eps=how.eps)

    def configure_optimizers(self) -> Any:
        optimizer = self.build_optimizer(self.optimizer_groups())
        if (schedule := self.schedule_of_run()) is None:
            return optimizer
        scheduler = schedule.scheduler(optimizer, self.trainer.max_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def stream(*place: int, bits: int = 64) -> int:
    """The seed of the random numbers at a place of a run: its seed, what draws, the number of the batch, the rank.

    It depends on nothing else, so that a resumed run draws the same. Between 0 and 2**63 (`bits` 64) or 2**32 (32).
    """
    sequence = np.random.SeedSequence(place)
    if bits == 32:
        return int(sequence.generate_state(1)[0])
    return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))
