"""TSE: the voice of the speaker of an enrolment out of a mixture, by a mask on its spectrogram (TS-SUPERB; Libri2Mix)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from wavlm_lightning.audio import SAMPLE_RATE
from wavlm_lightning.data.batch import Targets, TaskBatch, Waveforms
from wavlm_lightning.encoder import padding_mask
from wavlm_lightning.metrics.enhancement import MEASURES, ExtractionMeasures, install_measure, is_installed
from wavlm_lightning.tasks.base import Direction, Unit
from wavlm_lightning.tasks.components.recurrent import run_both_ways
from wavlm_lightning.tasks.components.spectral import Stft, best_mask, nearest_features
from wavlm_lightning.tasks.enrolled import EnrolledTask
from wavlm_lightning.tasks.transformers_form import TransformersForm
from wavlm_lightning.tasks.waveform import BEST_DB, WaveformTask
from wavlm_lightning.upstreams import Upstream

WINDOW = 1024  # samples of the Hann window, and of the transform
# Mean power of a target below which a crop of it is silence, from which no ratio can be learned: -70 dB.
SILENCE = 1e-7
QUICK = ("si_sdr", "si_sdri")


class TargetExtraction(EnrolledTask, WaveformTask):
    """Three bidirectional LSTMs of 256, the first multiplied by the speaker vector, a sigmoid mask on the STFT, SI-SDR as loss.

    The STFT has windows of 1024 samples at the frame rate of the upstream; the answer has the phase of the mixture. Reads the
    further audio `enrolment` (another recording of the target speaker) and `clean` (what the target speaker says in the mixture).

    Scores are means over utterances: SI-SDR in dB and its improvement over the mixture (`si_sdri`), and `confusion`, the share of
    the answers that are nearer to the rest of the mixture than to the target. The test adds `stoi` and wide-band `pesq` where the
    packages pystoi and pesq are installed; the `details` of its card hold the scores of the unprocessed mixture and of an oracle,
    the best real mask between 0 and 1 on the same STFT.

    Args:
        upstream: where features come from; it hears the mixture and the enrolment.
        learning_rate: of Adam; TS-SUPERB's peak.
        hidden: cells of the LSTMs in each direction; 256 in TS-SUPERB.
        layers: LSTMs; 3 in TS-SUPERB.
        dropout: after each LSTM but the first; 0.3 in TS-SUPERB.
        spectrum: give the head log(1 + magnitude) of the mixture beside the features, which TS-SUPERB does not.
        settings: see `EnrolledTask` and `Task`: enrolment_seconds, normalize, seed, protocol.
    """

    name: ClassVar[str] = "TSE"
    others: ClassVar[dict[str, Direction]] = {
        "si_sdri": "higher",
        "stoi": "higher",
        "pesq": "higher",
        "confusion": "lower",
    }
    units: ClassVar[dict[str, Unit]] = {**WaveformTask.units, "pesq": Unit("", 1.0)}

    def __init__(
        self,
        upstream: Upstream,
        learning_rate: float = 1e-3,
        hidden: int = 256,
        layers: int = 3,
        dropout: float = 0.3,
        spectrum: bool = False,
        **settings: Any,
    ) -> None:
        super().__init__(upstream, learning_rate, **settings)
        self.hidden, self.layers, self.spectrum = hidden, layers, spectrum
        self.dropout = nn.Dropout(dropout)
        self.hop = round(SAMPLE_RATE / upstream.frame_rate)

    def transformers_form(self) -> TransformersForm | str:
        return "it hears an enrolment, which no head of transformers does"

    def build_head(self, dim: int) -> None:
        self.stft = Stft(WINDOW, self.hop)
        width = dim + self.stft.bins * self.spectrum
        self.recurrent = nn.ModuleList(
            nn.LSTM(width if layer == 0 else 2 * self.hidden, self.hidden, batch_first=True, bidirectional=True)
            for layer in range(self.layers)
        )
        self.mask = nn.Linear(2 * self.hidden, self.stft.bins)
        self.make_speaker_vector(2 * self.hidden)

    def enhance(self, features: Tensor, lengths: Tensor, audio: Waveforms) -> Tensor:
        mixture = self.stft(audio.audio)
        rate, first = self.upstream.frame_rate, self.upstream.first_centre
        hidden = nearest_features(features, lengths, rate, mixture.shape[1], self.stft.hop, first)
        if self.spectrum:
            hidden = torch.cat([hidden, mixture.abs().log1p().to(hidden.dtype)], 2)
        for layer, recurrent in enumerate(self.recurrent):
            hidden = run_both_ways(recurrent, hidden, self.stft.frames(audio.lengths))
            hidden = self.dropout(hidden) if layer else hidden * self.voice[:, None]
        return self.stft.inverse(mixture * self.mask(hidden).float().sigmoid(), audio.audio.shape[1])

    @torch.no_grad()
    def oracle(self, mixture: Tensor, target: Tensor) -> Tensor:
        """What the best real mask between 0 and 1 makes of a mixture `(samples,)`, given the target `(samples,)`."""
        heard, wanted = self.stft(mixture[None]), self.stft(target[None])
        return self.stft.inverse(heard * best_mask(wanted, heard), len(mixture))[0]

    def loss(self, outputs: Tensor, lengths: Tensor, targets: Targets) -> Tensor:
        """Negative SI-SDR in dB, at best -30, mean over the utterances in which the target is not silent."""
        valid = ~padding_mask(lengths, outputs.shape[1])
        answer, wanted = (_centred(each.float(), lengths, valid) for each in (outputs, targets.values))
        power = wanted.square().sum(1)
        gain = (answer * wanted).sum(1) / power.clamp(min=1e-12)
        scaled = gain[:, None] * wanted
        signal, error = scaled.square().sum(1), (answer - scaled).square().sum(1)
        tiny = 1e-9 * lengths  # the power of noise at -90 dB
        ratios = 10 * ((signal + tiny).log10() - (error + 10 ** (-BEST_DB / 10) * signal + tiny).log10())
        heard = power > SILENCE * lengths
        return -torch.where(heard, ratios, 0 * ratios).sum() / heard.sum().clamp(min=1)

    # Measures. STOI and PESQ take long, so validation is without them.

    def build(self, labels: Any) -> None:
        fresh = self.labels is None
        super().build(labels)
        if fresh:
            self.valid_metric = ExtractionMeasures(QUICK)

    def build_metric(self) -> ExtractionMeasures:
        wanted = [self.metric, *(name for name in self.others if name != "confusion")]
        return ExtractionMeasures(name for name in wanted if name not in MEASURES or is_installed(name))

    def update_metric(self, metric: Metric, outputs: Tensor, lengths: Tensor, batch: TaskBatch) -> None:
        inputs: Any = batch.inputs
        rows = zip(self.answer_rows(outputs, lengths), batch.targets.values, inputs.audio, strict=True)
        for answer, target, mixture in rows:
            target, mixture = target[: len(answer)], mixture[: len(answer)]
            oracle = self.oracle(mixture, target) if metric is self.test_metric else None
            metric.update(answer, target, mixture, oracle)

    def utterance_scores(
        self, outputs: Tensor, lengths: Tensor, batch: TaskBatch
    ) -> Sequence[tuple[float, ...]] | None:
        return self.headline_of_each(outputs, lengths, batch)

    def score(self, metric: Metric, stage: Literal["valid", "test"]) -> dict[str, Tensor]:
        """As of `WaveformTask`; `details` also say which measures are not installed."""
        values = super().score(metric, stage)
        if stage == "test":
            missing = {name: install_measure(name) for name in self.others if name in MEASURES and name not in values}
            self.details |= {"not_measured": missing} if missing else {}
        return values


def _centred(waveforms: Tensor, lengths: Tensor, valid: Tensor) -> Tensor:
    """Waveforms `(batch, samples)` without their means, zeros in the padding."""
    means = (waveforms * valid).sum(1) / lengths
    return (waveforms - means[:, None]) * valid
