"""What a pre-training run is worth, seen before it ends: small heads on its encoder, every so many updates."""

from __future__ import annotations

import contextlib
import copy
import logging
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
from wavlm_lightning.tasks import PhonemeRecognition, SpeakerIdentification, TaskData
from wavlm_lightning.tasks.base import Task
from wavlm_lightning.upstreams import Upstream

TASKS: dict[str, type[PhonemeRecognition | SpeakerIdentification]] = {
    "pr": PhonemeRecognition,
    "sid": SpeakerIdentification,
}
LEARNING_RATES = {"pr": 2e-3, "sid": 3e-3}
"""Best of six for heads of this length, see `experiments/demo_learning_rates`; SUPERB's own are for 100,000 steps."""
BATCHES: dict[str, dict[str, Any]] = {"pr": {"batch_size": 16}, "sid": {"batch_size": 32, "max_seconds": 8.0}}


class Snapshot(Upstream):
    """A frozen copy of an encoder, so that nothing done to it reaches the run: no mode, no device, no gradient.

    Args:
        encoder: what to copy.
    """

    label = "the run's encoder"

    def __init__(self, encoder: WavLM) -> None:
        super().__init__()
        self.encoder = copy.deepcopy(encoder)
        config = self.encoder.config
        self.dim, self.num_layers, self.frame_rate = config.dim, config.layers + 1, config.frame_rate
        self.freeze()

    def layers(self, waveforms: Tensor, lengths: Tensor) -> Layers:
        """All hidden states, `(layers + 1, batch, frames, dim)`."""
        return self.encoder(waveforms, lengths)


class Probe(pl.Callback):
    """Fits short SUPERB heads on the frozen encoder and logs `probe/pr_per` and `probe/sid_accuracy` (fractions).

    The heads are `wavlm superb`'s, much shorter, on the validation split: compare a run with itself and with runs
    probed alike, not with published figures. The first process probes while the others wait, within the time-out of
    their process group (30 minutes, unless the strategy says otherwise): steps and corpora must be chosen for that.

    Probing happens at fixed updates, by a fixed seed, and leaves the run's random numbers alone: the run is the same with
    and without it, and a resumed run probes at the same updates.

    Args:
        corpora: by task (`pr`, `sid`), a corpus folder with splits `train` and `valid`.
        every: updates between two probes.
        steps: updates of each head.
        seed: of the heads and of the order of their batches.
        learning_rates: by task; those of the mini corpus' heads unless given.
        valid_batches: of a minute of audio, at most, that a head is scored on; the same ones every time.
        num_workers: processes that read audio; 0 reads in the main process.

    Example:
        In a configuration of pre-training::

            trainer:
              callbacks:
                - class_path: wavlm_lightning.callbacks.probe.Probe
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
                raise UserError(f"Probe: {key} names {', '.join(unknown)}, but it fits {' and '.join(TASKS)} alone")
        if not corpora:
            raise UserError("Probe: corpora is empty; name a corpus folder for pr or sid, or leave the probe out")
        if min(every, steps, valid_batches) < 1:
            raise UserError("Probe: every, steps and valid_batches must be at least 1")
        self.corpora, self.every, self.steps, self.seed = dict(corpora), every, steps, seed
        self.learning_rates = {**LEARNING_RATES, **(learning_rates or {})}
        self.valid_batches, self.num_workers = valid_batches, num_workers
        self.updates = 0

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Make sure that the first probe will work.

        Raises:
            UserError: a corpus is missing or lacks labels or splits, or this run cannot be probed.
        """
        if stage != "fit":
            return
        if not isinstance(pl_module, WavLMPretraining):
            raise UserError(f"Probe watches pre-training, not {type(pl_module).__name__}; take it out of the callbacks")
        if not isinstance(trainer.strategy, SingleDeviceStrategy | DDPStrategy):
            raise UserError("Probe needs the whole encoder on one device; take trainer.strategy ddp, or no Probe")
        for name, folder in self.corpora.items():
            corpus = Corpus.open(Path(folder))
            corpus.inventory("phones" if name == "pr" else SpeakerIdentification.inventory)
            for split in ("train", "valid"):
                corpus.split(split)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Remember where a resumed run goes on."""
        self.updates = trainer.global_step

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Probe after every so many updates."""
        updated, self.updates = trainer.global_step > self.updates, trainer.global_step
        if not updated or trainer.global_step % self.every:
            return
        if trainer.is_global_zero:
            scores = self.scores(trainer, pl_module)
            # Not by `pl_module.log`, which would write the same figures again at each logging step of the epoch.
            for logger in trainer.loggers:
                logger.log_metrics(
                    scores, step=trainer.global_step - 1
                )  # as Lightning counts what belongs to this update
                logger.save()
        trainer.strategy.barrier("probe")

    def scores(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, float]:
        """Fit and score all heads on the encoder as it is now; figures by the name they are logged under.

        Args:
            trainer: of the run.
            pl_module: the run's module.
        """
        scores = {}
        with isolate_rng(), _silence():
            for name, folder in self.corpora.items():
                torch.manual_seed(self.seed)
                task = TASKS[name](Snapshot(pl_module.encoder), learning_rate=self.learning_rates[name], seed=self.seed)
                task.build(task.read_labels(Corpus.open(Path(folder))))
                for metric in task.modules():
                    if isinstance(metric, Metric):  # or it would gather from processes that are waiting for this one
                        metric.distributed_available_fn = _alone
                found = self._fit(task, TaskData(folder, **self._batches(name)), trainer)
                scores[f"probe/{name}_{task.metric}"] = float(found[f"valid/{task.metric}"])
        return scores

    def _batches(self, name: str) -> dict[str, Any]:
        return {**BATCHES[name], "num_workers": self.num_workers, "seed": self.seed}

    def _fit(self, task: Task, data: TaskData, run: pl.Trainer) -> Mapping[str, Tensor]:
        """All metrics of a head after its last step."""
        trainer = pl.Trainer(
            # Named, so that the processes of the run are not taken for those of the head.
            strategy=SingleDeviceStrategy(run.strategy.root_device, accelerator=run.accelerator),
            precision=run.precision,
            max_steps=self.steps,
            val_check_interval=self.steps,
            check_val_every_n_epoch=None,
            limit_val_batches=self.valid_batches,
            gradient_clip_val=1.0,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(task, data)
        return trainer.callback_metrics


def _alone() -> bool:
    """What a metric asks before it talks to other processes."""
    return False


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep what Lightning says at every start of a head off the screen."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
