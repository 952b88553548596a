"""Quality of the encoder during pre-training: short phoneme and speaker heads, fitted every N updates."""

from __future__ import annotations

import contextlib
import copy
import logging
import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor
from torchmetrics import Metric

from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.encoder import Layers, WavLM
from wavlm_lightning.pretraining import WavLMPretraining
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.progress import progress_bar, say
from wavlm_lightning.tasks import PhonemeRecognition, SpeakerIdentification, TaskData
from wavlm_lightning.tasks.base import PERCENT, Task
from wavlm_lightning.upstreams import Upstream

Probed = PhonemeRecognition | SpeakerIdentification
TASKS: dict[str, type[Probed]] = {"pr": PhonemeRecognition, "sid": SpeakerIdentification}
# Best of six for heads of this length, see `experiments/demo_learning_rates`; SUPERB's own are for 100,000 steps.
LEARNING_RATES = {"pr": 2e-3, "sid": 3e-3}
BATCHES: dict[str, dict[str, Any]] = {"pr": {"batch_size": 16}, "sid": {"batch_size": 32, "max_seconds": 8.0}}


class Snapshot(Upstream):
    """A frozen copy of an encoder, so that probing changes neither mode, device nor gradients of the run's own."""

    label = "the run's encoder"

    def __init__(self, encoder: WavLM) -> None:
        super().__init__()
        self.encoder = copy.deepcopy(encoder)
        # A compiled layer is a function of the run's own layer, with its mode and weights, and a copy keeps it.
        layers = self.encoder.encoder
        layers.run_layers(recomputed=False, compiled=False, attention=layers.attention_backend)
        config = self.encoder.config
        self.dim, self.num_layers, self.frame_rate = config.dim, config.layers + 1, config.frame_rate
        self.freeze()

    def layers(self, waveforms: Tensor, lengths: Tensor) -> Layers:  # (layers + 1, batch, frames, dim)
        return self.encoder(waveforms, lengths)


