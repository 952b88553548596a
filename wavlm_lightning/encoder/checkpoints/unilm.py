"""Converting checkpoints of Microsoft's unilm and UniSpeech and of fairseq: dicts with `cfg` and `model`.

WavLM, ILS-SSL, HuBERT and wav2vec 2.0 have the same parameter names; the settings tell which position bias is used.
"""

from __future__ import annotations

import argparse
import ast
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from wavlm_lightning.encoder.checkpoints.tensor_files import CheckpointError
from wavlm_lightning.encoder.config import WavLMConfig

# Field of `WavLMConfig` -> key in `cfg`, and the default of unilm's class for a key left out.
FIELDS = {
    "dim": ("encoder_embed_dim", 768),
    "ffn_dim": ("encoder_ffn_embed_dim", 3072),
    "layers": ("encoder_layers", 12),
    "heads": ("encoder_attention_heads", 12),
    "pre_norm": ("layer_norm_first", False),
    "conv_bias": ("conv_bias", False),
    "normalize_waveform": ("normalize", False),
    "pos_conv_kernel": ("conv_pos", 128),
    "pos_conv_groups": ("conv_pos_groups", 16),
    "num_buckets": ("num_buckets", 320),
    "max_distance": ("max_distance", 1280),
    "dropout": ("dropout", 0.1),
    "attention_dropout": ("attention_dropout", 0.1),
    "activation_dropout": ("activation_dropout", 0.0),
    "dropout_input": ("dropout_input", 0.0),
    "layer_drop": ("encoder_layerdrop", 0.0),
    "feature_grad_mult": ("feature_grad_mult", 1.0),
}

PUBLISHED_CONVOLUTIONS = "[(512,10,5)] + [(512,3,2)] * 4 + [(512,2,2)] * 2"

# Parameter name in the checkpoint -> name in `WavLM`; names that match no pattern are the same in both.
NAMES = [
    (r"feature_extractor\.conv_layers\.(\d+)\.0\.(weight|bias)", r"feature_extractor.conv_layers.\1.conv.\2"),
    (r"feature_extractor\.conv_layers\.(\d+)\.2(?:\.1)?\.(\w+)", r"feature_extractor.conv_layers.\1.layer_norm.\2"),
    (r"layer_norm\.(\w+)", r"feature_projection.layer_norm.\1"),
    (r"post_extract_proj\.(\w+)", r"feature_projection.projection.\1"),
    (r"mask_emb", "masked_spec_embed"),
    (r"encoder\.pos_conv\.0\.weight_g", "encoder.pos_conv_embed.conv.parametrizations.weight.original0"),
    (r"encoder\.pos_conv\.0\.weight_v", "encoder.pos_conv_embed.conv.parametrizations.weight.original1"),
    (r"encoder\.pos_conv\.0\.(bias|parametrizations\..+)", r"encoder.pos_conv_embed.conv.\1"),
    (r"encoder\.layers\.(\d+)\.self_attn\.((?:q|k|v|out)_proj\.\w+)", r"encoder.layers.\1.attention.\2"),
    (r"encoder\.layers\.(\d+)\.self_attn\.grep_linear\.(\w+)", r"encoder.layers.\1.attention.gru_rel_pos_linear.\2"),
    (r"encoder\.layers\.(\d+)\.self_attn\.grep_a", r"encoder.layers.\1.attention.gru_rel_pos_const"),
    (
        r"encoder\.layers\.0\.self_attn\.relative_attention_bias\.weight",
        "encoder.layers.0.attention.rel_attn_embed.weight",
    ),
    (r"encoder\.layers\.(\d+)\.self_attn_layer_norm\.(\w+)", r"encoder.layers.\1.layer_norm.\2"),
    (r"encoder\.layers\.(\d+)\.fc1\.(\w+)", r"encoder.layers.\1.feed_forward.intermediate_dense.\2"),
    (r"encoder\.layers\.(\d+)\.fc2\.(\w+)", r"encoder.layers.\1.feed_forward.output_dense.\2"),
]

# Names of parameters of the pre-training or fine-tuning head, which are left out.
HEAD = re.compile(
    r"(final_proj|label_embs_concat|target_glu|proj|w2v_model_ctc|quantizer|project_q|post_layer_norm|weights)\b.*"
)


