"""Operations counted by formula against torch's counter on real passes, and against published arithmetic."""

from __future__ import annotations

from dataclasses import replace
from unittest import mock

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode, conv_backward_flop

from wavlm_lightning.encoder import WavLM, WavLMConfig, frontend
from wavlm_lightning.encoder.cpu import spectral_convolution, strided_products
from wavlm_lightning.pretraining.flops import (
    GPUS,
    encoder_flops,
    find_gpu,
    linear_flops,
    model_flops_utilisation,
)
from wavlm_lightning.pretraining.objectives import MaskedPrediction

SMALL = WavLMConfig.preset("tiny", layers=2)
# Base's and Large's proportions where it costs: all convolutions, the wide positional convolution, T x T products.
BASE = WavLMConfig.preset("base", layers=1, layer_drop=0.0)
LARGE = WavLMConfig.preset("large", layers=1, layer_drop=0.0)


def grouped_conv_backward(grad_out, x, weight, *rest, out_shape):
    """torch's formula takes the channels of all groups for each group in the gradient of the weight."""
    *options, groups, (needs_input, needs_weight, _) = rest

    def count(output_mask) -> int:
        return conv_backward_flop(grad_out, x, weight, *options, groups, output_mask, out_val=out_shape)

    return count([needs_input, False, False]) + count([False, needs_weight, False]) // groups


def at_once(function, *arguments, **_):
    """In place of checkpointing: what runs twice is work of the implementation, and not of the model."""
    return function(*arguments)


def counted(config: WavLMConfig, batch: int, samples: int, backward: bool, step=at_once) -> int:
    """What torch counts in a pass of a real encoder, whose convolutions are run by `step`."""
    torch.manual_seed(0)
    encoder = WavLM(config).train(backward)
    # The chosen attention makes its products once more in the backward pass.
    encoder.encoder.run_layers(recomputed=False, compiled=False, attention="sdpa")
    waveforms = torch.randn(batch, samples)
    mapping = {torch.ops.aten.convolution_backward: grouped_conv_backward}
    # The counter has no entry for the fused attention of CPUs, and counts what fused kernels compute twice.
    plain = sdpa_kernel(SDPBackend.MATH)
    with (
        FlopCounterMode(display=False, custom_mapping=mapping) as counter,
        torch.set_grad_enabled(backward),
        plain,
        mock.patch.object(frontend, "checkpoint", step),
        # Short cuts of CPUs, in operators that the counter does not know.
        mock.patch.object(strided_products, "usable", return_value=False),
        mock.patch.object(spectral_convolution, "usable", return_value=False),
    ):
        hidden = encoder(waveforms).hidden[-1]
        if backward:
            hidden.sum().backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("bias", ["gated", "ungated", "none"])
@pytest.mark.parametrize("conv_norm", ["group", "layer"])
@pytest.mark.parametrize("samples", [8_000, 24_123])
def test_training_step_of_all_variants(bias, conv_norm, samples):
    config = replace(SMALL, position_bias=bias, conv_norm=conv_norm)
    assert counted(config, 2, samples, backward=True) == pytest.approx(
        encoder_flops(config, 2, samples).training, rel=0.002
    )


@pytest.mark.parametrize("channels", [(), (32,), (24, 40, 32)])
@pytest.mark.parametrize("conv_norm", ["group", "layer"])
def test_log_mel_frames(channels, conv_norm):
    for factor in (0.0, 1.0):
        config = WavLMConfig.preset("tiny_mel", layers=1, mel_channels=channels, feature_grad_mult=factor)
        config = replace(config, conv_norm=conv_norm)
        flops = encoder_flops(config, 2, 8_123)
        assert counted(config, 2, 8_123, backward=True) == pytest.approx(flops.training, rel=0.002)
        assert counted(config, 2, 8_123, backward=False) == pytest.approx(flops.forward, rel=0.002)


@pytest.mark.parametrize("config", [BASE, LARGE], ids=["base", "large"])
@pytest.mark.parametrize("backward", [False, True], ids=["forward", "training"])
def test_published_widths(config, backward):
    flops = encoder_flops(config, 1, 16_000)
    expected = flops.training if backward else flops.forward
    assert counted(config, 1, 16_000, backward) == pytest.approx(expected, rel=0.002)


