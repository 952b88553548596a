"""SE: speech without its noise, by a mask on its spectrogram (SUPERB-SG; VoiceBank-DEMAND)."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from torch import Tensor

from wavlm_lightning.tasks.base import Direction, Protocol, Unit
from wavlm_lightning.tasks.generation.mask_estimation import SUPERB, UNITS, MaskEstimation, MaskRecipe
from wavlm_lightning.tasks.transformers_form import TransformersForm
from wavlm_lightning.upstreams import Upstream

DIRECTIONS: dict[str, Direction] = {"pesq": "higher", "stoi": "higher", "si_sdr": "higher", "si_sdri": "higher"}
TABLE = ("pesq", "stoi")  # the columns of SUPERB


class Enhancement(MaskEstimation):
    """Three bidirectional LSTMs and one mask; wide-band PESQ, STOI, SI-SDR in dB and its improvement over the recording.

    The clean reference is the further audio `clean` of the corpus, or the waveform before `data.transforms`. The `details` of the
    card hold the scores of the unprocessed recording and of the best mask of this kind (`oracle`).

    `protocol: superb`: window 512, LSTMs of 896, ReLU mask, `phase`. `protocol: fixed`: window 400 every 160 samples, LSTMs of
    256, sigmoid mask on log(1 + magnitude), `magnitude`; rate 1e-3 (s3prl `downstream/enhancement_stft2`).

    Args:
        upstream: where features come from; it hears the recording.
        learning_rate: of Adam; s3prl's for `superb`.
        select: the measure that chooses the checkpoint and heads tables: `pesq` in SUPERB, which needs the package pesq;
            `si_sdr` or `stoi`.
        settings: see `MaskEstimation`: window, hop, hidden, layers, dropout, activation, scale, objective, spectrum.
    """

    name: ClassVar[str] = "SE"
    metric, better = "pesq", "higher"
    headlines: ClassVar[tuple[str, ...]] = TABLE
    others: ClassVar[dict[str, Direction]] = {name: way for name, way in DIRECTIONS.items() if name != "pesq"}
    units: ClassVar[dict[str, Unit]] = UNITS
    input_sound: ClassVar[str] = "noisy"
    answer_sounds: ClassVar[tuple[str, ...]] = ("enhanced",)
    reference_sound: ClassVar[str] = "clean"
    recipes: ClassVar[dict[Protocol, MaskRecipe]] = {
        "superb": SUPERB,
        "fixed": MaskRecipe(400, 160, 256, 3, 0.1, "sigmoid", "log", "magnitude"),
    }

    def __init__(
        self,
        upstream: Upstream,
        learning_rate: float = 1e-4,
        select: Literal["pesq", "stoi", "si_sdr"] = "pesq",
        **settings: Any,
    ) -> None:
        super().__init__(upstream, learning_rate, **settings)
        # Instance attributes shadow the class's: only this head is selected so.
        self.metric = select  # type: ignore[misc]
        self.others = {name: way for name, way in DIRECTIONS.items() if name != select}  # type: ignore[misc]
        self.headlines = tuple(dict.fromkeys((select, *TABLE)))  # type: ignore[misc]

    def transformers_form(self) -> TransformersForm | str:
        return "it answers with audio, which no head of transformers does"

    def shaped(self, waveforms: Tensor) -> Tensor:
        return waveforms[:, 0]

    def by_source(self, waveforms: Tensor) -> Tensor:
        return waveforms[:, None]
