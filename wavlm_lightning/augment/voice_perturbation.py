"""Perturb voices in pre-training: formants are shifted and the frequency response is changed, the labels stay (ContentVec)."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from wavlm_lightning.system.errors import UserError

WINDOW, HOP = 512, 256  # samples of a square-rooted Hann window, and of its step: squares of the windows add up to one
BANDS = 24  # of the spectral envelope: 120 mel wide, which shows formants and, but for high voices below 500 Hz, no harmonics
KNOTS = 8  # of the random frequency response, from 0 to 8 kHz, evenly spaced in mel
NYQUIST = 8000.0
FLOOR = 1e-8  # of the power in a band, under which it counts as silent
LOUDEST = 30.0  # dB that the equaliser may be asked for: less than STRONGEST, which would limit it without a word
STRONGEST = 4.0  # nats by which a bin may be amplified or damped: beyond it only rounding would be heard


@dataclass(frozen=True)
class VoicePerturbation:
    """Another voice says the same: what the encoder hears is perturbed, and the labels are those of the original.

    The encoder learns to find the labels of one voice in another, so that its features depend less on the speaker; published for
    content: ContentVec (arXiv 2204.09224, section 3.1), with the formant shifts and random equalisers of NANSY (arXiv
    2110.14513, appendix). Pitch and tempo stay here. Formants move by a gain in each bin of the spectrogram, the ratio of the
    warped to the actual spectral envelope; phases are kept. No bin changes by more than 35 dB, which large shifts can ask for.

    Args:
        probability: share of the crops that are perturbed.
        formants: the largest factor of the frequencies less one: 0.15 stretches or compresses the envelope by up to 15 %, evenly
            in the logarithm.
        equaliser_db: the largest gain and loss of a random frequency response with eight knots, evenly spaced in mel.

    Raises:
        UserError: the probability is not above 0 and at most 1, or a strength is out of range.

    Example:
        >>> VoicePerturbation()(torch.randn(8, 40000)).shape
        torch.Size([8, 40000])
    """

    probability: float = 0.8
    formants: float = 0.15
    equaliser_db: float = 8.0

    # What `MoveValue` may move: read in every step.
    moves: ClassVar[tuple[str, ...]] = ("probability", "formants", "equaliser_db")

    def __post_init__(self) -> None:
        if not 0 < self.probability <= 1:
            raise UserError(f"voices: probability must be above 0 and at most 1, not {self.probability:g}")
        if not (0 <= self.formants <= 1 and 0 <= self.equaliser_db <= LOUDEST):
            raise UserError(
                f"voices: formants must be from 0 to 1 and equaliser_db from 0 to {LOUDEST:g}, not {self.formants:g} and "
                f"{self.equaliser_db:g}"
            )

    def __call__(self, audio: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Perturb some crops.

        Args:
            audio: clean crops of one length at 16 kHz, `(batch, samples)`.
            generator: random generator on the device of `audio`; None for the global one.

        Returns:
            The same shape and type, a new tensor; crops that are not drawn are equal to those given.
        """

        # All numbers are drawn for all rows, used or not: no branch on data, so no wait for the GPU. In float32 whatever the
        # default type is: bfloat16 has 256 numbers from 0 to 1 to draw.
        def uniform(*size: int) -> Tensor:
            return torch.rand(*size, dtype=torch.float32, device=audio.device, generator=generator)

        rows = len(audio)
        drawn = uniform(rows) < self.probability
        factors = (1 + self.formants) ** (2 * uniform(rows) - 1)
        gains = self.equaliser_db * (2 * uniform(rows, KNOTS) - 1)
        with torch.autocast(audio.device.type, enabled=False):
            return torch.where(drawn[:, None], in_other_voice(audio, factors, gains), audio)


def in_other_voice(audio: Tensor, factors: Tensor, gains: Tensor) -> Tensor:
    """Shift formants, and change the frequency response.

    Args:
        audio: `(batch, samples)` at 16 kHz.
        factors: of the frequencies of the spectral envelope, `(batch,)`; above 1 formants move up.
        gains: of the frequency response in dB, `(batch, KNOTS)`, linear in mel between the knots.

    Returns:
        Like `audio`.
    """
    bins, bands, response, window = _tables(audio.device)
    samples = audio.shape[1]
    padded = torch.nn.functional.pad(audio.float(), (HOP, HOP + (-samples) % HOP))
    spectrum = torch.fft.rfft(padded.unfold(1, WINDOW, HOP) * window)
    power = spectrum.real.square() + spectrum.imag.square()
    envelope = (power @ bands.T / bands.sum(1) + FLOOR).log()
    moved = _weights(_places(bins / factors[:, None]), BANDS) - bands
    gain = 0.5 * torch.bmm(envelope, moved) + math.log(10) / 20 * (gains @ response)[:, None]
    frames = torch.fft.irfft(spectrum * gain.clamp(-STRONGEST, STRONGEST).exp(), WINDOW) * window
    # Half a window of each frame adds to the half before it.
    halves = torch.nn.functional.pad(frames[:, :, HOP:], (0, 0, 1, 0)) + torch.nn.functional.pad(
        frames[:, :, :HOP], (0, 0, 0, 1)
    )
    return halves.flatten(1)[:, HOP : HOP + samples].to(audio.dtype)


def _places(hertz: Tensor) -> Tensor:
    """Place on the mel scale, 0 at 0 Hz and 1 at 8 kHz and above."""
    return (torch.log1p(hertz / 700) / math.log1p(NYQUIST / 700)).clamp(max=1.0)


def _weights(places: Tensor, points: int) -> Tensor:
    """Weights `(..., points, places)` of linear interpolation between points that are evenly spaced from 0 to 1."""
    point = torch.arange(points, device=places.device, dtype=places.dtype)[:, None]
    return (1 - (places[..., None, :] * (points - 1) - point).abs()).clamp(min=0)


@functools.lru_cache(maxsize=4)
def _tables(device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Frequencies of the bins in Hz, triangles of the bands, weights of the knots, and the window."""
    with torch.inference_mode(False):  # made in a validation, they could not be used in training afterwards
        bins = torch.arange(WINDOW // 2 + 1, dtype=torch.float32, device=device) * (2 * NYQUIST / WINDOW)
        places, window = _places(bins), torch.hann_window(WINDOW, dtype=torch.float32, device=device).sqrt()
        return bins, _weights(places, BANDS), _weights(places, KNOTS), window
