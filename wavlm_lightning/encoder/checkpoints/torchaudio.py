"""Converting state dicts of torchaudio's WavLM; they come without settings, so sizes are read off the shapes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from wavlm_lightning.encoder.checkpoints.huggingface import rename as rename_weight_norm
from wavlm_lightning.encoder.checkpoints.tensor_files import CheckpointError
from wavlm_lightning.encoder.config import WavLMConfig

PUBLISHED = WavLMConfig()


def recognise(state: Mapping[str, Tensor]) -> bool:
    """Whether these are the names of a torchaudio WavLM or one of its relatives."""
    return any(name.startswith("encoder.transformer.layers.") for name in state)


def convert(state: Mapping[str, Tensor], path: Path) -> tuple[WavLMConfig, dict[str, Tensor]]:
    """Convert a state dict of `torchaudio.models.wavlm_model`.

    Values that shapes do not determine are as published: strides, `max_distance`, dropouts; pre-norm and normalised
    waveforms if the front-end has layer norms.

    Raises:
        CheckpointError: tensors of a WavLM are missing.
    """
    try:
        renamed = rename_weight_norm(_split(state))
        return _config(renamed), renamed
    except KeyError as error:
        raise CheckpointError(f"{path} is not a WavLM of torchaudio: it lacks {error.args[0]}") from error
    except (ValueError, IndexError, RuntimeError, TypeError, ZeroDivisionError) as error:
        raise CheckpointError(f"{path} describes an encoder that cannot be built: {error}") from error


def _split(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The names of `WavLM`, with the packed projection of query, key and value split into three."""
    result = {}
    for name, tensor in state.items():
        if name.startswith("aux."):
            continue  # the head of a fine-tuned model
        name = re.sub(r"^encoder\.feature_projection\.", "feature_projection.", name)
        name = re.sub(r"^encoder\.transformer\.", "encoder.", name)
        name = name.replace(".attention.attention.", ".attention.")
        packed = re.fullmatch(r"(.+\.attention)\.in_proj_(weight|bias)", name)
        if packed:
            for letter, part in zip("qkv", tensor.chunk(3), strict=True):
                result[f"{packed[1]}.{letter}_proj.{packed[2]}"] = part.clone()
        else:
            result[name] = tensor
    return result


def _config(state: Mapping[str, Tensor]) -> WavLMConfig:
    convolutions: list[torch.Size] = []
    while (name := f"feature_extractor.conv_layers.{len(convolutions)}.conv.weight") in state:
        convolutions.append(state[name].shape)
    layers = 0
    while f"encoder.layers.{layers}.layer_norm.weight" in state:
        layers += 1
    layered = "feature_extractor.conv_layers.1.layer_norm.weight" in state
    table = state["encoder.layers.0.attention.rel_attn_embed.weight"]
    positional = state["encoder.pos_conv_embed.conv.parametrizations.weight.original1"]
    dim = positional.shape[0]
    return WavLMConfig(
        conv_channels=tuple(shape[0] for shape in convolutions),
        conv_kernels=tuple(shape[2] for shape in convolutions),
        conv_strides=PUBLISHED.conv_strides,
        conv_norm="layer" if layered else "group",
        conv_bias="feature_extractor.conv_layers.0.conv.bias" in state,
        normalize_waveform=layered,
        dim=dim,
        ffn_dim=state["encoder.layers.0.feed_forward.intermediate_dense.weight"].shape[0],
        layers=layers,
        heads=table.shape[1],
        pre_norm=layered,
        pos_conv_kernel=positional.shape[2],
        pos_conv_groups=dim // positional.shape[1],
        num_buckets=table.shape[0],
        feature_grad_mult=1.0 if layered else 0.1,
    )
