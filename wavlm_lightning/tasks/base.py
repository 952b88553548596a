"""What all tasks share: a frozen upstream, the weighted sum, training, scoring, head-only checkpoints."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric

from wavlm_lightning.data.batch import Targets, TaskBatch
from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.encoder import Layers
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks.checkpoint import HeadCheckpoint
from wavlm_lightning.training.optimizers import drop_gradient_unless_finite
from wavlm_lightning.upstreams import Upstream, WeightedSum
from wavlm_lightning.upstreams.cache import Level

Direction = Literal["lower", "higher"]
Protocol = Literal["superb", "fixed"]


class Task(HeadCheckpoint):
    """A head on an upstream (SUPERB, arXiv 2105.01051).

    A subclass declares the class attributes and writes a few short methods: which labels there are, how a target is
    read from an utterance's metadata, the head, its outputs, the loss, the metric, and what a prediction looks like.
    Everything else is here.

    Args:
        upstream: where features come from; frozen unless it says otherwise.
        learning_rate: of Adam; the one thing SUPERB tunes.
        normalize: layer norm over each layer before the weighted sum; off in SUPERB.
        seed: of the head's initial weights.
        protocol: where s3prl, whose code made the published numbers, departs from good practice in a way that moves
            the score, `superb` does as it does and `fixed` does it right; each task says what that means for it.

    Attributes:
        name: SUPERB's abbreviation.
        metric: name of the headline metric.
        better: `lower` or `higher`.
        others: further metrics that `build_metric` computes, and their direction.
        cache_level: what a feature cache may keep: `utterance` if nothing nonlinear comes before a mean over time,
            `frame` if every frame is needed but inputs are never augmented, None if neither.

    Example:
        >>> task = KeywordSpotting(upstream=Fbank(cmvn=False), learning_rate=1e-3)
        >>> trainer.fit(task, TaskData("runs/demo/corpus/ks", batch_size=32))
    """

    name: ClassVar[str]
    metric: ClassVar[str]
    better: ClassVar[Direction]
    others: ClassVar[dict[str, Direction]] = {}
    cache_level: ClassVar[Level | None] = None

    def __init__(
        self,
        upstream: Upstream,
        learning_rate: float,
        normalize: bool = False,
        seed: int = 1337,
        protocol: Protocol = "superb",
    ) -> None:
        super().__init__()
        self.upstream = upstream
        self.learning_rate, self.seed, self.protocol = learning_rate, seed, protocol
        self.weighted_sum = WeightedSum(upstream.num_layers, normalize)
        self.means = nn.ModuleDict()
        self.add_means("loss")
        self.labels: Any = None
        self.trained: dict[str, Any] = {}
        self.details: dict[str, Any] = {}
        self.skipped_updates = 0
        # The upstream is not in the checkpoint of a head: `load_state_dict` checks that nothing else is missing.
        self.strict_loading = False

    # What a subclass writes.

    @abstractmethod
    def read_labels(self, corpus: Corpus) -> Any:
        """The label inventory, JSON-like; it is kept in the checkpoint."""

    @abstractmethod
    def read_target(self, meta: dict[str, Any]) -> Tensor:
        """The target of an utterance, int64 `()`, `(labels,)` or `(frames, classes)`, from metadata and `self.labels`."""

    @abstractmethod
    def build_head(self, dim: int) -> None:
        """Make the layers on top of features `(batch, frames, dim)`; `self.labels` is set."""

    @abstractmethod
    def outputs(self, features: Tensor, lengths: Tensor) -> Tensor:
        """What the head says, logits as a rule, from the weighted sum `(batch, frames, dim)` and valid frames `(batch,)`."""

    @abstractmethod
    def loss(self, outputs: Tensor, lengths: Tensor, targets: Targets) -> Tensor:
        """The training loss, a scalar."""

    @abstractmethod
    def build_metric(self) -> Metric:
        """A fresh torchmetrics metric; `compute` gives the headline value, or all values by name, as fractions."""

    @abstractmethod
    def update_metric(self, metric: Metric, outputs: Tensor, lengths: Tensor, batch: TaskBatch) -> None:
        """Add a batch to the metric."""

    @abstractmethod
    def readable(self, outputs: Tensor, lengths: Tensor) -> list[dict[str, Any]]:
        """What the head says of each utterance of a batch, JSON-like: a transcript, a label and its score, turns, ..."""

    # What a subclass may write.

    def crop_target(self, target: Tensor, start: int, samples: int) -> Tensor:
        """The target of a stretch of an utterance, for training crops; frame labels are cut along.

        Args:
            target: of the whole utterance.
            start: first sample of the crop.
            samples: length of the crop.
        """
        return target

    def score(self, metric: Metric, stage: Literal["valid", "test"]) -> dict[str, Tensor]:
        """Values by name, as fractions, at the end of an evaluation."""
        values = metric.compute()
        return values if isinstance(values, dict) else {self.metric: values}

    def selection_split(self, valid: str, test: str) -> str:
        """The split on which the best checkpoint is chosen."""
        return valid

    # Construction.

    @property
    def monitor(self) -> tuple[str, str]:
        """Metric and direction by which the best checkpoint is chosen."""
        return f"valid/{self.metric}", "min" if self.better == "lower" else "max"

    def configure_model(self) -> None:
        """Build the head for the corpus at hand; without a trainer the checkpoint that is being loaded builds it."""
        if self._trainer is not None:
            self.build(self.read_labels(self.trainer.datamodule.corpus))

    def build(self, labels: Any) -> None:
        """Make head and metrics for a label inventory; once made, only the same inventory is accepted.

        Raises:
            UserError: another inventory than the head was made for.
        """
        if self.labels is not None:
            if self.labels != labels:
                raise UserError(
                    f"{self.name}: the checkpoint's labels are not the corpus' labels; train the head again"
                )
            return
        self.labels = labels
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            self.build_head(self.upstream.dim)
        self.valid_metric, self.test_metric = self.build_metric(), self.build_metric()

    @property
    def chance(self) -> float | None:
        """What guessing scores on the headline metric, as a fraction; None where that has no simple answer."""
        return None

    # Steps.

    def upstream_layers(self, inputs: Any) -> Layers:
        """Waveforms or cached layers to layers."""
        return inputs if isinstance(inputs, Layers) else self.upstream(inputs.audio, inputs.lengths)

    def forward(self, inputs: Any) -> tuple[Tensor, Tensor]:
        """Waveforms or cached layers to (logits, valid frames `(batch,)`)."""
        layers = self.upstream_layers(inputs)
        return self.outputs(self.weighted_sum(layers), layers.lengths), layers.lengths

    def on_train_batch_start(self, batch: TaskBatch, batch_idx: int) -> None:
        """Let dropout and masks depend on the seed and the place in the run alone, so that a resumed run draws the same."""
        place = [self.seed, self.trainer.fit_loop.epoch_loop.batch_progress.total.processed, self.global_rank]
        torch.manual_seed(int(np.random.SeedSequence(place).generate_state(1)[0]))

    def training_step(self, batch: TaskBatch, batch_idx: int) -> Tensor:
        """Loss of a batch."""
        outputs, lengths = self(batch.inputs)
        loss = self.loss(outputs, lengths, batch.targets)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch.keys))
        return loss

    def evaluate(self, batch: TaskBatch, metric: Metric, stage: Literal["valid", "test"]) -> None:
        """Loss and metric of a batch."""
        outputs, lengths = self(batch.inputs)
        self.log_mean(stage, "loss", self.loss(outputs, lengths, batch.targets), len(batch.keys))
        self.update_metric(metric, outputs, lengths, batch)

    def add_means(self, name: str) -> None:
        """Prepare a figure for `log_mean`, in `__init__`: Lightning looks for metrics only once."""
        self.means.update({f"{stage}/{name}": MeanMetric() for stage in ("valid", "test")})

    def log_mean(self, stage: Literal["valid", "test"], name: str, value: Tensor, weight: int | Tensor) -> None:
        """Log the mean of a figure over the batches of all ranks.

        Lightning's own mean over ranks rounds the mean weight down: with 5 utterances here and 4 there it is 12 % off.

        Args:
            stage: `valid` or `test`.
            name: of the figure, one of `add_means`.
            value: of a batch, a scalar.
            weight: what the batch counts, its utterances or frames.
        """
        mean = self.means[f"{stage}/{name}"]
        mean.update(value, weight)
        self.log(f"{stage}/{name}", mean, on_step=False, on_epoch=True)

    def validation_step(self, batch: TaskBatch, batch_idx: int) -> None:
        """Score a batch."""
        self.evaluate(batch, self.valid_metric, "valid")

    def on_validation_epoch_end(self) -> None:
        """Log the metrics."""
        for name, value in self.score(self.valid_metric, "valid").items():
            self.log(f"valid/{name}", value, prog_bar=name == self.metric, sync_dist=True)
        self.valid_metric.reset()

    def test_step(self, batch: TaskBatch, batch_idx: int) -> None:
        """Score a batch."""
        self.evaluate(batch, self.test_metric, "test")

    def on_test_epoch_end(self) -> None:
        """Log the metrics."""
        for name, value in self.score(self.test_metric, "test").items():
            self.log(f"test/{name}", value, sync_dist=True)
        self.test_metric.reset()

    def predict_step(self, batch: TaskBatch, batch_idx: int) -> dict[str, Any]:
        """What the head says of a batch, in numbers and in words."""
        outputs, lengths = self(batch.inputs)
        return {
            "keys": batch.keys,
            "outputs": outputs,
            "lengths": lengths,
            "readable": self.readable(outputs, lengths),
        }

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam at a constant rate, as all trained SUPERB tasks of this kind."""
        return torch.optim.Adam([p for p in self.parameters() if p.requires_grad], lr=self.learning_rate)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        _, finite = drop_gradient_unless_finite(self.parameters())  # as s3prl does
        if not finite:
            self.skipped_updates += 1
            self.log("train/skipped_updates", float(self.skipped_updates))
