"""Upstreams: padding changes nothing, frozen means frozen, baselines are SUPERB's, the weighted sum mixes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import get_window
from torchaudio.compliance import kaldi

from wavlm_lightning.encoder import Layers
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.upstreams import Fbank, Mfcc, Stft, WavLMUpstream, WeightedSum

UPSTREAMS = {
    "fbank": lambda: Fbank(),
    "fbank without cmvn": lambda: Fbank(cmvn=False),
    "mfcc": lambda: Mfcc(),
    "stft": lambda: Stft(),
    "tiny": lambda: WavLMUpstream("tiny"),
    "post-norm": lambda: WavLMUpstream("tiny", overrides={"pre_norm": False}),
    "layer-norm front-end": lambda: WavLMUpstream("tiny", overrides={"conv_norm": "layer", "normalize_waveform": True}),
}


@pytest.mark.parametrize("name", UPSTREAMS)
@settings(max_examples=5, deadline=None)
@given(st.lists(st.integers(1200, 20_000), min_size=2, max_size=4), st.integers(0, 1000))
def test_a_row_alone_is_the_row_in_a_batch(name, lengths, seed):
    upstream = UPSTREAMS[name]()
    generator = torch.Generator().manual_seed(seed)
    rows = [0.1 * torch.randn(n, generator=generator) for n in lengths]
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    together = upstream(padded, torch.tensor(lengths))
    for place, row in enumerate(rows):
        alone = upstream(row[None], torch.tensor([len(row)]))
        frames = int(alone.lengths[0])
        assert int(together.lengths[place]) == frames
        difference = (together.hidden[:, place, :frames] - alone.hidden[:, 0]).abs().amax((1, 2))
        assert (difference <= 1e-5 * alone.hidden.abs().amax((1, 2, 3)).clamp(min=1)).all()


@pytest.mark.parametrize(("upstream", "dim"), [(Fbank(), 240), (Mfcc(), 39)])
def test_shapes(upstream, dim):
    layers = upstream(torch.randn(2, 16_000), torch.tensor([16_000, 9_000]))
    assert layers.hidden.shape == (1, 2, 98, dim) and layers.lengths.tolist() == [98, 54]
    assert (upstream.num_layers, upstream.dim, upstream.frame_rate) == (1, dim, 100.0)


def test_fbank_is_kaldis():
    waveform = 0.1 * torch.randn(16_000)
    static = kaldi.fbank(waveform[None], num_mel_bins=80)
    layers = Fbank(cmvn=False)(waveform[None], torch.tensor([16_000]))
    assert torch.allclose(layers.hidden[0, 0, :, :80], static, atol=1e-5)
    normalised = Fbank()(waveform[None], torch.tensor([16_000])).hidden[0, 0]
    assert torch.allclose(normalised.mean(0), torch.zeros(240), atol=1e-4)
    assert torch.allclose(normalised.std(0), torch.ones(240), atol=1e-3)


def test_stft_is_that_of_windows_cut_one_by_one():
    waveform = 0.1 * torch.randn(16_000)
    layers = Stft()(waveform[None], torch.tensor([16_000]))
    assert (Stft.num_layers, Stft.dim, Stft.frame_rate) == (1, 257, 50.0)
    reflected, window = np.pad(waveform.numpy().astype(np.float64), 256, mode="reflect"), get_window("hann", 512)
    wanted = [np.abs(np.fft.rfft(reflected[t : t + 512] * window)) for t in range(0, 16_001, 320)]
    assert np.allclose(layers.hidden[0, 0].numpy(), np.stack(wanted), atol=1e-4)


def test_too_short_is_said():
    with pytest.raises(UserError, match="399 samples"):
        Fbank()(torch.randn(1, 399), torch.tensor([399]))


def test_frozen_stays_frozen():
    upstream = WavLMUpstream("tiny", overrides={"dropout": 0.5, "layer_drop": 0.5})
    audio, lengths = 0.1 * torch.randn(2, 8000), torch.tensor([8000, 6000])
    before = upstream(audio, lengths).hidden
    upstream.train()
    assert not upstream.training and not any(p.requires_grad for p in upstream.parameters())
    after = upstream(audio, lengths).hidden
    assert torch.equal(before, after) and not after.requires_grad


def test_not_frozen_trains():
    upstream = WavLMUpstream("tiny", frozen=False).train()
    hidden = upstream(0.1 * torch.randn(1, 8000), torch.tensor([8000])).hidden
    assert upstream.training and hidden.requires_grad


def test_fingerprint_follows_weights_and_settings():
    same = WavLMUpstream("tiny").fingerprint()
    assert same == WavLMUpstream("tiny", label="x").fingerprint()
    assert same != WavLMUpstream("tiny", seed=1).fingerprint()
    assert same != WavLMUpstream("tiny", overrides={"batch_invariant": False}).fingerprint()
    # Caches of older versions, which knew no other front-end, are found.
    assert "front_end" not in WavLMUpstream("tiny").settings() and "mel" not in WavLMUpstream("tiny").settings()
    log_mel = [
        WavLMUpstream("random:tiny_mel", overrides={"mel_norm": norm}).fingerprint() for norm in ("level", "bins")
    ]
    assert len({same, *log_mel}) == 3
    assert Fbank().fingerprint() != Fbank(cmvn=False).fingerprint() != Mfcc(cmvn=False).fingerprint()


@pytest.mark.parametrize("source", ["no/such/place", "small"])
def test_missing_sources_are_said(source):
    with pytest.raises(UserError, match=f"{source}: no such file or folder"):
        WavLMUpstream(source)


def test_cut_and_foreign_checkpoints_are_said(tmp_path):
    torch.save({"state_dict": {}}, tmp_path / "foreign.ckpt")
    (tmp_path / "cut.ckpt").write_bytes((tmp_path / "foreign.ckpt").read_bytes()[:300])
    with pytest.raises(UserError, match=r"cut\.ckpt is not a readable PyTorch file"):
        WavLMUpstream(str(tmp_path / "cut.ckpt"))
    with pytest.raises(UserError, match=r"foreign\.ckpt: does not contain an encoder"):
        WavLMUpstream(str(tmp_path / "foreign.ckpt"))


def test_unknown_override_is_said():
    with pytest.raises(UserError, match="widht"):
        WavLMUpstream("tiny", overrides={"widht": 3})


def test_weighted_sum():
    layers = Layers(torch.randn(5, 2, 7, 3), torch.tensor([7, 4]), 50.0)
    mix = WeightedSum(5)
    assert torch.allclose(mix(layers), layers.hidden.mean(0), atol=1e-6)  # zeros at the start: uniform
    mix.logits.data = torch.tensor([0.0, 100.0, 0.0, 0.0, 0.0])
    assert torch.allclose(mix(layers), layers.hidden[1])
    assert mix.weights() == pytest.approx([0, 1, 0, 0, 0])
    single = WeightedSum(1)
    assert list(single.parameters()) == [] and single.weights() == []
    normed = WeightedSum(5, normalize=True)(layers)
    assert torch.allclose(normed, torch.nn.functional.layer_norm(layers.hidden, (3,)).mean(0), atol=1e-6)


@pytest.mark.parametrize("samples", [400, 559])
def test_the_only_frame_of_a_recording_has_no_spread(samples):
    """It passes every check of lengths, and NaN would end up in a mean over the split."""
    layers = Fbank()(torch.randn(2, samples), torch.tensor([samples, samples]))
    assert layers.hidden.shape[2] == 1 and not layers.hidden.any()
