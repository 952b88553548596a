"""The network of the vocoder: lengths, padding, and the place of what it makes."""

import pytest
import torch

from wavlm_lightning.errors import UserError
from wavlm_lightning.tasks.components.vocoder import SpectralVocoder
from wavlm_lightning.tasks.components.vocoder.network import FRAME_CENTRE, MARGIN


@pytest.mark.parametrize("hop", [320, 160])
def test_a_row_depends_on_neither_padding_nor_other_rows(hop):
    vocoder = SpectralVocoder(8, hop, width=16, hidden=32, blocks=2)
    features, lengths = torch.randn(2, 20, 8), torch.tensor([20, 9])
    both = vocoder(features, lengths)
    assert both.shape == (2, hop * 19 + 400)
    assert torch.equal(both, vocoder(features, lengths))
    samples = hop * 8 + 400 + hop - 1  # the longest recording that has nine frames
    alone = vocoder(features[1:, :9], lengths[1:], samples)
    assert torch.allclose(both[1, :samples], alone[0], atol=1e-6)
    assert alone.abs().max() > 1e-3
    assert vocoder(features, lengths, 50_000)[:, 30_000:].abs().max() == 0


@pytest.mark.parametrize("hop", [320, 160])
def test_the_spectrum_of_a_waveform_gives_it_back(hop):
    """The inverse STFT, its window and the places of its frames: a head that says the true spectrum says the waveform."""
    vocoder = SpectralVocoder(8, hop, width=16, hidden=32, blocks=1)
    frames, window = 20, 4 * hop
    samples = hop * (frames - 1) + 400
    waveform = torch.randn(1, samples) * 0.1
    before = MARGIN * hop - FRAME_CENTRE
    padded = torch.nn.functional.pad(waveform, (before, (frames + 2 * MARGIN - 1) * hop - before - samples))
    true = torch.stft(padded, window, hop, window=torch.hann_window(window), pad_mode="constant", return_complex=True)
    told = torch.cat([true.abs().log(), true.angle()], 1).transpose(1, 2)
    assert told.shape[1] == frames + 2 * MARGIN
    vocoder.spectrum = Says(told)
    heard = vocoder(torch.zeros(1, frames, 8), torch.tensor([frames]))
    assert torch.allclose(heard, waveform, atol=1e-5)


class Says(torch.nn.Module):
    """A last layer that gives what it was told."""

    def __init__(self, told):
        super().__init__()
        self.told = told

    def forward(self, hidden):
        return self.told


def test_frames_too_dense_are_refused():
    with pytest.raises(UserError, match="at most 160 frames a second"):
        SpectralVocoder(8, hop=80)
