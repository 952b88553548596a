"""SV: whether two utterances are of one speaker (SUPERB; VoxCeleb1)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from wavlm_lightning.data.batch import Targets, TaskBatch
from wavlm_lightning.data.corpus import Corpus, Split
from wavlm_lightning.metrics.verification import equal_error_rate
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks.base import Protocol, Task
from wavlm_lightning.tasks.components.xvector import AdditiveMarginSoftmax, XVector
from wavlm_lightning.upstreams import Upstream

Stage = Literal["valid", "test"]
UNKNOWN = -1
"""The class of speakers who are not trained on."""


class Trials(NamedTuple):
    """What a split's utterances are compared by.

    Attributes:
        split: whose trials.
        places: number of each utterance by key.
        pairs: numbers of the two sides, int64 `(trials, 2)`.
        same: whether they are one speaker, bool `(trials,)`.
    """

    split: Split
    places: dict[str, int]
    pairs: Tensor
    same: Tensor

    @classmethod
    def read(cls, corpus: Corpus, split: Split) -> Trials:
        """The trials of a split.

        Raises:
            UserError: there are none, one names an utterance that the split lacks, or all are of one kind.
        """
        trials = corpus.trials(split.name)
        places = {key: number for number, key in enumerate(split.keys)}
        strangers = {key for _, *pair in trials for key in pair if key not in places}
        if strangers:
            raise UserError(f"SV: trials of split {split.name!r} name {min(strangers)!r}, which is not in the split")
        if {same for same, *_ in trials} != {0, 1}:
            raise UserError(f"SV: the trials of split {split.name!r} are not of both kinds, one speaker and two")
        pairs = torch.tensor([[places[a], places[b]] for _, a, b in trials])
        return cls(split, places, pairs, torch.tensor([bool(same) for same, *_ in trials]))


class Embeddings(Metric):
    """Collects the embeddings of a split, from all processes."""

    full_state_update = False
    is_differentiable = False
    rows: list[Tensor]
    numbers: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("rows", [], dist_reduce_fx="cat")
        self.add_state("numbers", [], dist_reduce_fx="cat")

    def update(self, rows: Tensor, numbers: Tensor) -> None:
        """Add embeddings `(batch, dim)` of the utterances that are `numbers` `(batch,)` in their split."""
        self.rows.append(rows.float())
        self.numbers.append(numbers)

    def compute(self) -> tuple[Tensor, Tensor]:
        """Embeddings `(utterances, dim)` and which utterances they are of, `(utterances,)`."""
        return dim_zero_cat(self.rows), dim_zero_cat(self.numbers)


class SpeakerVerification(Task):
    """Linear(dim, 512), x-vector network, AM-softmax over the training speakers; cosine of embeddings; equal error rate.

    An embedding is what the first affine layer after the pooling gives, after its ReLU, at length 1; training puts a
    second affine layer and the classes on top (s3prl `downstream/sv_voxceleb1`, `configs/amsoftmax.yaml`). Reads
    `speaker` of each utterance, `speakers` and the trials of the corpus. AdamW decays all that is trained, the layer
    weights too. -3 dB and the removal of quiet stretches are the corpus recipe's part.

    Where s3prl's practice moves the score: it chooses the checkpoint by the test trials, which `superb` does too;
    `fixed` chooses by the valid trials. Its pooling takes one frame of padding in with each padded row in training;
    neither protocol does. Utterances of under 15 frames, on which it fails, are prolonged by their last frame.

    Args:
        upstream: where features come from.
        learning_rate: of AdamW.
        hidden: width of the projection of the features; 512 in SUPERB.
        widths: of the five time-delay layers; 512 four times and 1500 in SUPERB.
        embedding: width of the embedding; 512 in SUPERB.
        scale: of AM-softmax.
        margin: of AM-softmax.
        weight_decay: of AdamW.
        normalize: layer norm over each layer before the weighted sum; off in SUPERB.
        seed: of the head's initial weights.
        protocol: on which trials the checkpoint is chosen, see above.
    """

    name = "SV"
    metric = "eer"
    better = "lower"
    cache_level = "frame"

    def __init__(
        self,
        upstream: Upstream,
        learning_rate: float = 1e-4,
        hidden: int = 512,
        widths: Sequence[int] = (512, 512, 512, 512, 1500),
        embedding: int = 512,
        scale: float = 30.0,
        margin: float = 0.4,
        weight_decay: float = 0.01,
        normalize: bool = False,
        seed: int = 1337,
        protocol: Protocol = "superb",
    ) -> None:
        super().__init__(upstream, learning_rate, normalize, seed, protocol)
        self.hidden, self.widths, self.embedding = hidden, tuple(widths), embedding
        self.scale, self.margin, self.weight_decay = scale, margin, weight_decay
        self._read: Trials | None = None

    def read_labels(self, corpus: Corpus) -> list[str]:
        """The training speakers.

        Raises:
            UserError: the corpus has no speakers, or does not say which of them are in train.
        """
        speakers = corpus.inventory("speakers")
        if not isinstance(speakers, dict):
            return list(speakers)
        if not speakers.get("train"):
            raise UserError(f"{corpus.directory}: its inventory names no speakers of split 'train'; prepare it again")
        return list(speakers["train"])

    def read_target(self, meta: dict[str, Any]) -> Tensor:
        """The speaker, int64 `()`; `UNKNOWN` if he is not trained on, as in trials."""
        if "speaker" not in meta:
            raise UserError("SV: an utterance has no speaker; use a corpus with speaker labels")
        speaker = meta["speaker"]
        return torch.tensor(self.labels.index(speaker) if speaker in self.labels else UNKNOWN)

    @property
    def chance(self) -> float:
        """Half of the pairs."""
        return 0.5

    def selection_split(self, valid: str, test: str) -> str:
        """The test trials under `superb`."""
        return test if self.protocol == "superb" else valid

    def build_head(self, dim: int) -> None:
        """Projection, network, second affine layer and classes."""
        if len(self.widths) != 5:
            raise UserError(f"SV: model.widths are those of five layers, not of {len(self.widths)}")
        self.projector = nn.Linear(dim, self.hidden)
        self.network = XVector(self.hidden, self.widths, self.embedding)
        self.affine = nn.Linear(self.embedding, self.embedding)
        self.objective = AdditiveMarginSoftmax(self.embedding, len(self.labels), self.scale, self.margin)

    def outputs(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Embeddings `(batch, embedding)`, not yet of length 1."""
        return self.network(self.projector(features), lengths)

    def loss(self, outputs: Tensor, lengths: Tensor, targets: Targets) -> Tensor:
        """AM-softmax, mean over utterances."""
        return self.objective(self.affine(outputs).relu(), targets.values)

    def on_fit_start(self) -> None:
        """Complain of the trials, and of training utterances, which `read_target` cannot tell from those of the trials.

        Raises:
            UserError: an utterance is of somebody who is no class.
        """
        self._trials("valid")
        split = self.trainer.datamodule.opened["train"]
        strangers = {str(meta.get("speaker")) for meta in split.metas()}.difference(self.labels)
        if strangers:
            raise UserError(
                f"SV: the speaker {min(strangers)!r} of split {split.name!r} is not in the corpus' speakers"
            )

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW at a constant rate."""
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        return torch.optim.AdamW(trained, lr=self.learning_rate, weight_decay=self.weight_decay)

    def build_metric(self) -> Metric:
        """The embeddings; which pairs of them are compared, `score` reads from the corpus."""
        return Embeddings()

    def evaluate(self, batch: TaskBatch, metric: Metric, stage: Stage) -> None:
        """Embeddings of a batch; there is no loss on speakers who are not trained on."""
        outputs, lengths = self(batch.inputs)
        self.update_metric(metric, outputs, lengths, batch)

    def update_metric(self, metric: Metric, outputs: Tensor, lengths: Tensor, batch: TaskBatch) -> None:
        """Add a batch."""
        places = self._trials("valid" if metric is self.valid_metric else "test").places
        numbers = torch.tensor([places[key] for key in batch.keys], device=outputs.device)
        metric.update(nn.functional.normalize(outputs.float(), dim=1), numbers)

    def on_test_start(self) -> None:
        """Complain of the trials before anything is computed."""
        self._trials("test")

    def _trials(self, stage: Stage) -> Trials:
        data = self.trainer.datamodule
        if self._read is None or self._read.split is not data.opened[stage]:
            self._read = Trials.read(data.corpus, data.opened[stage])
        return self._read

    def score(self, metric: Metric, stage: Stage) -> dict[str, Tensor]:
        """Equal error rate of the split's trials; not a number if too few of its utterances were evaluated."""
        trials = self._trials(stage)
        rows, numbers = metric.compute()
        numbers = numbers.reshape(-1).cpu()  # torchmetrics hands a single one out as `()`
        row_of = torch.full((len(trials.places),), -1)
        row_of[numbers] = torch.arange(len(numbers))
        heard = (row_of[trials.pairs] >= 0).all(1)
        pairs, same = row_of[trials.pairs[heard]], trials.same[heard]
        if not 0 < int(same.sum()) < len(same):
            rank_zero_warn("SV: too few utterances were evaluated for an equal error rate (limit_*_batches)")
            return {self.metric: torch.tensor(math.nan)}
        rows = rows.double().cpu()
        if not bool(rows.isfinite().all()):  # a head that diverged has no error rate, and its learning rate no chance
            return {self.metric: torch.tensor(math.nan)}
        cosines = (rows[pairs[:, 0]] * rows[pairs[:, 1]]).sum(1)
        rate, threshold = equal_error_rate(cosines.numpy(), same.numpy())
        if stage == "test":
            self.details = {"threshold": threshold, "target_trials": int(same.sum()), "trials": len(same)}
        return {self.metric: torch.tensor(rate)}

    def readable(self, outputs: Tensor, lengths: Tensor) -> list[dict[str, Any]]:
        """The embedding; the cosine of two says how alike they are."""
        rows = nn.functional.normalize(outputs.float(), dim=1)
        return [{"embedding": [round(value, 6) for value in row]} for row in rows.tolist()]
