"""LightningCLI for `wavlm fit`, `validate`, `test` and `predict -c`: run folders, checkpoints, loggers, several heads."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
import yaml
from lightning.fabric.plugins.environments import SLURMEnvironment
from lightning.pytorch.callbacks import ModelCheckpoint, ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import CSVLogger

import wavlm_lightning.pretraining
import wavlm_lightning.tasks
import wavlm_lightning.upstreams  # noqa: F401 - imported classes can be named without their module
from wavlm_lightning.callbacks.checkpoints import Newest, StopBetweenUpdates, kept, with_whole_files
from wavlm_lightning.callbacks.examples import KeepExamples
from wavlm_lightning.callbacks.joint_heads import best_of_heads, check_callbacks, check_new, load_best
from wavlm_lightning.callbacks.progress import StepProgress
from wavlm_lightning.callbacks.results import WritePredictions, WriteResultCard
from wavlm_lightning.callbacks.safe_loggers import keep_all_running
from wavlm_lightning.callbacks.transcripts import ShowTranscripts
from wavlm_lightning.callbacks.wandb import settle_loggers
from wavlm_lightning.pretraining.recipe import Recipe
from wavlm_lightning.system.command import as_called
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.files import check_output, finish_replacing, write_text
from wavlm_lightning.system.hardware import slow_bf16
from wavlm_lightning.system.plugins import make_importable, remember_class_folders
from wavlm_lightning.system.run_folder import BEST, CONFIG, LAST, checkpoint, read_run_config
from wavlm_lightning.system.shipped_configs import resolve_config
from wavlm_lightning.system.yaml_files import parse_yaml
from wavlm_lightning.tasks import Task
from wavlm_lightning.tasks.decoding import DecodedTask
from wavlm_lightning.tasks.joint.head_hooks import check_trainer
from wavlm_lightning.training.fsdp import FSDP2
from wavlm_lightning.training.trial import fastest_threads, threads_are_set
from wavlm_lightning.workflows.fit.early_checks import check_monitored, check_upstream_chosen
from wavlm_lightning.workflows.fit.going_on import check_going_on, keep_read_once
from wavlm_lightning.workflows.fit.joint_heads import (
    HELP,
    OPTION,
    HeadConfigs,
    HeadLists,
    added_up,
    many_heads,
    read_also,
    take_lists,
)
from wavlm_lightning.workflows.fit.loggers import curve_loggers, in_run_folder, placed_loggers
from wavlm_lightning.workflows.fit.messages import quiet, readable_errors
from wavlm_lightning.workflows.fit.ownership import is_first_process, own_run_folder
from wavlm_lightning.workflows.fit.parser_errors import dropping_logger
from wavlm_lightning.workflows.fit.run_source import check_surroundings, folder_of_figures, options_of_run
from wavlm_lightning.workflows.fit.seeds import adopt, settle

DEFAULT_FOLDER = "runs/default"
LONG = 200
"""Updates from which a timing of a few seconds pays."""


class SaveConfig(SaveConfigCallback):
    """Writes `config.yaml` to the run folder (and to that of each of several heads), and passes it to the loggers.

    Of a run that goes on (`goes_on`) only when training begins: until then its checkpoint may refuse these options.
    """

    def __init__(
        self, parser: LightningArgumentParser, config: Any, heads: HeadConfigs, goes_on: bool, **settings: Any
    ) -> None:
        super().__init__(parser, config, **settings)
        self.heads, self.goes_on = heads, goes_on

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if not self.goes_on:
            super().setup(trainer, pl_module, stage)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.goes_on and trainer.is_global_zero:
            self.save_config(trainer, pl_module, "fit")

    def save_config(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        root = Path(trainer.default_root_dir)
        contents = self.heads.by_folder(saved_content(self.parser, self.config), root)
        for logger in trainer.loggers:
            if not isinstance(logger, CSVLogger):
                logger.log_hyperparams(contents[root])
        for folder, content in contents.items():
            folder.mkdir(parents=True, exist_ok=True)
            write_text(folder / CONFIG, yaml.safe_dump(content, sort_keys=False), durable=True)
            remember_class_folders(folder)


def saved_content(parser: LightningArgumentParser, config: Any) -> dict[str, Any]:
    """What `config.yaml` says of a parsed configuration, before lists and further tasks are put back."""
    # It was checked when it was parsed; to check each value again takes as long as parsing.
    return parse_yaml(parser.dump(config, skip_unset=False, skip_validation=True, format="yaml"))


class WavLMCLI(LightningCLI):
    """LightningCLI whose runs live in `trainer.default_root_dir`.

    A run folder holds `config.yaml`, `curves/version_N/metrics.csv` (one for each start), `checkpoints/best.ckpt` and
    `last.ckpt`, and after `test` `card.json`. `--ckpt_path last` (or `best`) refers to these. Curves are written beside the
    loggers that a trainer names (`loggers`); a ModelCheckpoint that it names replaces ours. With lists of learning rates or
    seeds, or with further tasks (`--also`), each head has such a folder inside the run folder; see `joint_heads`.

    Args:
        options: what LightningCLI parses, without lists.
        lists: listed values of the first task, from `take_lists`.
        run: the options begin with a subcommand, which is run; otherwise model, data and trainer are only built.
        command: the command as the user typed it, for result cards.
        callbacks: further callbacks of a fit.
        owned: gets the lock of the run folder for a fit.
        source: the run folder that checkpoints come from, if it is not that of the options; see `run_source`.
    """

    model: Any
    config: Any

    def __init__(
        self,
        options: list[str],
        lists: HeadLists,
        run: bool,
        command: str = "",
        callbacks: Sequence[pl.Callback] = (),
        owned: contextlib.ExitStack | None = None,
        source: Path | None = None,
    ) -> None:
        # Before the base class's constructor, which parses, builds and runs.
        self.lists, self.command, self.callbacks = lists, command, list(callbacks)
        self.owned, self.source = owned, source
        self.further = ""  # folder inside that of the run or head, for figures that are not of the run's own test
        self.options = options
        self.heads = HeadConfigs()  # empty for one head
        settings = {"exit_on_error": False, "allow_abbrev": False, "logger": dropping_logger()}
        super().__init__(
            pl.LightningModule,
            pl.LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            seed_everything_default=0,
            save_config_callback=SaveConfig,
            parser_kwargs=settings | dict.fromkeys(self.subcommands(), settings),
            trainer_defaults={"log_every_n_steps": 10},
            args=options,
            run=run,
        )

    def subcommands(self) -> dict[str, set[str]]:
        """The called one alone, because the parser of each takes a tenth of a second to build."""
        every = LightningCLI.subcommands()
        return {name: every[name] for name in self.options[:1] if name in every} or every

    def _dump_config(self) -> None:
        """Keep the hyperparameters that models write into their checkpoints; LightningCLI would check each value again."""
        if not hasattr(self, "config_dump"):
            dumped = self.parser.dump(
                self.config, skip_link_targets=False, skip_unset=False, skip_validation=True, format="yaml"
            )
            content = parse_yaml(dumped)
            self.config_dump = content[self.subcommand] if self.subcommand else content

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument(OPTION, type=list[str | dict[str, Any]] | None, default=None, help=HELP)
        updates = "updates between two writings of last.ckpt while fitting"
        parser.add_argument("--checkpoint_every", type=int, default=500, help=updates)
        kept_help = "keep the newest N of these as well, as checkpoints/update-STEP.ckpt, for `wavlm average`"
        parser.add_argument("--keep_checkpoints", type=int, default=0, metavar="N", help=kept_help)
        threads = (
            "CPU threads of a fit on the CPU; by default OMP_NUM_THREADS, else the fastest number in a short timing, and "
            "that of the run folder when a run is resumed"
        )
        parser.add_argument("--threads", type=int | None, default=None, help=threads)
        recipe = "for `wavlm plan` and `wavlm recipe`; fitting ignores it"
        parser.add_argument("--recipe", type=Recipe | None, default=None, help=recipe)

    def before_instantiate_classes(self) -> None:
        if self.source is not None:
            check_surroundings(self.source, self.config[self.subcommand].as_dict())
        if self.subcommand in ("fit", "test", "predict"):  # `validate` prints, and a run folder may be read-only
            folder = self.config[self.subcommand]["trainer"]["default_root_dir"] or DEFAULT_FOLDER
            check_output(folder, "--trainer.default_root_dir")
        if self.subcommand in ("fit", None):
            self._settle_threads()

    def _settle_threads(self) -> None:
        """Set the number of CPU threads and keep it in the configuration: it decides the last digits of a run."""
        config = self.config.get(str(self.subcommand), self.config)
        trainer, threads = config["trainer"], config["threads"]
        on_cpu = trainer["accelerator"] == "cpu" or (
            trainer["accelerator"] == "auto" and not torch.accelerator.is_available()
        )
        if not on_cpu:
            return
        if (slow := slow_bf16(trainer["precision"])) and is_first_process():
            print(f"note: {slow}", file=sys.stderr)
        if threads is not None and threads < 1:
            raise UserError(f"--threads {threads}: must be 1 or more")
        if threads is None and not threads_are_set():
            if config.get("ckpt_path") is not None:
                threads = read_run_config(Path(trainer["default_root_dir"] or DEFAULT_FOLDER)).get("threads")
            elif trainer["devices"] in (1, "1", "auto") and not trainer["fast_dev_run"] and _is_long(trainer):
                threads, every = fastest_threads(), torch.get_num_threads()
                if threads < every:
                    print(
                        f"note: other work on this machine: training with {threads} of {every} threads", file=sys.stderr
                    )
        if threads is not None:
            torch.set_num_threads(threads)
            config["threads"] = threads

    def _parse_ckpt_path(self) -> None:
        """Do nothing: LightningCLI would let hyperparameters in the checkpoint replace options of the command line."""

    def instantiate_classes(self) -> None:
        self.asked = self.config
        self.config = self.asked.clone()
        trainer, path = self._get(self.config, "trainer"), self._get(self.config, "ckpt_path")
        config = self.config.get(str(self.subcommand), self.config)
        if self.subcommand == "fit" and path is not None:
            adopt(config, read_run_config(run_root(trainer) if path in (LAST, BEST) else _run_of(path)))
        settle(config, config["seed_everything"])
        with placed_loggers(trainer, run_root(trainer)):
            super().instantiate_classes()

    @property
    def folder(self) -> Path:  # the run folder
        return Path(self.trainer.default_root_dir)

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """Add the run folder's loggers, checkpoints and progress bar, and build several heads if they are asked for."""
        self.config = self.asked  # which `config.yaml` gets
        config = self._get(self.config_init, "trainer")
        root = run_root(config)
        if self.subcommand == "fit" and os.environ.get("WANDB_SWEEP_ID") and os.environ.get("WANDB_RUN_ID"):
            check_upstream_chosen(self._get(self.config, "model"), self.options, "a trial of a W&B sweep")
        config["default_root_dir"] = str(root)
        if self.subcommand == "fit" and self.owned is not None and not config.get("fast_dev_run"):
            self.owned.enter_context(own_run_folder(root))
        self._go_on_when_requeued(root)
        fitting = self.subcommand in ("fit", None)  # None: a notebook, which may fit
        also = read_also(self._get(self.config, "also"))
        if self.lists or also:
            self.model, self.heads = many_heads(
                self.model, self._get(self.config, "model"), self.lists, also, self._get(self.config, "seed_everything")
            )
            data = self._get(self.config, "data").as_dict()
            for one in also:
                one.check_data(data)
                if fitting:
                    trainer, seed = self._get(self.config, "trainer"), self._get(self.config, "seed_everything")
                    one.note_unused(data, trainer.as_dict(), seed)
        config["use_distributed_sampler"] = False  # our batch plan already gives each rank its own batches
        config["plugins"] = with_whole_files(config.get("plugins"))
        labels = tuple(self.heads.models)
        config["logger"] = curve_loggers(config.get("logger"), root, fitting, labels)
        callbacks = list(config.get("callbacks") or [])
        fresh = fitting and self._get(self.config_init, "ckpt_path") is None
        callbacks += settle_loggers(config["logger"], root, fresh)
        keep_all_running(config["logger"])
        if labels:
            check_callbacks(callbacks)
        wanted = config.get("enable_checkpointing") is not False and not config.get("fast_dev_run")
        if fitting:
            callbacks += [StopBetweenUpdates(), ShowTranscripts(), *self.callbacks]
        if fitting and wanted and not any(isinstance(c, ModelCheckpoint) for c in callbacks):
            callbacks += best_of_heads(root, self.model)
            every, number = (self._get(self.config_init, name) for name in ("checkpoint_every", "keep_checkpoints"))
            if number and labels:
                raise UserError(
                    "--keep_checkpoints keeps those of one head; give one learning rate and seed, and no --also"
                )
            if number:
                callbacks.append(kept(root / "checkpoints", every, number))
            # Last, because it saves the state of the callbacks before it.
            callbacks.append(Newest(root / "checkpoints", every))
        elif fitting and wanted:
            self._check_own_checkpoints()
        if config.get("enable_progress_bar") is not False and not any(isinstance(c, ProgressBar) for c in callbacks):
            callbacks.append(StepProgress())
        config["enable_model_summary"] = config.get("enable_model_summary") or False
        if self.subcommand == "test":
            self._note_further(root)
            callbacks += [WriteResultCard(root, self.command, self.further), KeepExamples(root / self.further)]
        if self.subcommand == "predict":
            callbacks.append(WritePredictions(root))
        config["callbacks"] = callbacks
        goes_on = fitting and not fresh and not config.get("fast_dev_run")
        self.save_config_kwargs = {"heads": self.heads, "goes_on": goes_on, "save_to_log_dir": False}
        trainer = super().instantiate_trainer(**kwargs)
        if labels:
            check_trainer(trainer)  # before it starts processes
        return trainer

    def _note_further(self, root: Path) -> None:
        """Keep the result of the run in `root` where other data or weights are tested: the figures get a folder of their own."""
        self.further = folder_of_figures(root, saved_content(self._parser("test"), self.config["test"]))
        if self.further and is_first_process():
            print(
                f"note: not the test of {root}, which has other data or weights: the figures go to a folder {self.further}",
                file=sys.stderr,
            )

    def _check_own_checkpoints(self) -> None:
        """Refuse to keep checkpoints of ours where a run writes others in their place; say that we write none."""
        instead = "trainer.callbacks names a ModelCheckpoint in place of ours"
        if self._get(self.config, "keep_checkpoints"):
            raise UserError(f"--keep_checkpoints has no effect here: {instead}; remove one of the two")
        every = self._get(self.config, "checkpoint_every")
        if every != self._parser(self.subcommand).get_default("checkpoint_every") and is_first_process():
            print(f"note: checkpoint_every {every} has no effect: {instead}", file=sys.stderr)

    def _go_on_when_requeued(self, root: Path) -> None:
        """Name the checkpoint of a requeued SLURM job, so that it goes on as with `--ckpt_path`.

        Lightning would take its own `hpc_ckpt_N.ckpt` after all checks, also where `last.ckpt` is newer. A job that began from
        a checkpoint of another run would begin from there again.
        """
        own = [path for path in root.glob("hpc_ckpt_*.ckpt") if self.subcommand == "fit" and SLURMEnvironment.detect()]
        asked = self._get(self.config_init, "ckpt_path")
        if own and (asked is None or (os.environ.get("SLURM_RESTART_COUNT") and not _is_of(asked, root))):
            last = checkpoint(root, LAST)
            newest = max([*own, *([last] if last.exists() else [])], key=lambda path: path.stat().st_mtime_ns)
            self.config["fit"]["ckpt_path"] = self.config_init["fit"]["ckpt_path"] = str(newest)

    def before_fit(self) -> None:
        """Resolve `--ckpt_path last`, and refuse to overwrite a run or to wait for a metric that is never logged."""
        check_monitored(self.trainer, self.model)
        for name in (LAST, BEST):
            finish_replacing(checkpoint(self.folder, name))
        self._resolve_checkpoint()
        if not self.trainer.fast_dev_run:
            self._keep_other_runs()
        self._compare_with_run()
        if self._get(self.config, "ckpt_path") is not None and isinstance(self.model, Task):
            for head in self.model.heads().values():
                head.go_on()

    def _keep_other_runs(self) -> None:
        """Refuse to begin in the folder of a run, be it anew or from a checkpoint of another run."""
        asked = self._get(self.config, "ckpt_path")
        if asked is not None and _is_of(asked, self.folder):
            return
        # A run that was killed after its first validation and before its first regular checkpoint has only the best one.
        found = [name for name in (LAST, BEST) if checkpoint(self.folder, name).exists()]
        if found or any((self.folder / "checkpoints").glob("*.ckpt")):
            other = "" if asked is None else f", and {asked} is of another one"
            raise UserError(
                f"{self.folder} already holds a run{other}; resume it with --ckpt_path {found[0] if found else 'FILE'}, "
                "or choose another --trainer.default_root_dir"
            )
        check_new(self.folder, tuple(self.heads.models))

    def _compare_with_run(self) -> None:
        """Refuse what must not change when a run goes on; see `going_on`."""
        path = self._get(self.config_init, "ckpt_path")
        if path is None or self.trainer.fast_dev_run:
            return
        run = _run_of(path)
        before = read_run_config(run)
        if not before:
            print(
                f"note: {run / CONFIG} is missing or not readable: only the optimiser, seeds, batches and labels are compared "
                "with the checkpoint",
                file=sys.stderr,
            )
            return
        name = str(self.subcommand)
        config = self.config[name]
        keep_read_once(config["model"], before)
        for model in self.heads.models.values():
            keep_read_once(model, before)
        root = self.folder
        check_going_on(self.heads.by_folder(saved_content(self._parser(name), config), root)[root], before, run)
        self._note_schedule(before)

    def _note_schedule(self, before: dict[str, Any]) -> None:
        then, now = (before.get("trainer") or {}).get("max_steps"), self.trainer.max_steps
        heads = self.model.heads().values() if isinstance(self.model, Task) else [self.model]
        if then != now and any(getattr(head, "follows_max_steps", False) for head in heads):
            print(
                f"note: the learning rate follows trainer.max_steps, which is {now} and was {then}: it goes on from the place of "
                f"a schedule of {now} updates, which may be another rate than the last one",
                file=sys.stderr,
            )

    def before_validate(self) -> None:
        """Resolve `--ckpt_path best`; of several heads, load the best checkpoint of each."""
        if self.heads.models and self._get(self.config, "ckpt_path") == BEST:
            root = self.source or self.folder
            self._check_language_models({label: checkpoint(root / label, BEST) for label in self.heads.models})
            load_best(self.model, self.source or self.folder)  # Lightning would load one file; each head has its own
            self.config_init[self.subcommand]["ckpt_path"] = None
            return
        self._resolve_checkpoint()

    def before_test(self) -> None:
        """As `before_validate`; what is pre-trained has no test."""
        if type(self.model).test_step is pl.LightningModule.test_step:
            folder = self.source or self.folder
            raise UserError(
                f"{folder}: {type(self.model).__name__} has no test; `{as_called('validate', folder)}` gives its loss, and "
                f"`{as_called('superb', folder, '--data', 'mini', '--output', 'DIR')}` scores its encoder"
            )
        self.before_validate()

    def before_predict(self) -> None:
        if self.heads.models:
            raise UserError(f"`wavlm predict` takes one head: give one learning rate and seed, and no {OPTION}")
        self._resolve_checkpoint()

    def _resolve_checkpoint(self) -> None:
        asked = self._get(self.config, "ckpt_path")
        if asked is None:
            return
        named = asked in (LAST, BEST)
        path = checkpoint(self.source or self.folder, asked) if named else Path(asked)
        if not path.exists():
            raise UserError(f"{path}: no such checkpoint{_others(path) if named else ''}")
        if path.is_dir() and not isinstance(self.trainer.strategy, FSDP2):
            raise UserError(
                f"{path}: a sharded checkpoint, which only trainer.strategy fsdp2 can resume; "
                "set that strategy, or start a new run from it with model.encoder"
            )
        # LightningCLI reads the subcommand's arguments from `config_init` after this hook.
        self.config_init[self.subcommand]["ckpt_path"] = str(path)
        self.config_init[self.subcommand]["weights_only"] = True
        if isinstance(self.model, Task):
            self._check_language_models(dict.fromkeys(self.model.heads(), path))

    def _check_language_models(self, checkpoints: Mapping[str, Path]) -> None:
        """Compare the heads with those for which the weights of their language models were searched."""
        if self.subcommand not in ("test", "predict"):
            return
        for label, head in self.model.heads().items():
            if isinstance(head, DecodedTask) and head.language_model is not None:
                head.language_model, note = head.language_model.for_head(checkpoints[label])
                if note and is_first_process():
                    print(note, file=sys.stderr)


