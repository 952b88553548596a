"""Spectral features against independent references."""

import pytest
import torch
import torchaudio

from wavlm_lightning.audio import fbank, log_mel, mfcc, with_deltas
from wavlm_lightning.encoder import WavLMConfig


@pytest.mark.parametrize("samples", [400, 401, 559, 560, 16_000, 16_123])
def test_frame_counts(samples):
    waveform = torch.randn(samples) * 0.1
    assert len(mfcc(waveform)) == len(fbank(waveform)) == (samples - 400) // 160 + 1
    assert log_mel(waveform[None]).shape[1] == int(WavLMConfig.base().frames(samples))


def test_deltas_are_regression_slopes():
    ramp = torch.arange(20.0)[:, None] * torch.tensor([[1.0, -2.0]])
    both = with_deltas(ramp)
    assert both.shape == (20, 6)
    assert torch.allclose(both[4:-4, 2:4], torch.tensor([[1.0, -2.0]]).expand(12, 2))
    assert torch.allclose(both[4:-4, 4:], torch.zeros(12, 2), atol=1e-6)


def test_log_mel_matches_torchaudio():
    waveform = torch.randn(2, 16_000) * 0.1
    reference = torchaudio.transforms.MelSpectrogram(
        16_000, n_fft=400, hop_length=320, n_mels=40, f_min=20.0, center=False, window_fn=torch.hann_window
    )(waveform)
    assert torch.allclose(log_mel(waveform), reference.clamp(min=1e-10).log().transpose(1, 2), atol=1e-4)


def test_quiet_frames_have_a_log_mel_under_fp16_autocast():
    """Powers of quiet frames are 0 in fp16, whose logarithm is not finite."""
    audio = torch.cat([torch.randn(1, 4000) * 1e-5, torch.zeros(1, 4000), torch.randn(1, 4000)], 1)
    with torch.autocast("cpu", torch.float16):
        found = log_mel(audio)
    torch.testing.assert_close(found, log_mel(audio))
