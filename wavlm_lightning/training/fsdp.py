"""The strategy `fsdp2` (PyTorch's `fully_shard`): every process keeps a shard of each weight, its gradient and its moments."""

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

from wavlm_lightning.encoder.checkpoints.sharded_files import read_index, restricted_entries
from wavlm_lightning.encoder.checkpoints.tensor_files import CheckpointError
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.files import remove, replace_folder

if TYPE_CHECKING:
    from wavlm_lightning.encoder.transformer import Transformer

# Environment variables that Lightning's launcher sets.
LAUNCHED = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE")


class FSDP2(ModelParallelStrategy):
    """Fully sharded data parallelism (PyTorch's `fully_shard`) over all processes; `trainer.strategy: fsdp2`.

    Each transformer layer is gathered when it runs and freed afterwards. All other parameters (convolutions, projections,
    objectives) are gathered once per step, at the root. The root is the whole LightningModule, because gradients of
    parameters outside it would not be averaged. With `bf16-mixed` the layers are gathered in bf16, and their gradients
    are summed in fp32.

    A checkpoint is a folder with one file per process, so all machines must see the same disk; it gets its name only when
    it is complete. `wavlm export` and everything else that reads encoders joins it.

    Args:
        save_distributed_checkpoint: false collects the weights on the first process and writes one file.
        timeout_minutes: how long processes wait for one that no longer answers before they stop.
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
        if self.precision_plugin.precision in ("16-mixed", "16-true"):
            raise UserError(
                f"trainer.precision {self.precision_plugin.precision} does not work with trainer.strategy fsdp2; "
                "use bf16-mixed, or strategy ddp"
            )
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def _configure_launcher(self) -> None:
        self._environment = {name: os.environ[name] for name in LAUNCHED if name in os.environ}
        super()._configure_launcher()

    def setup(self, trainer: pl.Trainer) -> None:
        # Weights gathered in inference mode could not be trained with afterwards.
        for loop in (trainer.fit_loop.epoch_loop.val_loop, trainer.validate_loop, trainer.test_loop):
            loop.inference_mode = False
        super().setup(trainer)

    def shard(self, module: pl.LightningModule, transformer: Transformer) -> None:
        """Give each process its shard of every parameter of `module`; a second call does nothing.

        The module's training and validation steps count as forward passes. The layers of `transformer`, a stack inside
        it, are gathered one by one.
        """
        from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

        if isinstance(module, FSDPModule):
            return
        mesh = self.device_mesh["data_parallel"]
        # Inputs are cast by autocast, as without sharding: the residual stream and the sums of norms stay in fp32.
        plain = MixedPrecisionPolicy(cast_forward_inputs=False)
        half = torch.bfloat16 if self.precision_plugin.precision == "bf16-mixed" else None
        inside = MixedPrecisionPolicy(
            param_dtype=half, reduce_dtype=torch.float32 if half else None, cast_forward_inputs=False
        )
        for layer in transformer.layers:
            table = getattr(layer.attention, "rel_attn_embed", None)
            if table is not None:  # called before the stack, so its layer's gathering would come too late
                fully_shard(table, mesh=mesh, mp_policy=plain)
            fully_shard(layer, mesh=mesh, mp_policy=inside)
        name = type(module).__name__
        fully_shard(module, mesh=mesh, mp_policy=plain)
        type(
            module
        ).__name__ = name  # fully_shard makes a subclass FSDP..., which would show in the summary and in logs
        for step in ("training_step", "validation_step"):
            register_fsdp_forward_method(module, step)

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any = None) -> None:
        """Write to a new folder and rename it when it is complete: a killed run keeps a complete checkpoint."""
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
        except CheckpointException as error:  # raised in all processes
            raise UserError(not_written(path, _reason(error))) from error
        except (OSError, RuntimeError) as error:  # raised in the first process only, which writes the non-tensor state
            if (reason := no_room(error)) is None:
                raise
            raise UserError(not_written(path, reason)) from error
        if self.global_rank == 0:  # the index is written last, when the files of all processes are there
            replace_folder(fresh, path)

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """Load a sharded checkpoint, or one file; nothing in it is executed.

        Raises:
            UserError: it is cut short, of another model, or holds more than tensors and plain values.
        """
        path = Path(self.broadcast(checkpoint_path))
        try:
            if path.is_dir():
                read_index(path)
            with restricted_entries(path):
                return super().load_checkpoint(path, weights_only=True)
        except CheckpointError as error:
            raise UserError(f"resume: {error}") from error
        except CheckpointException as error:  # derives from BaseException
            raise UserError(f"resume: {path} is cut short or of another model ({_reason(error)})") from error

    def teardown(self) -> None:
        super().teardown()
        # A single process gets its environment back, so that it can start others; of several, the launcher owns it.
        if self.world_size == 1 and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
            for name in LAUNCHED:
                os.environ.pop(name, None)
            os.environ.update(self._environment)


def whole(tensor: Tensor) -> Tensor:
    """The full value of a tensor that may be sharded; all processes must call it."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def no_room(error: BaseException) -> str | None:
    """The reason why a file could not be written, if that is what an error is about; otherwise None."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    if "inline_container" in str(error):  # raised by torch's zip writer, whose message does not name the cause
        before = error.__context__
        return before.strerror if isinstance(before, OSError) and before.strerror else "no space left on the disk"
    return None


def not_written(path: Path, reason: str) -> str:
    """The message for a checkpoint that could not be written."""
    return f"{path}: not written ({reason}), the previous one is complete; free disk space and resume with --ckpt_path last"


def _reason(error: CheckpointException) -> str:
    """The error of the first process that failed, in one line."""
    cause, _ = next(iter(error.failures.values()))
    return f"{type(cause).__name__} {cause}".splitlines()[0].strip()


if "fsdp2" not in StrategyRegistry:
    StrategyRegistry.register("fsdp2", FSDP2, description="fully sharded data parallelism of PyTorch 2.4 and later")
