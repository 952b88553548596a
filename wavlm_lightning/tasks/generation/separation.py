"""SS: two talkers who speak at once, each in a waveform of its own, by masks on the spectrogram (SUPERB-SG; Libri2Mix)."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor
from torchmetrics import Metric

from wavlm_lightning.data.batch import TaskBatch
from wavlm_lightning.metrics.enhancement import EnhancementMeasures
from wavlm_lightning.metrics.speech.separation import SeparationMeasures, best_order
from wavlm_lightning.tasks.base import Direction, Protocol, Unit
from wavlm_lightning.tasks.generation.mask_estimation import SUPERB, UNITS, MaskEstimation, MaskRecipe
from wavlm_lightning.tasks.transformers_form import TransformersForm


class Separation(MaskEstimation):
    """Three bidirectional LSTMs and a mask for each of two talkers, trained in either order; SI-SDR improvement in dB.

    Reads the further audio `s1` and `s2`, what each talker says in the mixture. Answers are `(batch, samples, 2)`, in an order
    that means nothing; measures take the better one and are means over both talkers. The test adds STOI and PESQ where their
    packages are installed; the `details` of its card hold the scores of the mixture and of the best masks (`oracle`).

    `protocol: superb`: window 512, LSTMs of 896, ReLU masks, `phase`. `protocol: fixed`: window 1024, LSTMs of 256, sigmoid masks
    on log(1 + magnitude), `phase`; rate 1e-3 (s3prl `downstream/separation_stft2`).

    Args:
        upstream: where features come from; it hears the mixture.
        learning_rate: of Adam; s3prl's for `superb`.
        settings: see `MaskEstimation`: window, hop, hidden, layers, dropout, activation, scale, objective, spectrum.
    """

    name: ClassVar[str] = "SS"
    metric, better = "si_sdri", "higher"
    others: ClassVar[dict[str, Direction]] = {"si_sdr": "higher", "stoi": "higher", "pesq": "higher"}
    units: ClassVar[dict[str, Unit]] = UNITS
    target_audio: ClassVar[tuple[str, ...]] = ("s1", "s2")
    input_sound: ClassVar[str] = "mixture"
    answer_sounds: ClassVar[tuple[str, ...]] = ("part 1", "part 2")
    measures: ClassVar[type[EnhancementMeasures]] = SeparationMeasures
    recipes: ClassVar[dict[Protocol, MaskRecipe]] = {
        "superb": SUPERB,
        "fixed": MaskRecipe(1024, None, 256, 3, 0.1, "sigmoid", "log", "phase"),
    }

    def transformers_form(self) -> TransformersForm | str:
        return "it answers with audio, which no head of transformers does"

    def playable(self, outputs: Tensor, lengths: Tensor, batch: TaskBatch) -> list[dict[str, Tensor]]:
        """The mixture, its parts in the order of the talkers, and the talkers."""
        inputs: Any = batch.inputs
        found = []
        rows = zip(self.answer_rows(outputs, lengths), batch.targets.values, inputs.audio, strict=True)
        for answer, target, mixture in rows:
            talkers = target[: len(answer)]
            parts = answer[:, best_order(answer, talkers)].unbind(1)
            found.append(
                {self.input_sound: mixture[: len(answer)], **dict(zip(self.answer_sounds, parts, strict=True))}
                | {f"talker {number}": talker for number, talker in enumerate(talkers.unbind(1), start=1)}
            )
        return found

    def figures_of_answers(self, metric: Metric) -> dict[str, dict[str, float]]:
        """Of each part, in the order of the talkers."""
        assert isinstance(metric, SeparationMeasures)
        return {
            sound: {name: values[0] for name, values in figures.items() if values}
            for sound, figures in zip(self.answer_sounds, metric.of_sources, strict=True)
        }

    def shaped(self, waveforms: Tensor) -> Tensor:
        return waveforms.transpose(1, 2)

    def by_source(self, waveforms: Tensor) -> Tensor:
        return waveforms.transpose(1, 2)
