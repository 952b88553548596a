"""A row alone and the row in a padded batch must give the same hidden states."""

from __future__ import annotations

import pytest
import torch
from encoder_helpers import CONFIGS, distance, make, noise, padded
from hypothesis import given, settings
from hypothesis import strategies as st

from wavlm_lightning.encoder.frontend import normalize_waveforms

KINDS = list(CONFIGS)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=6, deadline=None)
@given(lengths=st.lists(st.integers(400, 9_000), min_size=2, max_size=4))
def test_padding_changes_nothing(kind: str, lengths: list[int]):
    encoder = make(kind)
    waveforms = noise(len(lengths), max(lengths) + 1000)
    with torch.no_grad():
        batch = encoder(waveforms, torch.tensor(lengths))
        for row, length in enumerate(lengths):
            alone = encoder(waveforms[row : row + 1, :length])
            frames = int(batch.lengths[row])
            assert frames == alone.hidden.shape[2] == encoder.config.frames(length)
            for layer in range(len(alone.hidden)):
                assert distance(batch.hidden[layer, row, :frames], alone.hidden[layer, 0]) < 1e-5
            assert (batch.hidden[:, row, frames:] == 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_what_lies_beyond_the_length_is_ignored(kind: str):
    encoder = make(kind)
    lengths = torch.tensor([16_000, 9_000])
    waveforms = noise(2, 16_000)
    rubbish = waveforms.clone()
    rubbish[1, 9_000:] = float("nan")
    with torch.no_grad():
        clean = encoder(padded(waveforms, lengths), lengths).hidden
        assert torch.equal(encoder(rubbish, lengths).hidden, clean)


def test_padding_changes_no_gradient():
    lengths = torch.tensor([16_000, 9_000])
    waveforms = noise(2, 16_000)
    gradients = []
    for batched in (True, False):
        encoder = make("base")
        if batched:
            encoder(waveforms, lengths).hidden.square().sum().backward()
        else:
            for row in range(2):
                encoder(waveforms[row : row + 1, : lengths[row]]).hidden.square().sum().backward()
        gradients.append([p.grad for p in encoder.parameters() if p.grad is not None])
    for together, apart in zip(*gradients, strict=True):
        assert (together - apart).abs().max() < 1e-4 * apart.abs().max() + 1e-3


def test_the_peers_way_counts_padding():
    lengths = torch.tensor([16_000, 9_000])
    waveforms = noise(2, 16_000)
    differences = {}
    with torch.no_grad():
        for invariant in (True, False):
            encoder = make("base", batch_invariant=invariant)
            alone = encoder(waveforms[1:, :9_000]).hidden[:, 0]
            batch = encoder(waveforms, lengths).hidden[:, 1, : alone.shape[1]]
            differences[invariant] = distance(batch, alone)
    assert differences[True] < 1e-5
    assert differences[False] > 1e-2


def test_full_lengths_equal_no_lengths():
    encoder = make("tiny")
    waveforms = noise(2, 16_000)
    with torch.no_grad():
        given_lengths = encoder(waveforms, torch.tensor([16_000, 16_000]))
        assert torch.equal(given_lengths.hidden, encoder(waveforms).hidden)
    assert given_lengths.lengths.tolist() == [49, 49]
    assert given_lengths.frame_rate == 50.0


def test_waveforms_are_normalised_over_valid_samples():
    lengths = torch.tensor([16_000, 9_000])
    waveforms = padded(noise(2, 16_000), lengths)
    result = normalize_waveforms(waveforms, lengths)
    for row, length in enumerate(lengths.tolist()):
        valid = waveforms[row, :length]
        assert torch.allclose(result[row, :length], torch.nn.functional.layer_norm(valid, (length,)), atol=1e-5)
        assert (result[row, length:] == 0).all()


def test_large_ignores_level_and_offset():
    encoder = make("large")
    waveforms = noise(1, 16_000)
    with torch.no_grad():
        assert distance(encoder(30 * waveforms + 2).hidden, encoder(waveforms).hidden) < 2e-2
