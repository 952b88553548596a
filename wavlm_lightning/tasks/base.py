"""The base class of all downstream tasks: upstream, weighted sum, training, evaluation, prediction."""

from __future__ import annotations

import contextlib
import json
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from lightning.pytorch.callbacks import BaseFinetuning
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric

from wavlm_lightning.data.batch import Targets, TaskBatch, Waveforms
from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.encoder import Layers
from wavlm_lightning.reports.utterances import UtteranceResults
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks.checkpoint import HeadCheckpoint
from wavlm_lightning.tasks.contract import NamedMeta, Needs, Served, join
from wavlm_lightning.tasks.scored_utterances import ScoredUtterances, of_all_processes
from wavlm_lightning.tasks.start_from import Part, start_from_run
from wavlm_lightning.tasks.transformers_form import TransformersForm
from wavlm_lightning.tasks.windows import WINDOW_SECONDS, is_long, long_outputs
from wavlm_lightning.training.fsdp import FSDP2
from wavlm_lightning.training.module import Optimization, Trainable, stream
from wavlm_lightning.training.optimizers import parameter_groups
from wavlm_lightning.training.schedules import Schedule
from wavlm_lightning.upstreams import Upstream, WeightedSum
from wavlm_lightning.upstreams.cache import Level

Direction = Literal["lower", "higher"]
Protocol = Literal["superb", "fixed"]
Answer = Literal["label", "vector", "labels", "frames", "waveform", "text"]


@dataclass(frozen=True)
class Unit:
    """How a card, a table or a picture shows a metric: its value times `scale`, with `decimals`, followed by `name`.

    Example:
        >>> class Denoiser(Task):
        ...     metric, better, others = "si_sdr", "higher", {"pesq": "higher"}
        ...     units = {"si_sdr": Unit("dB", 1.0, 1), "pesq": Unit("", 1.0, 2)}
    """

    name: str = "%"
    scale: float = 100.0
    decimals: int = 2

    def text(self, value: float) -> str:
        """A metric's value as people read it: 0.2514 as "25.14 %", 9.3456 as "9.3 dB"."""
        return f"{value * self.scale:.{self.decimals}f} {self.name}".rstrip()


PERCENT = Unit()


class Transcript(NamedTuple):
    """An utterance of a validation: its key, its text (what `Task.transcript_names` calls it), and what the head makes of it."""

    key: str
    spoken: str
    heard: str


SHOWN = 8  # keys of a batch that an error message lists
ENCODER = 1  # the random stream of a trained upstream, beside that of the head


