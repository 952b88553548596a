"""TS-ASR: what the speaker of an enrolment says while others talk, with CTC over letters (TS-SUPERB; Libri2Mix)."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from torch import Tensor

from wavlm_lightning.tasks.components.beam_search import LanguageModel
from wavlm_lightning.tasks.content.speech_recognition import SpeechRecognition
from wavlm_lightning.tasks.enrolled import EnrolledTask
from wavlm_lightning.upstreams import Upstream


class TargetRecognition(EnrolledTask, SpeechRecognition):
    """SUPERB's ASR head, four LSTMs of 512, whose input is multiplied by the speaker vector of the enrolment.

    TS-SUPERB's own configuration conditions the input rather than the output of the first LSTM, because training is more
    stable; its published figures have the latter. Reads `text`, which is what the target speaker says, and the further audio
    `enrolment`. Targets, errors, SpecAugment and decoding are those of `SpeechRecognition`; TS-SUPERB's SpecAugment also warps
    time.

    Args:
        upstream: where features come from; it hears the mixture and the enrolment.
        learning_rate: of Adam.
        hidden: width of the projection, and LSTM cells in each direction; 512 in TS-SUPERB.
        layers: LSTMs; 4 in TS-SUPERB.
        dropout: after each LSTM; 0.2 in TS-SUPERB.
        alphabet: null for SUPERB's 28 letters; `corpus` for the letters of the training split, in any script.
        language_model: for a second decoding of the test set; null for none.
        settings: see `EnrolledTask` and `Task`: enrolment_seconds, normalize, seed, protocol.
    """

    name: ClassVar[str] = "TS-ASR"

    def __init__(
        self,
        upstream: Upstream,
        learning_rate: float = 1e-4,
        hidden: int = 512,
        layers: int = 4,
        dropout: float = 0.2,
        alphabet: Literal["corpus"] | None = None,
        language_model: LanguageModel | None = None,
        **settings: Any,
    ) -> None:
        network: dict[str, Any] = {"hidden": hidden, "layers": layers, "dropout": dropout}
        texts: dict[str, Any] = {"alphabet": alphabet, "language_model": language_model}
        super().__init__(upstream, learning_rate, **network, **texts, **settings)

    def build_head(self, dim: int) -> None:
        super().build_head(dim)
        self.make_speaker_vector(self.hidden)

    def outputs(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Logits `(batch, frames, labels)`; in training, of augmented features."""
        return self.head(self.augment(features, lengths), lengths, self.voice)
