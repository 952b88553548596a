"""Utterance classification, the head of KS, SID, IC and ER: linear, mean over time, linear."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy

from wavlm_lightning.data.batch import Targets, TaskBatch
from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.encoder import padding_mask
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks.base import Task, check_several
from wavlm_lightning.tasks.transformers_form import CLASSIFICATION, TransformersForm
from wavlm_lightning.upstreams import Upstream


class UtteranceClassification(Task):
    """One class for each utterance: Linear(dim, 256), mean over valid frames, Linear(256, classes), cross-entropy.

    No activation lies between the layers, so the mean commutes with the first one and a cache may store means of features.
    Source: s3prl `downstream/model.py::UtteranceLevel`.

    A subclass names the corpus inventory that lists the classes (`inventory`) and the metadata key (`field`).

    Args:
        upstream: where features come from.
        learning_rate: of Adam.
        hidden: width between the two layers; 256 in SUPERB.
        settings: see `Task`: normalize, seed, protocol.
    """

    metric = "accuracy"
    better = "higher"
    answer, cache_level = "label", "utterance"
    inventory: ClassVar[str]
    field: ClassVar[str]

    def __init__(self, upstream: Upstream, learning_rate: float = 1e-4, hidden: int = 256, **settings: Any) -> None:
        super().__init__(upstream, learning_rate, **settings)
        self.hidden = hidden

    def read_labels(self, corpus: Corpus) -> Any:
        return list(corpus.inventory(self.inventory))

    def check_labels(self, labels: Any) -> None:
        check_several(self.name, len(labels), self.inventory)

    def read_target(self, meta: dict[str, Any]) -> Tensor:
        """The class of an utterance, int64 `()`."""
        label = meta.get(self.field)
        if label not in self.labels:
            raise UserError(
                f"{self.name}: an utterance has {self.field} {label!r}, which is not among the corpus' {self.inventory}"
            )
        return torch.tensor(self.labels.index(label))

    @property
    def classes(self) -> int:
        return len(self.labels)

    @property
    def chance(self) -> float:
        return 1 / len(self.labels)

    def transformers_form(self) -> TransformersForm:
        """The head of a `WavLMForSequenceClassification`."""
        return TransformersForm(CLASSIFICATION, list(self.labels), {"classifier_proj_size": self.hidden})

    def build_head(self, dim: int) -> None:
        self.projector = nn.Linear(dim, self.hidden)
        self.classifier = nn.Linear(self.hidden, self.classes)

    def outputs(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Logits `(batch, classes)`."""
        # Mask after the projection, whose bias makes padded frames non-zero.
        projected = self.projector(features)
        valid = (~padding_mask(lengths, features.shape[1]))[:, :, None]
        return self.classifier((projected * valid).sum(1) / lengths[:, None])

    def loss(self, outputs: Tensor, lengths: Tensor, targets: Targets) -> Tensor:
        """Cross-entropy in nats."""
        return nn.functional.cross_entropy(outputs.float(), targets.values)

    def build_metric(self) -> Metric:
        """Accuracy: the share of utterances whose class is right."""
        return MulticlassAccuracy(num_classes=self.classes, average="micro")

    def update_metric(self, metric: Metric, outputs: Tensor, lengths: Tensor, batch: TaskBatch) -> None:
        metric.update(outputs.argmax(1), batch.targets.values)

    def utterance_scores(
        self, outputs: Tensor, lengths: Tensor, batch: TaskBatch
    ) -> Sequence[tuple[float, ...]] | None:
        """1 and 1 for a right class, 0 and 1 for a wrong one; None if a subclass measures something else."""
        for name in ("build_metric", "update_metric"):
            if getattr(type(self), name) is not getattr(UtteranceClassification, name):
                return None
        return [(right, 1.0) for right in (outputs.argmax(1) == batch.targets.values).float().tolist()]

    def readable(self, outputs: Tensor, lengths: Tensor) -> list[dict[str, Any]]:
        """The most probable class and its probability."""
        best = outputs.float().softmax(1).max(1)
        rows = zip(best.values.tolist(), best.indices.tolist(), strict=True)
        return [{self.field: self.labels[place], "probability": round(value, 4)} for value, place in rows]
