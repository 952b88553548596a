"""FSDP2 for pre-training: every process keeps a share of each weight, its gradient and its moments."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.strategies import ModelParallelStrategy, StrategyRegistry
from torch import Tensor
from torch.distributed.checkpoint import CheckpointException

from wavlm_lightning.encoder.checkpoints.sharded_files import read_index
from wavlm_lightning.encoder.checkpoints.tensor_files import CheckpointError
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.files import remove, replace_folder

if TYPE_CHECKING:
    from wavlm_lightning.encoder.transformer import Transformer

LAUNCHED = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE")
"""What Lightning's launcher puts into the environment."""


class FSDP2(ModelParallelStrategy):
    """Fully sharded data parallelism (PyTorch's `fully_shard`) over all processes; `trainer.strategy: fsdp2`.

    Each transformer layer is gathered when it runs and freed afterwards; all else (convolutions, projections,
    objectives) is gathered once a step, at the root, which is the whole module: a parameter outside it would be
    averaged by nobody. With `bf16-mixed` the layers travel in bf16, and their gradients are summed in fp32.

    A checkpoint is a folder with a file of each process, so all machines must see the same disk; it takes its name only
    when it is whole. `wavlm export` and everything that reads encoders put it together.

    Args:
        save_distributed_checkpoint: false collects the weights on the first process and writes one file.
        timeout_minutes: how long processes wait for one that has fallen silent before they stop.
        process_group_backend: `nccl` on GPUs and `gloo` on CPUs if left out.

    Example:
        >>> Trainer(strategy=FSDP2(timeout_minutes=5), precision="bf16-mixed")
    """

    def __init__(
        self,
        save_distributed_checkpoint: bool = True,
        timeout_minutes: float = 10.0,
        process_group_backend: str | None = None,
    ) -> None:
        super().__init__(
            tensor_parallel_size=1,
            save_distributed_checkpoint=save_distributed_checkpoint,
            process_group_backend=process_group_backend,
            timeout=timedelta(minutes=timeout_minutes),
        )
        self._environment: dict[str, str] = {}

    def setup_environment(self) -> None:
        """Let all processes share the data.

        Raises:
            UserError: a precision that needs a loss scale.
        """
        if self.precision_plugin.precision in ("16-mixed", "16-true"):
            raise UserError(
                f"trainer.precision {self.precision_plugin.precision} does not go with trainer.strategy fsdp2; "
                "use bf16-mixed, or strategy ddp"
            )
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def _configure_launcher(self) -> None:
        self._environment = {name: os.environ[name] for name in LAUNCHED if name in os.environ}
        super()._configure_launcher()

    def setup(self, trainer: pl.Trainer) -> None:
        """Validate without inference mode: weights gathered in it could not be trained with afterwards."""
        for loop in (trainer.fit_loop.epoch_loop.val_loop, trainer.validate_loop, trainer.test_loop):
            loop.inference_mode = False
        super().setup(trainer)

    def shard(self, module: pl.LightningModule, transformer: Transformer) -> None:
        """Hand each process its share of every parameter of `module`; a second call does nothing.

        Args:
            module: everything that is trained; its steps count as forward passes.
            transformer: the stack inside it, whose layers are gathered one by one.
        """
        from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

        if isinstance(module, FSDPModule):
            return
        mesh = self.device_mesh["data_parallel"]
        # Autocast casts what goes in, as it does without sharding: the residual stream and the norms' sums stay in fp32.
        plain = MixedPrecisionPolicy(cast_forward_inputs=False)
        half = torch.bfloat16 if self.precision_plugin.precision == "bf16-mixed" else None
        inside = MixedPrecisionPolicy(
            param_dtype=half, reduce_dtype=torch.float32 if half else None, cast_forward_inputs=False
        )
        for layer in transformer.layers:
            table = getattr(layer.attention, "rel_attn_embed", None)
            if table is not None:  # called before the stack, so it cannot wait for its layer
                fully_shard(table, mesh=mesh, mp_policy=plain)
            fully_shard(layer, mesh=mesh, mp_policy=inside)
        name = type(module).__name__
        fully_shard(module, mesh=mesh, mp_policy=plain)
        type(module).__name__ = name  # a class made for it, which the progress bar need not show
        for step in ("training_step", "validation_step"):
            register_fsdp_forward_method(module, step)

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any = None) -> None:
        """Write beside the old checkpoint, and replace it when all is written: a killed run keeps one that is whole.

        Raises:
            UserError: a disk does not take it.
        """
        path = Path(self.broadcast(filepath))
        if not self._save_distributed_checkpoint:
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        fresh = path.with_name(f"{path.name}.new")
        if self.global_rank == 0:
            remove(fresh)
        self.barrier()
        try:
            super().save_checkpoint(checkpoint, fresh, storage_options)
        except CheckpointException as error:  # all processes are told
            raise UserError(not_written(path, _reason(error))) from error
        except (OSError, RuntimeError) as error:  # the first one alone, which writes what is no tensor
            if (reason := no_room(error)) is None:
                raise
            raise UserError(not_written(path, reason)) from error
        if self.global_rank == 0:  # the index is written last, when the files of all processes are there
            replace_folder(fresh, path)

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """Load a sharded checkpoint, or one file. Resume only what you have written: torch unpickles optimiser settings.

        Raises:
            UserError: it is not whole, or does not fit.
        """
        path = Path(self.broadcast(checkpoint_path))
        try:
            if path.is_dir():
                read_index(path)
            return super().load_checkpoint(path, weights_only=True)
        except CheckpointError as error:
            raise UserError(f"resume: {error}") from error
        except CheckpointException as error:  # derives from BaseException
            raise UserError(f"resume: {path} is cut short or of another model ({_reason(error)})") from error

    def teardown(self) -> None:
        """Leave a process that was alone as it was, so that it can start others."""
        super().teardown()
        if self.world_size == 1 and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
            for name in LAUNCHED:
                os.environ.pop(name, None)
            os.environ.update(self._environment)


def whole(tensor: Tensor) -> Tensor:
    """The value of a tensor that may be spread over processes; all of them must ask."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def no_room(error: BaseException) -> str | None:
    """Why the disk did not take a file, if that is what an error says."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    if "inline_container" in str(error):  # torch's writer, which hides what it met
        before = error.__context__
        return before.strerror if isinstance(before, OSError) and before.strerror else "the disk took no more"
    return None


def not_written(path: Path, reason: str) -> str:
    """What to tell the user then."""
    return f"{path}: not written ({reason}), the one before is whole; make room on that disk and go on with --ckpt_path last"


def _reason(error: CheckpointException) -> str:
    """What went wrong in the first process in which something did, in a line."""
    cause, _ = next(iter(error.failures.values()))
    return f"{type(cause).__name__} {cause}".splitlines()[0].strip()


if "fsdp2" not in StrategyRegistry:
    StrategyRegistry.register("fsdp2", FSDP2, description="fully sharded data parallelism of PyTorch 2.4 and later")
