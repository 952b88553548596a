"""`wavlm fit`, `validate`, `test` and `predict`: LightningCLI, with run folders and errors one can read."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import yaml
from lightning.pytorch.callbacks import ModelCheckpoint, ProgressBar, TQDMProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import CSVLogger

import wavlm_lightning.pretraining
import wavlm_lightning.tasks
import wavlm_lightning.upstreams  # noqa: F401 - imported classes can be named without their module
from wavlm_lightning.callbacks.checkpoint_files import with_whole_files
from wavlm_lightning.callbacks.checkpoints import (
    BEST,
    NEWEST,
    Newest,
    StepProgress,
    StopBetweenUpdates,
    WritePredictions,
    best,
)
from wavlm_lightning.callbacks.joint_heads import BestOfHead, CurvesOfHeads, check_callbacks, check_new, load_best
from wavlm_lightning.callbacks.result_card import WriteResultCard
from wavlm_lightning.callbacks.wandb_logger import settle_loggers
from wavlm_lightning.pretraining.recipe import Recipe
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.plugins import make_importable
from wavlm_lightning.system.shipped_configs import resolve_config
from wavlm_lightning.tasks.joint.head_trainer import check_trainer
from wavlm_lightning.tasks.joint.many_heads import ManyHeads
from wavlm_lightning.training.fsdp import FSDP2, finish_renaming
from wavlm_lightning.workflows.fit.dropped_arguments import dropping_logger
from wavlm_lightning.workflows.fit.further_tasks import HELP, OPTION, added_up, read_also
from wavlm_lightning.workflows.fit.head_lists import HeadLists, take_lists
from wavlm_lightning.workflows.fit.head_specs import HeadConfigs, many_heads
from wavlm_lightning.workflows.fit.quiet import quiet
from wavlm_lightning.workflows.fit.readable_errors import readable_errors


class SaveConfig(SaveConfigCallback):
    """Keeps the full configuration in the run folder, and shows it to the loggers."""

    def save_config(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Write `config.yaml`, for each of several heads as well; on a resumed run the newest one stands."""
        if stage != "fit":
            return
        content = yaml.safe_load(self.parser.dump(self.config, skip_none=False, format="yaml"))
        root = Path(trainer.default_root_dir)
        contents = WavLMCLI.configs.by_folder(content, root)
        for logger in trainer.loggers:
            if not isinstance(logger, CSVLogger):
                logger.log_hyperparams(contents[root])
        for folder, content in contents.items():
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "config.yaml").write_text(yaml.safe_dump(content, sort_keys=False))


