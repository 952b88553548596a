"""ASR: speech recognition with CTC over letters (SUPERB; LibriSpeech 100 h)."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from wavlm_lightning.augment.spec_augment import SpecAugment
from wavlm_lightning.tasks.components.beam_search import LanguageModel
from wavlm_lightning.tasks.components.recurrent import RecurrentHead
from wavlm_lightning.tasks.content.letters import EOS, LetterRecognition
from wavlm_lightning.upstreams import Upstream


class SpeechRecognition(LetterRecognition):
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
        super().__init__(upstream, learning_rate, alphabet, language_model, **settings)
        self.hidden, self.layers, self.dropout = hidden, layers, dropout

    def read_target(self, meta: dict[str, Any]) -> Tensor:
        """Letters, `|` after every word, and end symbol, int64 `(labels,)`."""
        return torch.tensor([*self.numbered_letters(meta), EOS])

    def build_head(self, dim: int) -> None:
        self.augment = SpecAugment(own_length=self.protocol == "fixed")
        self.head = RecurrentHead(dim, len(self.labels), self.hidden, self.layers, self.dropout)

    def outputs(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Logits `(batch, frames, labels)`; in training, of augmented features."""
        return self.head(self.augment(features, lengths), lengths)
