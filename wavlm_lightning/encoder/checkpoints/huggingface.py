"""Hugging Face's folder format, read and written without the transformers library."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wavlm_lightning.encoder.checkpoints.tensor_files import (
    CheckpointError,
    read_json,
    read_tensors,
    write_json,
    write_tensors,
)
from wavlm_lightning.encoder.config import SAMPLE_RATE, WavLMConfig

# Field of `WavLMConfig` -> key in Hugging Face's `config.json`.
FIELDS = {
    "conv_channels": "conv_dim",
    "conv_kernels": "conv_kernel",
    "conv_strides": "conv_stride",
    "conv_norm": "feat_extract_norm",
    "conv_bias": "conv_bias",
    "dim": "hidden_size",
    "ffn_dim": "intermediate_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "pre_norm": "do_stable_layer_norm",
    "pos_conv_kernel": "num_conv_pos_embeddings",
    "pos_conv_groups": "num_conv_pos_embedding_groups",
    "num_buckets": "num_buckets",
    "max_distance": "max_bucket_distance",
    "dropout": "hidden_dropout",
    "attention_dropout": "attention_dropout",
    "activation_dropout": "activation_dropout",
    "dropout_input": "feat_proj_dropout",
    "layer_drop": "layerdrop",
    "layer_norm_eps": "layer_norm_eps",
}

# Section of `config.json` for fields that Hugging Face has no key for; transformers ignores it.
OWN_KEY = "wavlm_lightning"
OWN_FIELDS = ("feature_grad_mult", "batch_invariant", "position_bias")

# `model_type` -> position bias; all other parameters have the same names in the three.
POSITION_BIAS = {"wavlm": "gated", "hubert": "none", "wav2vec2": "none"}

# Required values of keys for parts of which `WavLM` has only one kind; the keys may be missing.
SUPPORTED = {
    "hidden_act": "gelu",
    "feat_extract_activation": "gelu",
    "add_adapter": False,
    "adapter_attn_dim": None,
    "feat_proj_layer_norm": True,
    "conv_pos_batch_norm": False,
}

# Keys that must be empty: the weights are not those of the described network.
EMPTY = ("pruned_heads", "quantization_config")

# Required values in `preprocessor_config.json`.
PREPROCESSOR = {
    "feature_extractor_type": "Wav2Vec2FeatureExtractor",
    "sampling_rate": SAMPLE_RATE,
    "feature_size": 1,
}

GATE = ".attention.gru_rel_pos_"  # part of the names of all gate parameters
# Bias of the four rows whose sum gives a of `Attention.gate`: its sigmoid is exactly 1.0, in fp32 and in bf16.
OPEN = 25.0

# Names of the weight-normalised positional convolution: before torch 2.0 -> now.
WEIGHT_NORM_NAMES = {
    ".conv.weight_g": ".conv.parametrizations.weight.original0",
    ".conv.weight_v": ".conv.parametrizations.weight.original1",
}


def read_checkpoint(folder: Path) -> tuple[WavLMConfig, dict[str, Tensor]]:
    """Read a folder of a `WavLMModel`, `HubertModel` or `Wav2Vec2Model`, or of a model with a head, which is left out.

    Raises:
        CheckpointError: a file is missing or broken, or the model is not supported.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise CheckpointError(f"{folder} has no config.json, so it is not a Hugging Face checkpoint")
    preprocessor = folder / "preprocessor_config.json"
    config = config_from(read_json(path), read_json(preprocessor) if preprocessor.is_file() else {}, path)
    state = rename(read_weights(folder))
    if config.position_bias == "ungated":
        if _gates_are_constant(state):
            state = {name: tensor for name, tensor in state.items() if GATE not in name}
        else:  # trained further with transformers, which keeps our section of config.json but does not freeze the gates
            config = replace(config, position_bias="gated")
    return config, state


def config_from(values: Mapping[str, Any], preprocessor: Mapping[str, Any], path: Path) -> WavLMConfig:
    """Convert the content of Hugging Face's `config.json` and `preprocessor_config.json` (or {}) to a `WavLMConfig`.

    Keys left out have the defaults of `WavLMConfig`, which are Hugging Face's but for dropouts.

    Raises:
        CheckpointError: not a WavLM, HuBERT or wav2vec 2.0, or one with unsupported parts.
    """
    model_type = values.get("model_type", "wavlm")
    if not isinstance(model_type, str) or model_type not in POSITION_BIAS:
        raise CheckpointError(f"{path} has model_type {str(model_type)[:60]}, not {', '.join(POSITION_BIAS)}")
    for key, needed in SUPPORTED.items():
        if values.get(key, needed) != needed:
            raise CheckpointError(f"{path} has {key} {str(values[key])[:60]}, but only {needed} is supported")
    for key in EMPTY:
        if values.get(key):
            raise CheckpointError(f"{path} has {key}, which is not supported; save the model without it")
    beside = path.with_name("preprocessor_config.json")
    for key, wanted in PREPROCESSOR.items():
        if preprocessor.get(key, wanted) != wanted:
            raise CheckpointError(f"{beside} has {key} {str(preprocessor[key])[:60]}, but only {wanted} is supported")
    if not isinstance(preprocessor.get("do_normalize", False), bool):
        raise CheckpointError(
            f"{beside} has do_normalize {str(preprocessor['do_normalize'])[:60]}, which is not true or false"
        )
    fields = {ours: values[theirs] for ours, theirs in FIELDS.items() if theirs in values}
    layered = fields.get("conv_norm", "group") == "layer"
    # Published models with layer norms in the front-end read normalised waveforms, the others do not. In a file that does
    # not say, the feature extractor's default holds, which is true.
    fields["normalize_waveform"] = preprocessor.get("do_normalize", layered if not preprocessor else True)
    fields["feature_grad_mult"] = 1.0 if layered else 0.1  # as the published models were trained
    own = values.get(OWN_KEY)
    if isinstance(own, Mapping):
        fields |= {name: own[name] for name in OWN_FIELDS if name in own}
    if POSITION_BIAS[model_type] == "none" or fields.get("position_bias") != "ungated":
        fields["position_bias"] = POSITION_BIAS[model_type]
    try:
        return WavLMConfig.from_dict(fields)
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{path} describes an encoder that cannot be built: {error}") from error


