"""Noisy ASR by an encoder-decoder with CTC, with an enhancement network in front of the encoder or without (CHiME-4; IRIS)."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from wavlm_lightning.tasks.components.beam_search import LanguageModel
from wavlm_lightning.tasks.components.decoder.network import NetworkSize
from wavlm_lightning.tasks.components.decoder.search import Decoding
from wavlm_lightning.tasks.components.front_end import FrontEnd
from wavlm_lightning.tasks.content.attention_recognition import DECODING, NETWORK, AttentionRecognition
from wavlm_lightning.tasks.generation.front_end import FrontEndTask
from wavlm_lightning.upstreams import Upstream


class NoisyAttentionRecognition(FrontEndTask, AttentionRecognition):
    """The network, loss and search of `AttentionRecognition`, behind a front-end if there is one: IRIS' recogniser.

    The `details` of the card have the error rates of each `condition` of the test apart. The published system
    (arXiv 2204.00540) adds a language model of Transformer kind to its search.

    Args:
        upstream: where features come from; `differentiable: true` for a front-end that is trained before a frozen one.
        learning_rate: of Adam.
        network: see `AttentionRecognition`, as for decoding, ctc_weight, smoothing, alphabet and language_model.
        front_end: the network in front of the upstream; null for none. See `FrontEndTask`, as for the other three.
        settings: see `Task`: start_from, start_with, normalize, seed, schedule, protocol.
    """

    name: ClassVar[str] = "NOISY-ASR-ATT"

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
        front_end: FrontEnd | None = None,
        front_end_from: str | None = None,
        front_end_frozen: bool = False,
        front_end_learning_rate: float | None = None,
        **settings: Any,
    ) -> None:
        decoder: dict[str, Any] = {"network": network, "decoding": decoding, "ctc_weight": ctc_weight}
        decoder |= {"smoothing": smoothing, "alphabet": alphabet, "language_model": language_model}
        front: dict[str, Any] = {"front_end": front_end, "front_end_from": front_end_from}
        front |= {"front_end_frozen": front_end_frozen, "front_end_learning_rate": front_end_learning_rate}
        super().__init__(upstream, learning_rate, **front, **decoder, **settings)
