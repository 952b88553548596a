"""SV: speaker verification, whether two utterances come from one speaker (SUPERB; VoxCeleb1)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from wavlm_lightning.data.batch import Targets, TaskBatch
from wavlm_lightning.data.corpus import Corpus, Split
from wavlm_lightning.metrics.verification import equal_error_rate
from wavlm_lightning.reports.utterances import ScoredTrials
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks.base import Task, check_several
from wavlm_lightning.tasks.components.xvector import (
    LOST_FRAMES,
    TIME_DELAY,
    AdditiveMarginSoftmax,
    XVector,
    to_transformers,
)
from wavlm_lightning.tasks.transformers_form import VERIFICATION, TransformersForm
from wavlm_lightning.upstreams import Upstream

Stage = Literal["valid", "test"]
UNKNOWN = -1  # the class of speakers who are not in the training set


class Trials(NamedTuple):
    """The trials (pairs of utterances) of a split."""

    split: Split
    places: dict[str, int]  # number of each utterance in the split, by key
    pairs: Tensor  # numbers of the two utterances of a trial, int64 `(trials, 2)`
    same: Tensor  # whether both are from one speaker, bool `(trials,)`

    @classmethod
    def read(cls, corpus: Corpus, split: Split, name: str = "") -> Trials:
        """Those of the split, or of its further list `name` (`Corpus.trial_lists`)."""
        trials = corpus.trials(f"{split.name}_{name}" if name else split.name)
        places = {key: number for number, key in enumerate(split.keys)}
        strangers = {key for _, *pair in trials for key in pair if key not in places}
        if strangers:
            raise UserError(f"SV: trials of split {split.name!r} name {min(strangers)!r}, which is not in the split")
        if {same for same, *_ in trials} != {0, 1}:
            raise UserError(f"SV: trials of split {split.name!r} must include pairs of one speaker and pairs of two")
        pairs = torch.tensor([[places[a], places[b]] for _, a, b in trials])
        return cls(split, places, pairs, torch.tensor([bool(same) for same, *_ in trials]))

    def heard(self, numbers: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The trials of which both utterances were evaluated, whose numbers in the split are `numbers` `(rows,)`.

        Returns the rows of both sides, int64 `(trials, 2)`, whether they are of one speaker, bool `(trials,)`, and the
        numbers of both sides in the split, int64 `(trials, 2)`.
        """
        # The row of each utterance's embedding, -1 if it was not evaluated.
        row_of = torch.full((len(self.places),), -1)
        row_of[numbers] = torch.arange(len(numbers))
        heard = (row_of[self.pairs] >= 0).all(1)
        return row_of[self.pairs[heard]], self.same[heard], self.pairs[heard]


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
        """Add embeddings `(batch, dim)` and the numbers of their utterances in the split `(batch,)`."""
        self.rows.append(rows.float())
        self.numbers.append(numbers)

    def compute(self) -> tuple[Tensor, Tensor]:
        """Embeddings `(utterances, dim)` and the numbers of their utterances `(utterances,)`."""
        return dim_zero_cat(self.rows), dim_zero_cat(self.numbers)