def convert(content: Mapping[str, Any], path: Path) -> tuple[WavLMConfig, dict[str, Tensor]]:
    """Convert a loaded checkpoint to a `WavLMConfig` and a state dict with the names of `WavLM`.

    Raises:
        CheckpointError: the settings are missing or describe an encoder that cannot be built.
    """
    model = content["model"]
    state = {rename(name): tensor for name, tensor in model.items() if not HEAD.fullmatch(name)}
    # Pre-norm ILS-SSL trains one norm per supervised layer and leaves the encoder's own final norm untrained.
    supervised = sum(re.fullmatch(r"post_layer_norm\.\d+\.weight", name) is not None for name in model)
    if supervised:
        for leaf in ("weight", "bias"):
            state[f"encoder.layer_norm.{leaf}"] = model[f"post_layer_norm.{supervised - 1}.{leaf}"]
    return config_from(_settings(content, path), path), state


def rename(name: str) -> str:
    """Name in `WavLM` of a parameter."""
    for pattern, ours in NAMES:
        match = re.fullmatch(pattern, name)
        if match:
            return match.expand(ours)
    return name


def config_from(settings: Mapping[str, Any], path: Path) -> WavLMConfig:
    """Convert the settings in `cfg` to a `WavLMConfig`."""
    fields = {ours: settings.get(theirs, default) for ours, (theirs, default) in FIELDS.items()}
    if settings.get("relative_position_embedding", False):
        fields["position_bias"] = "gated" if settings.get("gru_rel_pos", False) else "ungated"
    else:  # fairseq's HuBERT and wav2vec 2.0 do not have the setting
        fields["position_bias"] = "none"
    fields["conv_norm"] = "layer" if settings.get("extractor_mode", "default") == "layer_norm" else "group"
    convolutions = parse_convolutions(str(settings.get("conv_feature_layers", PUBLISHED_CONVOLUTIONS)), path)
    fields["conv_channels"], fields["conv_kernels"], fields["conv_strides"] = zip(*convolutions, strict=True)
    try:
        return WavLMConfig.from_dict(fields)
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{path} describes an encoder that cannot be built: {error}") from error


def parse_convolutions(expression: str, path: Path) -> list[tuple[int, int, int]]:
    """(channels, kernel, stride) of each layer, from fairseq's notation such as `[(512,10,5)] + [(512,3,2)] * 4`.

    fairseq passes it to `eval`; here only lists of triples, joined by `+` and repeated by `*`, are accepted.
    """

    def value(node: ast.expr) -> Any:
        match node:
            case ast.Constant(value=int() as number) if number < 10_000:
                return number
            case ast.List(elts=elements):
                return [value(element) for element in elements]
            case ast.Tuple(elts=elements) if len(elements) == 3:
                return tuple(value(element) for element in elements)
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                return value(left) + value(right)
            case ast.BinOp(left=left, op=ast.Mult(), right=ast.Constant(value=int() as times)) if 0 < times < 100:
                return value(left) * times
            case _:
                raise SyntaxError

    try:
        layers = value(ast.parse(expression, mode="eval").body)
        if layers and all(isinstance(layer, tuple) and all(isinstance(n, int) for n in layer) for layer in layers):
            return layers
    except (SyntaxError, TypeError, ValueError, RecursionError, MemoryError):
        pass
    raise CheckpointError(f"{path} has conv_feature_layers {expression[:80]!r}, which is not a list of convolutions")


def _settings(content: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The model's settings: unilm has them in `cfg`, fairseq in `cfg.model` and `cfg.task`, older fairseq in `args`."""
    settings = content.get("cfg") or content.get("args")
    if isinstance(settings, argparse.Namespace):
        settings = vars(settings)
    if not isinstance(settings, dict):
        raise CheckpointError(f"{path} has no settings under cfg, so the sizes of its model are unknown")
    model, task = settings.get("model"), settings.get("task")
    if isinstance(model, argparse.Namespace):
        model = vars(model)
    if not isinstance(model, dict):
        return settings
    normalize = {"normalize": task["normalize"]} if isinstance(task, dict) and "normalize" in task else {}
    return {**normalize, **model}
