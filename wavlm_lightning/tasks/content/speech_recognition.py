"""ASR: speech recognition with CTC over letters (SUPERB; LibriSpeech 100 h)."""

from __future__ import annotations

from collections import Counter
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torchmetrics import MetricCollection
from torchmetrics.text import CharErrorRate, WordErrorRate

from wavlm_lightning.augment.spec_augment import SpecAugment
from wavlm_lightning.data.batch import TaskBatch
from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.data.subset import open_splits
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks.base import Direction, check_several
from wavlm_lightning.tasks.components.beam_search import WORD_END, BeamSearch, LanguageModel
from wavlm_lightning.tasks.components.recurrent import RecurrentHead
from wavlm_lightning.tasks.components.spoken_text import spoken_text
from wavlm_lightning.tasks.ctc import CtcTask
from wavlm_lightning.upstreams import Upstream

# fairseq's order, whose beginning of sentence serves as the blank. Letters are sorted by frequency in LibriSpeech.
SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")
EOS, UNKNOWN = 2, 3
LETTERS = "ETAONIHSRDLUMCWFGYPBVK'XJQZ"


class SpeechRecognition(CtcTask):
    """Linear(dim, 1024), two bidirectional LSTMs of 1024, Linear(2048, 32), CTC; SpecAugment; greedy decoding.

    The headline metric is the word error rate without a language model, as on the leaderboard; `cer` is the character
    error rate of the same transcripts (s3prl: `downstream/asr`). With a `language_model` the test adds `wer_lm`, by beam
    search.

    Targets are the letters of the upper-case text, `|` after every word, and an end symbol. Reads `text` of each
    utterance without its punctuation (`spoken_text`); LibriSpeech's texts have none.

    Peculiarities of s3prl:

    - Time masks are placed within the padded length of the batch, so that short utterances are masked less:
      `protocol: superb` does the same, `fixed` masks within each utterance's own length.
    - Batches of 32 are split in two, because s3prl compares a limit of 2000 frames with samples: the published numbers
      come from batches of 16 (`data.batch_size: 16`), under either protocol.

    Args:
        upstream: where features come from.
        learning_rate: of Adam.
        hidden: width of the projection, and LSTM cells in each direction; 1024 in SUPERB.
        layers: LSTMs; 2 in SUPERB.
        dropout: after each LSTM; 0.2 in SUPERB.
        alphabet: null for SUPERB's 28 letters; `corpus` for the letters of the training split, in any script.
        language_model: for a second decoding of the test set; null for none.
        settings: see `Task`: normalize, seed, protocol.
    """

    name = "ASR"
    metric = "wer"
    unknown: ClassVar[int | None] = UNKNOWN
    others: ClassVar[dict[str, Direction]] = {"cer": "lower"}

    def __init__(
        self,
        upstream: Upstream,
        learning_rate: float = 1e-4,
        hidden: int = 1024,
        layers: int = 2,
        dropout: float = 0.2,
        alphabet: Literal["corpus"] | None = None,
        language_model: LanguageModel | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(upstream, learning_rate, **settings)
        self.hidden, self.layers, self.dropout = hidden, layers, dropout
        self.alphabet, self.language_model = alphabet, language_model
        if language_model is not None:
            # An instance attribute shadows the class's: only this head has the further metric.
            self.others = {**type(self).others, "wer_lm": "lower"}  # type: ignore[misc]

    def read_labels(self, corpus: Corpus) -> list[str]:
        """Four special symbols, `|` and the letters: 32 with SUPERB's alphabet."""
        if self.alphabet is None:
            return [*SPECIAL, WORD_END, *LETTERS]
        train = open_splits(corpus, "train" if self.data is None else self.data.splits["train"])
        counts = Counter(letter for meta in train.metas() for letter in spoken_text(meta.get("text") or ""))
        letters = sorted(set(counts) - {" ", WORD_END}, key=lambda letter: (-counts[letter], letter))
        if not letters:
            raise UserError(f"ASR: split {train.name} of {corpus.directory} has no text; use a corpus with transcripts")
        return [*SPECIAL, WORD_END, *letters]

    def check_labels(self, labels: Any) -> None:
        check_several(self.name, len(labels) - len(SPECIAL) - 1, "letters")

    def read_target(self, meta: dict[str, Any]) -> Tensor:
        """Letters, `|` after every word, and end symbol, int64 `(labels,)`."""
        words = spoken_text(meta.get("text") or "").split()
        if not words:
            raise UserError("ASR: an utterance has no text; use a corpus with transcripts")
        letters = "".join(word + WORD_END for word in words)
        unknown = sorted(set(letters) - self._numbers.keys())
        if unknown and self.alphabet is None:
            raise UserError(
                f"ASR: the text {' '.join(words)!r} has {unknown[0]!r}, which SUPERB's alphabet lacks; "
                "set model.alphabet: corpus, or spell it out in the corpus"
            )
        return torch.tensor([*(self._numbers.get(letter, UNKNOWN) for letter in letters), EOS])

    def build_head(self, dim: int) -> None:
        self.augment = SpecAugment(own_length=self.protocol == "fixed")
        self.head = RecurrentHead(dim, len(self.labels), self.hidden, self.layers, self.dropout)

    def build(self, labels: Any) -> None:
        fresh = self.labels is None
        super().build(labels)
        if fresh and self.language_model is not None:
            self.search = BeamSearch(self.language_model, self.labels)
            self.test_metric.add_metrics({"wer_lm": WordErrorRate()})

    def outputs(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Logits `(batch, frames, labels)`; in training, of augmented features."""
        return self.head(self.augment(features, lengths), lengths)

    def spell(self, numbers: list[int]) -> str:
        """Words separated by spaces, without end symbols; the other special symbols become U+FFFD."""
        spelled = (self.labels[n] if n >= len(SPECIAL) else "\N{REPLACEMENT CHARACTER}" for n in numbers if n != EOS)
        return " ".join("".join(spelled).replace(WORD_END, " ").split())

    def build_metric(self) -> MetricCollection:
        """Word and character error rates over the whole split."""
        # Compute groups, the default, would merge the two metrics if their states agree after the first batch.
        return MetricCollection({"wer": WordErrorRate(), "cer": CharErrorRate()}, compute_groups=False)

    def update_metric(self, metric: MetricCollection, outputs: Tensor, lengths: Tensor, batch: TaskBatch) -> None:
        texts, references = self.decode(outputs, lengths), self.references(batch.targets)
        metric["wer"].update(texts, references)
        metric["cer"].update(texts, references)
        if "wer_lm" in metric:
            metric["wer_lm"].update(self.search(outputs, lengths), references)

    def readable(self, outputs: Tensor, lengths: Tensor) -> list[dict[str, Any]]:
        """The transcript and, with a language model, its transcript as `text_lm`."""
        rows = super().readable(outputs, lengths)
        if self.language_model is not None:
            for row, text in zip(rows, self.search(outputs, lengths), strict=True):
                row["text_lm"] = text
        return rows
