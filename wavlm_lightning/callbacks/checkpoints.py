"""Checkpoints of a run: `last.ckpt` and `best.ckpt`, written atomically, and a stop between two updates on Ctrl-C."""

from __future__ import annotations

import re
import signal
import sys
import threading
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import CheckpointIO, TorchCheckpointIO
from lightning.pytorch.utilities import rank_zero_warn
from tqdm import tqdm

from wavlm_lightning.encoder.checkpoints.tensor_files import CheckpointError, check_finite, read_pickle
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.files import atomic_write
from wavlm_lightning.system.run_folder import BEST, LAST
from wavlm_lightning.system.worker_pool import is_ending
from wavlm_lightning.training.fsdp import no_room, not_written

EVERY = re.compile(r"'every_n_train_steps': \d+")  # in the key of a ModelCheckpoint's state
ONE_FILE = {"enable_version_counter": False, "save_on_train_epoch_end": False}  # settings of every ModelCheckpoint


class RunCheckpoint(ModelCheckpoint):
    """A ModelCheckpoint whose state follows its run folder.

    Lightning forgets the best value where the folder has another path than in the checkpoint, so that any first validation
    replaces the best file. Here the value and the paths stay if the files are in the folder now (it was moved, copied, or
    mounted elsewhere). If they are not, the run branches off into a new folder, which has no best file yet.

    After batches it is written between two updates alone. Lightning would write it after the first batch of a resumed run, too,
    and a checkpoint does not hold the gradients of an update that has begun.

    A run that goes on may have another `--checkpoint_every`, for which Lightning finds no state, and fewer `--keep_checkpoints`,
    with which Lightning would never delete one again.
    """

    @property
    def state_key(self) -> str:
        # Checkpoints of older versions know `best` and `kept` by the name of Lightning's class.
        return super().state_key.replace(RunCheckpoint.__qualname__, ModelCheckpoint.__qualname__, 1)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        self._strategy = trainer.strategy

    def on_train_batch_end(self, trainer: pl.Trainer, *arguments: Any, **further: Any) -> None:
        if _whole_updates(trainer):
            super().on_train_batch_end(trainer, *arguments, **further)

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        states, own = checkpoint.get("callbacks", {}), self.state_key
        before = [key for key in states if EVERY.sub("", key) == EVERY.sub("", own)]
        if own not in states and len(before) == 1:
            states[own] = states[before[0]]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        ascending = sorted(self.best_k_models, key=self.best_k_models.__getitem__, reverse=self.mode == "min")
        surplus = ascending[: -self.save_top_k] if self.save_top_k > 0 else []
        for path in surplus:
            del self.best_k_models[path]
            self._remove_checkpoint(trainer, path)
        if surplus:
            self.kth_best_model_path = ascending[len(surplus)]
            self.kth_value = self.best_k_models[self.kth_best_model_path]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if state_dict.get("dirpath", self.dirpath) != self.dirpath:
            state_dict = self._in_own_folder(state_dict)
        super().load_state_dict(state_dict)

    def _in_own_folder(self, state: dict[str, Any]) -> dict[str, Any]:
        """The state with the new paths of those files that lie in this folder, and without the others."""
        files = ("best_model_path", "kth_best_model_path", "last_model_path")
        scores = state.get("best_k_models") or {}
        folder, named = Path(str(self.dirpath)), {path for path in (*map(state.get, files), *scores) if path}
        paths = {path: str(folder / Path(path).name) for path in named if (folder / Path(path).name).exists()}
        # Processes that disagree, because a disk belongs to one machine, would wait for each other in the next validation.
        paths = self._strategy.broadcast(paths)
        own: dict[str, Any] = {name: paths.get(state.get(name) or "", "") for name in files}
        own["best_k_models"] = {paths[path]: score for path, score in scores.items() if path in paths}
        # A value without its file would keep later checkpoints from being written.
        if not own["best_model_path"]:
            own["best_model_score"] = None
        if not own["kth_best_model_path"]:
            own["kth_value"] = self.kth_value
        return {**state, **own, "dirpath": self.dirpath}


