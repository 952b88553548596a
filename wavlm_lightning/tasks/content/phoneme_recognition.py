"""PR: phoneme recognition with CTC (SUPERB; LibriSpeech 100 h)."""

from __future__ import annotations

import bisect
import itertools
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.text import WordErrorRate

from wavlm_lightning.data.batch import TaskBatch
from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks.base import check_several
from wavlm_lightning.tasks.components.beam_search import LanguageModel
from wavlm_lightning.tasks.ctc import BLANK
from wavlm_lightning.tasks.decoding import DecodedTask, SpokenWord
from wavlm_lightning.tasks.scored_utterances import headline_of
from wavlm_lightning.tasks.transformers_form import TransformersForm
from wavlm_lightning.upstreams import Upstream

EOS, UNKNOWN = 1, 2
SPECIAL = ("<pad>", "<eos>", "<unk>")
PAUSE = "SIL"
BREATH = 1e-3  # seconds between the start of a word and that of its first phone, which files round


class PhonemeRecognition(DecodedTask):
    """Linear(dim, 256), Linear(256, phones + 3), CTC; greedy decoding; phone error rate.

    Targets are the utterance's phones without pauses, followed by an end symbol, as in s3prl `downstream/ctc`
    (`libriphone.yaml`); the blank is index 0. Phones that differ in stress are different. Reads `phones` of each
    utterance, `[[name, ...], ...]` with or without times.

    Two details of s3prl are not reproduced under either protocol, because they do not change the score systematically. It
    batches utterances of similar target length and drops half of a batch whose first recording exceeds 18.75 s; here
    batches hold utterances of similar duration and nothing is dropped. It replaces an empty hypothesis by one wrong
    token, which costs as much as the missing one.

    With an upstream that is trained (`frozen: false`) and `pauses` it is the phone recogniser that `wavlm align` uses
    (`configs/finetune/mini/pr.yaml`).

    Args:
        upstream: where features come from.
        learning_rate: of Adam.
        hidden: width between the two layers; 256 in SUPERB.
        pauses: keep the pauses (`SIL`) of the corpus in the targets, so that the head has an output that says silence; its phone
            error rate still counts phones alone. SUPERB leaves them out.
        language_model: of phones (`wavlm lm --units phones`), for a second decoding of the test set, whose phone error rate is
            `per_lm`; null for none.
        settings: see `Task`: normalize, seed, protocol (which makes no difference here).
    """

    name = "PR"
    metric = "per"
    unknown: ClassVar[int | None] = UNKNOWN
    special, end, counted, text_key = len(SPECIAL), EOS, "phones", "phones"

    def __init__(
        self,
        upstream: Upstream,
        learning_rate: float = 1e-2,
        hidden: int = 256,
        language_model: LanguageModel | None = None,
        pauses: bool = False,
        **settings: Any,
    ) -> None:
        super().__init__(upstream, learning_rate, language_model, **settings)
        self.hidden, self.pauses = hidden, pauses

    def read_labels(self, corpus: Corpus) -> list[str]:
        """Three special symbols and the corpus' `phones`, pauses included: 74 with LibriSpeech's 71 symbols.

        With `pauses`, `SIL` too where the inventory lacks it.
        """
        phones = corpus.inventory("phones")
        return [*SPECIAL, *phones, *([PAUSE] if self.pauses and PAUSE not in phones else [])]

    def check_labels(self, labels: Any) -> None:
        check_several(self.name, len(labels) - len(SPECIAL), "phones")

    def read_target(self, meta: dict[str, Any]) -> Tensor:
        """Phones, with `pauses` those too, and end symbol, int64 `(labels,)`."""
        if not meta.get("phones"):
            raise UserError("PR: an utterance has no phones; use a corpus with phone labels")
        said = [self._numbers.get(phone, UNKNOWN) for phone, *_ in meta["phones"] if self.pauses or phone != PAUSE]
        return torch.tensor([*said, EOS])

    def build_head(self, dim: int) -> None:
        self.projector = nn.Linear(dim, self.hidden)
        self.classifier = nn.Linear(self.hidden, len(self.labels))

    def outputs(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Logits `(batch, frames, labels)`."""
        return self.classifier(self.projector(features))

    def transformers_form(self) -> TransformersForm | str:
        return "it reads a weighted sum of all layers, and WavLMForCTC the last layer alone"

    def spell(self, numbers: list[int]) -> str:
        """Phones separated by spaces, without end symbols and trained pauses."""
        return " ".join(self.labels[number] for number in numbers if number not in (BLANK, *self.unheard))

    @property
    def pause(self) -> int | None:
        return self._numbers.get(PAUSE) if self.pauses else None

    def said(self, text: str) -> dict[str, Any]:
        return {"phones": [[phone] for phone in text.split()]}

    def words_to_align(self, meta: dict[str, Any]) -> list[SpokenWord]:
        """The phones between two places where a pause may be.

        They are words where the corpus has times of both; else what lies between two pauses; else each phone, as in an answer
        of the head itself, whose words are not known.
        """
        rows = meta.get("phones") or []
        if strange := sorted({phone for phone, *_ in rows} - {PAUSE} - self._numbers.keys()):
            raise UserError(f"its phone {strange[0]!r} is none of the head's")
        spoken = [(row, self._numbers[row[0]]) for row in rows if row[0] != PAUSE]
        if not spoken:
            raise UserError("it has no phones")
        words = meta.get("words") or []
        if words and all(len(row) == 3 for row in [*words, *rows]):
            starts = [start for _, start, _ in words]
            places = [bisect.bisect_right(starts, row[1] + BREATH) - 1 for row, _ in spoken]
            if set(places) == set(range(len(words))):  # otherwise the words are not those of the phones
                labels = [
                    tuple(n for (_, n), at in zip(spoken, places, strict=True) if at == i) for i in range(len(words))
                ]
                return [SpokenWord(str(word), of) for (word, *_), of in zip(words, labels, strict=True)]
        if len(spoken) == len(rows):
            return [SpokenWord("", (number,)) for _, number in spoken]
        stretches = [list(group) for pause, group in itertools.groupby(rows, lambda row: row[0] == PAUSE) if not pause]
        return [SpokenWord("", tuple(self._numbers[row[0]] for row in group)) for group in stretches]

    def build_metric(self) -> Metric:
        """Phone error rate: a word error rate whose words are phones, over the whole split."""
        return WordErrorRate()

    def update_metric(self, metric: Any, outputs: Tensor, lengths: Tensor, batch: TaskBatch) -> None:
        texts, references = self.decode(outputs, lengths), self.references(batch.targets)
        headline_of(metric, self.metric).update(texts, references)
        self.add_decoded(metric, texts, references, outputs, lengths, batch)
