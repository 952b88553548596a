"""Attention ASR: a Transformer encoder-decoder over letters, trained jointly with CTC (ESPnet's CHiME-4 recipe)."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from wavlm_lightning.augment.spec_augment import SpecAugment
from wavlm_lightning.data.batch import TaskBatch
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks.components.beam_search import BeamSearch, Hypothesis, LanguageModel
from wavlm_lightning.tasks.components.decoder.network import NetworkSize
from wavlm_lightning.tasks.components.decoder.ngram_scores import NgramScores
from wavlm_lightning.tasks.components.decoder.search import Decoding
from wavlm_lightning.tasks.content.letters import LetterRecognition
from wavlm_lightning.tasks.encoder_decoder import EncoderDecoderTask
from wavlm_lightning.tasks.scored_utterances import of_all_processes
from wavlm_lightning.tasks.transformers_form import TransformersForm
from wavlm_lightning.upstreams import Upstream

# ESPnet's for CHiME-4.
NETWORK = NetworkSize(width=256, heads=4, encoder_layers=12, decoder_layers=6, convolutions=1, projection=128)
DECODING = Decoding(beam=10, ctc_weight=0.3)


class LetterModelSearch:
    """The search of an attention recogniser with an n-gram model of letters; called as `BeamSearch` is.

    Raises:
        UserError: files that are missing or do not fit the head, or a model of words.
    """

    def __init__(self, task: AttentionRecognition, language_model: LanguageModel) -> None:
        self.task, self.language_model = task, language_model
        if language_model.silence:
            raise UserError(
                f"language_model.silence: {language_model.silence:g}, and an attention decoder labels no frames; set it to 0"
            )
        self.files = BeamSearch(language_model, task.labels, range(task.special))
        if self.files.has_words:
            raise UserError(
                f"{language_model.model}: a model of words, and an attention decoder spells letter by letter; give one of "
                "letters (`wavlm lm --units letters`), without language_model.lexicon"
            )

    def __call__(self, outputs: Tensor, lengths: Tensor) -> list[str]:
        """The best text of each utterance, from the encoder's hidden states and valid frames `(batch,)`."""
        return [best.text for best, *_ in self.nbest(outputs, lengths)]

    def nbest(self, outputs: Tensor, lengths: Tensor, count: int = 1) -> list[list[Hypothesis]]:
        """The best different texts of each utterance, best first: at least one, at most `count`."""
        task = self.task
        scores = NgramScores(self.files, range(task.special), task.end, len(outputs), outputs.device)
        found = task.answers_of(outputs, lengths, count, ((self.language_model.weight, scores),))
        return [task.texts_of(answers) for answers in found]


class AttentionRecognition(EncoderDecoderTask, LetterRecognition):
    """Transcripts letter by letter from a Transformer decoder, and CTC on its encoder; joint beam search.

    Loss and search are those of joint CTC and attention (arXiv 1609.06773): `ctc_weight` of CTC, the rest of the decoder's
    smoothed cross-entropy; the score of a hypothesis is weighted likewise, with CTC's prefix score. Reads `text` of each
    utterance without its punctuation (`spoken_text`); SpecAugment on the features, as in `SpeechRecognition`.

    CTC needs a frame for every letter, so that one convolution of stride 2, 40 ms, is right for letters.

    Args:
        upstream: where features come from.
        learning_rate: of Adam.
        network: sizes; the defaults are ESPnet's for CHiME-4.
        decoding: the search of validation, test and prediction.
        ctc_weight: share of CTC in the loss; 0 for the decoder alone, 1 for CTC alone.
        smoothing: of the decoder's targets, over all outputs.
        alphabet: null for SUPERB's 28 letters; `corpus` for the letters of the training split, in any script.
        language_model: of letters (`wavlm lm --units letters`), for a second decoding of the test set; of its weights `weight`
            counts, and the beam is that of `decoding`. Null for none.
        settings: see `Task`: normalize, seed, schedule, protocol.
    """

    name = "ASR-ATT"
    left_out = "the loss of CTC"

    def __init__(
        self,
        upstream: Upstream,
        learning_rate: float = 1e-3,
        network: NetworkSize = NETWORK,
        decoding: Decoding = DECODING,
        ctc_weight: float = 0.3,
        smoothing: float = 0.1,
        alphabet: Literal["corpus"] | None = None,
        language_model: LanguageModel | None = None,
        **settings: Any,
    ) -> None:
        joint: dict[str, Any] = {
            "network": network,
            "decoding": decoding,
            "ctc_weight": ctc_weight,
            "smoothing": smoothing,
        }
        texts: dict[str, Any] = {"alphabet": alphabet, "language_model": language_model}
        super().__init__(upstream, learning_rate, **joint, **texts, **settings)
        if self.label_priors.strength:
            raise UserError("model.label_priors: attention ASR is trained without them; leave the key out")
        self._cut: dict[str, bool] = {}  # of this test: key -> whether the answer was cut at the limit of its length

    def read_target(self, meta: dict[str, Any]) -> Tensor:
        """Letters and `|` after every word, int64 `(labels,)`."""
        return torch.tensor(self.numbered_letters(meta))

    def build_head(self, dim: int) -> None:
        super().build_head(dim)
        self.augment = SpecAugment(own_length=self.protocol == "fixed")

    def outputs(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Hidden states of the encoder; in training, of augmented features."""
        return super().outputs(self.augment(features, lengths), lengths)

    def search_with(
        self, language_model: LanguageModel, pronunciations: dict[str, list[list[str]]] | None = None
    ) -> Any:
        return LetterModelSearch(self, language_model)

    def readable(self, outputs: Tensor, lengths: Tensor) -> list[dict[str, Any]]:
        """As every attention decoder; with a language model, its transcript as `text_lm`, and `nbest` of it if asked for."""
        if self.language_model is None:
            return super().readable(outputs, lengths)
        return LetterRecognition.readable(self, outputs, lengths)

    def add_decoded(
        self, metric: Any, texts: list[str], references: list[str], outputs: Tensor, lengths: Tensor, batch: TaskBatch
    ) -> None:
        super().add_decoded(metric, texts, references, outputs, lengths, batch)
        if metric is getattr(self, "test_metric", None):
            cut = [best.cut for best in self.best_answers(outputs, lengths)]
            self._cut.update(zip(batch.keys, cut, strict=True))

    def on_test_epoch_start(self) -> None:
        super().on_test_epoch_start()
        self._cut = {}

    def on_test_epoch_end(self) -> None:
        """As every head of letters; and how many answers are empty, or were cut at the limit of their length."""
        super().on_test_epoch_end()
        cut, self._cut = of_all_processes(self._cut), {}
        if self.trainer.is_global_zero and self.data is not None and self.test_transcripts is not None and cut:
            texts = self.test_transcripts.answers[self.metric]
            counted = {"all": len(texts), "empty": sum(not text for text in texts), "cut": sum(cut.values())}
            self.details = {**self.details, "answers": counted}

    def targets_seen(self, batch: TaskBatch, lengths: Tensor, stage: Literal["train", "valid", "test"]) -> None:
        """As every CTC head, by the frames of the encoder; with the decoder alone any answer can be learned."""
        frames = self.head.frames(lengths) if self.ctc_weight else 2 * batch.targets.lengths
        super().targets_seen(batch, frames, stage)

    def transformers_form(self) -> TransformersForm | str:
        return "transformers has no encoder-decoder on a weighted sum of WavLM's layers"
