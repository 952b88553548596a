from __future__ import annotations

import math
import subprocess
import sys
import weakref
from dataclasses import replace
from typing import Any

import pytest
import torch
from encoder_helpers import CONFIGS, distance, make, noise

from wavlm_lightning.encoder import WavLM, WavLMConfig
from wavlm_lightning.encoder.frontend import scale_gradient

KINDS = list(CONFIGS)


@pytest.mark.slow
def test_import_is_light():
    code = (
        "import sys; from wavlm_lightning.encoder import WavLM; "
        "print([name for name in ('lightning', 'pytorch_lightning', 'wandb', 'transformers', 'torchaudio') "
        "if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize("kind", KINDS)
def test_mask_acts_through_masked_frames_only(kind: str):
    encoder = make(kind)
    features, lengths = encoder.features(noise(2, 16_000), torch.tensor([16_000, 12_000]))
    mask = torch.zeros(2, 49, dtype=torch.bool)
    mask[0, 10:20] = mask[1, 5:9] = True
    other = features.detach() + mask[:, :, None] * torch.randn(features.shape)
    with torch.no_grad():
        plain = encoder.encode(features, lengths).hidden
        masked = encoder.encode(features, lengths, mask).hidden
        assert torch.equal(encoder.encode(other, lengths, mask).hidden, masked)
        assert distance(masked, plain) > 1e-3
        assert torch.equal(encoder.encode(features, lengths, torch.zeros_like(mask)).hidden, plain)
        encoder.masked_spec_embed.add_(1.0)
        assert distance(encoder.encode(features, lengths, mask).hidden, masked) > 1e-3
        assert torch.equal(encoder.encode(features, lengths).hidden, plain)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("keep", [[-1], [0], [2, 0], [-1, 1, 2]])
def test_kept_hidden_states(kind: str, keep: list[int]):
    encoder = make(kind)
    keep = [index % (encoder.config.layers + 1) for index in keep]
    features, lengths = encoder.features(noise(2, 16_000), torch.tensor([16_000, 12_000]))
    with torch.no_grad():
        projected, _ = encoder.project(features)
        kept = encoder.contextualise(projected, lengths, keep=keep)
        assert torch.equal(kept.hidden, encoder.encode(features, lengths).hidden[keep])
    assert torch.equal(kept.lengths, lengths)


def test_hidden_states_that_are_not_kept_are_freed():
    encoder = make("base", layers=6)
    alive: list[weakref.ref[torch.Tensor]] = []
    counts = []

    def remember(module: torch.nn.Module, inputs: object, output: torch.Tensor) -> None:
        alive.append(weakref.ref(output))
        counts.append(sum(reference() is not None for reference in alive))

    for layer in encoder.encoder.layers:
        layer.register_forward_hook(remember)
    features, lengths = encoder.features(noise(1, 8_000))
    with torch.no_grad():
        projected, _ = encoder.project(features)
        encoder.contextualise(projected, lengths, keep=[6])
        assert max(counts) == 2  # a layer's input and its output
        alive.clear()
        encoder.contextualise(projected, lengths, keep=[3])
    assert len(alive) == 3  # nothing above was run


def test_projection_gives_the_normalised_features_too():
    encoder = make("base")
    with torch.no_grad():
        features, _ = encoder.features(noise(2, 16_000))
        projected, normalised = encoder.project(features)
    norm, linear = encoder.feature_projection.layer_norm, encoder.feature_projection.projection
    expected = (features - features.mean(-1, keepdim=True)) / (
        features.var(-1, correction=0, keepdim=True) + 1e-5
    ).sqrt()
    expected = expected * norm.weight + norm.bias
    assert torch.allclose(normalised, expected, atol=1e-5)
    assert torch.allclose(projected, normalised @ linear.weight.T + linear.bias, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"keep": []}, "keep must name hidden states from 0 to 4, at least one"),
        ({"keep": [1, 5]}, r"keep must name hidden states from 0 to 4, at least one, not \[1, 5\]"),
        ({"keep": [-1]}, "keep must"),
        ({"dropped": [True] * 3}, "dropped must have one entry for each of the 4 layers, not 3"),
    ],
)
def test_bad_layers_are_named(arguments: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        make("tiny").contextualise(torch.zeros(1, 9, 192), torch.tensor([9]), **arguments)


@pytest.mark.parametrize("factor", [0.0, 0.1, 1.0])
def test_gradient_multiplier(factor: float):
    x = torch.randn(100, requires_grad=True)
    y = scale_gradient(x, factor)
    assert torch.equal(x, y)
    if factor:
        y.square().sum().backward()
        assert x.grad is not None
        assert torch.allclose(x.grad, factor * 2 * x.detach())
    else:
        assert not y.requires_grad


def test_gradient_multiplier_reaches_only_the_convolutions():
    gradients = {}
    for factor in (1.0, 0.1, 0.0):
        encoder = make("base", feature_grad_mult=factor)
        encoder(noise(1, 8000)).hidden[-1].square().sum().backward()
        gradients[factor] = {name: parameter.grad for name, parameter in encoder.named_parameters()}
    for name, full in gradients[1.0].items():
        if name.startswith("feature_extractor"):
            assert torch.allclose(gradients[0.1][name], 0.1 * full, rtol=1e-4, atol=1e-6)
            assert gradients[0.0][name] is None
        elif full is not None:
            assert torch.equal(gradients[0.1][name], full)


@pytest.mark.parametrize("kind", KINDS)
def test_bf16_autocast(kind: str):
    encoder = make(kind)
    waveforms, lengths = noise(2, 16_000), torch.tensor([16_000, 12_000])
    with torch.no_grad():
        expected = encoder(waveforms, lengths).hidden
    encoder.train()
    with torch.autocast("cpu", torch.bfloat16):
        hidden = encoder(waveforms, lengths).hidden
    hidden.float().square().mean().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in encoder.parameters())
    encoder.eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        hidden = encoder(waveforms, lengths).hidden
    assert hidden.dtype == torch.bfloat16
    assert distance(hidden.float(), expected) < 0.1


