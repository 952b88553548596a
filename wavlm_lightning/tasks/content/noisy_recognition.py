"""Noisy ASR: SUPERB's ASR head, with an enhancement network in front of the encoder or without (CHiME-4; IRIS)."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from wavlm_lightning.tasks.components.beam_search import LanguageModel
from wavlm_lightning.tasks.components.front_end import FrontEnd
from wavlm_lightning.tasks.content.speech_recognition import SpeechRecognition
from wavlm_lightning.tasks.generation.front_end import FrontEndTask
from wavlm_lightning.upstreams import Upstream


class NoisyRecognition(FrontEndTask, SpeechRecognition):
    """The head, targets, errors, SpecAugment and decoding of `SpeechRecognition`, behind a front-end if there is one.

    The `details` of the card have the error rates of each `condition` of the test apart. IRIS (arXiv 2204.00540) has an attention
    encoder-decoder with CTC instead of this head.

    Args:
        upstream: where features come from; `differentiable: true` for a front-end that is trained before a frozen one.
        learning_rate: of Adam.
        hidden: width of the projection, and LSTM cells in each direction; 1024 in SUPERB.
        layers: LSTMs; 2 in SUPERB.
        dropout: after each LSTM; 0.2 in SUPERB.
        alphabet: null for SUPERB's 28 letters; `corpus` for the letters of the training split, in any script.
        language_model: for a second decoding of the test set; null for none.
        front_end: the network in front of the upstream; null for none.
        front_end_from: a run with whose front-end a new one begins, see `FrontEndTask`.
        front_end_frozen: keep the weights of the front-end.
        front_end_learning_rate: null for that of the head.
        settings: see `Task`: start_from, start_with, normalize, seed, protocol.
    """

    name: ClassVar[str] = "NOISY-ASR"

    def __init__(
        self,
        upstream: Upstream,
        learning_rate: float = 1e-4,
        hidden: int = 1024,
        layers: int = 2,
        dropout: float = 0.2,
        alphabet: Literal["corpus"] | None = None,
        language_model: LanguageModel | None = None,
        front_end: FrontEnd | None = None,
        front_end_from: str | None = None,
        front_end_frozen: bool = False,
        front_end_learning_rate: float | None = None,
        **settings: Any,
    ) -> None:
        network: dict[str, Any] = {"hidden": hidden, "layers": layers, "dropout": dropout}
        texts: dict[str, Any] = {"alphabet": alphabet, "language_model": language_model}
        front: dict[str, Any] = {"front_end": front_end, "front_end_from": front_end_from}
        front |= {"front_end_frozen": front_end_frozen, "front_end_learning_rate": front_end_learning_rate}
        super().__init__(upstream, learning_rate, **front, **network, **texts, **settings)
