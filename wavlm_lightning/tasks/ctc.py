"""Tasks trained with connectionist temporal classification (PR, ASR, SF): the loss and greedy decoding."""

from __future__ import annotations

from abc import abstractmethod
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from wavlm_lightning.data.batch import Targets, TaskBatch
from wavlm_lightning.encoder import padding_mask
from wavlm_lightning.tasks.base import Direction, Task
from wavlm_lightning.tasks.transformers_form import TransformersForm

BLANK = 0  # index of the CTC blank


class CtcTask(Task):
    """A sequence of labels for each utterance (Graves et al. 2006); index 0 is the blank. See `Task` for the arguments.

    A subclass implements `spell`, which turns a sequence of labels into text.
    """

    better: ClassVar[Direction] = "lower"
    answer, cache_level = "labels", "frame"

    @abstractmethod
    def spell(self, numbers: list[int]) -> str:
        """The text of a sequence of labels from which blanks and repeats were removed."""

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {label: number for number, label in enumerate(self.labels)}

    def transformers_form(self) -> TransformersForm | str:
        return "it has two LSTMs and reads all layers, where WavLMForCTC has one linear layer on the last"

    def loss(self, outputs: Tensor, lengths: Tensor, targets: Targets) -> Tensor:
        """CTC loss per label, mean over utterances; an utterance with fewer frames than its labels need counts zero."""
        # In fp32, also under bf16 autocast.
        log_probabilities = outputs.float().log_softmax(-1).transpose(0, 1)
        return nn.functional.ctc_loss(
            log_probabilities, targets.values, lengths, targets.lengths, blank=BLANK, zero_infinity=True
        )

    def decode(self, outputs: Tensor, lengths: Tensor) -> list[str]:
        """Greedy decoding of logits `(batch, frames, labels)`: the best label of each frame, repeats merged, blanks dropped."""
        best = outputs.argmax(-1).masked_fill(padding_mask(lengths, outputs.shape[1]), BLANK)
        merged = [torch.unique_consecutive(row).tolist() for row in best]
        return [self.spell([number for number in row if number != BLANK]) for row in merged]

    def references(self, targets: Targets) -> list[str]:
        rows = zip(targets.values, targets.lengths.tolist(), strict=True)
        return [self.spell(row[:length].tolist()) for row, length in rows]

    def update_metric(self, metric: Any, outputs: Tensor, lengths: Tensor, batch: TaskBatch) -> None:
        metric.update(self.decode(outputs, lengths), self.references(batch.targets))

    def readable(self, outputs: Tensor, lengths: Tensor) -> list[dict[str, Any]]:
        return [{"text": text} for text in self.decode(outputs, lengths)]
