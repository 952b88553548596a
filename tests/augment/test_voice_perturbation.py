"""Perturbed voices: what moves, by how much, and what stays."""

import numpy as np
import pytest
import torch

from wavlm_lightning.augment.voice_perturbation import KNOTS, LOUDEST, VoicePerturbation, _tables, in_other_voice
from wavlm_lightning.system.errors import UserError


def resonance(audio):
    """Frequency in Hz at which the power, smoothed over 600 Hz, is largest."""
    power, width = np.abs(np.fft.rfft(audio.double().numpy())) ** 2, 600 * len(audio) // 16_000
    return np.convolve(power, np.hanning(width), "same").argmax() * 16_000 / len(audio)


def peak(audio, around, width):
    """Centre of gravity in Hz of the power near a frequency."""
    power = np.abs(np.fft.rfft(audio.double().numpy())) ** 2
    hertz = np.fft.rfftfreq(len(audio), 1 / 16_000)
    near = np.abs(hertz - around) < width
    return (hertz[near] * power[near]).sum() / power[near].sum()


def formant(centre, samples=64_000):
    """Noise with one wide resonance."""
    spectrum = np.fft.rfft(np.random.default_rng(0).normal(size=samples))
    hertz = np.fft.rfftfreq(samples, 1 / 16_000)
    shape = 0.1 + np.exp(-(((hertz - centre) / 800) ** 2))
    return torch.from_numpy(np.fft.irfft(spectrum * shape, samples)).float()


@pytest.mark.parametrize("samples", [400, 511, 512, 513, 7_777, 40_000])
def test_a_voice_that_nothing_changes_is_the_same(samples):
    audio = torch.randn(3, samples, generator=torch.Generator().manual_seed(0))
    same = in_other_voice(audio, torch.ones(3), torch.zeros(3, KNOTS))
    assert same.shape == audio.shape and (same - audio).abs().max() < 1e-5


@pytest.mark.parametrize("factor", [0.8, 0.9, 1.1, 1.25])
def test_formants_move_by_the_factor_and_pitch_stays(factor):
    moved = in_other_voice(formant(2000)[None], torch.tensor([factor]), torch.zeros(1, KNOTS))[0]
    assert resonance(moved) == pytest.approx(2000 * factor, rel=0.05)
    # The harmonics of a voice stay where they are: only their strengths change.
    time = torch.arange(32_000) / 16_000
    tone = sum(torch.sin(2 * torch.pi * 150 * k * time) / k for k in range(1, 40))
    moved = in_other_voice(tone[None].float(), torch.tensor([factor]), torch.zeros(1, KNOTS))[0]
    for harmonic in (2, 5, 9):
        assert peak(moved, 150 * harmonic, 60) == pytest.approx(150 * harmonic, abs=1.0)


def test_the_frequency_response_is_that_of_the_knots():
    audio = torch.randn(1, 320_000, generator=torch.Generator().manual_seed(0))
    gains = torch.tensor([[0.0, 6.0, -6.0, 3.0, 8.0, -8.0, 0.0, 4.0]])
    changed = in_other_voice(audio, torch.ones(1), gains)
    ratio = np.abs(np.fft.rfft(changed[0].numpy())) ** 2 / np.abs(np.fft.rfft(audio[0].numpy())) ** 2
    hertz = np.fft.rfftfreq(audio.shape[1], 1 / 16_000)
    for knot in range(KNOTS):
        mel = knot / (KNOTS - 1) * np.log1p(8000 / 700)
        near = np.abs(hertz - 700 * np.expm1(mel)) < 15
        assert 10 * np.log10(np.exp(np.log(ratio[near]).mean())) == pytest.approx(gains[0, knot].item(), abs=1.0)


@pytest.mark.parametrize("decibels", [-LOUDEST, LOUDEST])
def test_the_largest_gain_is_whole(decibels):
    audio = torch.randn(1, 16_000, generator=torch.Generator().manual_seed(0))
    changed = in_other_voice(audio, torch.ones(1), torch.full((1, KNOTS), decibels))
    assert torch.allclose(changed, audio * 10 ** (decibels / 20), rtol=1e-3, atol=1e-3 * 10 ** (decibels / 20))


def test_crops_are_drawn_one_by_one_and_the_others_are_untouched():
    audio = torch.randn(400, 600, generator=torch.Generator().manual_seed(0))
    before, perturb = audio.clone(), VoicePerturbation(0.3)
    first, second = (perturb(audio, torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(first, second) and torch.equal(audio, before)
    untouched = (first == audio).all(1)
    assert 0.6 < untouched.float().mean() < 0.8
    assert (first - audio)[~untouched].abs().amax(1).min() > 1e-3
    assert not torch.equal(perturb(audio, torch.Generator().manual_seed(6)), first)
    alone = VoicePerturbation(1.0)(audio[:1].expand(8, -1), torch.Generator().manual_seed(0))
    assert len({row.sum().item() for row in alone}) == 8  # each in a voice of its own


def test_digital_silence_stays_silent_and_nothing_overflows():
    audio = torch.stack([torch.zeros(5_000), 1e-4 * torch.randn(5_000), torch.ones(5_000), 100 * torch.randn(5_000)])
    found = VoicePerturbation(1.0, 1.0, LOUDEST)(audio, torch.Generator().manual_seed(0))
    assert not found[0].any() and bool(found.isfinite().all())
    assert VoicePerturbation()(audio.bfloat16()).dtype == torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        same = in_other_voice(audio, torch.ones(4), torch.zeros(4, KNOTS))
    assert (same - audio).abs().max() < 1e-2


def test_the_default_type_changes_nothing():
    audio = torch.randn(4, 5_000, generator=torch.Generator().manual_seed(0)).bfloat16()
    expected = VoicePerturbation(1.0)(audio, torch.Generator().manual_seed(0))
    _tables.cache_clear()
    torch.set_default_dtype(torch.bfloat16)  # as Lightning's HalfPrecision does in each step
    try:
        found = VoicePerturbation(1.0)(audio, torch.Generator().manual_seed(0))
    finally:
        torch.set_default_dtype(torch.float32)
    assert found.dtype == torch.bfloat16 and torch.equal(found, expected)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"probability": 0.0}, "voices: probability must be above 0 and at most 1, not 0"),
        ({"probability": 1.5}, "voices: probability must be above 0 and at most 1, not 1.5"),
        ({"formants": -0.1}, "voices: formants must be from 0 to 1"),
        ({"equaliser_db": 40}, "equaliser_db from 0 to 30, not 0.15 and 40"),
    ],
)
def test_impossible_strengths(wrong, said):
    with pytest.raises(UserError, match=said):
        VoicePerturbation(**wrong)
