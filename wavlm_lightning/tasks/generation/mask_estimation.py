"""Enhancement and separation by masks on the spectrogram of the recording, as SUPERB-SG trains and scores them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torchmetrics import Metric

from wavlm_lightning.audio import SAMPLE_RATE
from wavlm_lightning.data.batch import Targets, TaskBatch, Waveforms
from wavlm_lightning.encoder import padding_mask
from wavlm_lightning.metrics.enhancement import MEASURES, NEEDED, EnhancementMeasures, install_measure, is_installed
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks.base import Protocol, Unit
from wavlm_lightning.tasks.components.spectral import (
    MaskNetwork,
    Stft,
    apply_mask,
    best_assignment,
    best_mask,
    distances,
    nearest_features,
    phase_sensitive_magnitude,
    same_number,
)
from wavlm_lightning.tasks.components.spectral.masks import Activation, Scale
from wavlm_lightning.tasks.waveform import WaveformTask
from wavlm_lightning.tasks.windows import is_long
from wavlm_lightning.upstreams import Upstream

Objective = Literal["phase", "magnitude", "si_sdr"]
QUICK = ("si_sdr", "si_sdri")
TINY = 1e-9  # mean power added to signal and error of an SI-SDR: noise at -90 dB


@dataclass(frozen=True)
class MaskRecipe:
    """Spectrogram, network and loss of a recipe.

    Attributes:
        window: samples of the Hann window; the transform has the next power of two.
        hop: samples between two frames; None is the stride of the upstream.
        hidden: cells of the LSTMs in each direction.
        layers: stacked LSTMs.
        dropout: after each LSTM.
        activation: of the masks: `relu`, without an upper bound, or `sigmoid`, between 0 and 1.
        scale: a mask multiplies the magnitude (`linear`) or log(1 + magnitude) (`log`).
        objective: see `MaskEstimation`.
    """

    window: int
    hop: int | None
    hidden: int
    layers: int
    dropout: float
    activation: Activation
    scale: Scale
    objective: Objective


SUPERB = MaskRecipe(512, None, 896, 3, 0.5, "relu", "linear", "phase")
"""s3prl `downstream/{enhancement,separation}_stft`, the recipes of SUPERB-SG (arXiv 2203.06849)."""


class Estimate(NamedTuple):
    """What the loss compares."""

    values: Tensor  # masked magnitudes on the scale of the masks, `(batch, sources, frames, bins)`
    mixture: Tensor  # complex `(batch, frames, bins)`
    frames: Tensor  # valid ones, `(batch,)`


class MaskEstimation(WaveformTask):
    """Bidirectional LSTMs and a mask for each source on the STFT of the recording; the answer has the recording's phase.

    `protocol: superb` takes the recipe of SUPERB-SG: features and frames of the STFT are matched by number, the missing ones are
    zeros. It departs from s3prl in one point: the STFT goes on until the last sample is under a window, where s3prl leaves up to
    63 samples out and silences peaks behind them. `protocol: fixed` takes the better recipe that s3prl's authors published later
    (`..._stft2`; not comparable with SUPERB's table) and gives each frame the feature that is centred nearest, so that the hop is
    free. The arguments below replace single values of either.

    The loss compares the masked magnitude with a target, summed over time and frequency and divided by the frames: squares of the
    difference to the part of the clean spectrum that has the recording's phase, never below 0 (`phase`); absolute differences to
    the clean magnitude (`magnitude`). `si_sdr` is the negative SI-SDR of the waveform instead. With several sources it is that of
    the order with the least loss (PIT, utterance level).

    Args:
        upstream: where features come from; it hears the recording.
        learning_rate: of Adam.
        window: samples of the Hann window.
        hop: samples between two frames; under `superb` always the stride of the upstream.
        hidden: cells of the LSTMs in each direction.
        layers: stacked LSTMs.
        dropout: after each LSTM.
        activation: of the masks: `relu`, without an upper bound, or `sigmoid`, between 0 and 1.
        scale: a mask multiplies the magnitude (`linear`) or log(1 + magnitude) (`log`).
        objective: `phase`, `magnitude` or `si_sdr`.
        spectrum: give the head log(1 + magnitude) of the recording beside the features (Hung et al., arXiv 2204.03339); SUPERB
            does not.
        settings: see `Task`: normalize, seed, protocol, schedule, eps.
    """

    recipes: ClassVar[dict[Protocol, MaskRecipe]]
    measures: ClassVar[type[EnhancementMeasures]] = EnhancementMeasures

    def __init__(
        self,
        upstream: Upstream,
        learning_rate: float = 1e-4,
        window: int | None = None,
        hop: int | None = None,
        hidden: int | None = None,
        layers: int | None = None,
        dropout: float | None = None,
        activation: Activation | None = None,
        scale: Scale | None = None,
        objective: Objective | None = None,
        spectrum: bool = False,
        **settings: Any,
    ) -> None:
        super().__init__(upstream, learning_rate, **settings)
        given: dict[str, Any] = {
            "window": window,
            "hop": hop,
            "hidden": hidden,
            "layers": layers,
            "dropout": dropout,
            "activation": activation,
            "scale": scale,
            "objective": objective,
        }
        self.recipe = replace(
            self.recipes[self.protocol], **{name: value for name, value in given.items() if value is not None}
        )
        self.spectrum = spectrum
        self.estimated: Estimate | None = None  # of the last forward pass, for its loss
        self.latest: list[
            tuple[float, float]
        ] = []  # of each utterance of the last batch, the headline's sum and its count
        stride = round(SAMPLE_RATE / upstream.frame_rate)
        if self.protocol == "superb" and hop not in (None, stride):
            raise UserError(
                f"{self.name}: model.hop is {hop}, but protocol superb matches frames with features, {stride} samples apart; "
                "leave hop out or set model.protocol: fixed"
            )
        chosen = self.recipe
        for key, value, known in (
            ("objective", chosen.objective, get_args(Objective)),
            ("scale", chosen.scale, get_args(Scale)),
        ):
            if value not in known:
                raise UserError(f"{self.name}: model.{key} is {value!r}; give one of {', '.join(known)}")
        self.stft = Stft(
            chosen.window, stride if chosen.hop is None else chosen.hop, 1 << (chosen.window - 1).bit_length()
        )

    @property
    def sources(self) -> int:
        """Masks of a frame."""
        return len(self.target_audio)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "estimated": None}

    def build_head(self, dim: int) -> None:
        how = self.recipe
        width = dim + self.stft.bins * self.spectrum
        self.network = MaskNetwork(
            width, self.stft.bins, self.sources, how.hidden, how.layers, how.dropout, how.activation
        )

    # From waveform to waveforms.

    @abstractmethod
    def shaped(self, waveforms: Tensor) -> Tensor:
        """The answer of the task from `(batch, sources, samples)`."""

    @abstractmethod
    def by_source(self, waveforms: Tensor) -> Tensor:
        """Answers or targets of the task as `(batch, sources, samples)`."""

    def enhance(self, features: Tensor, lengths: Tensor, audio: Waveforms) -> Tensor:
        mixture, frames = self.stft(audio.audio), self.stft.frames(audio.lengths)
        if self.protocol == "superb":
            hidden = same_number(features, lengths, mixture.shape[1])
        else:
            rate, first = self.upstream.frame_rate, self.upstream.first_centre
            hidden = nearest_features(features, lengths, rate, mixture.shape[1], self.stft.hop, first)
        if self.spectrum:
            hidden = torch.cat([hidden, mixture.abs().log1p().to(hidden.dtype)], 2)
        spectrograms, values = apply_mask(self.network(hidden, frames), mixture, self.recipe.scale)
        self.estimated = Estimate(values, mixture, frames)
        samples = audio.audio.shape[1]
        waveforms = self.stft.inverse(spectrograms.flatten(0, 1), samples).view(len(mixture), self.sources, samples)
        return self.shaped(waveforms)

    def answers(self, inputs: Any) -> tuple[Tensor, Tensor]:
        answered = super().answers(inputs)
        if is_long(inputs):
            # Heard in windows, so that the spectrogram of the answer stands for the masked one.
            waveforms = self.by_source(answered[0])
            values = self.stft(waveforms.flatten(0, 1)).abs().unflatten(0, waveforms.shape[:2])
            mixture = self.stft(inputs.audio[:, : waveforms.shape[2]])
            self.estimated = Estimate(self._scaled(values), mixture, self.stft.frames(answered[1]))
        return answered

    @torch.no_grad()
    def oracle(self, mixture: Tensor, targets: Tensor) -> Tensor:
        """What the best masks within the bounds of the activation make of a mixture `(samples,)`, shaped as its targets."""
        heard, wanted = self.stft(mixture[None]), self.stft(self.by_source(targets[None])[0])
        masks = best_mask(wanted, heard, 1.0 if self.recipe.activation == "sigmoid" else None)
        return self.shaped(self.stft.inverse(heard * masks, len(mixture))[None])[0]

    # Loss.

    def _scaled(self, magnitudes: Tensor) -> Tensor:
        return magnitudes.log1p() if self.recipe.scale == "log" else magnitudes

    def loss(self, outputs: Tensor, lengths: Tensor, targets: Targets) -> Tensor:
        """The mean over utterances, of the answers of the last forward pass; see the class."""
        wanted = self.by_source(targets.values.float())
        estimated, self.estimated = self.estimated, None
        if self.recipe.objective == "si_sdr":
            return best_assignment(_negative_si_sdr(self.by_source(outputs), wanted, lengths))[0].mean()
        if estimated is None:
            raise UserError(f"{self.name}: its loss needs the masks of a forward pass; call the task before its loss")
        spectra = self.stft(wanted.flatten(0, 1)).unflatten(0, wanted.shape[:2])
        phase = self.recipe.objective == "phase"
        target = phase_sensitive_magnitude(spectra, estimated.mixture) if phase else spectra.abs()
        power = 2 if phase else 1
        table = distances(estimated.values, self._scaled(target), estimated.frames, power)
        return best_assignment(table)[0].mean()

    # Measures. STOI and PESQ take long, so that validation is without them unless one of them selects the checkpoint.

    def configure_model(self) -> None:
        if self._trainer is not None and not is_installed(self.metric):
            raise UserError(
                f"{self.name}: the checkpoint is selected by {self.metric}, which needs {NEEDED[self.metric]}: "
                f"{install_measure(self.metric)}; or choose another measure with model.select"
            )
        super().configure_model()

    def build(self, labels: Any) -> None:
        fresh = self.labels is None
        super().build(labels)
        if fresh and is_installed(self.metric):
            self.valid_metric = self.measures(dict.fromkeys((self.metric, *QUICK)))

    def build_metric(self) -> EnhancementMeasures:
        """The measures named by `metric` and `others` whose packages are installed."""
        wanted = (self.metric, *self.others)
        return self.measures(name for name in wanted if name not in MEASURES or is_installed(name))

    def update_metric(self, metric: Metric, outputs: Tensor, lengths: Tensor, batch: TaskBatch) -> None:
        inputs: Any = batch.inputs
        assert isinstance(metric, EnhancementMeasures)
        self.latest = []
        rows = zip(self.answer_rows(outputs, lengths), batch.targets.values, inputs.audio, strict=True)
        for answer, target, mixture in rows:
            target, mixture = target[: len(answer)], mixture[: len(answer)]
            oracle = self.oracle(mixture, target) if metric is self.test_metric else None
            metric.update(answer, target, mixture, oracle)
            figures = metric.latest[self.metric]
            self.latest.append((sum(figures), float(len(figures))))

    def utterance_scores(
        self, outputs: Tensor, lengths: Tensor, batch: TaskBatch
    ) -> Sequence[tuple[float, ...]] | None:
        """The headline of each utterance of the batch that `update_metric` has just seen; PESQ takes too long for twice."""
        return self.latest

    def score(self, metric: Metric, stage: Literal["valid", "test"]) -> dict[str, Tensor]:
        """As of `WaveformTask`; `details` also say which measures are not installed."""
        values = super().score(metric, stage)
        if stage == "test":
            if not values[self.metric].isfinite():
                raise UserError(
                    f"{self.name}: the test has no figure for {self.metric}: all references are silent or too short, or an "
                    "answer holds NaN; train longer, or check the corpus"
                )
            missing = {name: install_measure(name) for name in self.others if name in MEASURES and name not in values}
            self.details |= {"not_measured": missing} if missing else {}
        return values


def _negative_si_sdr(answers: Tensor, sources: Tensor, lengths: Tensor) -> Tensor:
    """The negative SI-SDR in dB of each answer for each source, `(batch, answers, sources)`; `(batch, ..., samples)` each."""
    valid = ~padding_mask(lengths, answers.shape[2])[:, None]
    heard, wanted = (
        (each - (each * valid).sum(2, keepdim=True) / lengths[:, None, None]) * valid
        for each in (answers.float(), sources)
    )
    tiny = TINY * lengths[:, None, None]
    with torch.autocast(answers.device.type, enabled=False):  # signal and error below are differences of its square
        inner = heard.float() @ wanted.float().transpose(1, 2)
    signal = inner.square() / (wanted.square().sum(2)[:, None] + tiny)
    error = (heard.square().sum(2)[:, :, None] - signal).clamp(min=0)
    return 10 * ((error + tiny).log10() - (signal + tiny).log10())


UNITS: dict[str, Unit] = {**WaveformTask.units, "pesq": Unit("", 1.0)}