class Newest(RunCheckpoint):
    """Writes `last.ckpt` after each `every` updates, when training is interrupted, and at its end.

    A run that ends before its first validation is validated once, so that it has a `best.ckpt`.

    A checkpoint that is written just before a validation says so. If the run is killed there, the validation is made up when
    the run is resumed; Lightning would take it as done, and `best.ckpt` and the ranking of a sweep would never see it.

    A time limit or early stopping ends the run after a whole update.
    """

    def __init__(self, folder: Path, every: int) -> None:
        super().__init__(folder, filename=LAST, every_n_train_steps=every, save_on_exception=True, **ONE_FILE)
        self.awaits_validation = False  # after the update that was made last
        self._is_to_stop = False  # after this update
        self._made_up = False  # the validation that runs is one that the process before did not get to

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "awaits_validation": self.awaits_validation}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.awaits_validation = state_dict.get("awaits_validation", False)  # older checkpoints do not say

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._is_to_stop = False
        # Lightning has no hook between the restored state and a loop that has nothing left to do.
        trainer.fit_loop.run = partial(self._make_up_and_run, trainer)

    def _make_up_and_run(self, trainer: pl.Trainer) -> None:
        loop = trainer.fit_loop
        if self.awaits_validation and trainer.global_step > 0:
            loop.setup_data()
            self._make_up(trainer)
        type(loop).run(loop)

    def _make_up(self, trainer: pl.Trainer) -> None:
        """Validate outside the loop of batches."""
        validation = trainer.fit_loop.epoch_loop.val_loop
        validation.restarting = False  # it has not begun
        trainer.validating = self._made_up = True
        validation.run()
        trainer.training, self._made_up = True, False

    def on_train_batch_end(self, trainer: pl.Trainer, *arguments: Any, **further: Any) -> None:
        self._put_stop_off(trainer)
        self.awaits_validation = _validation_follows(trainer)
        super().on_train_batch_end(trainer, *arguments, **further)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        # Only a checkpoint that resumes exactly: not in the middle of an update, and not from one of several processes,
        # which write a sharded checkpoint together.
        if isinstance(exception, Stopped) or (trainer.world_size == 1 and _between_updates(trainer, exception)):
            self.awaits_validation = trainer.validating or (
                isinstance(exception, Stopped) and _validation_follows(trainer)
            )
            super().on_exception(trainer, pl_module, exception)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # `best.ckpt`, which is written at its end, does not wait for it.
        self.awaits_validation = self.awaits_validation and trainer.sanity_checking

    def _put_stop_off(self, trainer: pl.Trainer) -> None:
        """Stop at the end of an update: earlier, the gradients of its first batches (`accumulate_grad_batches`) are lost."""
        asked, whole = self._is_to_stop or trainer.should_stop, _whole_updates(trainer)
        trainer.should_stop, self._is_to_stop = asked and whole, asked and not whole

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.sanity_checking:
            return
        self._put_stop_off(trainer)
        # A checkpoint written just before this validation, by this process or the one before, holds the old state of `best`.
        # In the middle of an update it was written before the batches that come again, and this validation with them.
        again = self._made_up or self._last_global_step_saved == trainer.global_step
        if again and _whole_updates(trainer):
            self._save_topk_checkpoint(trainer, self._monitor_candidates(trainer))

    def _save_checkpoint(self, trainer: pl.Trainer, filepath: str) -> None:
        for logger in trainer.loggers:
            logger.save()  # a resumed run does not repeat the curves before its checkpoint
        super()._save_checkpoint(trainer, filepath)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # The updates since the last multiple of `every` would be lost without this.
        super().on_train_end(trainer, pl_module)
        if trainer.interrupted:
            return
        choosing = [
            each for each in trainer.checkpoint_callbacks if getattr(each, "monitor", None) not in (None, "step")
        ]
        chosen = all(isinstance(each, ModelCheckpoint) and each.best_model_path for each in choosing)
        self.awaits_validation = validates = not chosen and trainer.global_step > 0 and _has_validation(trainer)
        if validates or self._last_global_step_saved != trainer.global_step:
            self._save_topk_checkpoint(trainer, self._monitor_candidates(trainer))
        if validates:
            self._make_up(trainer)
        elif not chosen and trainer.global_step > 0:
            rank_zero_warn("nothing was validated, so there is no best.ckpt; test or predict with --ckpt_path last")


