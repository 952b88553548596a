"""Kaldi-compatible filter banks and MFCCs (SUPERB's FBANK baseline, HuBERT's first labels), deltas and log-mel."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from wavlm_lightning.audio.reading import SAMPLE_RATE


def fbank(waveform: Tensor, num_mel_bins: int = 80) -> Tensor:
    """Kaldi log-mel filter bank, 25 ms windows every 10 ms, torchaudio compliance defaults, no dither.

    Args:
        waveform: `(samples,)` in [-1, 1].
        num_mel_bins: filters.

    Returns:
        `(frames, num_mel_bins)`, frames = (samples - 400) // 160 + 1.
    """
    from torchaudio.compliance import kaldi

    return kaldi.fbank(waveform[None], num_mel_bins=num_mel_bins, sample_frequency=SAMPLE_RATE)


def mfcc(waveform: Tensor) -> Tensor:
    """13 Kaldi cepstra (C0 instead of energy, 23 mels, lifter 22), 25 ms windows every 10 ms.

    Source: fairseq `simple_kmeans/dump_mfcc_feature.py` (HuBERT, arXiv 2106.07447, section IV-A).

    Args:
        waveform: `(samples,)` in [-1, 1].

    Returns:
        `(frames, 13)`, frames = (samples - 400) // 160 + 1.
    """
    from torchaudio.compliance import kaldi

    return kaldi.mfcc(waveform[None], use_energy=False, sample_frequency=SAMPLE_RATE)


def spectrogram_db(waveform: Tensor) -> Tensor:
    """Power spectrogram in dB for pictures: 25 ms Hann windows every 10 ms, centred; -100 dB at least.

    Args:
        waveform: `(samples,)`, more than 200.

    Returns:
        `(201 frequencies from 0 to 8 kHz, frames)`.
    """
    window = torch.hann_window(400, device=waveform.device)
    power = torch.stft(waveform, 400, 160, window=window, return_complex=True).abs().square()
    return 10 * power.clamp_min(1e-10).log10()


def with_deltas(features: Tensor, order: int = 2) -> Tensor:
    """Append first and second differences over 5 frames, edges replicated.

    Args:
        features: `(frames, dim)`.
        order: how many times to differentiate.

    Returns:
        `(frames, dim * (order + 1))`.
    """
    from torchaudio.functional import compute_deltas

    parts = [features.T]
    for _ in range(order):
        parts.append(compute_deltas(parts[-1], win_length=5, mode="replicate"))
    return torch.cat(parts).T.contiguous()


@functools.lru_cache(maxsize=4)
def _mel_filters(bins: int, device: torch.device) -> tuple[Tensor, Tensor]:
    from torchaudio.functional import melscale_fbanks

    # 201 bins of an FFT over 400 samples.
    filters = melscale_fbanks(201, 20.0, SAMPLE_RATE / 2, bins, SAMPLE_RATE, norm=None, mel_scale="htk")
    return filters.to(device), torch.hann_window(400, device=device)


def log_mel(waveforms: Tensor, bins: int = 40, hop: int = 320) -> Tensor:
    """Log-mel spectrogram on the frame grid of WavLM's convolutions: frame t sees samples [hop t, hop t + 400).

    Args:
        waveforms: `(batch, samples)`, at least 400 samples.
        bins: mel filters.
        hop: samples between frames; 320 gives WavLM's 50 Hz.

    Returns:
        `(batch, frames, bins)`, frames = (samples - 400) // hop + 1; float32, or bf16 under bf16 autocast (off by up to 0.013).
    """
    device = waveforms.device.type
    if torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) == torch.float16:
        with torch.autocast(device, enabled=False):  # powers of quiet frames are below the smallest number of fp16
            return log_mel(waveforms, bins, hop)
    filters, window = _mel_filters(bins, waveforms.device)
    frames = waveforms.float().unfold(1, 400, hop) * window
    power = torch.fft.rfft(frames).abs().square()
    return (power @ filters).clamp(min=1e-10).log()
