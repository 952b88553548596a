"""ST: speech translation with a Transformer encoder-decoder over characters (SUPERB-SG; CoVoST 2 en-de)."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar, NoReturn

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from wavlm_lightning.data.batch import Targets, TaskBatch
from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.data.subset import open_splits
from wavlm_lightning.metrics.text.translation import (
    TranslationQuality,
    bleu_counts,
    check_sacrebleu,
    score_translations,
    tokenizer_of,
)
from wavlm_lightning.reports.transcripts import Transcripts
from wavlm_lightning.reports.utterances import UtteranceResults
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks.base import Direction, Transcript, Unit, check_several
from wavlm_lightning.tasks.components.decoder.network import EncoderDecoder, NetworkSize
from wavlm_lightning.tasks.components.decoder.search import Decoding
from wavlm_lightning.tasks.decoding import CONDITION
from wavlm_lightning.tasks.encoder_decoder import SPARE_LABELS, EncoderDecoderTask
from wavlm_lightning.tasks.scored_utterances import of_all_processes
from wavlm_lightning.upstreams import Upstream

# The blank of CTC is never answered; without it the numbers of the network's outputs would begin at another place.
SPECIAL = ("<blank>", "<unk>", "</s>")
UNKNOWN, END = 1, 2
KEPT = 4  # answers of a validation, to be read while it trains
DECIMALS = 6  # of fractions in `details`


class SpeechTranslation(EncoderDecoderTask):
    """Convolutional subsampler, Transformer encoder and decoder, beam search over characters; frozen upstream.

    Reads `translation` of each utterance, and the language of that from the corpus' `translation_languages`. Case and punctuation
    count. The model and its defaults are those of s3prl's `downstream/speech_translation`, which takes them from fairseq's
    `s2t_transformer`; the loss is the smoothed cross-entropy, summed over the characters of an utterance, mean over utterances.

    Where the utterances of a test have a `condition` in their metadata, the card's `details` hold the scores of each apart, as
    fractions.

    Where it departs from s3prl:

    - Outputs are the characters of the training translations and an end symbol. s3prl's are pieces of a SentencePiece model of
      kind `char`: the same but for a mark in front of words, which stands for the space.
    - An empty answer stays empty. fairseq's search has at least one piece, and s3prl makes an empty text `<unk>`.
    - The search ends once no hypothesis scores above the best answer; fairseq's goes on until it has as many answers as the beam.
    - The smoothing is over all outputs; fairseq's is over all but the right one.
    - s3prl cuts answers at 400 characters; here the recording's length is the limit (`characters_per_second`).
    - There is no joint CTC on the transcript, which s3prl has as an option and leaves off.

    Args:
        upstream: where features come from.
        learning_rate: of Adam.
        network: sizes of the encoder-decoder.
        decoding: the search of test and prediction; s3prl's beam is 20, and scores are divided by the length.
        validation_beam: beam of validations, which choose the checkpoint; null for that of `decoding`.
        smoothing: of the decoder's targets, over all outputs.
        characters_per_second: of an answer, at most, and ten more; the card counts the answers that were cut there.
        rare_characters: characters that occur at most so often in training have no output of their own.
        tokenizer: of BLEU, as sacrebleu calls them; null for `zh` in Chinese, `ja-mecab` in Japanese, `ko-mecab` in Korean and
            `13a` otherwise.
        settings: see `Task`.

    Example:
        >>> task = SpeechTranslation(WavLMUpstream("base"), network=NetworkSize(width=128, heads=4, inner=512))
        >>> trainer.fit(task, TaskData("runs/mini/translation"))
    """

    name = "ST"
    metric, better = "bleu", "higher"
    headlines: ClassVar[tuple[str, ...]] = ("bleu", "chrf")
    others: ClassVar[dict[str, Direction]] = {"chrf": "higher", "exact_match": "higher"}
    units: ClassVar[dict[str, Unit]] = {"bleu": Unit("", 100.0), "chrf": Unit("", 100.0)}
    text_key = "translation"
    transcript_names = ("reference", "answer")
    special, end = len(SPECIAL), END

    def __init__(
        self,
        upstream: Upstream,
        learning_rate: float = 1e-3,
        network: NetworkSize = NetworkSize(),  # noqa: B008 - frozen
        decoding: Decoding = Decoding(beam=20, length_power=1.0),  # noqa: B008 - frozen
        validation_beam: int | None = None,
        smoothing: float = 0.1,
        characters_per_second: float = 40.0,
        rare_characters: int = 0,
        tokenizer: str | None = None,
        **settings: Any,
    ) -> None:
        if decoding.ctc_weight:
            raise UserError(
                f"model.decoding.ctc_weight: {decoding.ctc_weight}, and speech translation has no CTC, because a translation "
                "is in another order than the speech; set it to 0"
            )
        if validation_beam is not None and validation_beam < 1:
            raise UserError(f"model.validation_beam: {validation_beam}; give at least 1, or null for that of the test")
        if not 0 < characters_per_second < 1000:
            raise UserError(f"model.characters_per_second: {characters_per_second}; give a number such as 40")
        super().__init__(upstream, learning_rate, network, decoding, ctc_weight=0.0, smoothing=smoothing, **settings)
        self.validation_beam, self.characters_per_second = validation_beam, characters_per_second
        self.rare_characters, self.tokenizer = rare_characters, tokenizer
        self.test_transcripts: Transcripts | None = None
        self._exact: UtteranceResults | None = None  # of the last test, in the first process
        # Of this test: key -> reference, answer, whether it was cut.
        self._answers: dict[str, tuple[str, str, bool]] = {}

    # Labels and targets.

    def read_labels(self, corpus: Corpus) -> dict[str, Any]:
        """The language of the translations, and the characters of those of training, the most frequent first."""
        languages = list(corpus.inventory("translation_languages"))
        if len(languages) != 1:
            raise UserError(
                f"{self.name}: {corpus.directory} has translations into {', '.join(languages)}, and a head writes one "
                "language; prepare a corpus for each"
            )
        train = open_splits(corpus, "train" if self.data is None else self.data.splits["train"])
        counts = Counter[str]()
        for meta in train.metas():
            counts.update(plain(meta.get("translation")))
        if not counts:
            raise UserError(
                f"{self.name}: split {train.name} of {corpus.directory} has no translations; use a corpus with `translation` "
                "beside the text of its utterances"
            )
        kept = {each: count for each, count in counts.items() if count > self.rare_characters}
        if not kept:
            raise UserError(
                f"{self.name}: model.rare_characters {self.rare_characters} leaves no character of split {train.name} of "
                f"{corpus.directory}; set a smaller number"
            )
        characters = sorted(kept, key=lambda each: (-kept[each], each))
        return {"translation_languages": languages, "characters": characters}

    def check_labels(self, labels: Any) -> None:
        check_several(self.name, len(labels["characters"]), "characters")

    @property
    def language(self) -> str:
        """The language that the head writes."""
        return self.labels["translation_languages"][0]

    def read_target(self, meta: dict[str, Any]) -> Tensor:
        """Unicode numbers of the characters, int64 `(characters,)`, so that a reference keeps those that the head lacks."""
        text = plain(meta.get("translation"))
        if not text:
            raise UserError(f"{self.name}: an utterance has no `translation`; use a corpus with translations")
        return torch.tensor([ord(each) for each in text])

    def _numbered(self, targets: Targets) -> Targets:
        """The outputs of the network that spell targets; `UNKNOWN` for characters that it lacks."""
        place = torch.searchsorted(self.known, targets.values).clamp(max=len(self.known) - 1)
        numbers = torch.where(self.known[place] == targets.values, self.outputs_of_known[place], UNKNOWN)
        return replace(targets, values=numbers)

    def references(self, targets: Targets) -> list[str]:
        """The translations themselves, also their characters that the head lacks."""
        rows = zip(targets.values.tolist(), targets.lengths.tolist(), strict=True)
        return ["".join(map(chr, row[:length])) for row, length in rows]

    # The head.

    def build_head(self, dim: int) -> None:
        characters = self.labels["characters"]
        order = sorted(range(len(characters)), key=lambda number: ord(characters[number]))
        # Sorted Unicode numbers and the output of each; made from the labels, so no checkpoint holds them.
        self.register_buffer("known", torch.tensor([ord(characters[i]) for i in order]), persistent=False)
        self.register_buffer("outputs_of_known", torch.tensor(order) + len(SPECIAL), persistent=False)
        self.head = EncoderDecoder(
            dim, len(SPECIAL) + len(characters), self.network, END, (UNKNOWN,), smoothing=self.smoothing
        )

    def loss(self, outputs: Tensor, lengths: Tensor, targets: Targets) -> Tensor:
        """Smoothed cross-entropy in nats, summed over the characters of an utterance and the end, mean over utterances."""
        return super().loss(outputs, lengths, self._numbered(targets))

    # Answers.

    def limits(self, lengths: Tensor) -> Tensor:
        """Most characters of an answer, int64 `(batch,)`, from valid frames."""
        return (lengths * (self.characters_per_second / self.upstream.frame_rate)).long() + SPARE_LABELS

    def spell(self, numbers: Sequence[int]) -> str:
        """The text of an answer, words separated by single spaces."""
        characters = self.labels["characters"]
        return " ".join("".join(characters[number - len(SPECIAL)] for number in numbers).split())

    def build_metric(self) -> Metric:
        """BLEU, chrF and the share of exact answers."""
        return TranslationQuality(self.tokenizer or tokenizer_of(self.language))

    def configure_model(self) -> None:
        """As every head, after a look for sacrebleu; a prediction does without."""
        super().configure_model()
        if self._trainer is not None and self.trainer.state.fn != "predict":
            check_sacrebleu(self.name, self.tokenizer or tokenizer_of(self.language))

    def update_metric(self, metric: Metric, outputs: Tensor, lengths: Tensor, batch: TaskBatch) -> None:
        references = self.references(batch.targets)
        if metric is not self.valid_metric:
            found = [best for best, *_ in self.answers_of(outputs, lengths)]
            answers = [self.spell(each.labels) for each in found]
            cut = [each.cut for each in found]
            self._answers.update(zip(batch.keys, zip(references, answers, cut, strict=True), strict=True))
        else:
            answers = self._quick_answers(outputs, lengths)
            if not self.transcripts:  # of the first batch, so those of one process
                self.transcripts = [*map(Transcript, batch.keys[:KEPT], references, answers)]
        metric.update(answers, references)

    def _quick_answers(self, outputs: Tensor, lengths: Tensor) -> list[str]:
        """The answers of a validation."""
        if self.validation_beam is None:
            return self.decode(outputs, lengths)
        decoding = replace(self.decoding, beam=self.validation_beam)
        found = self.head.search(outputs, self.head.frames(lengths), decoding, self.limits(lengths))
        return [self.spell(best.labels) for best, *_ in found]

    def utterance_scores(self, outputs: Tensor, lengths: Tensor, batch: TaskBatch) -> NoReturn:
        """BLEU is no ratio of sums over utterances; the end of the test says what each adds to its n-grams."""
        raise ValueError("BLEU of a corpus is not a mean over utterances")

    # Results.

    def on_validation_epoch_start(self) -> None:
        super().on_validation_epoch_start()
        self.transcripts = []

    def on_test_epoch_start(self) -> None:
        super().on_test_epoch_start()
        self._answers = {}

    def on_test_epoch_end(self) -> None:
        """As every head; and the answers, the signatures of the scores, and the figures of each part in the card."""
        super().on_test_epoch_end()
        found, self._answers = of_all_processes(self._answers), {}
        if not self.trainer.is_global_zero or self.data is None or not found:
            return
        split = self.data.opened["test"]
        metas = {key: meta for key, meta in zip(split.keys, split.metas(), strict=True) if key in found}
        references, answers, cut = zip(*(found[key] for key in metas), strict=True)
        self.test_transcripts = Transcripts(
            tuple(metas), references, {self.metric: answers}, tuple(meta.get("speaker") for meta in metas.values())
        )
        tokenizer = self.test_metric.tokenizer
        self.utterance_results = UtteranceResults(
            task=self.name,
            metric=self.metric,
            better=self.better,
            scale=self.unit(self.metric).scale,
            corpus=self.data.corpus.name,
            split=split.name,
            keys=tuple(metas),
            errors=np.empty(0),
            counts=np.empty(0),
            speakers=speakers_of(metas),
            ngrams=bleu_counts(answers, references, tokenizer),
        )
        self._exact = replace(
            self.utterance_results,
            metric="exact_match",
            errors=np.array([float(one == other) for one, other in zip(references, answers, strict=True)]),
            counts=np.ones(len(metas)),
            ngrams=None,
        )
        signatures = score_translations(answers, references, tokenizer).signatures
        known = set(self.labels["characters"])
        counted = {"all": len(answers), "empty": sum(not each for each in answers), "cut": sum(cut)}
        # Of references that the head cannot write; they count in every figure.
        counted["unknown_characters"] = sum(not known.issuperset(each) for each in references)
        self.details = {**self.details, "signatures": signatures, "answers": counted}
        conditions = [meta.get(CONDITION) for meta in metas.values()]
        if None not in conditions and len({*conditions}) > 1:
            parts: dict[str, list[tuple[str, str]]] = {}
            for condition, answer, reference in zip(conditions, answers, references, strict=True):
                parts.setdefault(str(condition), []).append((answer, reference))
            self.details["conditions"] = {condition: self._scores(part) for condition, part in parts.items()}

    def _scores(self, pairs: Sequence[tuple[str, str]]) -> dict[str, float]:
        """The number of these answers with their references, and their scores as fractions."""
        answers, references = zip(*pairs, strict=True)
        found = score_translations(answers, references, self.test_metric.tokenizer)
        return {"utterances": len(pairs), **{name: round(getattr(found, name), DECIMALS) for name in self.directions}}

    def further_results(self) -> list[UtteranceResults]:
        """Exact answers, whose share is a mean over utterances."""
        return [] if self._exact is None else [self._exact]


def speakers_of(metas: dict[str, Any]) -> tuple[str, ...] | None:
    """The speaker of each utterance; None where the corpus does not name them all."""
    names = [meta.get("speaker") for meta in metas.values()]
    return None if None in names else tuple(map(str, names))


def plain(text: object) -> str:
    """A translation in Unicode's composed form, words separated by single spaces; empty for no text."""
    return " ".join(unicodedata.normalize("NFC", text).split()) if isinstance(text, str) else ""