class Task(HeadCheckpoint, Trainable):
    """A downstream task: a LightningModule with a head on an upstream (SUPERB, arXiv 2105.01051).

    A subclass declares the class attributes and implements a few short methods: the label inventory, how a target is
    read from an utterance's metadata, the head, its outputs, the loss, the metric, and the printable prediction. This
    class does the rest.

    Args:
        upstream: where features come from; frozen unless it says otherwise.
        learning_rate: of Adam, peak of the schedule; the only hyperparameter that SUPERB tunes.
        normalize: layer norm over each layer before the weighted sum; off in SUPERB.
        seed: of the head's initial weights and of dropout; null takes `seed_everything` of the command line, else 1337.
        protocol: `superb` follows s3prl, whose code made the published numbers, also where it departs from good practice
            in a way that moves the score; `fixed` corrects these points. The task's documentation lists them.
        start_from: folder of a run, or a checkpoint, whose weights a new run begins with. A run that `wavlm fit` resumes does
            not read it; from Python leave it out then, because Lightning names the checkpoint too late to know of it.
        start_with: which weights of that run: the `head` (with the weighted sum), the `encoder`, or `both`.
        schedule: learning rate over updates; constant if left out, as in s3prl's configurations of these tasks.
        weight_decay: above 0 the optimiser is AdamW with this decay.
        betas: of Adam.
        eps: of Adam.
        decay_all: decay all parameters; false spares biases, norms and other vectors.

    Attributes:
        name: SUPERB's abbreviation.
        metric: name of the headline metric.
        better: `lower` or `higher`.
        headlines: the metrics that tables, pictures and lines show, `metric` among them; it alone by default.
        others: further metrics that `build_metric` computes, and their direction.
        units: by metric, how it is shown; a metric without a unit is a fraction, shown in percent.
        answer: what `outputs` gives for a recording: scores of one `label` or one `vector`, `(batch, dim)`; `labels`, a
            sequence of scores that may be cut anywhere (CTC); `frames`, one answer that must see all frames (diarization);
            `waveform`, `(batch, samples)` or `(batch, samples, parts)` (see `WaveformTask`); `text`, what `readable` decodes
            from all frames. Windows of long recordings, prediction, export, reports and W&B go by it; None lets them go by the
            shape.
        answer_sounds: names of the sounds that the head makes, for a task whose answers people can hear; see `playable`.
        lost_frames: frames by which the convolutions of the head shorten an utterance; graphs are traced with more.
        cache_level: what a feature cache may store: `utterance` (means over time) if the head is linear up to its mean
            over time, `frame` if the head needs every frame and inputs are never augmented, None if caching is not exact.
        transcript_names: what the two texts of `transcripts` are called.
        every_talker: whether the target lists all who speak, as in diarization, so that `data.transforms` may add nobody.
        target_audio: names of further audio of an utterance (`Utterance.audio`) that is the target instead of what
            `read_target` returns, sample by sample with the input and cropped with it: one name gives targets
            `(batch, samples)`, several `(batch, samples, names)`. Where a corpus lacks the only name, the target is the
            waveform before `data.transforms` or `data.eval_transforms`.
        reconstructs: of a task with `target_audio`: without transforms, the target is the input itself, as a vocoder's is.
        extra_audio: names of further audio that is a second input, such as an enrolment, of any length and not cropped;
            `batch.extra[name]` has it, and `beside` hands it to the head.
        data: what the data module serves in this run, see `Served`; None without one.

    Example:
        >>> task = KeywordSpotting(upstream=Fbank(cmvn=False), learning_rate=1e-3)
        >>> trainer.fit(task, TaskData("runs/demo/corpus/ks", batch_size=32))
    """

    name: ClassVar[str]
    metric: ClassVar[str]
    better: ClassVar[Direction]
    headlines: ClassVar[tuple[str, ...]] = ()
    others: ClassVar[dict[str, Direction]] = {}
    units: ClassVar[dict[str, Unit]] = {}
    answer: ClassVar[Answer | None] = None
    answer_sounds: ClassVar[tuple[str, ...]] = ()
    lost_frames: ClassVar[int] = 0
    cache_level: ClassVar[Level | None] = None
    transcript_names: ClassVar[tuple[str, str]] = ("spoken", "heard")
    every_talker: ClassVar[bool] = False
    target_audio: ClassVar[tuple[str, ...]] = ()
    reconstructs: ClassVar[bool] = False
    extra_audio: ClassVar[tuple[str, ...]] = ()
    sharded_checkpoints = False  # a head is read back in one process

    def __init__(
        self,
        upstream: Upstream,
        learning_rate: float,
        normalize: bool = False,
        seed: int | None = None,
        protocol: Protocol = "superb",
        start_from: str | None = None,
        start_with: Part = "both",
        schedule: Schedule | None = None,
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        decay_all: bool = True,
    ) -> None:
        super().__init__(learning_rate, Optimization(schedule, betas, eps, weight_decay, decay_all))
        self.start_from, self.start_with = start_from, start_with
        self.upstream = upstream
        self.seed, self.protocol = 1337 if seed is None else seed, protocol
        self.weighted_sum = WeightedSum(upstream.num_layers, normalize)
        self.means = nn.ModuleDict()
        self.add_means("loss")
        self.labels: Any = None
        self.data: Served | None = None
        self.trained: dict[str, Any] = {}  # how the head of a loaded checkpoint was trained
        self.tested: list[str] = []  # keys of the utterances of the newest test; of all processes at its end
        self.details: dict[str, Any] = {}  # of the test, for the result card
        self.scored = ScoredUtterances()  # in the test that runs
        self.utterance_results: UtteranceResults | None = None  # of the last test, in the first process
        self.fitted: dict[str, Any] = {}  # what `fit_on_validation` found last
        self.fitted_tensors: dict[str, Tensor] = {}  # what it found that no card holds, such as a cohort; on the CPU
        self.started: dict[str, Any] = {}  # with which weights the run began
        self.transcripts: list[Transcript] = []  # of the last validation, a few; only of heads that write words
        self.answered: tuple[Tensor, Tensor] | None = None  # what `answers` gave last, to be shown
        # A head's checkpoint leaves the frozen upstream out; `HeadCheckpoint.load_state_dict` checks the other keys.
        self.strict_loading = False

    # A subclass implements these methods.

    @abstractmethod
    def read_labels(self, corpus: Corpus) -> Any:
        """The label inventory, JSON-like; it is stored in the checkpoint."""

    @abstractmethod
    def read_target(self, meta: dict[str, Any]) -> Tensor:
        """The target of an utterance from its metadata and `self.labels`: `()`, `(labels,)` or `(frames, ...)`.

        Label indices are int64; numbers keep their dtype. Raises `UserError` if the metadata lack it or it is not among
        the labels. Not called for a task with `target_audio`.
        """

    @abstractmethod
    def build_head(self, dim: int) -> None:
        """Create the layers that read features `(batch, frames, dim)`; `self.labels` is already set."""

    @abstractmethod
    def outputs(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Outputs of the head, usually logits, from the weighted sum `(batch, frames, dim)` and valid frames `(batch,)`."""

    @abstractmethod
    def loss(self, outputs: Tensor, lengths: Tensor, targets: Targets) -> Tensor:
        """The training loss, a scalar."""

    @abstractmethod
    def build_metric(self) -> Metric:
        """A new torchmetrics metric; `compute` returns the headline value, or all values by name, as fractions."""

    @abstractmethod
    def update_metric(self, metric: Metric, outputs: Tensor, lengths: Tensor, batch: TaskBatch) -> None:
        """Add the outputs of a batch to the metric."""

    @abstractmethod
    def readable(self, outputs: Tensor, lengths: Tensor) -> list[dict[str, Any]]:
        """JSON-like predictions, one for each utterance of a batch: a transcript, a label with its score, turns, ..."""

    # A subclass may override these methods.

    def playable(self, outputs: Tensor, lengths: Tensor, batch: TaskBatch) -> list[dict[str, Tensor]]:
        """For each utterance of a batch what people listen to: name -> waveform `(samples,)` at 16 kHz, in the order of play.

        Called for a few utterances of a test if `answer_sounds` names some. Those of that name are the head's; all others, such
        as the input and the reference, are the same for every head.
        """
        return []

    def figures_of_answers(self, metric: Metric) -> dict[str, dict[str, float]]:
        """Measures by name of the one utterance that a metric has seen, for each of `answer_sounds` that has some."""
        values = metric.compute()
        named = values if isinstance(values, dict) else {self.metric: values}
        return {self.answer_sounds[0]: {name: float(value) for name, value in named.items() if "/" not in name}}

    def crop_target(self, target: Tensor, start: int, samples: int) -> Tensor:
        """The target of a crop of an utterance, `start` and `samples` in samples; tasks with frame labels cut them alike."""
        return target

    def check_labels(self, labels: Any) -> None:
        """Refuse, before training, labels of `read_labels` from which nothing can be learned, such as a single class."""

    def score(self, metric: Metric, stage: Literal["valid", "test"]) -> dict[str, Tensor]:
        """Metric values by name, as fractions, at the end of a validation or test epoch."""
        values = metric.compute()
        return values if isinstance(values, dict) else {self.metric: values}

    def utterance_scores(
        self, outputs: Tensor, lengths: Tensor, batch: TaskBatch
    ) -> Sequence[tuple[float, ...]] | None:
        """Errors and count of each utterance of a test batch, so that the sums of all utterances have the headline as ratio.

        Wrong and all words, seconds of error and of speech; for a mean over utterances, the figure of the utterance and 1. They
        give the headline its interval (`reports.utterances`). None: a fresh metric scores each utterance alone.
        """
        return None

    def fit_on_validation(self, metric: Metric) -> dict[str, Any]:
        """What is fitted on the validation split after training: a threshold, a clustering, a calibration.

        Called in every process at the end of each validation, before checkpoints are written; `metric` has seen the whole
        split, and its `compute` joins the processes. The values, JSON-like, are in `self.fitted`, also in a test or a
        prediction from a checkpoint. What is large goes to `self.fitted_tensors`, which the checkpoint keeps and the card
        does not. Never called with test data.
        """
        return {}

    def transformers_form(self) -> TransformersForm | str:
        """The head in the transformers library, or the reason why it has none, as the end of a sentence."""
        return "transformers has no such head"

    def selection_split(self, valid: str, test: str) -> str:
        """The split on which the best checkpoint is chosen, one of the two given."""
        return valid

    def needs(self) -> Needs:
        """What the data module must know of this task."""
        return Needs(
            name=self.name,
            upstream=self.upstream,
            protocol=self.protocol,
            read_target=self.read_target,
            crop_target=self.crop_target,
            selection_split=self.selection_split,
            cache_level=self.cache_level,
            normalize=self.weighted_sum.normalize,
            # A task that crops its targets has some that follow the waveform, whatever it answers.
            framewise=self.answer == "frames" or type(self).crop_target is not Task.crop_target,
            transcribes=self.answer in ("labels", "text"),
            every_talker=self.every_talker,
            target_audio=self.target_audio,
            reconstructs=self.reconstructs,
            extra_audio=self.extra_audio,
            check=self.check_corpus,
        )

    def check_corpus(
        self, corpus: Corpus, splits: Mapping[str, str], fitting: bool, utterances: Iterable[NamedMeta]
    ) -> None:
        """Refuse a corpus whose labels are not there, are not those of the checkpoint, or say nothing of an utterance.

        Args:
            corpus: with its label inventories.
            splits: `train`, `valid` and `test` -> the name of the split in the corpus.
            fitting: whether the head is about to be trained on it.
            utterances: whose targets are read; those of a task with `target_audio` are not.
        """
        self.data = Served(corpus, splits=splits)  # some labels are those of the training split; `join` serves the rest
        labels = self.read_labels(corpus)
        if fitting:
            self.check_labels(labels)
        self._check_built(labels)
        # A copy with labels, but without the head that `build` creates for them. Not `copy.copy`: once `fully_shard` has changed
        # the class of a module, its `__new__` calls the constructor without arguments.
        reader: Task = object.__new__(type(self))
        reader.__setstate__(self.__getstate__())
        reader.labels = labels
        for naming, meta in () if self.target_audio else utterances:
            with naming:
                reader.read_target(meta)

    # Construction.

    def heads(self) -> dict[str, Task]:
        """Label -> head: here the task itself under an empty label; `ManyHeads` gives all of its heads."""
        return {"": self}

    @property
    def directions(self) -> dict[str, Direction]:
        """All metrics, the one that selects the checkpoint first, with their directions."""
        return {self.metric: self.better, **self.others}

    def unit(self, metric: str) -> Unit:
        return self.units.get(metric, PERCENT)

    @property
    def parts(self) -> int:
        """Waveforms that a task which answers with audio gives for each input: those of `target_audio`, or one."""
        return max(len(self.target_audio), 1)

    @property
    def monitor(self) -> tuple[str, str]:
        """The logged value that selects the best checkpoint, and `min` or `max`."""
        return f"valid/{self.metric}", "min" if self.better == "lower" else "max"

    def configure_model(self) -> None:
        """Build the head for the trainer's corpus. Without a trainer, the checkpoint being loaded builds it."""
        if self._trainer is not None:
            check_trainer(self)
            join(self.trainer)
            if self.data is None:
                raise UserError(
                    f"{self.name}: the trainer has no data module with a corpus; give it one, such as TaskData"
                )
            labels = self.read_labels(self.data.corpus)
            if self.trainer.state.fn == "fit":
                self.check_labels(labels)
            self.build(labels)
            if self.trainer.state.fn == "fit" and not (self.start_from or self.trainer.ckpt_path):
                self.upstream.note_random(self.name)
            # Not in a test, nor in a second `fit` of this object. Of a run that is resumed from Python, Lightning loads the
            # checkpoint after this hook and so replaces every weight again.
            if self.start_from and self.trainer.state.fn == "fit" and not (self.trained or self.started):
                self.started = self.take_weights(self.start_from)
            self.shard_parameters([parameter for parameter in self.parameters() if not parameter.requires_grad])

    def take_weights(self, source: str) -> dict[str, Any]:
        """Copy the weights that `start_from` names into a new run; returns what the result card says of them."""
        return start_from_run(self, source, self.start_with)

    def go_on(self) -> None:
        """Read no weights of another run: the checkpoint with which this run goes on has all, and the other may be gone."""
        self.start_from = None

    def sharded_blocks(self) -> Sequence[nn.Module]:
        return [] if self.upstream.frozen else self.upstream.blocks()

    def waiting_parameters(self) -> Iterable[nn.Parameter]:
        return (p for p in self.upstream.parameters() if p.requires_grad) if self.upstream.waits else ()

    def __getstate__(self) -> dict[str, Any]:
        # Processes that read audio may get a copy of the task, which must not bring the data module along.
        return {**super().__getstate__(), "data": None, "answered": None}

    def build(self, labels: Any) -> None:
        """Create head and metrics for a label inventory. A head that exists accepts only the inventory it was built for."""
        if unknown := set(self.units) - {self.metric, *self.others}:
            raise UserError(
                f"{self.name}: `units` names {', '.join(sorted(unknown))}, which is not a metric of the task"
            )
        if self.headlines and (self.metric not in self.headlines or not set(self.headlines) <= set(self.directions)):
            raise UserError(
                f"{self.name}: `headlines` are {', '.join(self.headlines)}; name `metric` ({self.metric}) and any of `others`"
            )
        self._check_built(labels)
        if self.labels is not None:
            return
        self.labels = labels
        # A random stream of its own: initial weights depend on the seed alone, not on earlier draws.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            self.build_head(self.upstream.dim)
        if hidden := sorted(name for name in self._modules if hasattr(Task, name)):
            raise UserError(f"{self.name}: a layer is called {hidden[0]!r}, which is a method of every task; rename it")
        self.valid_metric, self.test_metric = self.build_metric(), self.build_metric()

    def _check_built(self, labels: Any) -> None:
        if self.labels is not None and self.labels != labels:
            raise UserError(f"{self.name}: the checkpoint's labels differ from the corpus'; train the head again")

    @property
    def chance(self) -> float | None:
        """The headline metric of random guessing, as a fraction; None where it has no simple closed form."""
        return None

    # Steps.

    def upstream_layers(self, inputs: Any) -> Layers:
        return inputs if isinstance(inputs, Layers) else self.upstream(inputs.audio, inputs.lengths)

    def forward(self, inputs: Any) -> tuple[Tensor, Tensor]:
        """Outputs of the head and valid frames `(batch,)`, from waveforms or cached layers."""
        return self.from_layers(self.upstream_layers(inputs), inputs)

    def from_layers(self, layers: Layers, inputs: Any) -> tuple[Tensor, Tensor]:
        """The same from the upstream's hidden states; `inputs` are the audio or cached layers that they come from."""
        return self.outputs(self.weighted_sum(layers), layers.lengths), layers.lengths

    @contextlib.contextmanager
    def beside(self, extra: Mapping[str, Waveforms]) -> Iterator[None]:
        """Within this context the task answers for inputs that come with this further audio, one row for each input.

        Every step enters it before the forward pass, as do `wavlm predict` and `load_head`; a task with `extra_audio` overrides
        it (see `EnrolledTask`).
        """
        yield

    # Answers.

    def answer_kind(self, outputs: Tensor) -> Answer:
        """What the outputs of the head are: `answer`, or by their shape for a task that does not declare it."""
        return self.answer or ("frames" if outputs.ndim > 2 else "vector")

    def answer_rows(self, outputs: Tensor, lengths: Tensor) -> list[Tensor]:
        """The outputs of each utterance of a batch, without padding: `(dim,)`, `(frames, dim)` or `(samples,)`."""
        if self.answer_kind(outputs) in ("labels", "frames", "waveform"):
            return [row[:length] for row, length in zip(outputs, lengths.tolist(), strict=True)]
        return list(outputs)

    def on_train_batch_start(self, batch: TaskBatch, batch_idx: int) -> None:
        # Dropout and masks depend on the seed and the number of the batch alone, so that a resumed run draws the same.
        number, rank = self.batch_place()
        torch.manual_seed(stream(self.seed, number, rank, bits=32))
        # The same on all processes: DDP and FSDP2 need the same layers dropped.
        generator = torch.Generator().manual_seed(stream(self.seed, ENCODER, number))
        self.upstream.begin_update(self.trainer.global_step, generator)

    def batch_place(self) -> tuple[int, int]:
        """Number of the training batch in the run, and of the process that it goes to: where random streams begin."""
        return self.trainer.fit_loop.epoch_loop.batch_progress.total.processed, self.global_rank

    @contextlib.contextmanager
    def named(self, batch: TaskBatch) -> Iterator[None]:
        """Errors in this context say which utterances are in the batch."""
        try:
            yield
        except UserError as error:
            raise UserError(f"{error} ({_in_batch(batch)})") from error
        except Exception as error:
            error.add_note(f"{self.name}: {_in_batch(batch)}")
            raise

    def targets_seen(self, batch: TaskBatch, lengths: Tensor, stage: Literal["train", "valid", "test"]) -> None:
        """Look at the targets of a batch and the frames `(batch,)` that they go with: count what cannot be learned."""

    def _counted(self, lengths: Tensor, batch: TaskBatch) -> int | Tensor:
        """Utterances over which `loss` is a mean."""
        return len(batch.keys)

    def training_step(self, batch: TaskBatch, batch_idx: int) -> Tensor:
        with self.named(batch), self.beside(batch.extra):
            outputs, lengths = self(batch.inputs)
            loss = self.loss(outputs, lengths, batch.targets)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch.keys))
        self.targets_seen(batch, lengths, "train")
        return loss

    def answers(self, inputs: Any) -> tuple[Tensor, Tensor]:
        """As `forward`, but in windows if the batch is one recording of more than `LONGEST_WHOLE` seconds.

        Attention takes the square of the length. Batches of validation and test hold such a recording alone.
        """
        self.answered = self.heard(inputs, WINDOW_SECONDS if is_long(inputs) else 0.0)
        return self.answered

    def heard(self, inputs: Any, window: float) -> tuple[Tensor, Tensor]:
        """Outputs and valid frames of recordings in eval mode; a `window` above 0, in seconds, divides a single long one.

        A task that divides recordings in its own way overrides it.
        """
        if not window:
            return self(inputs)
        return long_outputs(self, inputs.audio[0, : int(inputs.lengths[0])], window)

    def evaluate(self, batch: TaskBatch, metric: Metric, stage: Literal["valid", "test"]) -> None:
        outputs, lengths = self.answers(batch.inputs)
        self.log_mean(stage, "loss", self.loss(outputs, lengths, batch.targets), self._counted(lengths, batch))
        self.update_metric(metric, outputs, lengths, batch)
        if stage == "test":
            self.scored.add(self, outputs, lengths, batch)
        self.targets_seen(batch, lengths, stage)

    def add_means(self, name: str) -> None:
        """Register a quantity for `log_mean`. Call it in `__init__`: Lightning collects metrics only once."""
        self.means.update({f"{stage}/{name}": MeanMetric() for stage in ("valid", "test")})

    def log_mean(self, stage: Literal["valid", "test"], name: str, value: Tensor, weight: int | Tensor) -> None:
        """Log the mean over all ranks of a scalar that `add_means` registered; `weight`: utterances or frames of the batch.

        Lightning's own mean over ranks rounds the mean weight down; with 5 utterances on one rank and 4 on the other it is
        12 % off.
        """
        mean = self.means[f"{stage}/{name}"]
        mean.update(value, weight)
        self.log(f"{stage}/{name}", mean, on_step=False, on_epoch=True)

    def validation_step(self, batch: TaskBatch, batch_idx: int) -> None:
        with self.named(batch), self.beside(batch.extra):
            self.evaluate(batch, self.valid_metric, "valid")

    def on_validation_epoch_end(self) -> None:
        self.answered = None
        # Not on the few batches of a sanity check, nor where s3prl's practice validates on the test split.
        if not self.trainer.sanity_checking:
            self.validated_at = self.trainer.global_step
            on_valid = self.selection_split("valid", "test") == "valid"
            self.fitted = checked(self.fit_on_validation(self.valid_metric), self.name) if on_valid else {}
        for name, value in self.score(self.valid_metric, "valid").items():
            self.log(f"valid/{name}", value, prog_bar=name == self.metric, sync_dist=True)
        self.valid_metric.reset()

    def test_step(self, batch: TaskBatch, batch_idx: int) -> None:
        if batch_idx == 0:
            self.scored, self.tested = ScoredUtterances(), []
        self.tested += batch.keys
        with self.named(batch), self.beside(batch.extra):
            self.evaluate(batch, self.test_metric, "test")

    def on_test_epoch_end(self) -> None:
        values = self.score(self.test_metric, "test")
        for name, value in values.items():
            self.log(f"test/{name}", value, sync_dist=True)
        self.test_metric.reset()
        self.scored.gather()
        self.tested = list(of_all_processes(dict.fromkeys(self.tested)))
        self.utterance_results = None
        if self.trainer.is_global_zero and self.data is not None and self.metric in values:
            self.utterance_results = self.scored.results(self, float(values[self.metric]))
        self.gather_parameters()

    def further_results(self) -> list[UtteranceResults]:
        """What each utterance of the last test adds to metrics beside the headline, for their intervals; in the first process."""
        return []

    def gather_parameters(self) -> None:
        """Make sharded weights, and the upstream's fingerprint, known to every process: the first writes the card alone."""
        if isinstance(self.trainer.strategy, FSDP2):
            self.upstream.fingerprint()
        super().gather_parameters()

    def predict_step(self, batch: TaskBatch, batch_idx: int) -> dict[str, Any]:
        with self.named(batch), self.beside(batch.extra):
            outputs, lengths = self.answers(batch.inputs)
        return {"keys": batch.keys, "outputs": outputs, "lengths": lengths, "readable": self.readable(outputs, lengths)}

    def optimizer_groups(self) -> list[dict[str, Any]]:
        """The head's group, then those of a trained upstream; one group if all learn at the same rate."""
        encoder, how = self.upstream.parameter_groups(self.learning_rate), self.optimization
        if all(group["lr"] == self.learning_rate for group in encoder):
            return super().optimizer_groups()
        theirs = set(self.upstream.parameters())
        head = [parameter for parameter in self.parameters() if parameter not in theirs]
        found = parameter_groups(head, how.weight_decay, how.decay_all, lr=self.learning_rate, name="head")
        for group in encoder:
            own = {key: value for key, value in group.items() if key not in ("params", "weight_decay")}
            found += parameter_groups(group["params"], how.weight_decay, how.decay_all, **own)
        return found

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        # As s3prl does: an update whose gradient is not finite would make every weight NaN.
        if not self.guard_gradient():
            self.log("train/skipped_updates", float(self.skipped_updates))


