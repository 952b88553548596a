"""VC-kNN: conversion by the nearest frames of the target, tested without training (Baas et al., kNN-VC, arXiv 2305.18975)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from wavlm_lightning.audio import SAMPLE_RATE
from wavlm_lightning.data.batch import TaskBatch, Waveforms
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks.components.vocoder.neighbours import Frames
from wavlm_lightning.tasks.generation.conversion import ConversionTask
from wavlm_lightning.tasks.generation.vocoder import Vocoder
from wavlm_lightning.tasks.generation.voice_matching import VoiceMatching, matching_layer
from wavlm_lightning.tasks.trained_run import run_of_key
from wavlm_lightning.upstreams import Upstream, WeightedSum


class KnnConversion(ConversionTask):
    """kNN-VC: each frame of a source becomes the mean of its nearest frames in the target's recordings. Nothing is trained.

    The training split holds the recordings of the targets, of which every frame of up to `reference_seconds` is kept in memory.
    Frames are compared by cosine in one layer; averaged and made audible is what the vocoder was trained on (its layer or
    weighted sum), or without a vocoder the log-mel spectrum, by Griffin-Lim. `copy_synthesis` in the card is the target's own
    recording through the same. See `ConversionTask` for the scores; `wavlm convert` does the same with any recordings.

    Args:
        upstream: where features come from.
        vocoder: run of `Vocoder` on this upstream; null for Griffin-Lim.
        layer: that is compared, from 0; null for that at a quarter of the height, the 6 of kNN-VC's WavLM Large.
        k: frames of which the mean is taken; 4 in kNN-VC.
        reference_seconds: of each target, whole recordings in the order of the corpus; null for all. Five minutes are enough
            in kNN-VC.
        content: see `ConversionTask`.
        quality: see `ConversionTask`.
        seed: has no effect, since nothing is random; it is written to the result card.
        protocol: has no effect.
    """

    name: ClassVar[str] = "VC-kNN"

    def __init__(
        self,
        upstream: Upstream,
        vocoder: str | None = None,
        layer: int | None = None,
        k: int = 4,
        reference_seconds: float | None = 300.0,
        content: str | None = None,
        quality: bool = False,
        seed: int | None = None,
        protocol: Literal["superb", "fixed"] = "superb",
    ) -> None:
        super().__init__(upstream, 0.0, content, quality, seed=seed, protocol=protocol)  # nothing is trained
        self.weighted_sum = WeightedSum(1)  # without weights to learn or to report
        self.vocoder, self.k, self.reference_seconds = vocoder, k, reference_seconds
        self.layer = matching_layer(upstream, layer)
        if k < 1:
            raise UserError(f"model.k {k}: give 1 or more")
        if reference_seconds is not None and reference_seconds <= 0:
            raise UserError(
                f"model.reference_seconds {reference_seconds}: must be above 0; give seconds, or null for all"
            )
        self._matching: VoiceMatching | None = None  # not a module: its weights stay in their run
        self._voices: dict[str | None, tuple[Frames, float]] = {}  # frames of a target, and their seconds
        self._asked: Sequence[str | None] = ()  # the targets of the rows of a batch

    def prepare_data(self) -> None:
        """Refuse everything but a test on one device, before any data is opened."""
        if self.trainer.state.fn != "test":
            raise UserError(
                "VC-kNN has nothing to train; run `wavlm test`, or `wavlm convert` for recordings of your own"
            )
        if self.trainer.world_size > 1:
            raise UserError("VC-kNN keeps every frame of the targets in one process; set trainer.devices: 1")

    def build_head(self, dim: int) -> None:
        pass  # frames are compared, not learned

    def on_test_start(self) -> None:
        super().on_test_start()
        self._matching, self._voices = self._opened(), {}

    def _opened(self) -> VoiceMatching:
        if self.vocoder is None:
            return VoiceMatching(self.upstream, None, self.layer, self.k)
        where = f"model.vocoder {self.vocoder}"
        vocoder = run_of_key("model.vocoder", self.vocoder)
        if not isinstance(vocoder, Vocoder):
            raise UserError(
                f"{where}: holds a head for {vocoder.name}; give the run of a vocoder, or null for Griffin-Lim"
            )
        if vocoder.upstream.fingerprint() != self.upstream.fingerprint():
            raise UserError(
                f"{where}: was trained on {vocoder.upstream.label}, and model.upstream has other weights; train a vocoder on "
                "this upstream, or set model.vocoder: null for Griffin-Lim"
            )
        assert self.data is not None
        if abs(vocoder.trained_level - self.level) > 1e-6:
            gain_db = 20 * math.log10(vocoder.trained_level)
            needed = gain_db - self.data.processing.get("gain_db", 0.0)
            raise UserError(
                f"{where}: was trained on recordings with a gain of {gain_db:.3g} dB; set data.gain_db: {needed:.3g}"
            )
        vocoder.upstream = self.upstream  # the same weights, once in memory
        return VoiceMatching(self.upstream, vocoder.eval().to(self.device), self.layer, self.k)

    @property
    def matching(self) -> VoiceMatching:
        """Encoder and vocoder, once the test has begun."""
        if self._matching is None:
            raise UserError(
                "VC-kNN converts in a test only; run `wavlm test`, or `wavlm convert` for recordings of your own"
            )
        return self._matching

    def voice_frames(self, speaker: str | None) -> Frames:
        """All frames of a target; of the only speaker of the training split if None."""
        if speaker not in self._voices:
            assert self.data is not None
            split, seconds = self.data.training(), 0.0
            parts: list[Frames] = []
            if speaker is None:
                next(self.recordings_of(None), None)  # refuses several speakers
            for number, meta in enumerate(split.metas()):
                if speaker is not None and meta.get("speaker") != speaker:
                    continue
                length = int(split.samples[number]) / SAMPLE_RATE
                if self.reference_seconds is not None and parts and seconds + length > self.reference_seconds:
                    break
                shard, place = split.locate(number)
                recording = torch.from_numpy(shard.waveform(place) * np.float32(self.data.factor))
                parts.append(self.matching.frames(recording.to(self.device)))
                seconds += length
            if not parts:
                raise UserError(
                    f"VC-kNN: split {split.name} has no recording of {speaker}, to whom an utterance is to be converted; name "
                    "another data.train_split"
                )
            self._voices[speaker] = Frames.joined(parts), seconds
        return self._voices[speaker][0]

    def evaluate(self, batch: TaskBatch, metric: Metric, stage: Literal["valid", "test"]) -> None:
        self._asked = [meta.get("target_speaker") for meta, _ in self.targets_of(batch.keys)]
        try:
            super().evaluate(batch, metric, stage)
        finally:
            self._asked = ()

    def heard(self, inputs: Any, window: float) -> tuple[Tensor, Tensor]:
        """As `forward`: the frames of long recordings are found in windows anyway."""
        return self(inputs)

    def forward(self, inputs: Any) -> tuple[Tensor, Tensor]:
        """Conversions `(batch, samples)`, zeros in the padding, and samples of each row `(batch,)`."""
        if not isinstance(inputs, Waveforms):
            raise UserError(f"{self.name}: hears the audio itself; set data.cache: null")
        matching, answers = self.matching, torch.zeros_like(inputs.audio)
        for row, (length, speaker) in enumerate(zip(inputs.lengths.tolist(), self._asked, strict=True)):
            answers[row, :length] = matching.convert(inputs.audio[row, :length], self.voice_frames(speaker))
        return answers, inputs.lengths

    def enhance(self, features: Tensor, lengths: Tensor, audio: Waveforms) -> Tensor:
        raise UserError("VC-kNN compares frames and has no head; run `wavlm test`")

    def vocoded(self, recording: Tensor) -> Tensor:
        return self.matching.copy(recording)

    def score(self, metric: Metric, stage: Literal["valid", "test"]) -> dict[str, Tensor]:
        """As of `ConversionTask`; `details` also say which frames were compared."""
        values = super().score(metric, stage)
        seconds = {speaker or "the only speaker": round(found, 1) for speaker, (_, found) in self._voices.items()}
        self.details |= {
            "layer": self.layer,
            "k": self.k,
            "vocoder": self.vocoder or "Griffin-Lim",
            "voice_seconds": seconds,
        }
        return values
