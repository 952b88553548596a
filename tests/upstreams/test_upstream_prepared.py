"""A frozen WavLM is prepared for inference, and gives what it gave before."""

from __future__ import annotations

import pytest
import torch

from wavlm_lightning.encoder.cpu import linears
from wavlm_lightning.encoder.cpu.weight_cache import kept
from wavlm_lightning.upstreams import WavLMUpstream


@pytest.mark.parametrize("choice", ["plain", "onednn"])
def test_features_and_fingerprint_stay(choice: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(linears, "SMALLEST", 0)
    trained = WavLMUpstream("tiny", frozen=False).eval()
    linears.use(choice)
    frozen = WavLMUpstream("tiny")
    linears.use(None)
    weight = frozen.encoder.encoder.layers[0].attention.q_proj.weight
    assert (kept("packed", (weight,)) is not None) == (choice == "onednn")
    waveforms, lengths = 0.1 * torch.randn(2, 8_000), torch.tensor([8_000, 6_000])
    with torch.no_grad():
        expected, found = trained(waveforms, lengths).hidden, frozen(waveforms, lengths).hidden
    if choice == "plain":
        assert torch.equal(found, expected)
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()
    assert frozen.fingerprint() == trained.fingerprint()


def test_an_encoder_opened_in_inference_mode_gives_the_same():
    """PyTorch does not count writes into tensors made in inference mode, so nothing is kept for them."""
    waveforms, lengths = 0.1 * torch.randn(1, 8_000), torch.tensor([8_000])
    with torch.inference_mode():
        upstream = WavLMUpstream("tiny")
        found = upstream(waveforms, lengths).hidden
        again = upstream(waveforms, lengths).hidden
        with torch.no_grad():
            upstream.encoder.encoder.pos_conv_embed.conv.bias.add_(1.0)
        changed = upstream(waveforms, lengths).hidden
    expected = WavLMUpstream("tiny")(waveforms, lengths).hidden
    assert torch.equal(found, again) and (found - expected).abs().max() < 1e-5
    assert not torch.equal(found, changed)
