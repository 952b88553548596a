"""Tasks that answer with text: sequences of labels that are searched, spelled, and compared with those of the target."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar

from torch import Tensor

from wavlm_lightning.data.batch import Targets, TaskBatch
from wavlm_lightning.tasks.base import Task
from wavlm_lightning.tasks.components.beam_search import Hypothesis
from wavlm_lightning.tasks.scored_utterances import contribution, headline_of


class TextTask(Task):
    """A task whose outputs a search turns into labels, and `spell` into text. See `Task` for the arguments.

    A subclass implements `spell`, `decode` and `best_texts`; `CtcTask` and `EncoderDecoderTask` have the last two.

    Attributes:
        text_key: of the answer in `readable`.
        nbest: answers of each recording in `readable`, with scores; 1 for the one of `decode` alone.
    """

    text_key: ClassVar[str] = "text"
    nbest = 1

    @abstractmethod
    def spell(self, numbers: list[int]) -> str:
        """The text of a sequence of labels."""

    @abstractmethod
    def decode(self, outputs: Tensor, lengths: Tensor) -> list[str]:
        """The text of each utterance, from outputs and valid frames `(batch,)`."""

    @abstractmethod
    def best_texts(self, outputs: Tensor, lengths: Tensor, count: int) -> list[list[Hypothesis]]:
        """The best different texts of each utterance, best first: at least one, at most `count`."""

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {label: number for number, label in enumerate(self.labels)}

    def references(self, targets: Targets) -> list[str]:
        """The texts of targets."""
        rows = zip(targets.values, targets.lengths.tolist(), strict=True)
        return [self.spell(row[:length].tolist()) for row, length in rows]

    def update_metric(self, metric: Any, outputs: Tensor, lengths: Tensor, batch: TaskBatch) -> None:
        metric.update(self.decode(outputs, lengths), self.references(batch.targets))

    def utterance_scores(
        self, outputs: Tensor, lengths: Tensor, batch: TaskBatch
    ) -> Sequence[tuple[float, ...]] | None:
        """Edits and labels of each utterance, or the value of the headline metric for a mean such as the F1 of slots."""
        metric, scores = headline_of(self.build_metric().to(outputs.device), self.metric), []
        metric.distributed_available_fn = lambda: False  # other processes are at other utterances
        for text, reference in zip(self.decode(outputs, lengths), self.references(batch.targets), strict=True):
            metric.reset()
            metric.update([text], [reference])
            scores.append(contribution(metric, self.metric))
        return scores

    def readable(self, outputs: Tensor, lengths: Tensor) -> list[dict[str, Any]]:
        """The answer of `decode` and, if several are asked for, `nbest` of them with scores."""
        rows: list[dict[str, Any]] = [{self.text_key: text} for text in self.decode(outputs, lengths)]
        if self.nbest > 1:
            for row, found in zip(rows, self.best_texts(outputs, lengths, self.nbest), strict=True):
                row["nbest"] = listed(found, self.text_key)
        return rows


def listed(found: Sequence[Hypothesis], key: str) -> list[dict[str, Any]]:
    """Hypotheses, JSON-like, with scores of four decimals."""
    return [{key: text, "score": round(score, 4)} for text, score in found]