class Kept(RunCheckpoint):
    """Writes one checkpoint after each `every_n_train_steps` updates.

    Lightning takes the number of the update, by which the newest are known, for a metric of a validation, and waits for one where
    an epoch ends: that checkpoint would be left out, or be one of a later batch.
    """

    @property
    def state_key(self) -> str:
        return super().state_key.replace(Kept.__qualname__, ModelCheckpoint.__qualname__, 1)

    def on_train_batch_end(self, trainer: pl.Trainer, *arguments: Any, **further: Any) -> None:
        due = trainer.global_step % self._every_n_train_steps == 0
        if not due or not _whole_updates(trainer) or self._should_skip_saving_checkpoint(trainer):
            return
        for each in trainer.checkpoint_callbacks:
            if isinstance(each, Newest):  # its own turn comes afterwards
                each.awaits_validation = _validation_follows(trainer)
        self._save_topk_checkpoint(trainer, self._monitor_candidates(trainer))


def best(folder: Path, monitor: str, mode: str) -> ModelCheckpoint:
    """A callback that keeps the checkpoint with the smallest (mode `min`) or largest (`max`) metric as `best.ckpt`."""
    return RunCheckpoint(folder, filename=BEST, monitor=monitor, mode=mode, **ONE_FILE)


def kept(folder: Path, every: int, number: int) -> ModelCheckpoint:
    """A callback that keeps the newest `number` checkpoints, one after each `every` updates, as `update-STEP.ckpt`."""
    return Kept(
        folder,
        filename="update-{step}",
        monitor="step",
        mode="max",
        save_top_k=number,
        every_n_train_steps=every,
        auto_insert_metric_name=False,
        **ONE_FILE,
    )


class Stopped(KeyboardInterrupt):
    """The run was asked to stop, and all processes have made the same last update."""


def _validation_follows(trainer: pl.Trainer) -> bool:
    """Whether Lightning validates after the batch that has just been trained on."""
    loop = trainer.fit_loop
    # Lightning has no public name for its answer.
    follows, fetcher = getattr(loop.epoch_loop, "_should_check_val_fx", None), getattr(loop, "_data_fetcher", None)
    return follows is not None and fetcher is not None and bool(follows(fetcher))


def _has_validation(trainer: pl.Trainer) -> bool:
    """Whether there is a validation split, and it is not switched off."""
    validation = trainer.fit_loop.epoch_loop.val_loop
    if not trainer.enable_validation:
        return False
    validation.setup_data()
    return sum(validation.max_batches) > 0


def _between_updates(trainer: pl.Trainer, exception: BaseException) -> bool:
    """Whether the weights are those of a whole number of updates, and nothing of the next one is done."""
    # A second Ctrl-C, perhaps in the middle of an optimiser step.
    return not isinstance(exception, KeyboardInterrupt) and _whole_updates(trainer)


def _whole_updates(trainer: pl.Trainer) -> bool:
    """Whether the batches so far make whole updates, so that no gradients wait for further batches."""
    done = trainer.fit_loop.epoch_loop.batch_progress.current.processed
    return done % trainer.accumulate_grad_batches == 0 or done == trainer.num_training_batches