class WavLMCLI(LightningCLI):
    """LightningCLI whose runs live in `trainer.default_root_dir`.

    There lie `config.yaml`, `curves/version_N/metrics.csv` (one a start), `checkpoints/best.ckpt` and `last.ckpt`, and
    `card.json`. `--ckpt_path last` (or `best`) finds them. A trainer that names its own logger or ModelCheckpoint
    keeps those. With lists of learning rates or seeds, or with further tasks (`--also`), each head has such a folder in
    it; see `many_runs`.

    Attributes:
        command: what the user typed; result cards keep it.
        lists: what several heads of the first task differ in.
        configs: of several heads.
    """

    command = ""
    lists = HeadLists()
    configs = HeadConfigs()
    model: Any

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add `also`, `checkpoint_every` and `recipe`."""
        parser.add_argument(OPTION, type=list[str | dict[str, Any]] | None, default=None, help=HELP)
        parser.add_argument(
            "--checkpoint_every", type=int, default=500, help="updates between two writings of last.ckpt while fitting"
        )
        parser.add_argument(
            "--recipe", type=Recipe | None, default=None, help="for `wavlm plan` and `wavlm recipe`; fitting ignores it"
        )

    def _parse_ckpt_path(self) -> None:
        """Do nothing: a checkpoint must never override what the command line says."""

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """Add the run folder's logger and checkpoints."""
        config = self._get(self.config_init, "trainer")
        root = Path(config.get("default_root_dir") or "runs/default")
        if os.environ.get("WANDB_SWEEP_ID") and (trial := os.environ.get("WANDB_RUN_ID")):
            root /= trial  # the agent starts every trial of a sweep with the same options
        config["default_root_dir"] = str(root)
        fitting = self.subcommand in ("fit", None)  # None: a notebook, which may
        also = read_also(self._get(self.config, "also"))
        if self.lists or also:
            self.model, WavLMCLI.configs = many_heads(self.model, self._get(self.config, "model"), self.lists, also)
            data = self._get(self.config, "data").as_dict()
            for one in also:
                one.check_data(data)
                if fitting:
                    one.say_unused(data, self._get(self.config, "trainer").as_dict())
        config["use_distributed_sampler"] = False  # our batch plan deals to the ranks itself
        config["plugins"] = with_whole_files(config.get("plugins"))
        labels = tuple(WavLMCLI.configs.models)
        config["logger"] = curve_loggers(config.get("logger"), root, fitting, labels)
        callbacks = list(config.get("callbacks") or [])
        fresh = fitting and self._get(self.config_init, "ckpt_path") is None
        callbacks += settle_loggers(config["logger"], root, fresh)
        if labels:
            check_callbacks(callbacks)
        wanted = config.get("enable_checkpointing") is not False and not config.get("fast_dev_run")
        if fitting:
            callbacks.append(StopBetweenUpdates())
        if fitting and wanted and not any(isinstance(c, ModelCheckpoint) for c in callbacks):
            if isinstance(self.model, ManyHeads):
                callbacks += [BestOfHead(root, label, head) for label, head in self.model.each()]
            elif hasattr(self.model, "monitor"):
                callbacks.append(best(root / "checkpoints", *self.model.monitor))
            # The last one, for it keeps what the others know.
            callbacks.append(Newest(root / "checkpoints", self._get(self.config_init, "checkpoint_every")))
        if config.get("enable_progress_bar") is not False and not any(isinstance(c, ProgressBar) for c in callbacks):
            callbacks.append(StepProgress() if fitting else TQDMProgressBar(refresh_rate=10))
        config["enable_model_summary"] = config.get("enable_model_summary") or False
        if self.subcommand == "test":
            callbacks.append(WriteResultCard(root, self.command))
        if self.subcommand == "predict":
            callbacks.append(WritePredictions(root))
        config["callbacks"] = callbacks
        trainer = super().instantiate_trainer(**kwargs)
        if isinstance(self.model, ManyHeads):
            check_trainer(trainer)  # before it starts processes
        return trainer

    def before_fit(self) -> None:
        """Refuse to write over a run, and find `last`."""
        folder = Path(self.trainer.default_root_dir) / "checkpoints"
        for name in (NEWEST, BEST):
            finish_renaming(folder / f"{name}.ckpt")
        self._resolve_checkpoint()
        asked = self._get(self.config, "ckpt_path")
        found = [name for name in (NEWEST, BEST) if (folder / f"{name}.ckpt").exists()]
        if asked is None and not self.trainer.fast_dev_run and (found or any(folder.glob("*.ckpt"))):
            # Killed between its first validation and its first regular checkpoint, a run has none but the best.
            raise UserError(
                f"{folder.parent} already holds a run; go on with --ckpt_path {found[0] if found else 'FILE'}, "
                "or choose another --trainer.default_root_dir"
            )
        if asked is None and isinstance(self.model, ManyHeads) and not self.trainer.fast_dev_run:
            check_new(folder.parent, self.model.head_labels)

    def before_validate(self) -> None:
        """Find `best`, or the best of every head."""
        if isinstance(self.model, ManyHeads) and self._get(self.config, "ckpt_path") == BEST:
            load_best(self.model, Path(self.trainer.default_root_dir))
            self.config_init[self.subcommand]["ckpt_path"] = None
            return
        self._resolve_checkpoint()

    before_test = before_validate

    def before_predict(self) -> None:
        """Find `best`; one head predicts at a time."""
        if isinstance(self.model, ManyHeads):
            raise UserError(f"`wavlm predict` takes one head: give one learning rate and seed, and no {OPTION}")
        self._resolve_checkpoint()

    def _resolve_checkpoint(self) -> None:
        asked = self._get(self.config, "ckpt_path")
        if asked in (NEWEST, BEST):
            path = Path(self.trainer.default_root_dir) / "checkpoints" / f"{asked}.ckpt"
            if not path.exists():
                raise UserError(f"{path}: no such checkpoint; has this run been fitted?")
        elif asked is not None:
            path = Path(asked)
            if not path.exists():
                raise UserError(f"{path}: no such checkpoint")
        else:
            return
        if path.is_dir() and not isinstance(self.trainer.strategy, FSDP2):
            raise UserError(
                f"{path}: a sharded checkpoint, which only trainer.strategy fsdp2 goes on from; "
                "set that, or start from it with model.encoder"
            )
        # The subcommand's arguments are read from `config_init` after this hook.
        self.config_init[self.subcommand]["ckpt_path"] = str(path)
        self.config_init[self.subcommand]["weights_only"] = True


def curve_loggers(asked: Any, root: Path, fitting: bool, labels: tuple[str, ...] = ()) -> Any:
    """The loggers of a fit: curves as CSV always, by head if there are several, and what was asked for; `false` is none."""
    if asked is False or not fitting:
        return False if asked in (None, True) else asked
    named = [] if asked in (None, True) else list(asked) if isinstance(asked, list) else [asked]
    if any(isinstance(logger, CSVLogger) for logger in named):
        return named
    if labels:
        return [*named, CurvesOfHeads(root, labels)]
    return [*named, CSVLogger(root, name="curves", flush_logs_every_n_steps=100)]


def main(argv: list[str], callbacks: Sequence[pl.Callback] = ()) -> int:
    """Run a LightningCLI subcommand.

    Args:
        argv: the subcommand and its options.
        callbacks: further callbacks, which `config.yaml` does not record.

    Raises:
        UserError: options that do not parse, in one sentence.
    """
    WavLMCLI.command = shlex.join(["wavlm", *argv])
    with quiet(), readable_errors():
        command_line(argv, run=True, callbacks=callbacks)
    return 0


def command_line(argv: Sequence[str], run: bool, callbacks: Sequence[pl.Callback] = ()) -> WavLMCLI:
    """Parse options, and build model, data and trainer.

    Args:
        argv: with `run`, a subcommand and its options; else options alone.
        run: the subcommand.
        callbacks: further callbacks of the trainer, which `config.yaml` does not record.
    """
    arguments = [resolve_config(argument) for argument in argv]
    make_importable(arguments)
    arguments, WavLMCLI.lists = take_lists(added_up(arguments))
    WavLMCLI.configs = HeadConfigs()
    settings = {"exit_on_error": False, "allow_abbrev": False, "logger": dropping_logger()}
    return WavLMCLI(
        pl.LightningModule,
        pl.LightningDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        auto_configure_optimizers=False,
        seed_everything_default=0,
        save_config_callback=SaveConfig,
        save_config_kwargs={"save_to_log_dir": False},
        parser_kwargs=settings | dict.fromkeys(("fit", "validate", "test", "predict"), settings),
        trainer_defaults={"log_every_n_steps": 10, "callbacks": list(callbacks)},
        args=arguments,
        run=run,
    )
