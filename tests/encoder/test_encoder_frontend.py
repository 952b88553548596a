"""The front-end's short cuts (folded norm, chunks, recomputing backward) against its layers one after the other."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from encoder_helpers import CONFIGS, distance, noise, shake
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from wavlm_lightning.encoder import padding_mask
from wavlm_lightning.encoder.cpu import chunks, folded_norm, strided_products
from wavlm_lightning.encoder.frontend import FrontEnd


def front_end(kind: str, **overrides: object) -> FrontEnd:
    torch.manual_seed(0)
    module = FrontEnd(replace(CONFIGS[kind], **overrides))
    shake(module)
    return module


def plain(module: FrontEnd, waveforms: Tensor, lengths: Tensor | None = None) -> Tensor:
    """The front-end as wav2vec 2.0 describes it, in fp64: one layer, one norm, one GELU after the other."""
    x = waveforms[:, None].double()
    for layer in module.conv_layers:
        conv, norm = layer.conv, layer.layer_norm
        x = F.conv1d(x, conv.weight.double(), None if conv.bias is None else conv.bias.double(), conv.stride)
        if isinstance(norm, nn.GroupNorm):
            steps = x.new_full((len(x),), x.shape[2], dtype=torch.int64)
            if lengths is not None:
                steps = (lengths - conv.kernel_size[0]) // conv.stride[0] + 1
            valid = ~padding_mask(steps, x.shape[2])[:, None]
            mean = (x * valid).sum(2, keepdim=True) / steps[:, None, None]
            variance = ((x - mean).square() * valid).sum(2, keepdim=True) / steps[:, None, None]
            x = (x - mean) * (variance + norm.eps).rsqrt() * norm.weight[:, None] + norm.bias[:, None]
        elif norm is not None:
            x = F.layer_norm(x.mT, norm.normalized_shape, norm.weight.double(), norm.bias.double(), norm.eps).mT
        x = F.gelu(x)
    return x.mT


def valid_frames(module: FrontEnd, x: Tensor, lengths: Tensor | None) -> Tensor:
    if lengths is None:
        return x.flatten(0, 1)
    return x[~padding_mask(module.config.frames(lengths), x.shape[1])]


@pytest.fixture(params=["convolutions", "products"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How the small encoders convolve: as they would, or as wide ones do."""
    if request.param == "products":
        monkeypatch.setattr(strided_products, "NARROWEST", 1)
    return request.param


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of about eight frames of the small encoders, and statistics in blocks of 500 windows."""
    monkeypatch.setattr(chunks, "CACHE_FRIENDLY", 8 * 64 * 24 * 4)
    monkeypatch.setattr(folded_norm, "BLOCK", 500)


@pytest.mark.usefixtures("small_chunks", "way")
@pytest.mark.parametrize(("kind", "bias"), [("base", False), ("base", True), ("large", False), ("tiny", False)])
@settings(max_examples=5, deadline=None)
@given(lengths=st.lists(st.integers(400, 12_000), min_size=1, max_size=3), full=st.booleans())
def test_values_and_gradients_match_the_plain_layers(kind: str, bias: bool, lengths: list[int], full: bool):
    module = front_end(kind, conv_bias=bias)
    waveforms = noise(len(lengths), max(lengths), seed=sum(lengths)).requires_grad_()
    valid = None if full else torch.tensor(lengths)
    with torch.no_grad():
        inferred = module(waveforms, valid)
    results = []
    for run in (lambda: module(waveforms, valid), lambda: plain(module, waveforms, valid)):
        module.zero_grad()
        waveforms.grad = None
        features = valid_frames(module, run(), valid).double()
        factors = torch.randn(features.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        (features * factors).sum().backward()
        gradients = {name: parameter.grad.clone() for name, parameter in module.named_parameters()}
        results.append((features.detach(), {**gradients, "waveforms": waveforms.grad.clone()}))
    (ours, our_gradients), (expected, gradients) = results
    assert distance(ours, expected) < 1e-5
    assert distance(valid_frames(module, inferred, valid), expected) < 1e-5
    for name, gradient in gradients.items():
        # The norm removes the bias of the first convolution: that gradient is nothing but the rounding of the sums.
        assert (our_gradients[name] - gradient).abs().max() < 2e-5 * gradient.abs().max() + 1e-6, name


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("kind", ["base", "large"])
def test_chunks_change_nothing(kind: str, monkeypatch: pytest.MonkeyPatch):
    module, waveforms = front_end(kind), noise(3, 30_000)
    with torch.no_grad():
        whole = module(waveforms, torch.tensor([30_000, 8_000, 401]))
        for frames in (1, 7, 93, 200):
            monkeypatch.setattr(chunks, "CACHE_FRIENDLY", frames * 64 * 24 * 4)
            assert distance(module(waveforms, torch.tensor([30_000, 8_000, 401])), whole) < 2e-6


def test_chunks_cover_every_frame_once():
    config = CONFIGS["base"]
    for batch, samples in ((1, 400), (3, 5_000), (2, 400 + 320 * 30_000)):
        seen = torch.zeros(batch, config.frames(samples), dtype=torch.int64)
        for rows, frames, stretch in chunks.chunks(config, batch, samples, torch.float32, "cpu"):
            seen[rows, frames] += 1
            assert config.frames(stretch.stop - stretch.start) == frames.stop - frames.start
            assert stretch.stop <= samples
        assert (seen == 1).all()


@pytest.mark.parametrize("samples", [400, 405, 719, 720, 16_000])
@pytest.mark.parametrize("offset", [0.0, 300.0])
def test_constant_and_offset_inputs(samples: int, offset: float):
    """A variance of zero leaves the norm's bias; an offset a thousand times the signal costs no digits."""
    module = front_end("base")
    with torch.no_grad():
        silence = module(torch.full((1, samples), offset))
        assert silence.isfinite().all()
        assert distance(silence, plain(module, torch.zeros(1, samples))) < 1e-5
        waveforms = noise(2, samples)
        shifted = (waveforms + offset).double()  # with the rounding that the offset itself brings
        assert distance(module(shifted.float()), plain(module, shifted.float().double())) < 1e-5