def _in_batch(batch: TaskBatch) -> str:
    keys = ", ".join(map(repr, batch.keys[:SHOWN])) + (
        f" and {len(batch.keys) - SHOWN} more" if len(batch.keys) > SHOWN else ""
    )
    return f"in a batch of the utterance{'s' if len(batch.keys) > 1 else ''} {keys}"


def checked(fitted: dict[str, Any], name: str) -> dict[str, Any]:
    """The values of `fit_on_validation` as JSON reads them back; a `UserError` unless checkpoint and card can hold them."""
    try:
        return json.loads(json.dumps(fitted, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{name}: fit_on_validation gives values that a card cannot hold ({error}); give finite numbers, text, lists "
            "and dicts"
        ) from None


def check_several(name: str, number: int, what: str) -> None:
    """Refuse fewer than two classes, between which nothing is to be decided."""
    if number < 2:
        raise UserError(
            f"{name}: the corpus has {number} of {what}, and telling classes apart needs at least two; prepare a corpus with more"
        )


def check_trainer(task: Task) -> None:
    """Refuse a strategy, a callback or a setting under which the head or the upstream would silently train wrongly."""
    task.check_strategy(task.name)
    task.check_precision(task.name)
    for callback in task.trainer.callbacks:
        if isinstance(callback, BaseFinetuning) and task.upstream.from_source:
            raise UserError(
                f"trainer.callbacks: {type(callback).__name__} would train nothing, because a frozen upstream passes no "
                "gradients and is not in the checkpoint; set model.upstream.frozen: false, or remove the callback"
            )
        shared = task.trainer.world_size > 1 or isinstance(task.trainer.strategy, FSDP2)
        if isinstance(callback, BaseFinetuning) and (task.upstream.fine_tuning or shared):
            raise UserError(
                f"trainer.callbacks: {type(callback).__name__} would unfreeze what model.upstream.fine_tuning keeps frozen, or "
                "what several processes would not average; use model.upstream.fine_tuning.from_update instead"
            )
    if type(task).configure_optimizers is not Task.configure_optimizers:
        ignored = [f"model.{name}" for name in ("schedule", "weight_decay") if getattr(task.optimization, name)]
        rate = task.learning_rate
        if any(group["lr"] != rate for group in task.upstream.parameter_groups(rate)):
            ignored.append("the learning rates of model.upstream.fine_tuning")
        if ignored:
            raise UserError(f"{task.name}: makes its own optimiser, which ignores {ignored[0]}; remove one of the two")
