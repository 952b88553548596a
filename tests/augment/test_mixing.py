"""Utterance mixing: what WavLM's algorithm 1 promises, measured."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wavlm_lightning.pretraining import UtteranceMixing
from wavlm_lightning.system.errors import UserError


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


def measured_ratio(primary: torch.Tensor, secondary: torch.Tensor, added: torch.Tensor) -> float | None:
    """What was added is a stretch of the secondary: find it, read off the scale, compare the energies of the whole."""
    where = torch.nonzero(added).flatten()
    if len(where) < 16:  # too short to be found
        return None
    stretch = added[where[0] : where[-1] + 1]
    windows = secondary.unfold(0, len(stretch), 1)
    place = torch.nn.functional.cosine_similarity(windows, stretch[None]).argmax()
    scale = (stretch @ windows[place]) / (windows[place] @ windows[place])
    return (10 * torch.log10(primary.square().mean() / (scale**2 * secondary.square().mean()))).item()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.floats(-5.0, 5.0), st.integers(400, 2000))
def test_speech_ratio_is_the_one_drawn(seed, ratio, samples):
    audio = batch(2, samples, seed).double()
    mixing = UtteranceMixing(probability=1.0, speech_ratio=(ratio, ratio), allow_self=False)
    added = mix(mixing, audio, seed) - audio
    for row in range(2):
        measured = measured_ratio(audio[row], audio[1 - row], added[row])
        assert measured is None or measured == pytest.approx(ratio, abs=0.01)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.floats(-5.0, 20.0), st.integers(100, 1500))
def test_noise_ratio_is_over_the_clip_not_over_its_padding(seed, ratio, clip):
    audio, noise = batch(3, 1500, seed).double(), torch.zeros(1, 1500, dtype=torch.float64)
    noise[:, :clip] = batch(1, clip, seed + 1).double()
    mixing = UtteranceMixing(probability=1.0, noise_probability=1.0, noise_ratio=(ratio, ratio))
    added = mix(mixing, audio, seed, noise=noise, noise_lengths=torch.tensor([clip])) - audio
    for row in range(3):
        measured = measured_ratio(audio[row], noise[0, :clip], added[row])
        assert measured is None or measured == pytest.approx(ratio, abs=0.01)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.lists(st.booleans(), min_size=2, max_size=6))
def test_silence_changes_nothing_and_is_never_changed(seed, silent):
    """A silent partner has nothing to add; a silent primary has no energy to set a ratio by."""
    audio = batch(len(silent), 300, seed).masked_fill(torch.tensor(silent)[:, None], 0.0)
    mixed = mix(UtteranceMixing(probability=1.0), audio, seed)
    assert torch.isfinite(mixed).all()
    assert torch.equal(mixed[silent], audio[silent])
    if sum(silent) >= len(silent) - 1:  # the only partner left is the row itself
        assert torch.equal(mix(UtteranceMixing(probability=1.0, allow_self=False), audio, seed), audio)


def test_starts_are_drawn_apart_and_lengths_reach_from_nothing_to_half():
    """Over many draws: length uniform on 0 to half, both starts uniform and not tied to each other."""
    samples, ramp = 200, torch.arange(1.0, 201.0)
    audio = torch.stack([torch.ones(samples), ramp])  # the ramp tells where a stretch was taken from
    mixing = UtteranceMixing(probability=1.0, speech_ratio=(0.0, 0.0), allow_self=False)
    lengths, begins, sources = [], [], []
    for seed in range(1500):
        added = (mix(mixing, audio, seed) - audio)[0]
        where = torch.nonzero(added).flatten()
        lengths.append(len(where))
        if 20 <= len(where) <= 40:
            begins.append(where[0].item())
            step = (added[where[-1]] - added[where[0]]) / (len(where) - 1)  # the ramp's, times the scale
            sources.append((added[where[0]] / step).item() - 1)
    lengths, begins, sources = torch.tensor(lengths).float(), torch.tensor(begins).float(), torch.tensor(sources)
    assert lengths.min() == 0 and lengths.max() == 100
    assert lengths.mean().item() == pytest.approx(50, abs=3)
    assert begins.mean().item() == pytest.approx(85, abs=8) and sources.mean().item() == pytest.approx(85, abs=8)
    assert abs(torch.corrcoef(torch.stack([begins, sources]))[0, 1].item()) < 0.15


def test_the_encoder_of_large_normalises_what_was_mixed():
    """Zero mean and unit variance after mixing, as the authors' code does: the level that mixing left is gone."""
    from wavlm_lightning.encoder import WavLM, WavLMConfig

    torch.manual_seed(0)
    shape = {"normalize_waveform": True, "conv_norm": "layer", "layers": 1}
    encoder = WavLM(WavLMConfig.preset("tiny", **shape)).eval()
    mixed = mix(UtteranceMixing(probability=1.0, allow_self=False), batch(2, 4000))
    normalised = torch.nn.functional.layer_norm(mixed, (4000,))
    assert torch.allclose(encoder.features(mixed)[0], encoder.features(normalised)[0], atol=1e-4)
    assert torch.allclose(encoder.features(mixed)[0], encoder.features(10 * mixed + 1)[0], atol=1e-3)


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
