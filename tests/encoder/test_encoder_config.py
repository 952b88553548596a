from __future__ import annotations

import json
from dataclasses import replace
from typing import Literal

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from wavlm_lightning.encoder import WavLM, WavLMConfig
from wavlm_lightning.encoder.config import PRESETS


def test_published_sizes():
    counts = {}
    with torch.device("meta"):
        for name in PRESETS:
            counts[name] = WavLM(WavLMConfig.preset(name)).parameter_count()
    assert 1_500_000 < (tiny := counts.pop("tiny")) < 2_500_000
    assert counts.pop("tiny_mel") == pytest.approx(tiny, rel=0.05)
    assert counts.pop("tiny_wide") == pytest.approx(tiny, rel=0.1)
    assert counts == {
        "base": 94_381_936,
        "base_plus": 94_381_936,
        "large": 315_453_120,
        "hubert_base": 94_371_712,
        "hubert_large": 315_435_136,
    }


@pytest.mark.parametrize(("kind", "fewer"), [("gated", 0), ("ungated", 6_384), ("none", 6_384 + 320 * 12)])
def test_what_a_position_bias_does_not_use_does_not_exist(kind: Literal["gated", "ungated", "none"], fewer: int):
    with torch.device("meta"):
        encoder = WavLM(WavLMConfig.preset("base", position_bias=kind))
    names = [name for name, _ in encoder.named_parameters()]
    assert encoder.parameter_count() == 94_381_936 - fewer
    assert any("gru_rel_pos" in name for name in names) is (kind == "gated")
    assert sum("rel_attn_embed" in name for name in names) == (kind != "none")


def test_hubert_differs_from_wavlm_in_few_fields():
    def changes(ours: WavLMConfig, other: WavLMConfig) -> dict[str, object]:
        return {name: value for name, value in ours.to_dict().items() if value != other.to_dict()[name]}

    assert changes(WavLMConfig.hubert_base(), WavLMConfig.base()) == {"position_bias": "none"}
    rates = dict.fromkeys(["dropout", "attention_dropout", "dropout_input", "layer_drop"], 0.0)
    assert changes(WavLMConfig.hubert_large(), WavLMConfig.large()) == {"position_bias": "none", **rates}


def test_rates():
    config = WavLMConfig()
    assert (config.receptive_field, config.hop, config.frame_rate) == (400, 320, 50.0)
    known = {16_000: 49, 250_000: 781, 256_000: 799, 320_000: 999, 400: 1, 399: 0, 5: 0}
    assert {samples: config.frames(samples) for samples in known} == known
    assert config.frames(torch.tensor(list(known))).tolist() == list(known.values())


@given(samples=st.integers(0, 5000))
def test_frames_are_those_of_real_convolutions(samples: int):
    config = WavLMConfig()
    x = torch.zeros(1, 1, samples)
    for kernel, stride in zip(config.conv_kernels, config.conv_strides, strict=True):
        x = F.conv1d(x, torch.zeros(1, 1, kernel), stride=stride) if x.shape[2] >= kernel else x[..., :0]
    assert config.frames(samples) == x.shape[2]


@pytest.mark.parametrize("name", PRESETS)
def test_survives_json(name: str):
    config = WavLMConfig.preset(name, layer_drop=0.25)
    assert WavLMConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_tiny_is_the_recommended_size():
    config = WavLMConfig.tiny()
    assert config.conv_channels == (32, 32, 64, 64, 128, 128, 256)
    assert (config.dim, config.layers, config.heads, config.ffn_dim) == (192, 4, 4, 768)
    assert config.pre_norm
    assert config.conv_norm == "group"
    assert (config.pos_conv_kernel, config.pos_conv_groups) == (32, 16)
    rates = (config.dropout, config.attention_dropout, config.activation_dropout, config.dropout_input)
    assert rates == (0, 0, 0, 0)
    assert (config.layer_drop, config.feature_grad_mult) == (0, 1)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"heads": 7}, ["dim", "heads"]),
        ({"pos_conv_groups": 7}, ["dim", "pos_conv_groups"]),
        ({"conv_kernels": [10, 3]}, ["conv_channels", "conv_kernels", "conv_strides"]),
        ({"max_distance": 80}, ["max_distance", "num_buckets"]),
        ({"conv_norm": "batch"}, ["conv_norm"]),
        ({"position_bias": "rotary"}, ["position_bias"]),
        ({"dropout": 1.5}, ["dropout"]),
        ({"layers": 0}, ["layers"]),
        ({"front_end": "mfcc"}, ["front_end", "log_mel"]),
        ({"mel_channels": [64]}, ["mel_channels", "front_end: log_mel"]),
        ({"front_end": "log_mel", "mel_bins": 4}, ["mel_bins"]),
        ({"front_end": "log_mel", "mel_norm": "mean"}, ["mel_norm"]),
        ({"front_end": "log_mel", "mel_channels": (0,)}, ["mel_channels"]),
        ({"front_end": "log_mel", "batch_invariant": False}, ["batch_invariant", "front_end: waveform"]),
    ],
)
def test_impossible_combinations_are_named(changes: dict[str, object], named: list[str]):
    with pytest.raises(ValueError, match=named[0]) as caught:
        replace(WavLMConfig(), **changes)  # type: ignore[arg-type]
    assert all(name in str(caught.value) for name in named)
    assert "\n" not in str(caught.value)


def test_what_the_front_end_has_no_use_for_is_refused():
    with pytest.raises(ValueError, match=r"conv_channels is for convolutions over the waveform, .* set mel_channels"):
        WavLMConfig.preset("tiny_mel", conv_channels=[8] * 7)
    with pytest.raises(ValueError, match=r"conv_norm is for convolutions, and log-mel frames without mel_channels"):
        WavLMConfig.preset("tiny", front_end="log_mel", conv_norm="layer")
    changed = WavLMConfig.preset("base", front_end="log_mel", mel_bins=40)
    assert (changed.feature_dim, changed.hop, changed.receptive_field, changed.frames(16_000)) == (80, 320, 400, 49)


def test_unknown_names():
    with pytest.raises(ValueError, match=r"unknown preset huge.*tiny, base"):
        WavLMConfig.preset("huge")
    with pytest.raises(ValueError, match="no field depth"):
        WavLMConfig.preset("base", depth=3)
    with pytest.raises(ValueError, match="no field depth"):
        WavLMConfig.from_dict({"depth": 3})
