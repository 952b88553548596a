"""HuBERT and wav2vec 2.0 from fairseq's `.pt` files, run by torchaudio's models."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from torchaudio.models import Wav2Vec2Model, wav2vec2_model

from wavlm_lightning.encoder import CheckpointError
from wavlm_lightning.encoder.checkpoints.labels_seen import labels_seen
from wavlm_lightning.encoder.checkpoints.tensor_files import is_state_dict
from wavlm_lightning.encoder.checkpoints.unilm import FIELDS, PUBLISHED_CONVOLUTIONS, parse_convolutions, rename
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.reading import reading, reason_of, shown
from wavlm_lightning.upstreams.fairseq_files import plain, read
from wavlm_lightning.upstreams.fine_tuning import FineTuning
from wavlm_lightning.upstreams.run_checkpoints import newest_checkpoint, read_trained
from wavlm_lightning.upstreams.torchaudio_models import TorchaudioModel, build, rebuild

# Parameters that only pre-training needs.
HEADS = re.compile(r"(mask_emb|final_proj|label_embs_concat|target_glu|quantizer|input_quantizer|project_\w+)\b.*")
RELATIVE_POSITIONS = re.compile(r"encoder\.layers\.\d+\.self_attn\.(grep_a|grep_linear|relative_attention_bias)\b.*")
FIRST_BLOCK = "encoder.layers.0.self_attn.k_proj.weight"


def is_wavlm(names: Iterable[str]) -> bool:
    """Whether fairseq's names are those of a WavLM, which `WavLMUpstream` reads."""
    return any(RELATIVE_POSITIONS.fullmatch(name) for name in names)


class FairseqUpstream(TorchaudioModel):
    """A HuBERT or wav2vec 2.0 trained by fairseq, with all hidden states; fairseq itself is not needed.

    Reads checkpoints released by Meta, those of your own fairseq runs, and those converted by s3prl (`model_cfg`,
    `task_cfg`, `model_weight`). Code in the pickle is not executed.

    Args:
        path: the `.pt` file of a pre-trained, not a fine-tuned, model; or the run folder or checkpoint of a head that trained
            such an encoder.
        label: name in tables; the path by default.
        frozen: False trains the encoder with the head.
        differentiable: let gradients pass a frozen encoder to the waveform.
        fine_tuning: how the encoder is trained, if it is not frozen; its masks use the file's mask embedding.

    Raises:
        UserError: the file is not such a checkpoint.

    Example:
        >>> FairseqUpstream("hubert_base_ls960.pt").num_layers
        13
    """

    source_argument = "path"

    def __init__(
        self,
        path: str,
        label: str | None = None,
        frozen: bool = True,
        differentiable: bool = False,
        fine_tuning: FineTuning | None = None,
    ) -> None:
        if (kept := read_trained(path, "parameters")) is not None:
            parameters, normalize = kept[0]["parameters"], kept[0]["normalize"]
            model, embedding = rebuild(wav2vec2_model, parameters, kept[1], Path(path))
        else:
            with reading(Path(path), "a checkpoint of fairseq", "take it again from where it was published"):
                settings, weights = _open(Path(path))
            normalize = settings.get("normalize", False)
            if not isinstance(normalize, bool):  # an omegaconf interpolation that was never resolved
                raise UserError(
                    f"{path}: its settings do not say whether waveforms are normalised ({shown(normalize)})"
                )
            parameters = _parameters(settings, Path(path))
            model = _build(parameters, weights, Path(path))
            embedding = weights.get("mask_emb")
        super().__init__(model, normalize, label or str(path), frozen, differentiable, fine_tuning, embedding)
        self.parameters_of_model = parameters
        if kept is not None:
            self.labelled = tuple(labels_seen(newest_checkpoint(Path(path))))

    def rebuilding(self) -> dict[str, Any]:
        return {"parameters": self.parameters_of_model, "normalize": self.normalize}


