"""Enhancement by a front-end alone, without an encoder: the first of the three runs of a joint training, or a denoiser."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from torch import Tensor
from torchmetrics import Metric

from wavlm_lightning.data.batch import Waveforms
from wavlm_lightning.encoder import padding_mask
from wavlm_lightning.metrics.enhancement import NEEDED, EnhancementMeasures, install_measure, is_installed
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks.base import Direction
from wavlm_lightning.tasks.components.front_end import ConvTasNet, FrontEnd
from wavlm_lightning.tasks.waveform import WaveformTask
from wavlm_lightning.upstreams import Upstream


class FrontEndEnhancement(WaveformTask):
    """A front-end, trained to give the clean waveform: with negative SNR as loss, which fixes the level too.

    The upstream is named for the run that follows; it is neither heard nor trained. Scores are those of `WaveformTask`, and STOI.

    Args:
        upstream: not heard; the result card names it.
        learning_rate: of Adam.
        front_end: null for a Conv-TasNet of IRIS' size.
        settings: see `Task`.
    """

    name: ClassVar[str] = "FRONT-END"
    others: ClassVar[dict[str, Direction]] = {"si_sdri": "higher", "stoi": "higher"}
    input_sound: ClassVar[str] = "noisy"
    answer_sounds: ClassVar[tuple[str, ...]] = ("enhanced",)
    reference_sound: ClassVar[str] = "clean"

    def __init__(
        self, upstream: Upstream, learning_rate: float = 1e-3, front_end: FrontEnd | None = None, **settings: Any
    ) -> None:
        super().__init__(upstream, learning_rate, **settings)
        if upstream.trained:
            raise UserError(
                f"{self.name}: the encoder is not heard, so that model.upstream.frozen: false trains nothing; remove it"
            )
        self.front_end = ConvTasNet() if front_end is None else front_end
        self.weighted_sum.requires_grad_(False)

    def build_head(self, dim: int) -> None:
        """Nothing: the front-end is there from the beginning."""

    def build(self, labels: Any) -> None:
        fresh = self.labels is None
        super().build(labels)
        if fresh:  # STOI takes long, so validation is without it
            self.valid_metric = EnhancementMeasures(name for name in self.directions if name not in NEEDED)

    def build_metric(self) -> EnhancementMeasures:
        """The measures that are installed."""
        return EnhancementMeasures(filter(is_installed, self.directions))

    def score(self, metric: Metric, stage: Literal["valid", "test"]) -> dict[str, Tensor]:
        """As of `WaveformTask`; `details` also say which measures are not installed."""
        values = super().score(metric, stage)
        if stage == "test":
            missing = {name: install_measure(name) for name in self.others if not is_installed(name)}
            self.details |= {"not_measured": missing} if missing else {}
        return values

    def enhance(self, features: Tensor, lengths: Tensor, audio: Waveforms) -> Tensor:
        return self.front_end(audio.audio, audio.lengths)

    def forward(self, inputs: Any) -> tuple[Tensor, Tensor]:
        """Waveforms `(batch, samples)`, zeros in the padding, and samples of each row `(batch,)`."""
        if not isinstance(inputs, Waveforms):
            raise UserError(f"{self.name}: hears the audio itself, which cached features lack; set data.cache: null")
        answer = self.front_end(inputs.audio, inputs.lengths)
        return answer.masked_fill(padding_mask(inputs.lengths, answer.shape[1]), 0.0), inputs.lengths