@pytest.mark.parametrize("conv_norm", ["group", "layer"])
def test_of_the_convolutions_only_the_first_is_computed_again(conv_norm):
    """It is not counted: utilisation is about the model."""
    config = replace(SMALL, conv_norm=conv_norm, conv_bias=False)
    twice = counted(config, 2, 16_000, True, step=frontend.checkpoint) - counted(config, 2, 16_000, True)
    seen = (config.frames(16_000) - 1) * config.hop + config.receptive_field
    steps = (seen - config.conv_kernels[0]) // config.conv_strides[0] + 1
    first = linear_flops(2 * steps, config.conv_kernels[0], config.conv_channels[0])
    assert twice == pytest.approx(first, rel=0.01)


def test_frozen_convolutions_have_no_backward_pass():
    frozen, trained = replace(SMALL, feature_grad_mult=0.0), replace(SMALL, feature_grad_mult=0.1)
    assert encoder_flops(frozen, 2, 16_000).front_end_backward == 0
    for config in (frozen, trained):
        expected = encoder_flops(config, 2, 16_000).training
        assert counted(config, 2, 16_000, backward=True) == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize(("preset", "forward"), [("base", 14.8), ("large", 38.5)])
def test_a_second_of_audio_of_the_published_sizes(preset, forward):
    flops = encoder_flops(WavLMConfig.preset(preset, layer_drop=0.0), 1, 160_000)
    assert flops.forward / 10 / 1e9 == pytest.approx(forward, rel=0.01)
    assert 2.85 < flops.training / flops.forward < 3  # less than three: the waveform gets no gradient


def test_layer_drop_spares_its_share_in_training_only():
    full, dropping = (encoder_flops(WavLMConfig.preset("base", layer_drop=p), 1, 160_000) for p in (0.0, 0.25))
    assert dropping.forward == full.forward
    assert full.training - dropping.training == pytest.approx(0.25 * 3 * (full.linears + full.attention))


def test_batch_is_linear_and_nothing_comes_of_too_little_audio():
    one, four = (encoder_flops(WavLMConfig.base(), batch, 80_000).training for batch in (1, 4))
    assert four == pytest.approx(4 * one)
    assert encoder_flops(WavLMConfig.base(), 1, 9).training == 0
    assert encoder_flops(WavLMConfig.base(), 1, 399).forward == 0
    # The convolutions do not see the samples that would begin another frame.
    assert encoder_flops(WavLMConfig.base(), 1, 719).forward == encoder_flops(WavLMConfig.base(), 1, 400).forward


def test_objective_is_counted_as_torch_does():
    objective, hidden = MaskedPrediction(final_dim=16), torch.randn(37, SMALL.dim)
    objective.build(SMALL, {"labels": 100})
    with FlopCounterMode(display=False) as counter:
        objective.logits(hidden)
    assert counter.get_total_flops() == objective.cost(SMALL, 100, frames=60, masked=37, compute_bytes=4).flops


@pytest.mark.parametrize(
    ("device", "key"),
    [
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA A100-PCIE-40GB", "a100"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H100 PCIe", "h100-pcie"),
        ("NVIDIA H200", "h200"),
        ("Tesla V100-SXM2-32GB", "v100"),
        ("Tesla V100-PCIE-16GB", "v100-pcie"),
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
        *((key, key) for key in GPUS),
    ],
)
def test_devices_by_the_names_that_torch_gives(device, key):
    assert find_gpu(device) is GPUS[key]


@pytest.mark.parametrize(
    "device",
    [
        "cpu",
        "",
        "NVIDIA GH200 480GB",
        "NVIDIA A10",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA A100-SXM4-40GB MIG 1g.5gb",
    ],
)
def test_unknown_devices_have_no_utilisation(device):
    assert find_gpu(device) is None
    assert model_flops_utilisation(1e12, device) is None


def test_utilisation():
    assert model_flops_utilisation(78e12, "NVIDIA A100-SXM4-80GB") == pytest.approx(0.25)


def test_update_of_wavlm_large_v2_takes_39_seconds_of_an_a100():
    """2048 x 16 s at 100 TFLOP/s; that estimate takes three forward passes and no LayerDrop."""
    seconds = encoder_flops(WavLMConfig.preset("large", layer_drop=0.0), 2048, 256_000).training / 100e12
    assert seconds == pytest.approx(39, rel=0.05)