def rename(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Current parameter names without prefix; of a model with a head, only the encoder's."""
    for prefix in (f"{model_type}." for model_type in POSITION_BIAS):
        if any(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): state[name] for name in state if name.startswith(prefix)}
    renamed = {}
    for name, tensor in state.items():
        for old, new in WEIGHT_NORM_NAMES.items():
            if name.endswith(old):
                name = name.removesuffix(old) + new
        renamed[name] = tensor
    return renamed


def write_checkpoint(
    folder: Path, config: WavLMConfig, state: Mapping[str, Tensor], own: Mapping[str, Any] | None = None
) -> None:
    """Write a folder that transformers loads without a missing or unexpected key, see `described`.

    `own` are further entries of our section of `config.json`.
    """
    values, preprocessor, tensors = described(config, state)
    values[OWN_KEY] |= own or {}
    write_folder(folder, values, preprocessor, tensors)


def write_folder(
    folder: Path, values: Mapping[str, Any], preprocessor: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> None:
    """Write `model.safetensors`, `preprocessor_config.json` and at last `config.json`, which says that the folder is complete."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").unlink(missing_ok=True)
    write_tensors(folder / "model.safetensors", tensors, {"format": "pt"})
    for name, content in (("preprocessor_config.json", preprocessor), ("config.json", values)):
        write_json(folder / name, content)


def without_a_class(config: WavLMConfig) -> str | None:
    """Why Hugging Face has no class for an encoder, as a clause; None if it has one."""
    if config.front_end == "log_mel":
        return "its front-end is log-mel frames, and all encoders of transformers have convolutions over the waveform"
    return None


def described(
    config: WavLMConfig, state: Mapping[str, Tensor]
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Tensor]]:
    """An encoder in Hugging Face's form: content of `config.json` and of `preprocessor_config.json`, and the tensors.

    The model class is `HubertModel` without position bias, otherwise `WavLMModel`. Hugging Face has no class for an ungated
    bias: such an encoder gets gates that are 1 everywhere, and our section of `config.json` says so.

    Raises:
        CheckpointError: Hugging Face has no class for the encoder.
    """
    if (reason := without_a_class(config)) is not None:
        raise CheckpointError(f"this encoder does not fit into the transformers library: {reason}")
    ours = config.to_dict()
    values: dict[str, Any] = {theirs: ours[name] for name, theirs in FIELDS.items()}
    values |= {
        "model_type": "hubert" if config.position_bias == "none" else "wavlm",
        "architectures": ["HubertModel" if config.position_bias == "none" else "WavLMModel"],
        "hidden_act": "gelu",
        "feat_extract_activation": "gelu",
        "num_feat_extract_layers": len(config.conv_channels),
        # Hugging Face masks in training mode unless told not to, but has a mask embedding only where this is above 0.
        "apply_spec_augment": False,
        "mask_time_prob": 0.05,
        OWN_KEY: {name: ours[name] for name in OWN_FIELDS},
    }
    preprocessor = {
        "feature_extractor_type": "Wav2Vec2FeatureExtractor",
        "feature_size": 1,
        "sampling_rate": SAMPLE_RATE,
        "padding_side": "right",
        "padding_value": 0.0,
        "do_normalize": config.normalize_waveform,
        "return_attention_mask": True,
    }
    if config.position_bias == "ungated":
        state = {**state, **_constant_gates(config)}
    return values, preprocessor, {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}


def _constant_gates(config: WavLMConfig) -> dict[str, Tensor]:
    """Parameters of gates that are 1 for every hidden state: a (b s - 1) + 2 with a = 1 and s = 0."""
    bias = torch.tensor([OPEN] * 4 + [0.0] * 4)
    gates = {}
    for layer in range(config.layers):
        prefix = f"encoder.layers.{layer}{GATE}"
        gates[f"{prefix}linear.weight"] = torch.zeros(8, config.dim // config.heads)
        gates[f"{prefix}linear.bias"] = bias.clone()
        gates[f"{prefix}const"] = torch.zeros(1, config.heads, 1, 1)
    return gates


def _gates_are_constant(state: Mapping[str, Tensor]) -> bool:
    return all(
        (tensor[:4] == OPEN).all() and not tensor[4:].any() if name.endswith(".bias") else not tensor.any()
        for name, tensor in state.items()
        if GATE in name
    )


def read_weights(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder, in one file or in shards."""
    for name in ("model.safetensors", "pytorch_model.bin"):
        index = folder / f"{name}.index.json"
        if (folder / name).is_file():
            return read_tensors(folder / name)
        if index.is_file():
            return _read_shards(folder, index)
    raise CheckpointError(f"{folder} has neither model.safetensors nor pytorch_model.bin")


def _read_shards(folder: Path, index: Path) -> dict[str, Tensor]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict):
        raise CheckpointError(f"{index} has no weight_map")
    state: dict[str, Tensor] = {}
    for name in sorted(set(map(str, weight_map.values()))):
        if Path(name).name != name:  # a downloaded index must not point outside its folder
            raise CheckpointError(f"{index} names a shard outside its folder: {name}")
        if not (folder / name).is_file():
            raise CheckpointError(f"{index} names the shard {name}, which is missing")
        state |= read_tensors(folder / name)
    return state
