"""The CPU's convolutions by products and by spectra, against torch's own convolution in fp64."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from encoder_helpers import distance, noise
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from wavlm_lightning.encoder import WavLM, WavLMConfig
from wavlm_lightning.encoder.cpu import spectral_convolution, strided_products
from wavlm_lightning.encoder.cpu.strided_front_end import convolve_made

WIDE = WavLMConfig.preset("base", layers=1, layer_drop=0.0)
"""Wide enough for both ways, as all published sizes are."""


@pytest.fixture(scope="module")
def wide() -> WavLM:
    torch.manual_seed(0)
    return WavLM(WIDE).eval()


def slow_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strided_products, "usable", lambda *_: False)
    monkeypatch.setattr(spectral_convolution, "usable", lambda *_: False)


def gradients(result: Tensor, *inputs: Tensor) -> list[Tensor]:
    factors = torch.randn(result.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return list(torch.autograd.grad((result * factors).sum(), inputs))


@settings(max_examples=60, deadline=None)
@given(kernel=st.sampled_from([2, 3]), steps=st.integers(3, 70), rows=st.integers(1, 3), seed=st.integers(0, 9))
def test_strided_products_are_the_convolution(kernel: int, steps: int, rows: int, seed: int):
    generator = torch.Generator().manual_seed(seed)
    x, weight = (
        torch.randn(shape, generator=generator).requires_grad_() for shape in ((rows, steps, 12), (20, 12, kernel))
    )
    made = convolve_made(F.gelu, (x,), strided_products.taps(weight))
    exact = F.conv1d(F.gelu(x.double()).mT, weight.double(), stride=2).mT
    assert made.shape == exact.shape and distance(made, exact) < 2e-6
    with torch.no_grad():
        assert torch.equal(strided_products.convolve(F.gelu(x), strided_products.taps(weight)), made)
    for ours, expected in zip(gradients(made, x, weight), gradients(exact, x, weight), strict=True):
        assert (ours - expected).abs().max() < 5e-6 * expected.abs().max()


def test_the_input_needs_no_gradient():
    x, weight = torch.randn(1, 9, 4), torch.randn(4, 4, 3, requires_grad=True)
    made = convolve_made(F.gelu, (x,), strided_products.taps(weight))
    (ours,) = gradients(made, weight)
    (expected,) = gradients(F.conv1d(F.gelu(x).double().mT, weight.double(), stride=2).mT, weight)
    assert distance(ours, expected) < 2e-6


@settings(max_examples=40, deadline=None)
@given(
    taps=st.integers(1, 12),
    frames=st.integers(1, 60),
    batch=st.integers(1, 3),
    groups=st.sampled_from([1, 2, 4]),
    seed=st.integers(0, 9),
)
def test_spectral_convolution_is_the_convolution(taps: int, frames: int, batch: int, groups: int, seed: int):
    generator = torch.Generator().manual_seed(seed)
    x, weight = (
        torch.randn(shape, generator=generator).requires_grad_()
        for shape in ((batch, frames, 8), (8, 8 // groups, taps))
    )
    ours = spectral_convolution.convolve(x, weight)
    exact = F.conv1d(x.double().mT, weight.double(), padding=taps // 2, groups=groups)[:, :, :frames].mT
    scale = exact.abs().max() + 1e-3
    assert ours.shape == exact.shape and (ours - exact).abs().max() < 2e-6 * scale
    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(spectral_convolution, "BLOCKS", 2)
        assert (spectral_convolution.convolve(x, weight) - exact).abs().max() < 2e-6 * scale
        transformed = spectral_convolution.spectrum(weight)
        assert (spectral_convolution.convolve(x, weight, transformed) - exact).abs().max() < 2e-6 * scale
    for found, expected in zip(gradients(ours, x, weight), gradients(exact, x, weight), strict=True):
        assert (found - expected).abs().max() < 5e-6 * expected.abs().max() + 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("conv_norm", ["group", pytest.param("layer", marks=pytest.mark.long)])
def test_an_encoder_of_published_width(conv_norm: str, monkeypatch: pytest.MonkeyPatch):
    """Values and every gradient as by torch's convolutions, padded rows among them."""
    torch.manual_seed(0)
    encoder = WavLM(replace(WIDE, conv_norm=conv_norm, conv_bias=conv_norm == "layer")).eval()
    waveforms, lengths = noise(2, 80_000), torch.tensor([80_000, 66_123])
    results = []
    for _ in range(2):
        encoder.zero_grad()
        layers = encoder(waveforms, lengths)
        layers.hidden.masked_fill(layers.padding[None, :, :, None], 0.0).square().mean().backward()
        found = {name: p.grad.clone() for name, p in encoder.named_parameters() if p.grad is not None}
        results.append((layers.hidden, found))
        slow_ways(monkeypatch)
    (ours, our_gradients), (plain, plain_gradients) = results
    assert distance(ours, plain) < 1e-5 and not torch.equal(ours, plain)
    largest = max(gradient.abs().max() for gradient in plain_gradients.values())
    for name, expected in plain_gradients.items():
        assert (our_gradients[name] - expected).abs().max() < 2e-5 * expected.abs().max() + 1e-7 * largest, name


def test_prepared_it_is_the_same(wide: WavLM):
    waveforms = noise(1, 136_000)
    with torch.no_grad():
        expected = wide(waveforms).hidden
        assert torch.equal(wide.prepare_for_inference(packed=False)(waveforms).hidden, expected)
        assert distance(wide.prepare_for_inference(packed=True)(waveforms).hidden, expected) < 1e-5
        convolutions = (wide.feature_extractor.conv_layers[2].conv, wide.encoder.pos_conv_embed.conv)
        for weight in (parameter for conv in convolutions for parameter in conv.parameters()):
            weight.mul_(1.5)
        changed = wide(waveforms).hidden
        assert distance(changed, expected) > 1e-2
        assert distance(changed, wide.prepare_for_inference(packed=False)(waveforms).hidden) < 1e-5


def test_in_bf16_the_spectrum_errs_less_than_the_convolution(wide: WavLM, monkeypatch: pytest.MonkeyPatch):
    embedding, x = (
        wide.encoder.pos_conv_embed,
        torch.randn(2, 300, WIDE.dim, generator=torch.Generator().manual_seed(0)),
    )
    with torch.no_grad():
        exact = embedding(x)
        with torch.autocast("cpu", torch.bfloat16):
            ours = embedding(x)
            slow_ways(monkeypatch)
            plain = embedding(x)
    assert ours.dtype == plain.dtype == torch.bfloat16
    assert distance(ours, exact) < distance(plain, exact)


def test_who_takes_them(wide: WavLM):
    convolutions = [layer.conv for layer in wide.feature_extractor.conv_layers[1:]]
    weight, x = wide.encoder.pos_conv_embed.conv.weight, torch.randn(2, 300, WIDE.dim)
    assert strided_products.usable(convolutions, noise(1, 800)) and spectral_convolution.usable(x, weight)
    assert not strided_products.usable(convolutions, noise(1, 800).double())
    assert not strided_products.usable(convolutions, noise(1, 800).to("meta"))
    with torch.autocast("cpu", torch.bfloat16):
        assert not strided_products.usable(convolutions, noise(1, 800))
    assert not spectral_convolution.usable(x[:, :100], weight) and not spectral_convolution.usable(x, weight[:, :, :8])
    tiny = WavLM(WavLMConfig.tiny())
    assert not strided_products.usable([layer.conv for layer in tiny.feature_extractor.conv_layers[1:]], noise(1, 800))
    assert not spectral_convolution.wide(tiny.encoder.pos_conv_embed.conv.weight)
