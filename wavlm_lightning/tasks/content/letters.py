"""The base of ASR tasks over letters: alphabet, spelling, word and character errors, a language model for the test."""

from __future__ import annotations

from collections import Counter
from typing import Any, ClassVar, Literal

from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torchmetrics import MetricCollection
from torchmetrics.text import CharErrorRate, WordErrorRate

from wavlm_lightning.data.batch import TaskBatch
from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.data.subset import open_splits
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks.base import Direction, Transcript, check_several
from wavlm_lightning.tasks.components.beam_search import WORD_END, LanguageModel
from wavlm_lightning.tasks.components.spoken_text import left_out, spoken_text
from wavlm_lightning.tasks.decoding import DecodedTask, SpokenWord
from wavlm_lightning.upstreams import Upstream

# fairseq's order, whose beginning of sentence serves as the blank. Letters are sorted by frequency in LibriSpeech.
SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")
EOS, UNKNOWN = 2, 3
LETTERS = "ETAONIHSRDLUMCWFGYPBVK'XJQZ"
KEPT = 4  # transcripts of a validation, to be read while it trains


class LetterRecognition(DecodedTask):
    """Transcripts as letters, `|` after every word. Reads `text` of each utterance without its punctuation (`spoken_text`).

    A subclass adds the head, and says whether targets end with an end symbol.

    Args:
        upstream: where features come from.
        learning_rate: of Adam.
        alphabet: null for the 28 letters of SUPERB and fairseq; `corpus` for the letters of the training split, in any script.
        language_model: for a second decoding of the test set; null for none.
        settings: see `Task`.
    """

    metric = "wer"
    unknown: ClassVar[int | None] = UNKNOWN
    special, end, normaliser = len(SPECIAL), EOS, "spoken_text"
    others: ClassVar[dict[str, Direction]] = {"cer": "lower"}

    def __init__(
        self,
        upstream: Upstream,
        learning_rate: float,
        alphabet: Literal["corpus"] | None = None,
        language_model: LanguageModel | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(upstream, learning_rate, language_model, **settings)
        self.alphabet = alphabet
        self.rare_letters = 0  # with the letters of a corpus: those that occur at most so often are unknown ones
        self.alphabet_notes: list[str] = []  # lines for people: the letters of a corpus, and what they leave out

    def read_labels(self, corpus: Corpus) -> list[str]:
        """Four special symbols, `|` and the letters: 32 with SUPERB's alphabet."""
        if self.alphabet is None:
            return [*SPECIAL, WORD_END, *LETTERS]
        train = open_splits(corpus, "train" if self.data is None else self.data.splits["train"])
        counts, marks = Counter[str](), Counter[str]()
        for meta in train.metas():
            counts.update(spoken_text(meta.get("text") or ""))
            marks.update(left_out(meta.get("text") or ""))
        if not set(counts) - {" ", WORD_END}:
            raise UserError(
                f"{self.name}: split {train.name} of {corpus.directory} has no text; use a corpus with transcripts"
            )
        found = {letter: n for letter, n in counts.items() if letter not in (" ", WORD_END)}
        rare = {letter: n for letter, n in found.items() if n <= self.rare_letters}
        if len(rare) == len(found):
            raise UserError(
                f"{self.name}: model.rare_letters {self.rare_letters} leaves no letter of split {train.name} of "
                f"{corpus.directory}; set a smaller number"
            )
        letters = _by_frequency({letter: n for letter, n in found.items() if letter not in rare})
        self.alphabet_notes = [f"{len(letters)} letters of {train.name}, upper case, in NFC: {' '.join(letters)}"]
        if rare:
            self.alphabet_notes.append(f"rare letters, which count as one unknown label: {_counted(rare)}")
        if marks:
            self.alphabet_notes.append(f"punctuation that is left out of the texts: {_counted(marks)}")
        return [*SPECIAL, WORD_END, *letters]

    def check_labels(self, labels: Any) -> None:
        check_several(self.name, len(labels) - len(SPECIAL) - 1, "letters")

    def numbered_letters(self, meta: dict[str, Any]) -> list[int]:
        """The outputs that spell an utterance, `|` after every word."""
        words = spoken_text(meta.get("text") or "").split()
        if not words:
            raise UserError(f"{self.name}: an utterance has no text; use a corpus with transcripts")
        letters = "".join(word + WORD_END for word in words)
        unknown = sorted(set(letters) - self._numbers.keys())
        if unknown and self.alphabet is None:
            raise UserError(
                f"{self.name}: the text {' '.join(words)!r} has {unknown[0]!r}, which SUPERB's alphabet lacks; "
                "set model.alphabet: corpus, or spell it out in the corpus"
            )
        return [self._numbers.get(letter, UNKNOWN) for letter in letters]

    def spell(self, numbers: list[int]) -> str:
        """Words separated by spaces, without end symbols; the other special symbols become U+FFFD."""
        spelled = (self.labels[n] if n >= len(SPECIAL) else "\N{REPLACEMENT CHARACTER}" for n in numbers if n != EOS)
        return " ".join("".join(spelled).replace(WORD_END, " ").split())

    def cut_words(self, numbers: list[int], meta: dict[str, Any]) -> list[SpokenWord]:
        """Words with the `|` behind each."""
        return words_behind(numbers, self.labels, WORD_END)

    def on_fit_start(self) -> None:
        super().on_fit_start()
        for note in self.alphabet_notes:
            rank_zero_info(f"{self.name}: {note}")

    def on_validation_epoch_start(self) -> None:
        super().on_validation_epoch_start()
        self.transcripts = []

    def build_metric(self) -> MetricCollection:
        """Word and character error rates over the whole split."""
        # Compute groups, the default, would merge the two metrics if their states agree after the first batch.
        return MetricCollection({"wer": WordErrorRate(), "cer": CharErrorRate()}, compute_groups=False)

    def update_metric(self, metric: MetricCollection, outputs: Tensor, lengths: Tensor, batch: TaskBatch) -> None:
        texts, references = self.decode(outputs, lengths), self.references(batch.targets)
        if metric is self.valid_metric and not self.transcripts:  # of the first batch, so those of one process
            self.transcripts = [*map(Transcript, batch.keys[:KEPT], references, texts)]
        for rate in {"wer", "cer"} & metric.keys():
            metric[rate].update(texts, references)
        self.add_decoded(metric, texts, references, outputs, lengths, batch)


def words_behind(numbers: list[int], labels: list[str], end: str) -> list[SpokenWord]:
    """Divide labels into words behind each `end`, which belongs to the word in front of it."""
    words: list[SpokenWord] = []
    begin = 0
    for place, number in enumerate(numbers):
        if labels[number] == end or place == len(numbers) - 1:
            word = tuple(numbers[begin : place + 1])
            words.append(SpokenWord("".join(labels[n] for n in word if labels[n] != end), word))
            begin = place + 1
    return words


def _by_frequency(counts: dict[str, int]) -> list[str]:
    return sorted(counts, key=lambda letter: (-counts[letter], letter))


def _counted(counts: dict[str, int]) -> str:
    """Such as `, 12, ? 3`, the most frequent first."""
    return ", ".join(f"{letter} {counts[letter]:,}" for letter in _by_frequency(counts))