@pytest.mark.parametrize("loudness", [1e-4, 1e3])
def test_quiet_and_loud_inputs(loudness: float):
    module, waveforms = front_end("base"), loudness * noise(2, 8_000)
    with torch.no_grad():
        assert distance(module(waveforms), plain(module, waveforms)) < 1e-5


@pytest.mark.parametrize("kind", ["base", "large"])
def test_bf16_errs_as_bf16_does(kind: str):
    """Autocast of the plain layers sets the measure; no tensor between the layers becomes fp32."""
    module, waveforms = front_end(kind), noise(2, 16_000)
    with torch.no_grad():
        exact = plain(module, waveforms)
        with torch.autocast("cpu", torch.bfloat16):
            ours = module(waveforms)
            x = waveforms[:, None]
            for layer in module.conv_layers:
                x = layer.conv(x)
                if isinstance(layer.layer_norm, nn.GroupNorm):
                    x = layer.layer_norm(x)
                x = layer.activate(x.mT, *layer.norm_parameters()).mT
    assert ours.dtype == torch.bfloat16
    error, allowed = (ours - exact).square().mean().sqrt(), (x.mT - exact).square().mean().sqrt()
    assert error < 1.2 * allowed


def test_the_order_of_memory_changes_no_bit():
    """torch's GELU is another kernel for transposed memory; recorded runs of small encoders rest on that for memory in order."""
    layer, x = front_end("base").conv_layers[1], torch.randn(2, 24, 501, generator=torch.Generator().manual_seed(0))
    assert torch.equal(layer.activate(x.mT).mT, F.gelu(x))
    assert torch.equal(layer.activate(x.mT.contiguous()), F.gelu(x.mT.contiguous()))


@pytest.mark.parametrize("kind", ["base", "large"])
def test_training_keeps_one_tensor_a_layer(kind: str, way: str):
    """The outputs of the convolutions but the first, the waveform and what is small; nothing else waits."""
    module, waveforms = front_end(kind), noise(1, 160_000)
    parameters = {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}
    kept: dict[int, int] = {}

    def remember(x: Tensor) -> Tensor:
        if x.untyped_storage().data_ptr() not in parameters:
            kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(remember, lambda x: x):
        features = module(waveforms)
    steps, outputs = 160_000, 0
    for kernel, stride in zip(module.config.conv_kernels[1:], module.config.conv_strides[1:], strict=True):
        steps = (steps if outputs else (160_000 - 10) // 5 + 1) - kernel
        steps = steps // stride + 1
        outputs += 4 * 24 * steps
    assert features.requires_grad
    if way == "products":  # their matrices are other orders and sums of the weights
        outputs += 4 * sum(layer.conv.weight.numel() * 4 // 3 for layer in module.conv_layers[1:])
    if kind == "large":  # the last norm's input
        outputs += 4 * 24 * steps
    assert outputs < sum(kept.values()) < 1.01 * (outputs + 4 * 160_000)