class StopBetweenUpdates(pl.Callback):
    """Ctrl-C or SIGTERM ends the run after the current update, so that it resumes exactly; a second signal ends it at once.

    During a validation, which changes no weights, one process stops at once and several after the current batch; the
    validation is made up when the run is resumed. One that `val_check_interval` puts between the batches of an update
    (`accumulate_grad_batches`) is ended, and the update as well: their gradients are in no checkpoint.

    In the middle of an update some weights would be new and others old. Lightning's own handling of SIGTERM may stop
    between two epochs, from where a run resumes in the wrong place. Of several processes only one may receive the
    signal, or one may receive it an update later; after each update they therefore agree on whether to stop.
    """

    def __init__(self) -> None:
        self.asked = False
        self.at_once = False  # the signal may end what runs now
        self.updates = 0
        self.before: dict[signal.Signals, Any] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.asked, self.updates = False, trainer.global_step
        if threading.current_thread() is not threading.main_thread():
            return  # only the main thread can set signal handlers
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) is not signal.SIG_IGN:
                self.before[number] = signal.signal(number, self._note)

    def _note(self, *_: Any) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        if self.at_once:
            self._stop()
        tqdm.write("stopping after this update; once more stops at once", file=sys.stderr)

    def _stop(self) -> None:
        for number in self.before:  # a further signal must not interrupt the writing of the checkpoint
            signal.signal(number, signal.SIG_IGN)
        raise Stopped

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.at_once = trainer.world_size == 1 and _whole_updates(trainer)
        if self.asked and self.at_once:
            self._stop()

    def on_validation_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        several = trainer.world_size > 1 and bool(self.before) and _whole_updates(trainer)
        if several and trainer.strategy.reduce_boolean_decision(self.asked, all=False):
            self._stop()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.at_once = False  # checkpoints are written now

    def on_train_batch_end(self, trainer: pl.Trainer, *arguments: Any, **further: Any) -> None:
        made, self.updates = trainer.global_step > self.updates, trainer.global_step
        if made and trainer.strategy.reduce_boolean_decision(self.asked or is_ending(), all=False):
            self._end_update(trainer, *arguments, **further)
            self._stop()

    def _end_update(self, trainer: pl.Trainer, *arguments: Any, **further: Any) -> None:
        """What Lightning would do with an update after this callback: the run that goes on does not do it again."""
        for callback in trainer.callbacks[trainer.callbacks.index(self) + 1 :]:
            callback.on_train_batch_end(trainer, *arguments, **further)  # one counts it, another keeps its checkpoint
        connector = trainer._logger_connector
        connector.on_batch_end()
        connector.update_train_step_metrics()  # its row of the curves

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        while self.before:
            signal.signal(*self.before.popitem())


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The content of a checkpoint file, after comparing its check sums; nothing in it is executed.

    Raises:
        UserError: it is cut short, damaged, no checkpoint of Lightning, or has weights that are not finite.
    """
    other = "take another checkpoint of the run, such as --ckpt_path best, or begin a new run"
    try:
        found = read_pickle(path)
        state = found.get("state_dict") if isinstance(found, dict) else None
        if not isinstance(state, dict) or "pytorch-lightning_version" not in found:
            raise UserError(
                f"--ckpt_path: {path} is not the checkpoint of a run: it has no state_dict of Lightning; {other}"
            )
        check_finite({name: value for name, value in state.items() if isinstance(value, torch.Tensor)}, path)
    except CheckpointError as error:
        raise UserError(f"--ckpt_path: {error}; {other}") from error
    return found


class WholeFiles(TorchCheckpointIO):
    """Writes checkpoints atomically: a run that is killed while it writes, or whose disk is full, keeps the previous one.

    Lightning's own plugin writes to the system's temporary folder first. If that is on another disk, the file is then
    copied over the previous checkpoint, and a kill during the copy loses both; that folder may also be too small.

    Example:
        >>> Trainer(plugins=[WholeFiles()])
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Write a checkpoint; a `UserError` if the disk is full."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            # A fixed temporary name: the file that a killed run leaves is overwritten by the next one.
            fresh = path.with_name(f"{path.name}.new")
            with atomic_write(path, fresh, durable=True) as temporary, temporary.open("wb") as file:
                torch.save(checkpoint, file)
        except (OSError, RuntimeError, UserError) as error:
            # The sentence of `atomic_write` says to repeat the command; a run needs --ckpt_path last as well.
            cause = error.__cause__ if isinstance(error, UserError) else error
            if cause is None or (reason := no_room(cause)) is None:
                raise
            raise UserError(not_written(path, reason)) from error

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Read a checkpoint after comparing its check sums; nothing in it is executed.

        Raises:
            UserError: it is cut short, damaged, no checkpoint of Lightning, or has weights that are not finite.
        """
        return read_checkpoint(Path(path))


def with_whole_files(asked: Any) -> list[Any]:
    """The value of `trainer.plugins` as a list, with `WholeFiles` unless one of them writes checkpoints."""
    named = [] if asked is None else list(asked) if isinstance(asked, list) else [asked]
    return named if any(isinstance(plugin, CheckpointIO) for plugin in named) else [*named, WholeFiles()]
