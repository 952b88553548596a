"""Speech enhancement: a mask on the spectrogram of the noisy input, from an encoder's features and the spectrum itself."""

from typing import Any

import torch
from torch import Tensor, nn

from wavlm_lightning.data.batch import Waveforms
from wavlm_lightning.encoder import padding_mask
from wavlm_lightning.tasks import WaveformTask
from wavlm_lightning.upstreams import Upstream

# 32 ms windows every 10 ms: with SUPERB's 20 ms the sum of the squared windows swings between 0.19 and 1, and `istft`, which
# divides by it, magnifies what the mask gets wrong.
WINDOW, HOP = 512, 160
BINS = WINDOW // 2 + 1


class Denoiser(WaveformTask):
    """Multiplies each bin of the STFT by 0 to 1 (convolutions over 0.6 s); negative SNR as the loss; SI-SDR and STOI.

    Args:
        upstream: where features come from.
        hidden: width of the head.
        settings: see `Task`: learning_rate, normalize, seed, protocol.
    """

    name = "SE"
    others = {**WaveformTask.others, "stoi": "higher"}

    def __init__(self, upstream: Upstream, hidden: int = 128, **settings: Any) -> None:
        super().__init__(upstream, **settings)
        self.hidden = hidden

    def build_head(self, dim: int) -> None:
        self.register_buffer("window", torch.hann_window(WINDOW), persistent=False)
        self.norms = nn.ModuleList([nn.LayerNorm(dim), nn.LayerNorm(BINS)])
        self.projector = nn.Linear(dim + BINS, self.hidden)
        self.layers = nn.ModuleList(
            nn.Conv1d(self.hidden, self.hidden, 3, padding=dilation, dilation=dilation) for dilation in (1, 2, 4, 8, 16)
        )
        self.mask = nn.Linear(self.hidden, BINS)

    def enhance(self, features: Tensor, lengths: Tensor, audio: Waveforms) -> Tensor:
        # Zeros around the signal, as padding has them, so that an utterance sounds the same alone and in a batch.
        options = {"window": self.window, "center": True, "return_complex": True, "pad_mode": "constant"}
        noisy = torch.stft(audio.audio.float(), WINDOW, HOP, **options).transpose(1, 2)  # (batch, frames, bins)
        spectrum = (noisy.abs() + 1e-3).log()
        heard = self.aligned(features, lengths, noisy.shape[1])
        frames = self.projector(torch.cat([self.norms[0](heard), self.norms[1](spectrum)], 2))
        valid = ~padding_mask(audio.lengths // HOP + 1, noisy.shape[1])[:, :, None]
        for layer in self.layers:
            frames = frames + layer((frames * valid).transpose(1, 2)).relu().transpose(1, 2)
        clean = (noisy * self.mask(frames).float().sigmoid()).transpose(1, 2)
        return torch.istft(clean, WINDOW, HOP, window=self.window, length=audio.audio.shape[1])

    def aligned(self, features: Tensor, lengths: Tensor, frames: int) -> Tensor:
        """For each frame of the STFT, centred at sample 160 t, the feature whose 400 samples are centred nearest to it."""
        stride = 16_000 / self.upstream.frame_rate
        places = ((HOP * torch.arange(frames, device=features.device) - 200) / stride).round().long().clamp(min=0)
        places = torch.minimum(places[None], lengths[:, None] - 1)
        return features.gather(1, places[:, :, None].expand(-1, -1, features.shape[2]))