def _open(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The merged settings of model and task, and the weights under fairseq's names."""
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    content = read(path)
    weights = content.get("model_weight", content.get("model"))
    if not isinstance(weights, dict) or not is_state_dict(dict(weights)):
        raise UserError(f"{path}: not a checkpoint of fairseq, which has the weights under `model`")
    if any(name.startswith(("w2v_encoder.", "w2v_model.")) for name in weights):
        raise UserError(f"{path}: a fine-tuned model; give the pre-trained one that it started from")
    if is_wavlm(weights):
        raise UserError(f"{path}: a WavLM; use WavLMUpstream")
    if FIRST_BLOCK not in weights:
        raise UserError(f"{path}: neither a HuBERT nor a wav2vec 2.0 of fairseq: {FIRST_BLOCK} is missing")
    try:
        settings = _settings(content)
    except RecursionError:
        settings = {}
    if not settings:
        raise UserError(f"{path}: has no settings under `cfg` or `args`, so the sizes of its model are unknown")
    return settings, dict(weights)


def _settings(content: Mapping[str, Any]) -> dict[str, Any]:
    """Settings are in `cfg.model` and `cfg.task`, before 2020-11 in `args`; s3prl has `model_cfg` and `task_cfg`."""
    tree = plain(content.get("cfg") or content.get("args") or {})
    if "model_cfg" in content:
        tree = plain({"model": content["model_cfg"], "task": content.get("task_cfg")})
    if not isinstance(tree, dict):
        return {}
    model, task = tree.get("model"), tree.get("task")
    settings = model if isinstance(model, dict) else tree
    normalize = {"normalize": task["normalize"]} if isinstance(task, dict) and "normalize" in task else {}
    return {**settings, **normalize}


def _parameters(settings: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The arguments of torchaudio's `wav2vec2_model`."""
    value = {ours: settings.get(theirs, default) for ours, (theirs, default) in FIELDS.items()}
    activation = settings.get("activation_fn", "gelu")
    if activation != "gelu":
        raise UserError(f"{path}: its activation is {activation}, but torchaudio's models have gelu only")
    try:
        convolutions = parse_convolutions(str(settings.get("conv_feature_layers", PUBLISHED_CONVOLUTIONS)), path)
    except CheckpointError as error:
        raise UserError(str(error)) from error
    return {
        "extractor_mode": "layer_norm" if settings.get("extractor_mode") == "layer_norm" else "group_norm",
        "extractor_conv_layer_config": convolutions,
        "extractor_conv_bias": value["conv_bias"],
        "encoder_embed_dim": value["dim"],
        "encoder_projection_dropout": value["dropout_input"],
        "encoder_pos_conv_kernel": value["pos_conv_kernel"],
        "encoder_pos_conv_groups": value["pos_conv_groups"],
        "encoder_num_layers": value["layers"],
        "encoder_num_heads": value["heads"],
        "encoder_attention_dropout": value["attention_dropout"],
        "encoder_ff_interm_features": value["ffn_dim"],
        "encoder_ff_interm_dropout": value["activation_dropout"],
        "encoder_dropout": value["dropout"],
        "encoder_layer_norm_first": value["pre_norm"],
        "encoder_layer_drop": 0.0,
    }


def _build(parameters: dict[str, Any], weights: Mapping[str, Tensor], path: Path) -> Wav2Vec2Model:
    try:
        return build(wav2vec2_model, parameters, _rename(weights), path)
    except CheckpointError as error:
        raise UserError(str(error)) from error
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{path}: its settings do not describe a valid encoder ({reason_of(error)})") from error


def _rename(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights under torchaudio's names, which are Hugging Face's with a prefix."""
    renamed = {rename(name): tensor for name, tensor in weights.items() if not HEADS.fullmatch(name)}
    prefixes = {"encoder.": "encoder.transformer.", "feature_projection.": "encoder.feature_projection."}
    return {
        next((new + name.removeprefix(old) for old, new in prefixes.items() if name.startswith(old)), name): tensor
        for name, tensor in renamed.items()
    }
