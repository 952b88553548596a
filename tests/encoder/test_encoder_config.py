from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from wavlm_lightning.encoder import WavLM, WavLMConfig


def test_published_sizes():
    counts = {}
    with torch.device("meta"):
        for name in ("base", "base_plus", "large"):
            counts[name] = WavLM(WavLMConfig.preset(name)).parameter_count()
    assert counts == {"base": 94_381_936, "base_plus": 94_381_936, "large": 315_453_120}


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


@pytest.mark.parametrize("name", ["tiny", "base", "base_plus", "large"])
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
        ({"dropout": 1.5}, ["dropout"]),
        ({"layers": 0}, ["layers"]),
    ],
)
def test_impossible_combinations_are_named(changes: dict[str, object], named: list[str]):
    with pytest.raises(ValueError, match=named[0]) as caught:
        replace(WavLMConfig(), **changes)  # type: ignore[arg-type]
    assert all(name in str(caught.value) for name in named)
    assert "\n" not in str(caught.value)


def test_unknown_names():
    with pytest.raises(ValueError, match=r"no preset huge.*tiny, base"):
        WavLMConfig.preset("huge")
    with pytest.raises(ValueError, match="no field depth"):
        WavLMConfig.preset("base", depth=3)
    with pytest.raises(ValueError, match="no field depth"):
        WavLMConfig.from_dict({"depth": 3})
