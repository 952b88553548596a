"""VOCODER: speech from the features of an encoder, trained by reconstruction; kNN-VC and other generation end with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from wavlm_lightning.audio import SAMPLE_RATE, griffin_lim, synthesis_mel
from wavlm_lightning.data.batch import Targets, TaskBatch, Waveforms
from wavlm_lightning.encoder import padding_mask
from wavlm_lightning.metrics.enhancement import MEASURES, install_measure
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks.base import Direction, Unit
from wavlm_lightning.tasks.components.vocoder.losses import SpectralDistance, mel_distance
from wavlm_lightning.tasks.components.vocoder.measures import CopySynthesisMeasures, measurable, mel_error
from wavlm_lightning.tasks.components.vocoder.neighbours import nearest_frames
from wavlm_lightning.tasks.components.vocoder.network import SpectralVocoder
from wavlm_lightning.tasks.transformers_form import TransformersForm
from wavlm_lightning.tasks.waveform import WaveformTask
from wavlm_lightning.upstreams import Upstream
from wavlm_lightning.upstreams.weighted_sum import OneLayer


class Vocoder(WaveformTask):
    """ConvNeXt blocks and an inverse STFT on the features of a frozen encoder: what is heard comes from the features alone.

    The target is the recording itself, before `data.transforms`, so that any corpus will do. The loss is the difference of
    log-mel spectra, plus that of STFTs at several resolutions (Parallel WaveGAN, arXiv 1910.11480); there is no discriminator,
    so that two cores train it.

    Scores are means over utterances: `mel`, the difference of log-mel amplitudes in dB, and in the test `stoi` and wide-band
    `pesq` where the packages pystoi and pesq are installed. The `details` of its card hold the same of Griffin-Lim, which knows
    the mel spectrogram of the recording. SI-SDR would say nothing, since phases are free.

    Args:
        upstream: where features come from.
        learning_rate: of Adam.
        layer: the hidden state that is heard, from 0 (the input of the first transformer layer) or, backwards, from -1; null
            for a weighted sum of all that is trained with the vocoder.
        width: of the blocks.
        hidden: of their feed-forward layers.
        blocks: their number.
        mel_weight: of the difference of log-mel spectra in the loss.
        prematch: k of kNN-VC's prematching, 0 for none: in training, each frame becomes the mean of its k nearest frames in
            other recordings of its speaker, as in a conversion. Needs `layer`, a frozen encoder, and `speaker` in the metadata;
            validation and test hear the frames as they are.
        prematch_seconds: of the recordings of each speaker that are kept for it, in the order of the corpus.
        settings: see `Task`.
    """

    name: ClassVar[str] = "VOCODER"
    reconstructs = True
    target_audio: ClassVar[tuple[str, ...]] = ("recording",)
    answer_sounds: ClassVar[tuple[str, ...]] = ("copy-synthesis",)
    metric, better = "mel", "lower"
    others: ClassVar[dict[str, Direction]] = {"stoi": "higher", "pesq": "higher"}
    units: ClassVar[dict[str, Unit]] = {"mel": Unit("dB", 1.0), "pesq": Unit("", 1.0)}

    def __init__(
        self,
        upstream: Upstream,
        learning_rate: float = 1e-3,
        layer: int | None = None,
        width: int = 256,
        hidden: int = 768,
        blocks: int = 8,
        mel_weight: float = 1.0,
        prematch: int = 0,
        prematch_seconds: float = 60.0,
        **settings: Any,
    ) -> None:
        super().__init__(upstream, learning_rate, **settings)
        if layer is not None:
            self.weighted_sum = OneLayer(layer, upstream.num_layers, upstream.label, self.weighted_sum.normalize)
        if mel_weight < 0:
            raise UserError(f"model.mel_weight {mel_weight}: must be 0 or more")
        if prematch < 0 or prematch_seconds <= 0:
            raise UserError(
                f"model.prematch {prematch}, prematch_seconds {prematch_seconds:g}: give at least 0, and above 0"
            )
        if prematch and (layer is None or upstream.trained):
            raise UserError(
                "model.prematch: frames are compared in one layer of a frozen encoder; set model.layer, and upstream.frozen: true"
            )
        self.prematch, self.prematch_seconds = prematch, prematch_seconds
        self._kept: dict[str, tuple[Tensor, Tensor]] = {}  # speaker -> frames, and the number of the utterance of each
        self._numbers: dict[str, int] = {}  # key of a training utterance -> its number
        self._spoken: dict[str | None, list[int]] = {}  # speaker -> numbers of the training utterances
        self._matched: tuple[str, ...] = ()  # keys of the rows of a training batch
        self.layer, self.mel_weight = layer, mel_weight
        self.width, self.hidden, self.number_of_blocks = width, hidden, blocks
        self.hop = round(SAMPLE_RATE / upstream.frame_rate)

    def transformers_form(self) -> TransformersForm | str:
        return "it answers with a waveform, which no head of transformers does"

    def build_head(self, dim: int) -> None:
        self.network = SpectralVocoder(
            dim, self.hop, self.width, self.hidden, self.number_of_blocks, self.upstream.typical
        )
        self.distance = SpectralDistance()

    def build(self, labels: Any) -> None:
        fresh = self.labels is None
        super().build(labels)
        if fresh:
            self.valid_metric = CopySynthesisMeasures([self.metric], self.hop)

    def training_step(self, batch: TaskBatch, batch_idx: int) -> Tensor:
        self._matched = batch.keys if self.prematch else ()
        try:
            return super().training_step(batch, batch_idx)
        finally:
            self._matched = ()

    def on_fit_start(self) -> None:
        super().on_fit_start()
        self._kept, self._numbers, self._spoken = {}, {}, {}
        if self.prematch:
            assert self.data is not None
            split = self.data.training()
            for number, (key, meta) in enumerate(zip(split.keys, split.metas(), strict=True)):
                self._numbers[key] = number
                self._spoken.setdefault(meta.get("speaker"), []).append(number)

    def enhance(self, features: Tensor, lengths: Tensor, audio: Waveforms) -> Tensor:
        if self._matched:
            features = features.clone()
            for row, (key, frames) in enumerate(zip(self._matched, lengths.tolist(), strict=True)):
                features[row, :frames] = self.prematched(features[row, :frames], key).to(features.dtype)
        return self.network(features, lengths, audio.audio.shape[1])

    @torch.no_grad()
    def prematched(self, features: Tensor, key: str) -> Tensor:
        """Frames `(frames, dim)` of a training utterance as the means of those of the speaker's other recordings."""
        kept, numbers = self._kept_of(key)
        try:
            nearest = nearest_frames(features, kept, self.prematch, numbers != self._numbers[key])
        except UserError as error:
            raise UserError(
                f"model.prematch: utterance {key!r}: {error}; set model.prematch: 0, or leave this speaker out"
            ) from error
        return kept[nearest].mean(1)

    def _kept_of(self, key: str) -> tuple[Tensor, Tensor]:
        """Frames of the speaker of an utterance, and the number of the utterance of each."""
        assert self.data is not None
        split = self.data.training()
        shard, place = split.locate(self._numbers[key])
        speaker = shard.meta(place).get("speaker")
        if speaker is None:
            raise UserError(
                f"model.prematch: utterance {key!r} has no `speaker` in its metadata; set model.prematch: 0"
            )
        if speaker not in self._kept:
            frames, numbers, seconds = [], [], 0.0
            for number in self._spoken[speaker]:
                if seconds >= self.prematch_seconds:
                    break
                shard, place = split.locate(number)
                recording = torch.from_numpy(shard.waveform(place) * np.float32(self.data.factor))[None]
                length = torch.tensor([recording.shape[1]], device=self.device)
                frames.append(self.weighted_sum(self.upstream(recording.to(self.device), length))[0].float())
                numbers.append(torch.full((len(frames[-1]),), number, device=self.device))
                seconds += recording.shape[1] / SAMPLE_RATE
            self._kept[speaker] = torch.cat(frames), torch.cat(numbers)
        return self._kept[speaker]

    def loss(self, outputs: Tensor, lengths: Tensor, targets: Targets) -> Tensor:
        """Difference of log-mel spectra times `mel_weight`, and that of STFTs; mean over utterances."""
        wanted = targets.values.float() * ~padding_mask(lengths, outputs.shape[1])
        mel = mel_distance(outputs.float(), wanted, lengths, self.hop)
        return (self.mel_weight * mel + self.distance(outputs, wanted, lengths)).mean()

    def build_metric(self) -> Metric:
        """All measures, and those of Griffin-Lim; validation is without them, because they take long."""
        return CopySynthesisMeasures(measurable([self.metric, *self.others]), self.hop, compare=True)

    def update_metric(self, metric: Metric, outputs: Tensor, lengths: Tensor, batch: TaskBatch) -> None:
        for answer, reference in zip(self.answer_rows(outputs, lengths), batch.targets.values, strict=True):
            metric.update(answer, reference[: len(answer)])

    def playable(self, outputs: Tensor, lengths: Tensor, batch: TaskBatch) -> list[dict[str, Tensor]]:
        """The recording, copy-synthesis, and what Griffin-Lim makes of the mel spectrogram of the recording."""
        found = []
        for answer, reference in zip(self.answer_rows(outputs, lengths), batch.targets.values, strict=True):
            recording = reference[: len(answer)].float()
            rebuilt = griffin_lim(synthesis_mel(recording[None], self.hop), self.hop, len(answer))[0]
            found.append({"recording": recording, self.answer_sounds[0]: answer, "Griffin-Lim": rebuilt})
        return found

    def utterance_scores(
        self, outputs: Tensor, lengths: Tensor, batch: TaskBatch
    ) -> Sequence[tuple[float, ...]] | None:
        """The difference of log-mel spectra of each utterance, and 1."""
        rows = zip(self.answer_rows(outputs, lengths), batch.targets.values, strict=True)
        return [(float(mel_error(answer, reference[: len(answer)], self.hop)), 1.0) for answer, reference in rows]

    def score(self, metric: Metric, stage: Literal["valid", "test"]) -> dict[str, Tensor]:
        """Values by name; the test puts those of Griffin-Lim, and the measures that are not installed, into `details`."""
        values = super().score(metric, stage)
        if stage == "test":
            del self.details["unprocessed"]  # the input is the target
            missing = {name: install_measure(name) for name in self.others if name in MEASURES and name not in values}
            self.details |= {"not_measured": missing} if missing else {}
        return values

    @torch.no_grad()
    def synthesised(self, features: Tensor, samples: int) -> Tensor:
        """The waveform `(samples,)` of features `(frames, dim)` that `weighted_sum` gave, or that stand for such."""
        lengths = torch.tensor([len(features)], device=features.device)
        return self.network(features[None].float(), lengths, samples)[0]
