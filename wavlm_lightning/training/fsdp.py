"""The strategy `fsdp2` (PyTorch's `fully_shard`): every process keeps a shard of each weight, its gradient and its moments."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.strategies import ModelParallelStrategy, StrategyRegistry
from torch import Tensor, nn
from torch.distributed.checkpoint import CheckpointException

from wavlm_lightning.encoder.checkpoints.sharded_files import (
    check_hashes,
    hash_files,
    read_index,
    restricted_entries,
    write_hashes,
)
from wavlm_lightning.encoder.checkpoints.tensor_files import CheckpointError, check_finite, check_regular, read_pickle
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.files import remove, replace_folder

# Environment variables that Lightning's launcher sets.
LAUNCHED = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE")
STEPS = ("training_step", "validation_step", "test_step", "predict_step")


class FSDP2(ModelParallelStrategy):
    """Fully sharded data parallelism (PyTorch's `fully_shard`) over all processes; `trainer.strategy: fsdp2`.

    Each transformer layer is gathered when it runs and freed afterwards. All other parameters (convolutions, projections,
    objectives, heads) are gathered once per step, at the root. The root is the whole LightningModule, because gradients of
    parameters outside it would not be averaged. With `bf16-mixed` the layers are gathered in bf16, and their gradients
    are summed in fp32. Of a task, the parameters that are not trained (a frozen encoder) stay whole in every process.

    A checkpoint of pre-training is a folder with one file per process, so all machines must see the same disk; it gets its
    name only when it is complete. `wavlm export` and everything else that reads encoders joins it. A task writes one file,
    which resumes under any strategy.

    Args:
        save_distributed_checkpoint: false collects the weights on the first process and writes one file, true writes a
            folder; left out, the module decides.
        timeout_minutes: how long processes wait for one that no longer answers before they stop.
        process_group_backend: `nccl` on GPUs and `gloo` on CPUs if left out.

    Example:
        >>> Trainer(strategy=FSDP2(timeout_minutes=5), precision="bf16-mixed", use_distributed_sampler=False)
    """

    def __init__(
        self,
        save_distributed_checkpoint: bool | None = None,
        timeout_minutes: float = 10.0,
        process_group_backend: str | None = None,
    ) -> None:
        super().__init__(
            tensor_parallel_size=1,
            save_distributed_checkpoint=save_distributed_checkpoint is not False,
            process_group_backend=process_group_backend,
            timeout=timedelta(minutes=timeout_minutes),
        )
        self._in_shards = save_distributed_checkpoint  # as asked for
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
        evaluation = (trainer.fit_loop.epoch_loop.val_loop, trainer.validate_loop, trainer.test_loop)
        for loop in (*evaluation, trainer.predict_loop):
            loop.inference_mode = False
        super().setup(trainer)

    def shard(
        self,
        module: pl.LightningModule,
        blocks: Iterable[nn.Module],
        ignored: Iterable[nn.Parameter] = (),
        in_shards: bool = True,
    ) -> None:
        """Give each process its shard of every parameter of `module`; a second call does nothing.

        The module's training, validation, test and prediction steps count as forward passes.

        Args:
            module: the root.
            blocks: layers inside it that are gathered one by one; their forwards must be called as modules.
            ignored: parameters that stay whole in every process, because they are not trained.
            in_shards: whether the module's checkpoints can be folders with one file per process.
        """
        from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

        if isinstance(module, FSDPModule):
            return
        if self._in_shards and not in_shards:
            raise UserError(
                f"trainer.strategy.save_distributed_checkpoint: true, but a {type(module).__name__} keeps its checkpoint in "
                "one file; leave it out"
            )
        self._save_distributed_checkpoint = in_shards and self._in_shards is not False
        mesh, whole_ones = self.device_mesh["data_parallel"], set(ignored)
        # Inputs are cast by autocast, as without sharding: norms are computed in fp32, and so is the residual stream of blocks
        # that end with one; that of pre-norm blocks, a sum of outputs of linear layers, is bf16 in both.
        plain = MixedPrecisionPolicy(cast_forward_inputs=False)
        half = torch.bfloat16 if self.precision_plugin.precision == "bf16-mixed" else None
        inside = MixedPrecisionPolicy(
            param_dtype=half, reduce_dtype=torch.float32 if half else None, cast_forward_inputs=False
        )
        for block in blocks:
            table = getattr(getattr(block, "attention", None), "rel_attn_embed", None)
            if table is not None:  # called before the stack, so its layer's gathering would come too late
                fully_shard(table, mesh=mesh, mp_policy=plain, ignored_params=whole_ones)
            fully_shard(block, mesh=mesh, mp_policy=inside, ignored_params=whole_ones)
        name = type(module).__name__
        fully_shard(module, mesh=mesh, mp_policy=plain, ignored_params=whole_ones)
        type(
            module
        ).__name__ = name  # fully_shard makes a subclass FSDP..., which would show in the summary and in logs
        for step in STEPS:
            register_fsdp_forward_method(module, step)

    def gather(self, module: nn.Module) -> None:
        """Make all parameters whole in every process, to be read after the last step; all processes must call it."""
        from torch.distributed.fsdp import FSDPModule

        for part in module.modules():
            if isinstance(part, FSDPModule):
                part.unshard()

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """The state of an optimiser: its shards, or all of it on the first process, as an unsharded run writes it."""
        if self._save_distributed_checkpoint:
            return super().optimizer_state(optimizer)
        state = optimizer.state_dict()
        kept = {
            number: {name: whole(value).cpu() if isinstance(value, Tensor) else value for name, value in each.items()}
            for number, each in state["state"].items()
        }
        return {**state, "state": kept} if self.global_rank == 0 else {}

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
        hashes: list[Any] = [None] * self.world_size
        torch.distributed.all_gather_object(hashes, hash_files(fresh, self.global_rank))
        if self.global_rank == 0:  # the index is written last, when the files of all processes are there
            try:
                write_hashes(fresh, {name: each for some in hashes for name, each in some.items()})
            except OSError as error:
                raise UserError(not_written(path, error.strerror or str(error))) from error
            replace_folder(fresh, path)

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """Load a sharded checkpoint, or one file; nothing in it is executed.

        Raises:
            UserError: it is cut short, of another model, or holds more than tensors and plain values.
        """
        path = Path(self.broadcast(checkpoint_path))
        try:
            if path.is_dir():
                self._check_hashes(path)
                read_index(path)
                with restricted_entries(path):
                    return super().load_checkpoint(path, weights_only=True)
            check_regular(path)
            return self._load_file(path)
        except CheckpointError as error:
            raise UserError(f"resume: {error}") from error
        except CheckpointException as error:  # derives from BaseException
            raise UserError(f"resume: {path} is cut short or of another model ({_reason(error)})") from error

    def _check_hashes(self, path: Path) -> None:
        """Compare the files with their hashes, each process a part of them; all raise if one finds a difference."""
        wrong: list[str | None] = [None] * self.world_size
        try:
            check_hashes(path, self.global_rank, self.world_size)
            mine = None
        except (CheckpointError, OSError) as error:
            mine = str(error)
        torch.distributed.all_gather_object(wrong, mine)
        if (first := next((each for each in wrong if each), None)) is not None:
            raise CheckpointError(first)

    def _load_file(self, path: Path) -> dict[str, Any]:
        """Load a checkpoint in one file, written under any strategy; every process reads its own shards from it."""
        checkpoint: dict[str, Any] = read_pickle(path, mapped=True)
        if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("state_dict"), dict):
            raise CheckpointError(f"{path} is not the checkpoint of a run: it has no state_dict")
        check_finite(checkpoint["state_dict"], path)
        module = self.lightning_module
        assert module is not None
        places = dict(itertools.chain(module.named_parameters(), module.named_buffers()))
        state = {name: like(places.get(name), value) for name, value in checkpoint.pop("state_dict").items()}
        module.load_state_dict(state, strict=module.strict_loading)
        saved_states = checkpoint.get("optimizer_states", [])
        for optimizer, saved in zip(self.optimizers, saved_states if self.optimizers else [], strict=True):
            # Parameters are numbered in the order of the groups.
            numbers = itertools.chain.from_iterable(group["params"] for group in saved["param_groups"])
            parameters = itertools.chain.from_iterable(group["params"] for group in optimizer.param_groups)
            owners = dict(zip(numbers, parameters, strict=True))
            moments = {
                number: {name: like(owners[number], value) for name, value in each.items()}
                for number, each in saved["state"].items()
            }
            optimizer.load_state_dict({**saved, "state": moments})
        return checkpoint

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


def like(owner: Tensor | None, value: Any) -> Any:
    """A whole tensor, sharded as `owner` is if it has its shape; anything else unchanged."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not (isinstance(owner, DTensor) and isinstance(value, Tensor) and value.shape == owner.shape):
        return value
    # Every process has read the same file, so none has to send it.
    return distribute_tensor(value.to(owner.device), owner.device_mesh, owner.placements, src_data_rank=None)


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
