"""Enhancement by a front-end alone, without an encoder: the first of the three runs of a joint training, or a denoiser."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torchmetrics import Metric

from wavlm_lightning.data.batch import TaskBatch, Waveforms
from wavlm_lightning.encoder import padding_mask
from wavlm_lightning.metrics.enhancement import (
    NEEDED,
    EnhancementMeasures,
    figure,
    install_measure,
    is_installed,
)
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks.base import Direction
from wavlm_lightning.tasks.components.front_end import ConvTasNet, FrontEnd
from wavlm_lightning.tasks.decoding import CONDITION
from wavlm_lightning.tasks.scored_utterances import of_all_processes
from wavlm_lightning.tasks.waveform import WaveformTask
from wavlm_lightning.upstreams import Upstream


class FrontEndEnhancement(WaveformTask):
    """A front-end, trained to give the clean waveform: with negative SNR as loss, which fixes the level too.

    The upstream is named for the run that follows; it is neither heard nor trained. Scores are those of `WaveformTask`, and STOI,
    over the utterances whose input is not the clean waveform itself, of which no figure is finite; `details` count the others.
    Where the utterances of a test have a `condition`, the `details` of the card hold the SI-SDR of each, and of its unprocessed
    input.

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
        self.front_end = ConvTasNet(seed=self.seed) if front_end is None else front_end
        self.weighted_sum.requires_grad_(False)
        # Of this test: key -> SI-SDR of answer and input, nothing where the reference is silent, and whether the input is it.
        self._ratios: dict[str, tuple[tuple[float, ...], bool]] = {}

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

    def update_metric(self, metric: Metric, outputs: Tensor, lengths: Tensor, batch: TaskBatch) -> None:
        """Add the utterances whose input is not their reference."""
        inputs: Any = batch.inputs
        rows = zip(batch.keys, self.answer_rows(outputs, lengths), batch.targets.values, inputs.audio, strict=True)
        for key, answer, reference, noisy in rows:
            reference, noisy = reference[: len(answer)], noisy[: len(answer)]
            clean = torch.equal(reference, noisy)
            if metric is self.test_metric:
                found = [figure("si_sdr", heard.float(), reference.float()) for heard in (answer, noisy)]
                self._ratios[key] = tuple(float(ratio) for ratio in found if ratio is not None), clean
            if not clean:
                metric.update(answer, reference, noisy)

    def utterance_scores(
        self, outputs: Tensor, lengths: Tensor, batch: TaskBatch
    ) -> Sequence[tuple[float, ...]] | None:
        """SI-SDR of each utterance and 1, or 0 and 0 of one whose input is its reference."""
        inputs: Any = batch.inputs
        scores = self.headline_of_each(outputs, lengths, batch)
        same = [torch.equal(*pair) for pair in zip(batch.targets.values, inputs.audio, strict=True)]
        return [(0.0, 0.0) if clean else score for clean, score in zip(same, scores, strict=True)]

    def on_test_epoch_start(self) -> None:
        super().on_test_epoch_start()
        self._ratios = {}

    def on_test_epoch_end(self) -> None:
        """As every head; and the ratios of each condition in the card's `details`."""
        super().on_test_epoch_end()
        ratios, self._ratios = of_all_processes(self._ratios), {}
        if not self.trainer.is_global_zero or self.data is None:
            return
        if clean := sum(same for _, same in ratios.values()):
            self.details = {**self.details, "clean_inputs": clean}
        split, groups = self.data.opened["test"], dict[str, list[tuple[float, ...]]]()
        # Of inputs that are their reference, whose ratios are rounding: of a condition that has nothing else.
        clean_groups = dict[str, list[tuple[float, ...]]]()
        for key, meta in zip(split.keys, split.metas(), strict=True):
            found, same = ratios.get(key, ((), False))
            if len(found) == 2 and meta.get(CONDITION) is not None:
                (clean_groups if same else groups).setdefault(str(meta[CONDITION]), []).append(found)
        groups = {**clean_groups, **groups}
        if len(groups) > 1:
            cells = {name: [fmean(column) for column in zip(*rows, strict=True)] for name, rows in groups.items()}
            self.details = {
                **self.details,
                "conditions": {
                    name: {"utterances": len(groups[name]), "si_sdr": round(ours, 4), "unprocessed": round(theirs, 4)}
                    for name, (ours, theirs) in cells.items()
                },
            }

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
