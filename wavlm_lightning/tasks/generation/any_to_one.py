"""VC: any speaker in one voice, by a network that learns from recordings of that voice alone (SUPERB-SG)."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor

from wavlm_lightning.audio import SAMPLE_RATE, griffin_lim, synthesis_mel
from wavlm_lightning.data.batch import TaskBatch, Waveforms
from wavlm_lightning.encoder import padding_mask
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks.components.conversion.any_to_one import AnyToOneNetwork
from wavlm_lightning.tasks.components.conversion.mel_scale import MelScale
from wavlm_lightning.tasks.generation.conversion import ConversionTask, opened
from wavlm_lightning.tasks.generation.vocoder import Vocoder
from wavlm_lightning.training.fsdp import FSDP2
from wavlm_lightning.upstreams import LogMel, Upstream


class MelConversion(ConversionTask):
    """Conversion that predicts log-mel frames, made audible by a vocoder of ours or Griffin-Lim.

    A subclass builds its network (`build_head`, which calls this class's), and implements `frames_of` and `mel_loss`.

    Args:
        upstream: where features come from.
        learning_rate: of Adam.
        hop: samples between log-mel frames; the upstream's frames are repeated for it. Null for the upstream's own.
        vocoder: run of `Vocoder` on the upstream `LogMel` with this hop; null for Griffin-Lim.
        settings: see `ConversionTask`.
    """

    def __init__(
        self,
        upstream: Upstream,
        learning_rate: float = 1e-4,
        hop: int | None = None,
        vocoder: str | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(upstream, learning_rate, **settings)
        self.vocoder = vocoder
        self._opened_vocoder: tuple[Vocoder, float] | None = None  # not a module: its weights stay in their run
        own = round(SAMPLE_RATE / upstream.frame_rate)
        self.hop = own if hop is None else hop
        if self.hop < 1 or own % self.hop:
            raise UserError(
                f"model.hop {hop}: {upstream.label} has a frame every {own} samples; give a divisor of it, such as {own}"
            )
        self.repeats = own // self.hop

    @abstractmethod
    def frames_of(self, features: Tensor, lengths: Tensor, audio: Waveforms) -> Tensor:
        """Scaled log-mel frames `(batch, frames, 80)` in the target's voice, in eval mode; see `enhance`.

        `features` and `lengths` are at the rate of the log-mel frames.
        """

    @abstractmethod
    def mel_loss(self, features: Tensor, lengths: Tensor, wanted: Tensor, batch: TaskBatch) -> Tensor:
        """The training loss of recordings of the target, of their scaled log-mel frames `wanted`, `(batch, frames, 80)`."""

    def build_head(self, dim: int) -> None:
        self.mel = MelScale(self.hop)

    def on_fit_start(self) -> None:
        super().on_fit_start()
        if isinstance(self.trainer.strategy, FSDP2):
            raise UserError(
                f"{self.name}: learns without its forward pass, in which FSDP2 puts weights together; set trainer.strategy: ddp"
            )
        assert self.data is not None
        if not self.mel.fitted:  # a run that goes on, or starts from another one, has a network that knows its scale
            self.mel.fit(self.data.opened["train"], self.data.factor)

    def repeated(self, features: Tensor, lengths: Tensor, samples: Tensor) -> tuple[Tensor, Tensor]:
        """Features at the rate of the log-mel frames, and the log-mel frames of each recording, from `samples` `(batch,)`."""
        features = features.repeat_interleave(self.repeats, 1)
        return features, torch.minimum(self.mel.count(samples), self.repeats * lengths)

    def training_step(self, batch: TaskBatch, batch_idx: int) -> Tensor:
        if not isinstance(batch.inputs, Waveforms):
            raise UserError(f"{self.name}: hears the audio itself; train it alone, and set data.cache: null")
        with self.named(batch), self.beside(batch.extra):
            layers = self.upstream_layers(batch.inputs)
            features, lengths = self.repeated(self.weighted_sum(layers), layers.lengths, batch.inputs.lengths)
            with torch.no_grad():
                wanted = self.mel.of(batch.targets.values)
            frames = min(features.shape[1], wanted.shape[1])
            loss = self.mel_loss(features[:, :frames], lengths.clamp(max=frames), wanted[:, :frames], batch)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch.keys))
        return loss

    def enhance(self, features: Tensor, lengths: Tensor, audio: Waveforms) -> Tensor:
        features, frames = self.repeated(features, lengths, audio.lengths)
        mel = self.mel.restored(self.frames_of(features, frames, audio))
        answers = torch.zeros_like(audio.audio)
        # One by one: behind the end of a row lies what the network makes of padding.
        for row, (count, samples) in enumerate(zip(frames.tolist(), audio.lengths.tolist(), strict=True)):
            answers[row, :samples] = self.audible(mel[row, :count], samples)
        return answers

    def audible(self, mel: Tensor, samples: int) -> Tensor:
        """The waveform `(samples,)` of log-mel frames `(frames, 80)`."""
        if self.vocoder is None:
            return griffin_lim(mel[None], self.hop, samples)[0]
        task, factor = self._vocoder
        factor /= self.level  # the frames are at the level at which this task hears
        # In logarithms of amplitudes, a gain is a sum.
        return task.to(mel.device).synthesised(mel + math.log(factor), samples) / factor

    def vocoded(self, recording: Tensor) -> Tensor:
        return self.audible(synthesis_mel(recording[None], self.hop)[0], len(recording))

    @property
    def _vocoder(self) -> tuple[Vocoder, float]:
        if self._opened_vocoder is None:
            assert self.vocoder is not None
            where = f"model.vocoder {self.vocoder}"
            task, factor = opened("model.vocoder", self.vocoder)
            if not isinstance(task, Vocoder):
                raise UserError(f"{where}: holds a head for {task.name}; give a run of Vocoder")
            if not isinstance(task.upstream, LogMel) or task.upstream.hop != self.hop or task.weighted_sum.normalize:
                raise UserError(
                    f"{where}: hears {task.upstream.label!r}, and not log-mel frames every {self.hop} samples as they are; train "
                    f"it on the upstream LogMel with hop: {self.hop}"
                )
            self._opened_vocoder = task, factor
        return self._opened_vocoder


class AnyToOneConversion(MelConversion):
    """The autoregressive network of SUPERB-SG, one model for each target.

    Trained on recordings of the target alone, each frame after the true previous one, by the mean absolute difference of scaled
    log-mel frames; converted speech comes frame by frame from the network's own answers. Unlike SUPERB-SG, which chooses the
    checkpoint by the test, the lowest `mcd` of validation chooses it; audio has 16 kHz, and Griffin-Lim makes it.

    `protocol: superb` drops half of the prenet's values also when speech is converted, always the same; `fixed` does not.

    Args:
        upstream: where features come from.
        learning_rate: of Adam; 1e-4 in SUPERB-SG.
        hidden: width of encoder and LSTMs; 512 in SUPERB-SG.
        hop: samples between log-mel frames; SUPERB-SG's 256 at 24 kHz are 171 here, and 160 is next to it.
        settings: see `ConversionTask` and `Task`: content, quality, normalize, seed, protocol.
    """

    name: ClassVar[str] = "VC"

    def __init__(
        self,
        upstream: Upstream,
        learning_rate: float = 1e-4,
        hidden: int = 512,
        hop: int | None = 160,
        **settings: Any,
    ) -> None:
        super().__init__(upstream, learning_rate, hop, **settings)
        self.hidden = hidden

    def build_head(self, dim: int) -> None:
        super().build_head(dim)
        self.network = AnyToOneNetwork(dim, self.hidden, noisy=self.protocol == "superb")

    def frames_of(self, features: Tensor, lengths: Tensor, audio: Waveforms) -> Tensor:
        return self.network.generated(features, lengths)

    def mel_loss(self, features: Tensor, lengths: Tensor, wanted: Tensor, batch: TaskBatch) -> Tensor:
        return frame_difference(self.network(features, lengths, wanted), wanted, lengths)


def frame_difference(answers: Tensor, wanted: Tensor, lengths: Tensor) -> Tensor:
    """Mean absolute difference over all valid frames and bins of `(batch, frames, bins)`."""
    valid = ~padding_mask(lengths, wanted.shape[1])
    return (answers.float() - wanted).abs().mean(2)[valid].mean()
