"""Utterance mixing: what WavLM's algorithm 1 promises, measured."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wavlm_lightning.errors import UserError
from wavlm_lightning.pretraining import UtteranceMixing


def batch(rows: int = 6, samples: int = 4000, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    level = torch.rand(rows, 1, generator=generator) + 0.05
    return level * torch.randn(rows, samples, generator=generator)


def mix(mixing: UtteranceMixing, audio: torch.Tensor, seed: int = 0, **noise: torch.Tensor) -> torch.Tensor:
    return mixing(audio, generator=torch.Generator().manual_seed(seed), **noise)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 8), st.integers(50, 3000))
def test_overlap_is_one_stretch_of_at_most_half(seed, rows, samples):
    audio = batch(rows, samples, seed)
    kept = audio.clone()
    added = mix(UtteranceMixing(probability=1.0, allow_self=False), audio, seed) - audio
    assert torch.equal(audio, kept)  # the clean batch is left alone
    assert torch.isfinite(added).all()
    for row in added:
        touched = torch.nonzero(row).flatten()
        if len(touched):
            assert touched[-1] - touched[0] + 1 <= samples // 2 + 1


@pytest.mark.parametrize("ratio", [-5.0, 0.0, 5.0])
def test_ratio_is_the_one_drawn(ratio):
    audio = batch(2, 8000)
    mixing = UtteranceMixing(probability=1.0, speech_ratio=(ratio, ratio), allow_self=False)
    added = mix(mixing, audio, seed=3) - audio
    for row, (primary, secondary) in enumerate([(0, 1), (1, 0)]):
        where = torch.nonzero(added[row]).flatten()
        stretch = added[row, where[0] : where[-1] + 1]
        # The secondary's stretch is somewhere in its waveform: find it, read off the scale, and compare energies.
        windows = audio[secondary].unfold(0, len(stretch), 1)
        place = torch.nn.functional.cosine_similarity(windows, stretch[None]).argmax()
        scale = stretch.norm() / windows[place].norm()
        measured = 10 * torch.log10(audio[primary].square().mean() / (scale**2 * audio[secondary].square().mean()))
        assert measured.item() == pytest.approx(ratio, abs=0.01)


def test_share_of_mixed_rows():
    changed = total = 0
    for seed in range(200):
        audio = batch(10, 200, seed)
        changed += (mix(UtteranceMixing(probability=0.2), audio, seed) != audio).any(1).sum().item()
        total += 10
    assert 0.16 < changed / total < 0.24


def test_zero_probability_changes_nothing():
    audio = batch()
    assert torch.equal(mix(UtteranceMixing(probability=0.0), audio), audio)


def test_silent_partners_do_nothing():
    audio = torch.zeros(4, 1000)
    audio[0] = 0.1
    mixed = mix(UtteranceMixing(probability=1.0, allow_self=False), audio)
    assert torch.isfinite(mixed).all()
    assert torch.equal(mixed[0], audio[0])  # its partners are silent
    assert torch.equal(mixed[1:], audio[1:])  # a silent primary has no energy to set the ratio by


def test_noise_is_used_and_short_clips_stay_short():
    audio, lengths = batch(6, 4000), torch.tensor([300, 300])
    noise = torch.zeros(2, 4000)
    noise[:, :300] = torch.randn(2, 300)
    mixing = UtteranceMixing(probability=1.0, noise_probability=1.0, noise_ratio=(0.0, 0.0))
    seen = 0
    for seed in range(20):
        added = mix(mixing, audio, seed, noise=noise, noise_lengths=lengths) - audio
        longest = max((len(torch.nonzero(row)) for row in added), default=0)
        assert longest <= 300
        seen = max(seen, longest)
    assert seen > 200


def test_a_lone_row_without_self_mixing_stays_clean():
    audio = batch(1)
    assert torch.equal(mix(UtteranceMixing(probability=1.0, allow_self=False), audio), audio)


@pytest.mark.parametrize("wrong", [{"probability": 1.5}, {"longest": 0.7}])
def test_impossible_settings(wrong):
    with pytest.raises(UserError, match="mixing"):
        UtteranceMixing(**wrong)