def _run_of(path: str | Path) -> Path:
    """The run folder of a checkpoint."""
    folder = Path(path).absolute().parent
    return folder if (folder / CONFIG).is_file() else folder.parent  # hpc_ckpt_N.ckpt lies in the run folder itself


def _is_of(asked: str | Path, root: Path) -> bool:
    """Whether a value of `--ckpt_path` is a checkpoint of the run in the folder `root`."""
    if asked in (LAST, BEST):
        return True
    path, root = Path(asked).absolute(), root.resolve()
    for folder in path.parents:  # a run may keep checkpoints anywhere below, and its folder may be reached by a link
        if folder.resolve() == root:
            return True
        if (folder / CONFIG).is_file():
            break
    # A link in `root`, which `path` does not go through.
    return path.resolve().parent == (root / "checkpoints").resolve()


@contextlib.contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """Let SIGTERM end a command as Ctrl-C does, where nothing else handles it: Lightning only notes it until a batch ends.

    While a run trains, `StopBetweenUpdates` handles both signals.
    """
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    ):
        yield
        return
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def run_root(trainer: Any) -> Path:
    """The run folder that a section `trainer` asks for."""
    root = Path(trainer.get("default_root_dir") or DEFAULT_FOLDER)
    if os.environ.get("WANDB_SWEEP_ID") and (trial := os.environ.get("WANDB_RUN_ID")):
        root /= trial  # the agent starts every trial of a sweep with the same options
    return root


