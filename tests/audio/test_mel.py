"""The mel spectrogram of synthesis against librosa, its frame grid, and Griffin-Lim."""

import numpy as np
import pytest
import torch

from wavlm_lightning.audio import MEL_BINS, griffin_lim, synthesis_mel
from wavlm_lightning.encoder import WavLMConfig


def buzz(samples, pitch=120.0):
    """A harmonic tone that rises and swells, `(1, samples)`."""
    time = torch.arange(samples) / 16_000
    phase = 2 * torch.pi * pitch * (time + 0.1 * time**2)
    tone = sum(torch.sin(n * phase) / n for n in range(1, 20))
    return (0.05 * tone * (1.2 + torch.sin(2 * torch.pi * 3 * time)))[None].float()


def test_it_is_the_mel_of_librosa():
    librosa = pytest.importorskip("librosa")
    waveform = buzz(8000)
    # Of librosa's frames, centred at multiples of 40 samples, those at 320 t + 200.
    spectrum = np.abs(librosa.stft(waveform[0].numpy(), n_fft=1024, hop_length=40, pad_mode="constant"))[:, 5::8]
    filters = librosa.filters.mel(sr=16_000, n_fft=1024, n_mels=MEL_BINS, fmin=0, fmax=8000)
    reference = np.log(np.maximum(filters @ spectrum, 1e-5)).T
    mel = synthesis_mel(waveform)[0].numpy()
    np.testing.assert_allclose(mel, reference[: len(mel)], atol=2e-3)


@pytest.mark.parametrize("samples", [400, 719, 720, 16_123])
def test_frames_are_those_of_the_encoders(samples):
    waveform = torch.randn(2, samples) * 0.1
    assert synthesis_mel(waveform).shape == (2, int(WavLMConfig.base().frames(samples)), MEL_BINS)
    assert synthesis_mel(waveform, hop=160).shape[1] == (samples - 400) // 160 + 1


def test_silence_has_a_floor_and_gradients_are_finite():
    waveform = torch.zeros(1, 1000, requires_grad=True)
    mel = synthesis_mel(waveform)
    assert torch.allclose(mel, torch.tensor(1e-5).log())
    (gradient,) = torch.autograd.grad(synthesis_mel(waveform + 1e-3).sum(), waveform)
    assert gradient.isfinite().all() and gradient.any()
    assert griffin_lim(mel.detach()).abs().max() < 1e-3


@pytest.mark.parametrize("hop", [320, 160])
def test_griffin_lim_gives_back_the_spectrum_in_place(hop):
    waveform = buzz(16_123)
    mel = synthesis_mel(waveform, hop)
    heard = griffin_lim(mel, hop, 16_123)
    assert heard.shape == waveform.shape
    error = (synthesis_mel(heard, hop) - mel).abs().mean()
    assert error < 0.5 * (mel - mel.mean(1, keepdim=True)).abs().mean()
    # Not a frame early or late: the mel of the answer is nearest to the one at its own place.
    late, early = ((synthesis_mel(heard.roll(shift), hop) - mel).abs().mean() for shift in (hop, -hop))
    assert error < min(late, early)
    state = torch.random.get_rng_state()
    assert torch.equal(heard, griffin_lim(mel, hop, 16_123))
    assert torch.equal(state, torch.random.get_rng_state())