class Probe(pl.Callback):
    """Fits short SUPERB heads on the frozen encoder and logs `probe/pr_per` and `probe/sid_accuracy` (fractions).

    The heads are those of `wavlm superb`, trained much shorter and scored on the validation split: compare a run with
    itself and with runs probed alike, not with published figures. The first process probes while the others wait;
    choose steps and corpora such that a probe ends within the time-out of the process group (30 minutes by default).

    Probing happens at fixed updates, uses a fixed seed and restores the run's random state: the run is the same with and
    without it, and a resumed run probes at the same updates.

    Args:
        corpora: task (`pr`, `sid`) -> corpus folder with the splits `train` and `valid`.
        every: updates between two probes.
        steps: updates of each head's training.
        seed: seed of the heads and of the order of their batches.
        learning_rates: task -> learning rate; those of the mini corpus' heads by default.
        valid_batches: largest number of validation batches (a minute of audio each); the same ones every time.
        num_workers: processes that read audio; 0 reads in the main process.

    Example:
        In a configuration of pre-training::

            trainer:
              callbacks:
                - class_path: wavlm_lightning.callbacks.Probe
                  init_args:
                    corpora: {pr: data/librispeech, sid: data/voxceleb1_sid}
    """

    def __init__(
        self,
        corpora: dict[str, str],
        every: int = 10_000,
        steps: int = 300,
        seed: int = 1337,
        learning_rates: dict[str, float] | None = None,
        valid_batches: int = 60,
        num_workers: int = 0,
    ) -> None:
        for key, given in (("corpora", corpora), ("learning_rates", learning_rates or {})):
            unknown = sorted(set(given) - set(TASKS))
            if unknown:
                raise UserError(f"Probe: {key} names {', '.join(unknown)}, but it fits only {' and '.join(TASKS)}")
        if unheard := sorted(set(learning_rates or {}) - set(corpora)):
            raise UserError(f"Probe: learning_rates names {', '.join(unheard)}, of which corpora names no corpus")
        if not corpora:
            raise UserError("Probe: corpora is empty; name a corpus folder for pr or sid, or remove the probe")
        if min(every, steps, valid_batches) < 1:
            raise UserError("Probe: every, steps and valid_batches must be at least 1")
        self.corpora, self.every, self.steps, self.seed = dict(corpora), every, steps, seed
        self.learning_rates = {**LEARNING_RATES, **(learning_rates or {})}
        self.valid_batches, self.num_workers = valid_batches, num_workers
        self.updates = 0

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Check everything that the first probe needs, before hours of training; a `UserError` if something is missing."""
        if stage != "fit":
            return
        if not isinstance(pl_module, WavLMPretraining):
            kind = type(pl_module).__name__
            raise UserError(f"Probe works in pre-training, not with {kind}; remove it from trainer.callbacks")
        if not isinstance(trainer.strategy, SingleDeviceStrategy | DDPStrategy):
            raise UserError("Probe needs the whole encoder on one device; set trainer.strategy to ddp, or remove Probe")
        for name, folder in self.corpora.items():
            corpus = Corpus.open(Path(folder))
            corpus.inventory("phones" if name == "pr" else SpeakerIdentification.inventory)
            for split in ("train", "valid"):
                corpus.split(split)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.updates = trainer.global_step

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        updated, self.updates = trainer.global_step > self.updates, trainer.global_step
        if not updated or trainer.global_step % self.every:
            return
        if trainer.is_global_zero:
            began = time.monotonic()
            scores = self.scores(trainer, pl_module)
            shown = ", ".join(f"{name} {PERCENT.text(value)}" for name, value in scores.items())
            say(f"probe after {trainer.global_step} updates: {shown}, in {time.monotonic() - began:.0f} s")
            # Not by `pl_module.log`, which would log the same figures again at each logging step of the epoch.
            for logger in trainer.loggers:
                # Lightning logs the metrics of update N at step N - 1.
                logger.log_metrics(scores, step=trainer.global_step - 1)
                logger.save()
        trainer.strategy.barrier("probe")

    def scores(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, float]:
        """Fit and score all heads on the current encoder; returns metric name -> value."""
        scores = {}
        with isolate_rng(), _silence(), pl_module.evaluated_weights():
            for name, folder in self.corpora.items():
                torch.manual_seed(self.seed)
                task = TASKS[name](Snapshot(pl_module.encoder), learning_rate=self.learning_rates[name], seed=self.seed)
                task.build(task.read_labels(Corpus.open(Path(folder))))
                for metric in task.modules():
                    if isinstance(metric, Metric):  # a gather would wait for processes that wait for this one
                        metric.distributed_available_fn = lambda: False
                data = TaskData(folder, num_workers=self.num_workers, seed=self.seed, **BATCHES[name])
                found = self._fit(task, data, trainer)
                scores[f"probe/{name}_{task.metric}"] = float(found[f"valid/{task.metric}"])
        return scores

    def _fit(self, task: Task, data: TaskData, run: pl.Trainer) -> Mapping[str, Tensor]:
        trainer = pl.Trainer(
            # An explicit strategy: Lightning would otherwise detect the run's processes and wait for them.
            strategy=SingleDeviceStrategy(run.strategy.root_device, accelerator=run.accelerator),
            precision=run.precision,
            max_steps=self.steps,
            val_check_interval=self.steps,
            check_val_every_n_epoch=None,  # validation by steps, once, at the end
            limit_val_batches=self.valid_batches,
            gradient_clip_val=1.0,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
            logger=False,
            enable_checkpointing=False,
            callbacks=[_Bar(f"probe {task.name}", self.steps)],
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(task, data)
        return trainer.callback_metrics


class _Bar(pl.Callback):
    """A bar over the updates of a head, below that of the run; it stays there while the head is validated."""

    def __init__(self, what: str, updates: int) -> None:
        self.bar = progress_bar(total=updates, desc=what, unit="step", leave=False)

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.bar.update(trainer.global_step - self.bar.n)

    def on_fit_end(self, *_: Any) -> None:
        self.bar.close()

    on_exception = on_fit_end


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Hide the messages of Lightning at each start of a head."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
