"""CTC tasks with a second decoding by a language model: transcripts, kinds of errors and hypotheses of the test."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar, NamedTuple

import numpy as np
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torchmetrics import MetricCollection
from torchmetrics.text import WordErrorRate

from wavlm_lightning.data.batch import TaskBatch
from wavlm_lightning.encoder.checkpoints.labels_seen import LABELLED, joined
from wavlm_lightning.reports.transcripts import Transcripts
from wavlm_lightning.reports.utterances import UtteranceResults
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks.components.beam_search import BeamSearch, LanguageModel
from wavlm_lightning.tasks.ctc import CtcTask
from wavlm_lightning.tasks.scored_utterances import of_all_processes
from wavlm_lightning.tasks.text import listed
from wavlm_lightning.upstreams import Upstream

CONDITION = "condition"  # metadata of an utterance: the cell of a test, such as `seen_10dB` or `dt05_real`


class SpokenWord(NamedTuple):
    """A word of a transcript; `name` is empty where a stretch of labels is known, but not as what word."""

    name: str
    labels: tuple[int, ...]  # indices of outputs


class DecodedTask(CtcTask):
    """A CTC task whose answers are words or phones, decoded greedily and, with a language model, by beam search.

    Where the utterances of a test have a `condition` in their metadata, such as noise at 10 dB, the `details` of the card hold
    the error rates of each condition apart.

    Args:
        upstream: where features come from.
        learning_rate: of Adam.
        language_model: for a second decoding of the test set; null for none.
        settings: see `Task`.

    Attributes:
        special: number of outputs, the blank first, that stand for no letter or phone.
        end: index of the end symbol.
        counted: what the headline metric counts, in the plural.
        normaliser: of the reference texts; `none` if they are taken as they are in the corpus.
        test_transcripts: of the last test, in the first process.
    """

    special: ClassVar[int]
    end: ClassVar[int]
    counted: ClassVar[str] = "words"
    normaliser: ClassVar[str] = "none"

    def __init__(
        self, upstream: Upstream, learning_rate: float, language_model: LanguageModel | None = None, **settings: Any
    ) -> None:
        super().__init__(upstream, learning_rate, **settings)
        self.language_model = language_model
        self.test_transcripts: Transcripts | None = None
        self._heard: dict[str, list[str]] = {}  # of this test: key -> reference, answer, answer with the language model
        if language_model is not None:
            # An instance attribute shadows the class's: only this head has the further metric.
            self.others = {**type(self).others, self.second_metric: "lower"}  # type: ignore[misc]

    @property
    def second_metric(self) -> str:
        """Name of the error rate with the language model."""
        return f"{self.metric}_lm"

    def build(self, labels: Any) -> None:
        fresh = self.labels is None
        super().build(labels)
        if fresh and self.language_model is not None:
            self.use_language_model(self.language_model)
            self._add_second_metric()

    def search_with(
        self, language_model: LanguageModel, pronunciations: dict[str, list[list[str]]] | None = None
    ) -> BeamSearch:
        """A beam search over the outputs of this head; see `BeamSearch` for pronunciations."""
        return BeamSearch(language_model, self.labels, range(self.special), self.unheard, pronunciations)

    @property
    def labels_behind(self) -> list[dict[str, Any]]:
        """True labels behind its answers: its own, those of its teachers, and those that its encoder has seen."""
        kept = self.trained
        return joined(self.upstream.labelled, kept.get(LABELLED), kept.get("pseudo_labelled", {}).get(LABELLED))

    # What forced alignment needs to know.

    @property
    def silent(self) -> tuple[int, ...]:
        """Outputs beside the blank that no alignment gives a time: the end symbol."""
        return (self.end,)

    @property
    def pause(self) -> int | None:
        """The output that says silence, if the head was trained with pauses."""
        return None

    @property
    def unheard(self) -> tuple[int, ...]:
        """All outputs beside the blank that say that nothing is heard."""
        return (*self.silent, *(() if self.pause is None else (self.pause,)))

    @property
    def unknowns(self) -> frozenset[int]:
        """Outputs that stand for labels which the head lacks."""
        return frozenset(() if self.unknown is None else (self.unknown,))

    def said(self, text: str) -> dict[str, Any]:
        """An answer of the head as the metadata of an utterance, from which `words_to_align` reads."""
        return {self.text_key: text}

    def words_to_align(self, meta: dict[str, Any]) -> list[SpokenWord]:
        """The labels of an utterance word by word; one without a name where the words are not known.

        Raises:
            UserError: the utterance has no transcript, or one with a label that the head lacks.
        """
        numbers = [number for number in self.read_target(meta).tolist() if number not in self.silent]
        if self.unknowns & set(numbers):
            raise UserError(f"{self.name}: its transcript has a label that the head lacks")
        return self.cut_words(numbers, meta)

    def cut_words(self, numbers: list[int], meta: dict[str, Any]) -> list[SpokenWord]:
        """Divide the labels of an utterance into words; by default each label is one, and its word is not known."""
        return [SpokenWord("", (number,)) for number in numbers]

    def use_language_model(self, language_model: LanguageModel) -> None:
        """Decode with a language model from now on; the head is already built."""
        self.language_model = language_model
        self.search = self.search_with(language_model)
        if isinstance(self.search, BeamSearch) and self.search.note:
            rank_zero_info(f"{self.name}: {self.search.note}")

    def _add_second_metric(self) -> None:
        single = {self.metric: self.test_metric}
        if not isinstance(self.test_metric, MetricCollection):
            self.test_metric = MetricCollection(single, compute_groups=False)
        self.test_metric.add_metrics({self.second_metric: WordErrorRate()})

    def add_decoded(
        self, metric: Any, texts: list[str], references: list[str], outputs: Tensor, lengths: Tensor, batch: TaskBatch
    ) -> None:
        """Keep the transcripts of a test batch, and count those with the language model."""
        if metric is not getattr(self, "test_metric", None):
            return
        decoded = [references, texts]
        if isinstance(metric, MetricCollection) and self.second_metric in metric:
            decoded.append(self.search(outputs, lengths))
            metric[self.second_metric].update(decoded[-1], references)
        self._heard.update(zip(batch.keys, map(list, zip(*decoded, strict=True)), strict=True))

    def on_test_epoch_start(self) -> None:
        super().on_test_epoch_start()
        self._heard, self.details = {}, {}  # another split may have no conditions

    def on_test_epoch_end(self) -> None:
        """As every head; and the transcripts of the split, with the kinds of errors in the card's `details`."""
        super().on_test_epoch_end()
        heard, self._heard = self._heard, {}
        heard = of_all_processes(heard)
        if not self.trainer.is_global_zero or self.data is None or not heard:
            return
        split = self.data.opened["test"]
        metas = {key: meta for key, meta in zip(split.keys, split.metas(), strict=True) if key in heard}
        columns = list(zip(*(heard[key] for key in metas), strict=True))
        names = (self.metric, self.second_metric)
        self.test_transcripts = Transcripts(
            tuple(metas),
            columns[0],
            dict(zip(names, columns[1:], strict=False)),
            tuple(meta.get("speaker") for meta in metas.values()),
        )
        found = {name: self.test_transcripts.errors(name, self.counted) for name in self.test_transcripts.answers}
        self.details = {**self.details, "errors": {"normaliser": self.normaliser, **found}}
        conditions = [meta.get(CONDITION) for meta in metas.values()]
        if None not in conditions and len({*conditions}) > 1:
            units = {self.metric: self.counted, **({"cer": "letters"} if "cer" in self.others else {})}
            self.details["conditions"] = self.test_transcripts.rates_by(list(map(str, conditions)), units)
        if self.language_model is not None:
            self.details["language_model"] = self.language_model.described()

    def further_results(self) -> list[UtteranceResults]:
        """Letters behind the character error rate, and words or phones behind the rate with a language model."""
        heard, first = self.test_transcripts, self.utterance_results
        if heard is None or first is None or heard.keys != first.keys:
            return []
        counted = {"cer": heard.counts(self.metric, "letters")} if "cer" in self.others else {}
        if self.second_metric in heard.answers:
            counted[self.second_metric] = heard.counts(self.second_metric, "words")
        return [
            replace(first, metric=name, errors=np.asarray(errors, float), counts=np.asarray(counts, float))
            for name, (errors, counts) in counted.items()
        ]

    def readable(self, outputs: Tensor, lengths: Tensor) -> list[dict[str, Any]]:
        """The greedy transcript and, with a language model, its transcript as `text_lm`; `nbest` of it if asked for."""
        if self.language_model is None:
            return super().readable(outputs, lengths)
        rows: list[dict[str, Any]] = [{self.text_key: text} for text in self.decode(outputs, lengths)]
        for row, found in zip(rows, self.search.nbest(outputs, lengths, self.nbest), strict=True):
            row[f"{self.text_key}_lm"] = found[0].text
            if self.nbest > 1:
                row["nbest"] = listed(found, self.text_key)
        return rows


def check_decodes(task: Any, what: str) -> DecodedTask:
    """The task, if it labels frames, which alignment, confidence and tuned language models read; else a `UserError`.

    Its sentence begins with `what`.
    """
    if not isinstance(task, DecodedTask):
        raise UserError(f"{what}: {task.name} is not decoded with a language model; ASR and PR are")
    if task.answer != "labels":
        raise UserError(
            f"{what}: {task.name} answers label by label and not frame by frame; train a head of CTC for it (ASR, PR)"
        )
    return task
