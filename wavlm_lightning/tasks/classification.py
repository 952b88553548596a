"""The head that KS, SID, IC and ER share: linear, mean over time, linear."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy

from wavlm_lightning.data.batch import Targets, TaskBatch
from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.encoder import padding_mask
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks.base import Protocol, Task
from wavlm_lightning.upstreams import Upstream


class UtteranceClassification(Task):
    """One class an utterance: Linear(dim, 256), mean over valid frames, Linear(256, classes), cross-entropy.

    There is no activation in between, so the mean commutes with the first layer and features may be cached as means.
    Source: s3prl `downstream/model.py::UtteranceLevel`.

    A subclass says where the classes stand in the corpus (`inventory`) and in the metadata (`field`).

    Args:
        upstream: where features come from.
        learning_rate: of Adam.
        hidden: width between the two layers; 256 in SUPERB.
        normalize: layer norm over each layer before the weighted sum; off in SUPERB.
        seed: of the head's initial weights.
        protocol: see `Task`.
    """

    metric = "accuracy"
    better = "higher"
    cache_level = "utterance"
    inventory: ClassVar[str]
    field: ClassVar[str]

    def __init__(
        self,
        upstream: Upstream,
        learning_rate: float = 1e-4,
        hidden: int = 256,
        normalize: bool = False,
        seed: int = 1337,
        protocol: Protocol = "superb",
    ) -> None:
        super().__init__(upstream, learning_rate, normalize, seed, protocol)
        self.hidden = hidden

    def read_labels(self, corpus: Corpus) -> Any:
        """Names of the classes."""
        return list(corpus.inventory(self.inventory))

    def read_target(self, meta: dict[str, Any]) -> Tensor:
        """The class of an utterance, int64 `()`.

        Raises:
            UserError: the utterance has no such label, or one that the inventory lacks.
        """
        label = meta.get(self.field)
        if label not in self.labels:
            raise UserError(
                f"{self.name}: an utterance has {self.field} {label!r}, which is none of the corpus' {self.inventory}"
            )
        return torch.tensor(self.labels.index(label))

    @property
    def classes(self) -> int:
        """Logits."""
        return len(self.labels)

    @property
    def chance(self) -> float:
        """One over the classes."""
        return 1 / len(self.labels)

    def build_head(self, dim: int) -> None:
        """Two linear layers."""
        self.projector = nn.Linear(dim, self.hidden)
        self.classifier = nn.Linear(self.hidden, self.classes)

    def outputs(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Logits `(batch, classes)`."""
        projected = self.projector(features)
        valid = (~padding_mask(lengths, features.shape[1]))[:, :, None]
        return self.classifier((projected * valid).sum(1) / lengths[:, None])

    def loss(self, outputs: Tensor, lengths: Tensor, targets: Targets) -> Tensor:
        """Cross-entropy in nats."""
        return nn.functional.cross_entropy(outputs.float(), targets.values)

    def build_metric(self) -> Metric:
        """Share of utterances whose class is right."""
        return MulticlassAccuracy(num_classes=self.classes, average="micro")

    def update_metric(self, metric: Metric, outputs: Tensor, lengths: Tensor, batch: TaskBatch) -> None:
        """Add a batch."""
        metric.update(outputs.argmax(1), batch.targets.values)

    def readable(self, outputs: Tensor, lengths: Tensor) -> list[dict[str, Any]]:
        """The likeliest class and its probability."""
        best = outputs.float().softmax(1).max(1)
        rows = zip(best.values.tolist(), best.indices.tolist(), strict=True)
        return [{self.field: self.labels[place], "probability": round(value, 4)} for value, place in rows]