def test_initial_weights_are_the_published_ones():
    torch.manual_seed(0)
    encoder = WavLM(replace(WavLMConfig.base(), layers=2))
    layer = encoder.encoder.layers[1]
    for linear in (layer.attention.q_proj, layer.attention.gru_rel_pos_linear, layer.feed_forward.output_dense):
        assert linear.weight.std().item() == pytest.approx(0.02, rel=0.15)
        assert (linear.bias == 0).all()
    assert encoder.encoder.layers[0].attention.rel_attn_embed.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert (layer.attention.gru_rel_pos_const == 1).all()
    positional = encoder.encoder.pos_conv_embed.conv
    assert positional.weight.std().item() == pytest.approx(math.sqrt(4 / (128 * 768)), rel=0.02)
    assert positional.parametrizations.weight.original0.shape == (1, 1, 128)
    conv = encoder.feature_extractor.conv_layers[1].conv.weight
    assert conv.std().item() == pytest.approx(math.sqrt(2 / (512 * 3)), rel=0.02)
    assert encoder.masked_spec_embed.min() >= 0
    assert encoder.masked_spec_embed.max() <= 1
    assert encoder.masked_spec_embed.mean().item() == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize(
    ("waveforms", "lengths", "message"),
    [
        (torch.zeros(2, 1000), torch.tensor([1000, 399]), "row 1 has 399 samples, fewer than the 400"),
        (torch.zeros(2, 300), None, "row 0 has 300 samples, fewer than the 400"),
        (torch.zeros(2, 1000), torch.tensor([1000, 1001]), "lengths of row 1 is 1001"),
        (torch.zeros(2, 1000), torch.tensor([1000]), r"lengths must be integers of shape \(batch,\)"),
        (torch.zeros(2, 1000), torch.tensor([1.0, 0.5]), "lengths must be integers"),
        (torch.zeros(2, 1, 1000), None, "waveforms must be floating point of shape"),
        (torch.zeros(2, 1000, dtype=torch.int16), None, "waveforms must be floating point"),
    ],
)
def test_bad_input_is_named(waveforms: torch.Tensor, lengths: torch.Tensor | None, message: str):
    with pytest.raises(ValueError, match=message):
        make("tiny")(waveforms, lengths)


@pytest.mark.parametrize("mask", [torch.zeros(2, 48, dtype=torch.bool), torch.zeros(2, 49)])
def test_bad_mask_is_named(mask: torch.Tensor):
    with pytest.raises(ValueError, match="mask must be bool"):
        make("tiny")(noise(2, 16_000), mask=mask)
