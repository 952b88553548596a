"""IC: intent classification of spoken commands (SUPERB; Fluent Speech Commands)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.classification import BinaryAccuracy

from wavlm_lightning.data.batch import Targets, TaskBatch
from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks.base import check_several
from wavlm_lightning.tasks.classification import UtteranceClassification
from wavlm_lightning.tasks.transformers_form import TransformersForm


class IntentClassification(UtteranceClassification):
    """Action, object and location from one vector of logits; the sum of three cross-entropies; accuracy of all three together.

    With Fluent Speech Commands there are 6 + 14 + 4 = 24 logits. Reads `intent` of each utterance and the corpus' `intents`,
    both by slot. s3prl's values depend a little on which utterances share a batch (padded frames enter the mean); ours do
    not. `protocol` makes no difference. See `UtteranceClassification` for the arguments; source: s3prl
    `downstream/fluent_commands`.
    """

    name = "IC"
    inventory = "intents"
    field = "intent"

    def read_labels(self, corpus: Corpus) -> Any:
        return {slot: list(values) for slot, values in corpus.inventory(self.inventory).items()}

    def check_labels(self, labels: Any) -> None:
        check_several(self.name, max(map(len, labels.values()), default=0), f"values in each slot of {self.inventory}")

    def read_target(self, meta: dict[str, Any]) -> Tensor:
        """The value of each slot, int64 `(slots,)`."""
        intent = meta.get(self.field) or {}
        for slot, values in self.labels.items():
            if intent.get(slot) not in values:
                raise UserError(f"IC: an utterance has {slot} {intent.get(slot)!r}, not among the corpus' intents")
        return torch.tensor([values.index(intent[slot]) for slot, values in self.labels.items()])

    @property
    def classes(self) -> int:
        return sum(map(len, self.labels.values()))

    @property
    def chance(self) -> float:
        return 1 / float(torch.tensor([len(values) for values in self.labels.values()]).prod())

    def transformers_form(self) -> TransformersForm:
        """As of a classifier, with the slot in the name of each output."""
        names = [f"{slot}={value}" for slot, each in self.labels.items() for value in each]
        return replace(super().transformers_form(), labels=names, own={"labels": self.labels})

    def slots(self, outputs: Tensor) -> tuple[Tensor, ...]:
        """The logits `(batch, values)` of each slot."""
        return outputs.float().split([len(values) for values in self.labels.values()], dim=1)

    def loss(self, outputs: Tensor, lengths: Tensor, targets: Targets) -> Tensor:
        """Sum over slots of the cross-entropy in nats."""
        pairs = zip(self.slots(outputs), targets.values.unbind(1), strict=True)
        return torch.stack([nn.functional.cross_entropy(logits, wanted) for logits, wanted in pairs]).sum()

    def build_metric(self) -> Metric:
        """Share of utterances with all slots right."""
        return BinaryAccuracy()

    def update_metric(self, metric: Metric, outputs: Tensor, lengths: Tensor, batch: TaskBatch) -> None:
        right = self._right(outputs, batch)
        metric.update(right, torch.ones_like(right))

    def _right(self, outputs: Tensor, batch: TaskBatch) -> Tensor:
        """1 where all slots are right, `(batch,)`."""
        best = torch.stack([logits.argmax(1) for logits in self.slots(outputs)], dim=1)
        return (best == batch.targets.values).all(1).int()

    def utterance_scores(
        self, outputs: Tensor, lengths: Tensor, batch: TaskBatch
    ) -> Sequence[tuple[float, ...]] | None:
        return [(right, 1.0) for right in self._right(outputs, batch).tolist()]

    def readable(self, outputs: Tensor, lengths: Tensor) -> list[dict[str, Any]]:
        """The most probable value of each slot, and the product of their probabilities."""
        best = [logits.softmax(1).max(1) for logits in self.slots(outputs)]
        probability = torch.stack([slot.values for slot in best]).prod(0).tolist()
        places = torch.stack([slot.indices for slot in best], dim=1).tolist()
        names = [
            {slot: self.labels[slot][place] for slot, place in zip(self.labels, row, strict=True)} for row in places
        ]
        return [{"intent": row, "probability": round(p, 4)} for row, p in zip(names, probability, strict=True)]
