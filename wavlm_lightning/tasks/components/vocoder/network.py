"""A vocoder at the frame rate of its input: ConvNeXt blocks, amplitudes and phases, inverse STFT (Vocos)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wavlm_lightning.audio.mel import FRAME_CENTRE
from wavlm_lightning.system.errors import UserError

OVERLAP = 4  # hops in a window: the squares of the Hann windows then add up to a constant
LOUDEST = 100.0  # largest amplitude of a bin, against overflow in the first updates
# Frames added at either end, so that every sample lies under as many windows as one in the middle.
MARGIN = 5


class SpectralVocoder(nn.Module):
    """Features of an encoder, or log-mel frames, to a waveform.

    A convolution over 7 frames, ConvNeXt blocks, and one linear layer that gives logarithms of amplitudes and phases of an STFT
    with Hann windows of 4 hops; its inverse is the waveform (Siuzdak, Vocos, arXiv 2306.00814, section 3). Frame t is centred at
    sample `hop * t + 200`, as the encoders' and `audio.synthesis_mel`'s frames are. The answer for a row depends on neither
    padding nor other rows.

    Args:
        dim: of the features.
        hop: samples between frames.
        width: of the blocks.
        hidden: of the feed-forward layers in the blocks.
        blocks: their number; each sees three frames further to both sides.
        typical: mean and spread of the features. The norm behind the first convolution hears little of a frame's level under a
            mean far from zero.

    Example:
        >>> vocoder = SpectralVocoder(dim=768)
        >>> vocoder(torch.randn(2, 50, 768), torch.tensor([50, 40])).shape  # 320 * 49 + 400 samples
        torch.Size([2, 16080])
    """

    def __init__(
        self,
        dim: int,
        hop: int = 320,
        width: int = 256,
        hidden: int = 768,
        blocks: int = 8,
        typical: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        super().__init__()
        self.typical = typical
        if hop < FRAME_CENTRE // 2:
            raise UserError(
                f"a vocoder for frames of {hop} samples: too short; use an upstream of at most 160 frames a second"
            )
        self.hop, self.window_size = hop, OVERLAP * hop
        self.register_buffer("window", torch.hann_window(self.window_size), persistent=False)
        self.first = nn.Conv1d(dim, width, 7, padding=3)
        self.norm = nn.LayerNorm(width)
        self.blocks = nn.ModuleList(ConvNeXtBlock(width, hidden, 1 / blocks) for _ in range(blocks))
        self.last_norm = nn.LayerNorm(width)
        self.spectrum = nn.Linear(width, 2 * (self.window_size // 2 + 1))

    def forward(self, features: Tensor, lengths: Tensor, samples: int | None = None) -> Tensor:
        """Waveforms, float32 `(batch, samples)`.

        Args:
            features: `(batch, frames, dim)`.
            lengths: valid frames, int64 `(batch,)`.
            samples: of the answer; by default those that the frames see, `hop * (frames - 1) + 400`. A row's samples further
                than a hop behind those that its own frames see are without meaning.
        """
        frames = features.shape[1]
        places = torch.arange(-MARGIN, frames + MARGIN, device=features.device)
        nearest = torch.minimum(places.clamp(min=0)[None], lengths[:, None] - 1)
        there = (places[None] < lengths[:, None] + MARGIN)[:, None]  # (batch, 1, frames)
        mean, spread = self.typical
        hidden = (
            ((features - mean) / spread)
            .gather(1, nearest[:, :, None].expand(-1, -1, features.shape[2]))
            .transpose(1, 2)
        )
        hidden = self.norm(self.first(hidden * there).transpose(1, 2)).transpose(1, 2)
        for block in self.blocks:
            hidden = block(hidden * there)
        amplitudes, phases = self.spectrum(self.last_norm(hidden.transpose(1, 2))).float().chunk(2, dim=2)
        amplitudes = amplitudes.exp().clamp(max=LOUDEST) * there.transpose(1, 2)
        spectrum = torch.polar(amplitudes, phases).transpose(1, 2)
        whole = torch.istft(spectrum, self.window_size, self.hop, window=self.window)
        skipped = MARGIN * self.hop - FRAME_CENTRE
        wanted = self.hop * (frames - 1) + 2 * FRAME_CENTRE if samples is None else samples
        waveforms = whole[:, skipped : skipped + wanted]
        return nn.functional.pad(waveforms, (0, wanted - waveforms.shape[1]))


class ConvNeXtBlock(nn.Module):
    """A convolution of each channel over 7 frames, norm, and a feed-forward layer, added to its input (Liu et al. 2022).

    Args:
        width: channels.
        hidden: of the feed-forward layer.
        scale: of what is added, at the start; trained for each channel.
    """

    def __init__(self, width: int, hidden: int, scale: float) -> None:
        super().__init__()
        self.over_time = nn.Conv1d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width)
        self.inner, self.outer = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.scale = nn.Parameter(torch.full((width,), scale))

    def forward(self, hidden: Tensor) -> Tensor:
        """`(batch, width, frames)`, as the input is."""
        found = self.norm(self.over_time(hidden).transpose(1, 2))
        found = self.scale * self.outer(nn.functional.gelu(self.inner(found)))
        return hidden + found.transpose(1, 2)