class SpeakerVerification(Task):
    """Linear(dim, 512), x-vector network, AM-softmax over the training speakers; cosine of embeddings; equal error rate.

    The embedding is the output of the first affine layer after the pooling and its ReLU, scaled to length 1; training adds a
    second affine layer and the classes (s3prl `downstream/sv_voxceleb1`, `configs/amsoftmax.yaml`). Reads `speaker` of each
    utterance, `speakers` and the trials of the corpus. AdamW decays all trained weights, those of the weighted sum included.
    -3 dB and the removal of quiet stretches belong to the corpus recipe.

    Where s3prl's practice changes the score: it chooses the checkpoint by the test trials, and so does `superb`; `fixed`
    chooses by the valid trials. Its pooling includes one frame of padding with each padded row in training; neither
    protocol does. Utterances of under 15 frames, on which s3prl fails, are extended by copies of their last frame.

    Args:
        upstream: where features come from.
        learning_rate: of AdamW.
        hidden: width of the projection of the features; 512 in SUPERB.
        widths: of the five time-delay layers; 512 four times and 1500 in SUPERB.
        embedding: width of the embedding; 512 in SUPERB.
        scale: of AM-softmax.
        margin: of AM-softmax; `callbacks.MoveValue` may raise it over the updates.
        weight_decay: of AdamW.
        settings: see `Task`: normalize, seed, protocol.
    """

    name = "SV"
    metric = "eer"
    better = "lower"
    answer, cache_level = "vector", "frame"
    lost_frames = LOST_FRAMES

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
        **settings: Any,
    ) -> None:
        super().__init__(upstream, learning_rate, weight_decay=weight_decay, **settings)
        self.hidden, self.widths, self.embedding = hidden, tuple(widths), embedding
        self.scale, self.margin = scale, margin
        self._read: Trials | None = None

    @property
    def margin(self) -> float:
        """Margin of AM-softmax; the loss uses a new value from the next batch on."""
        return self.objective.margin if hasattr(self, "objective") else self._margin

    @margin.setter
    def margin(self, value: float) -> None:
        self._margin = value
        if hasattr(self, "objective"):
            self.objective.margin = value

    def read_labels(self, corpus: Corpus) -> list[str]:
        """The training speakers."""
        speakers = corpus.inventory("speakers")
        if not isinstance(speakers, dict):
            return list(speakers)
        if not speakers.get("train"):
            raise UserError(f"{corpus.directory}: its inventory names no speakers of split 'train'; prepare it again")
        return list(speakers["train"])

    def check_labels(self, labels: Any) -> None:
        check_several(self.name, len(labels), "speakers to train on")

    def read_target(self, meta: dict[str, Any]) -> Tensor:
        """The speaker, int64 `()`; `UNKNOWN` if the speaker is not in the training set, as in trials."""
        if "speaker" not in meta:
            raise UserError("SV: an utterance has no speaker; use a corpus with speaker labels")
        speaker = meta["speaker"]
        return torch.tensor(self.labels.index(speaker) if speaker in self.labels else UNKNOWN)

    @property
    def chance(self) -> float:
        return 0.5  # half of the pairs are wrong

    def selection_split(self, valid: str, test: str) -> str:
        return test if self.protocol == "superb" else valid  # as in s3prl

    def build_head(self, dim: int) -> None:
        if len(self.widths) != 5:
            raise UserError(f"SV: model.widths must have five values, not {len(self.widths)}")
        self.projector = nn.Linear(dim, self.hidden)
        self.network = XVector(self.hidden, self.widths, self.embedding)
        self.affine = nn.Linear(self.embedding, self.embedding)
        self.objective = AdditiveMarginSoftmax(self.embedding, len(self.labels), self.scale, self.margin)

    def transformers_form(self) -> TransformersForm | str:
        """The head of a `WavLMForXVector`."""
        if self.hidden != self.widths[0]:
            return f"its projection has {self.hidden} outputs, and WavLMForXVector needs those of the first layer"
        config = {"tdnn_dim": list(self.widths), "xvector_output_dim": self.embedding, **TIME_DELAY}
        rename = partial(to_transformers, affine="network.affine")
        return TransformersForm(VERIFICATION, list(self.labels), config, {"embedding": "relu"}, rename)

    def outputs(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Embeddings `(batch, embedding)`, not yet scaled to length 1."""
        return self.network(self.projector(features), lengths)

    def loss(self, outputs: Tensor, lengths: Tensor, targets: Targets) -> Tensor:
        """AM-softmax, mean over utterances."""
        return self.objective(self.affine(outputs).relu(), targets.values)

    def on_fit_start(self) -> None:
        super().on_fit_start()
        # `read_target` cannot refuse unknown speakers, since those of the trials are unknown by design.
        self._trials("valid")
        assert self.data is not None
        split = self.data.opened["train"]
        strangers = {str(meta.get("speaker")) for meta in split.metas()}.difference(self.labels)
        if strangers:
            raise UserError(f"SV: speaker {min(strangers)!r} of split {split.name!r} is not in the corpus' speakers")

    def build_metric(self) -> Metric:
        """Collects the embeddings; `score` reads from the corpus which pairs to compare."""
        return Embeddings()

    def evaluate(self, batch: TaskBatch, metric: Metric, stage: Stage) -> None:
        # No loss: the speakers of the trials have no class.
        outputs, lengths = self.answers(batch.inputs)
        self.update_metric(metric, outputs, lengths, batch)

    def update_metric(self, metric: Metric, outputs: Tensor, lengths: Tensor, batch: TaskBatch) -> None:
        places = self._trials("valid" if metric is self.valid_metric else "test").places
        numbers = torch.tensor([places[key] for key in batch.keys], device=outputs.device)
        metric.update(self.voices(outputs), numbers)

    def on_test_start(self) -> None:
        self._trials("test")  # to fail on bad trials before anything is computed

    def _trials(self, stage: Stage) -> Trials:
        data = self.data
        assert data is not None
        if self._read is None or self._read.split is not data.opened[stage]:
            self._read = Trials.read(data.corpus, data.opened[stage])
        return self._read

    def fit_on_validation(self, metric: Metric) -> dict[str, Any]:
        """The cosine above which two voices count as one, at the equal error rate of the valid trials."""
        cosines, same, _ = self._cosines(metric, "valid")
        return {} if cosines is None else {"threshold": float(equal_error_rate(cosines.numpy(), same.numpy())[1])}

    def score(self, metric: Metric, stage: Stage) -> dict[str, Tensor]:
        """Equal error rate of the split's trials; NaN if too few of its utterances were evaluated.

        The details of a test have its own threshold and, where one was fitted on valid, the errors at that one.
        """
        cosines, same, pairs = self._cosines(metric, stage)
        if cosines is None:
            self.scored.missing = "there is no equal error rate"
            if not 0 < int(same.sum()) < len(same):
                rank_zero_warn("SV: too few utterances were evaluated for an equal error rate (limit_*_batches)")
            return {self.metric: torch.tensor(math.nan)}
        rate, threshold = equal_error_rate(cosines.numpy(), same.numpy())
        if stage == "test":
            self._keep_trials(cosines, same, pairs)
            self.details = {"threshold": threshold, "target_trials": int(same.sum()), "trials": len(same)}
            if self.fitted:
                accepted = cosines >= self.fitted["threshold"]
                self.details["at_fitted_threshold"] = {
                    "false_alarms": float(accepted[~same].double().mean()),
                    "misses": float((~accepted[same]).double().mean()),
                }
        return {self.metric: torch.tensor(rate)}

    def _keep_trials(self, cosines: Tensor, same: Tensor, pairs: Tensor) -> None:
        """Keep the trials for the interval of the rate: every process has them all."""
        used, places = pairs.unique(return_inverse=True)
        keys = self._trials("test").split.keys
        sides = places.reshape(pairs.shape).numpy().T
        self.scored.keys, self.scored.complete = tuple(keys[number] for number in used.tolist()), True
        self.scored.trials = ScoredTrials(sides[0], sides[1], same.numpy(), cosines.numpy())

    def _cosines(self, metric: Metric, stage: Stage) -> tuple[Tensor | None, Tensor, Tensor]:
        """The cosine of each trial that was heard, float64 `(trials,)`, whether it is of one speaker, bool `(trials,)`, and the
        numbers of its utterances in the split, int64 `(trials, 2)`.

        No cosines if there are too few for a rate, or for a head that diverged, so that its learning rate is not selected.
        """
        trials = self._trials(stage)
        rows, numbers = metric.compute()
        numbers = numbers.reshape(-1).cpu()  # torchmetrics returns a single number as a scalar
        pairs, same, numbers = trials.heard(numbers)
        rows = rows.double().cpu()
        if not 0 < int(same.sum()) < len(same) or not bool(rows.isfinite().all()):
            return None, same, numbers
        return (rows[pairs[:, 0]] * rows[pairs[:, 1]]).sum(1), same, numbers

    def readable(self, outputs: Tensor, lengths: Tensor) -> list[dict[str, Any]]:
        """The embedding, of length 1; the cosine of two embeddings measures the similarity of the voices."""
        return [{"embedding": [round(value, 6) for value in row]} for row in self.voices(outputs).tolist()]

    def voices(self, outputs: Tensor) -> Tensor:
        """Embeddings of length 1, float32 `(batch, embedding)`, whose cosine measures the similarity of two voices."""
        return nn.functional.normalize(outputs.float(), dim=1)
