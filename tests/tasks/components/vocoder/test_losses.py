"""The losses and measures of the vocoder: padding, identity, silence, and that the gradient leads to the recording."""

import pytest
import torch

from wavlm_lightning.audio import synthesis_mel
from wavlm_lightning.tasks.components.vocoder.losses import SpectralDistance, mel_distance
from wavlm_lightning.tasks.components.vocoder.measures import DECIBELS, CopySynthesisMeasures, mel_error


def noise(*shape, seed=0):
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def both_losses(heard, wanted, lengths):
    return torch.stack([mel_distance(heard, wanted, lengths, 320), SpectralDistance()(heard, wanted, lengths)])


def test_a_row_is_measured_whatever_its_padding():
    heard, wanted, lengths = noise(2, 9000), noise(2, 9000, seed=1), torch.tensor([9000, 5000])
    heard[1, 5000:] = wanted[1, 5000:] = 0
    together = both_losses(heard, wanted, lengths)
    alone = both_losses(heard[1:, :5000], wanted[1:, :5000], lengths[1:])
    assert torch.allclose(together[:, 1:], alone, rtol=1e-4)
    assert (both_losses(wanted, wanted, lengths) < 1e-3).all() and (together > 0.05).all()


def test_silence_has_finite_losses_and_slopes():
    wanted, lengths = torch.zeros(1, 4000), torch.tensor([4000])
    for start in (0.0, 1e-3):
        heard = torch.full((1, 4000), start, requires_grad=True)
        loss = both_losses(heard, wanted, lengths).sum()
        (slope,) = torch.autograd.grad(loss, heard)
        assert loss.isfinite() and slope.isfinite().all()


def test_a_gain_is_measured_in_decibels():
    """6.02 dB of gain are 6.02 dB of mel error; the formula by hand is that of the measure."""
    wanted = noise(8000)
    measured = CopySynthesisMeasures(["mel"], 320, compare=True)
    measured.update(2 * wanted, wanted)
    measured.update(wanted, wanted)
    values = measured.compute()
    assert float(mel_error(2 * wanted, wanted, 320)) == pytest.approx(6.0206, abs=1e-3)
    assert float(values["mel"]) == pytest.approx(6.0206 / 2, abs=1e-3)
    by_hand = (synthesis_mel(2 * wanted[None]) - synthesis_mel(wanted[None])).abs().mean() * DECIBELS
    assert float(by_hand) == pytest.approx(6.0206, abs=1e-3)
    assert 0.1 < float(values["griffin_lim/mel"]) < 3


def test_the_slope_leads_to_the_recording():
    wanted, lengths = noise(1, 4000, seed=2), torch.tensor([4000])
    heard = noise(1, 4000, seed=3).requires_grad_()
    optimiser = torch.optim.Adam([heard], 1e-2)
    found = []
    for _ in range(30):
        loss = both_losses(heard, wanted, lengths).sum()
        found.append(loss.item())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert found[-1] < 0.7 * found[0]
