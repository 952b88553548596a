"""The log-mel spectrogram that generation predicts and vocoders hear, and Griffin-Lim, which makes it audible untrained."""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor, nn

from wavlm_lightning.audio.reading import SAMPLE_RATE

MEL_BINS = 80
MEL_WINDOW = 1024  # samples of the Hann window, and of the transform
MEL_FLOOR = 1e-5  # smallest value before the logarithm, of amplitudes
FRAME_CENTRE = 200  # sample at which frame 0 is centred: the middle of the 400 that an encoder's first frame sees
ITERATIONS = 64  # of Griffin-Lim


@functools.lru_cache(maxsize=4)
def _filters(device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Mel filters `(bins of the transform, MEL_BINS)`, their pseudo-inverse, the window."""
    from torchaudio.functional import melscale_fbanks

    bins = MEL_WINDOW // 2 + 1
    # They are kept: made in a validation, under inference mode, they could not be used in training afterwards.
    with torch.inference_mode(False):
        filters = melscale_fbanks(bins, 0.0, SAMPLE_RATE / 2, MEL_BINS, SAMPLE_RATE, norm="slaney", mel_scale="slaney")
        # In float64, because the narrow filters at the bottom make the inverse of float32 depend on the library.
        inverse = torch.linalg.pinv(filters.double()).float()
        return filters.to(device), inverse.to(device), torch.hann_window(MEL_WINDOW, device=device)


def synthesis_mel(waveforms: Tensor, hop: int = 320) -> Tensor:
    """Natural logarithm of 80 mel amplitudes on the frame grid of the encoders; differentiable.

    Slaney's mel scale with filters of equal area, 0 to 8 kHz, Hann windows of 1024 samples, amplitudes of at least 1e-5: the
    definition of HiFi-GAN (arXiv 2010.05646, its code's `mel_spectrogram`) at 16 kHz. Frame t is centred at sample
    `hop * t + 200`, as the frame t of WavLM (hop 320) and of a filter bank (hop 160) is; beyond its ends the waveform is zero.

    Args:
        waveforms: `(batch, samples)` in [-1, 1], at least 400 samples.
        hop: samples between frames.

    Returns:
        float32 `(batch, frames, 80)`, frames = (samples - 400) // hop + 1.
    """
    filters, _, window = _filters(waveforms.device)
    margin = MEL_WINDOW // 2 - FRAME_CENTRE
    frames = nn.functional.pad(waveforms.float(), (margin, margin)).unfold(1, MEL_WINDOW, hop) * window
    with torch.autocast(waveforms.device.type, enabled=False):
        # Squares below 1e-12 would make the slope of the root infinite.
        amplitudes = torch.fft.rfft(frames).abs().square().clamp(min=1e-12).sqrt()
        return (amplitudes @ filters).clamp(min=MEL_FLOOR).log()


@torch.no_grad()
def griffin_lim(mel: Tensor, hop: int = 320, samples: int | None = None, iterations: int = ITERATIONS) -> Tensor:
    """Waveforms whose `synthesis_mel` is near the one given, by Griffin and Lim's iteration with momentum; nothing is trained.

    The amplitudes come from the pseudo-inverse of the mel filters; the first phases are drawn from a stream of their own, so
    that a spectrogram always sounds the same. Rows are heard up to their last frame: give recordings of different lengths
    one by one.

    Args:
        mel: `(batch, frames, 80)` of `synthesis_mel`.
        hop: samples between frames.
        samples: of the answer, by default those that the frames see: `hop * (frames - 1) + 400`; further ones are zero.
        iterations: more are nearer, and slower.

    Returns:
        float32 `(batch, samples)`.
    """
    from torchaudio.functional import griffinlim

    _, inverse, window = _filters(mel.device)
    # The transform centres frame 0 at sample 0 of its answer: further frames in front of ours and behind reach both ends.
    extra = math.ceil(FRAME_CENTRE / hop)
    with torch.autocast(mel.device.type, enabled=False):
        amplitudes = (mel.float().exp() @ inverse).clamp(min=0).transpose(1, 2)
    amplitudes = nn.functional.pad(amplitudes, (extra, extra), mode="replicate")
    heard = hop * (mel.shape[1] - 1) + 2 * FRAME_CENTRE
    skipped = extra * hop - FRAME_CENTRE
    with torch.random.fork_rng(devices=[mel.device] if mel.device.type == "cuda" else []):
        torch.manual_seed(0)
        waveforms = griffinlim(
            amplitudes, window, MEL_WINDOW, hop, MEL_WINDOW, 1.0, iterations, 0.99, length=None, rand_init=True
        )[:, skipped:][:, :heard]
    wanted = heard if samples is None else samples
    return nn.functional.pad(waveforms[:, :wanted], (0, max(0, wanted - heard)))
