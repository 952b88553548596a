"""kNN-VC: any recording in any voice, by the nearest frames of that voice; only the vocoder was trained, or nothing at all."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from wavlm_lightning.audio import SAMPLE_RATE, griffin_lim, synthesis_mel
from wavlm_lightning.encoder import Layers
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks.components.vocoder.neighbours import Frames, spoken_by
from wavlm_lightning.tasks.generation.vocoder import Vocoder
from wavlm_lightning.tasks.windows import WINDOW_SECONDS, windows
from wavlm_lightning.upstreams import Upstream

MATCHED = 0.25  # height of kNN-VC's layer: 6 of 24


def matching_layer(upstream: Upstream, layer: int | None, key: str = "model.layer") -> int:
    """The hidden state that is compared, from 0: the one given, or that at a quarter of the height (6 of WavLM Large).

    Raises:
        UserError: there is no such layer; `key` is the option that names it.
    """
    count = upstream.num_layers
    if layer is None:
        return round(MATCHED * (count - 1))
    if not -count <= layer < count:
        raise UserError(f"{key} {layer}: {upstream.label} has the layers 0 to {count - 1}; give one of them")
    return layer % count


@dataclass(frozen=True)
class VoiceMatching:
    """Conversion with an encoder, and a vocoder or Griffin-Lim.

    Frames are compared in one layer of the encoder. What is averaged and made audible is what the vocoder was trained on, of
    the same frames: its own layer or weighted sum; without a vocoder their log-mel spectra, from which Griffin and Lim's
    iteration finds a waveform.

    Attributes:
        upstream: the encoder, in eval mode.
        vocoder: trained on this encoder; None for Griffin-Lim.
        layer: that is compared, from 0.
        k: frames of the voice of which the mean is taken; 4 in kNN-VC.
    """

    upstream: Upstream
    vocoder: Vocoder | None
    layer: int
    k: int = 4

    @property
    def hop(self) -> int:
        return round(SAMPLE_RATE / self.upstream.frame_rate)

    @torch.no_grad()
    def frames(self, recording: Tensor) -> Frames:
        """The frames of a recording `(samples,)`; in windows with context, if it is long."""
        parts = []
        for samples, before, count in windows(len(recording), self.hop, WINDOW_SECONDS):
            stretch = recording[samples]
            if len(stretch) < self.upstream.shortest:
                continue  # the last samples of a window's grid may be shorter than a frame
            layers = self.upstream(stretch[None], torch.tensor([len(stretch)], device=stretch.device))
            own = slice(before, None if count is None else before + count)
            parts.append(Frames(layers.hidden[self.layer, 0, own].float(), self._spoken(layers, stretch)[own]))
        return Frames.joined(parts)

    def _spoken(self, layers: Layers, recording: Tensor) -> Tensor:
        if self.vocoder is not None:
            return self.vocoder.weighted_sum(layers)[0].float()
        mel, frames = synthesis_mel(recording[None], self.hop)[0], layers.hidden.shape[2]
        if abs(len(mel) - frames) > 1:
            raise UserError(
                f"{self.upstream.label}: has {frames} frames where windows of 25 ms every {self.hop} samples have {len(mel)}, so "
                "that Griffin-Lim cannot follow it; give a vocoder that is trained on it"
            )
        return mel[torch.arange(frames, device=mel.device).clamp(max=len(mel) - 1)]

    def voice(self, recordings: Iterable[Tensor]) -> Frames:
        """All frames of the recordings, `(samples,)` each, of one speaker."""
        return Frames.joined([self.frames(recording) for recording in recordings])

    def convert(self, recording: Tensor, voice: Frames) -> Tensor:
        """What a recording `(samples,)` says in the voice, float32 `(samples,)`."""
        return self.audible(spoken_by(self.frames(recording).searched, voice, self.k), len(recording))

    def copy(self, recording: Tensor) -> Tensor:
        """The recording `(samples,)` made again from its own frames: the best that this vocoder could do."""
        return self.audible(self.frames(recording).spoken, len(recording))

    @torch.no_grad()
    def audible(self, spoken: Tensor, samples: int) -> Tensor:
        """The waveform `(samples,)` of frames `(frames, dim)` as `Frames.spoken` has them."""
        if self.vocoder is not None:
            return self.vocoder.synthesised(spoken, samples)
        return griffin_lim(spoken[None], self.hop, samples)[0]
