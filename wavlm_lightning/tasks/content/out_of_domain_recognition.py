"""OOD-ASR: speech recognition in languages, accents and styles that the encoder was not pre-trained on (SUPERB-SG)."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from torch import Tensor
from torchmetrics import MetricCollection
from torchmetrics.text import CharErrorRate

from wavlm_lightning.augment.spec_augment import SpecAugment
from wavlm_lightning.data.batch import TaskBatch
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks.components.beam_search import WORD_END, BeamSearch, LanguageModel
from wavlm_lightning.tasks.components.recurrent import RecurrentHead
from wavlm_lightning.tasks.content.speech_recognition import SpeechRecognition
from wavlm_lightning.tasks.decoding import SpokenWord
from wavlm_lightning.upstreams import Upstream


class OutOfDomainRecognition(SpeechRecognition):
    """SUPERB's ASR head with Linear(2048, 2048) and tanh after each LSTM, over the letters of the training split.

    The headline metric is the word error rate; with `unit: characters`, for languages that put no spaces between words, it is
    the character error rate, and spaces are neither learned nor counted. Source: s3prl `downstream/ctc` with `cv_config/*.yaml`
    and `sbcsae.yaml`. The published figure of SUPERB-SG is the mean of four runs: Spanish, Chinese, Arabic, and spontaneous
    English (SBCSAE).

    If the utterances of a test have a `condition` (an accent, a rate), the card holds the errors of each one.

    Where it departs from s3prl:

    - Upstreams of 10 ms keep all frames, where s3prl drops every second one.
    - `|` ends every word, the last one as well, where s3prl has a space between words. Labels are those that occur in the
      training split, where s3prl reads a list of characters, and one symbol more (`<s>`).

    Args:
        upstream: where features come from.
        learning_rate: of Adam.
        hidden: width of the projection, and LSTM cells in each direction; 1024 in SUPERB-SG.
        layers: LSTMs; 2 in SUPERB-SG.
        dropout: after each LSTM; 0.2 in SUPERB-SG.
        alphabet: `corpus` for the letters of the training split, in any script; null for the 28 letters of English.
        language_model: for a second decoding of the test set; null for none. Not with `unit: characters`.
        unit: what is counted, `words` or `characters`.
        domain: a word that tells runs on several languages apart in tables (`es`): the task is then called OOD-ASR-es.
        settings: see `Task`: normalize, seed, protocol.
    """

    name: ClassVar[str] = "OOD-ASR"

    def __init__(
        self,
        upstream: Upstream,
        learning_rate: float = 1e-4,
        hidden: int = 1024,
        layers: int = 2,
        dropout: float = 0.2,
        alphabet: Literal["corpus"] | None = "corpus",
        language_model: LanguageModel | None = None,
        unit: Literal["words", "characters"] = "words",
        domain: str = "",
        **settings: Any,
    ) -> None:
        network: dict[str, Any] = {"hidden": hidden, "layers": layers, "dropout": dropout}
        super().__init__(
            upstream, learning_rate, **network, alphabet=alphabet, language_model=language_model, **settings
        )
        self.characters = unit == "characters"
        # Instance attributes shadow those of the class: two runs may differ in what they count.
        if domain:
            if not domain.replace("-", "").replace("_", "").isalnum():
                raise UserError(
                    f"model.domain: {domain!r} has signs that no name of a task may have; use letters and digits"
                )
            self.name = f"{type(self).name}-{domain}"  # type: ignore[misc]
        if self.characters:
            if language_model is not None:
                raise UserError(
                    f"{self.name}: model.language_model scores words, and model.unit: characters has none; leave one of them out"
                )
            self.metric, self.others, self.counted = "cer", {}, "characters"  # type: ignore[misc]

    def build_head(self, dim: int) -> None:
        self.augment = SpecAugment(own_length=self.protocol == "fixed")
        self.head = RecurrentHead(dim, len(self.labels), self.hidden, self.layers, self.dropout, tanh_layers=True)

    def numbered_letters(self, meta: dict[str, Any]) -> list[int]:
        """The outputs that spell an utterance: `|` after every word, or, with `unit: characters`, no `|` at all."""
        numbers = super().numbered_letters(meta)
        end = self._numbers[WORD_END]
        return [number for number in numbers if number != end] if self.characters else numbers

    def cut_words(self, numbers: list[int], meta: dict[str, Any]) -> list[SpokenWord]:
        """Words with the `|` behind each; with `unit: characters` every character is one."""
        if not self.characters:
            return super().cut_words(numbers, meta)
        return [SpokenWord(self.labels[number], (number,)) for number in numbers]

    def search_with(
        self, language_model: LanguageModel, pronunciations: dict[str, list[list[str]]] | None = None
    ) -> BeamSearch:
        if self.characters:
            raise UserError(
                f"{self.name}: a language model scores words, and this head, of model.unit: characters, writes none; leave it out"
            )
        return super().search_with(language_model, pronunciations)

    def build_metric(self) -> MetricCollection:
        """Word and character error rates over the whole split; with `unit: characters` the latter alone."""
        if not self.characters:
            return super().build_metric()
        return MetricCollection({"cer": CharErrorRate()}, compute_groups=False)

    def add_decoded(
        self, metric: Any, texts: list[str], references: list[str], outputs: Tensor, lengths: Tensor, batch: TaskBatch
    ) -> None:
        """As ASR; characters are kept with spaces between them, so that `wavlm score`, which counts words, counts characters."""
        if self.characters:
            texts, references = [" ".join(text) for text in texts], [" ".join(text) for text in references]
        super().add_decoded(metric, texts, references, outputs, lengths, batch)