def _others(path: Path) -> str:
    """The end of a message on a checkpoint that is not there."""
    there = sorted(each for each in path.parent.glob("*.ckpt"))
    last = path.with_name(f"{LAST}.ckpt")
    if last in there:
        return f"; give --ckpt_path {LAST}, which is there"
    return f"; there is {', '.join(each.name for each in there)}" if there else "; has this run been fitted?"


def _is_long(trainer: Any) -> bool:
    return trainer["max_steps"] < 0 or trainer["max_steps"] >= LONG


def run_subcommand(argv: Sequence[str], callbacks: Sequence[pl.Callback] = ()) -> WavLMCLI:
    """Run `fit`, `validate`, `test` or `predict`: `argv` is the subcommand and its options. See `workflows.fit.fit`."""
    with quiet(), readable_errors(), ended_by_sigterm(), contextlib.ExitStack() as owned:
        return command_line(argv, run=True, command=shlex.join(["wavlm", *argv]), callbacks=callbacks, owned=owned)


def command_line(
    argv: Sequence[str],
    run: bool,
    command: str = "",
    callbacks: Sequence[pl.Callback] = (),
    owned: contextlib.ExitStack | None = None,
) -> WavLMCLI:
    """Parse options and build model, data and trainer; see `WavLMCLI` for the arguments."""
    named, source = options_of_run(argv) if run else (list(argv), None)
    arguments = [resolve_config(argument) for argument in named]
    make_importable(arguments)  # classes in a user's file beside the YAML
    options, lists = take_lists(added_up(in_run_folder(arguments)))
    return WavLMCLI(options, lists, run, command, callbacks, owned, source)
