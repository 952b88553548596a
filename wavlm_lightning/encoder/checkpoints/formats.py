"""Recognising the format of a checkpoint, converting it, and checking that its tensors fit the model.

Every format is converted to a `WavLMConfig` and a state dict with Hugging Face's names, which are also those of `WavLM`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from wavlm_lightning.encoder.checkpoints import huggingface
from wavlm_lightning.encoder.checkpoints import torchaudio as from_torchaudio
from wavlm_lightning.encoder.checkpoints import unilm as from_unilm
from wavlm_lightning.encoder.checkpoints.tensor_files import (
    CheckpointError,
    check_finite,
    is_state_dict,
    read_pickle,
    read_tensors,
    readable,
    short,
)
from wavlm_lightning.encoder.config import WavLMConfig

__all__ = ["CheckpointError", "match_state", "read_checkpoint"]


def read_checkpoint(path: Path) -> tuple[WavLMConfig, dict[str, Tensor]]:
    """Read a Hugging Face folder, a unilm or fairseq `.pt`, or a torchaudio state dict, with the names of `WavLM`.

    Raises:
        CheckpointError: the file is missing, broken or of another format.
    """
    with readable(path):
        return _read(path)


def _read(path: Path) -> tuple[WavLMConfig, dict[str, Tensor]]:
    if path.is_dir():
        return huggingface.read_checkpoint(path)
    if not path.is_file():
        raise CheckpointError(
            f"{path} does not exist; from_pretrained reads local files only, so download the checkpoint first"
        )
    content: object = (read_tensors if path.suffix == ".safetensors" else read_pickle)(path)
    if isinstance(content, Mapping) and is_state_dict(content.get("model")):
        return from_unilm.convert(content, path)
    if isinstance(content, dict) and is_state_dict(content.get("state_dict")):
        content = content["state_dict"]
    if isinstance(content, dict) and is_state_dict(content) and from_torchaudio.recognise(content):
        return from_torchaudio.convert(content, path)
    raise CheckpointError(
        f"{path} is neither a unilm checkpoint (a dict with cfg and model) nor a torchaudio state dict; "
        "a checkpoint in Hugging Face's format is read from its folder"
    )


def match_state(state: Mapping[str, Tensor], expected: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Check names, shapes and values of a checkpoint's tensors against the model's state dict, and cast the tensors to fp32.

    Raises:
        CheckpointError: names are missing or unexpected, a shape differs, or a value is not finite.
    """
    missing = [name for name in expected if name not in state]
    unexpected = [name for name in state if name not in expected]
    if missing or unexpected:
        parts = [f"lacks {_some(missing)}"] if missing else []
        parts += [f"has unexpected {_some(unexpected)}"] if unexpected else []
        raise CheckpointError(f"{path} does not fit its configuration: it {' and '.join(parts)}")
    differing = [name for name in expected if state[name].shape != expected[name].shape]
    if differing:
        name = differing[0]
        raise CheckpointError(
            f"{path} does not fit its configuration: {_some(differing)} of another shape, the first "
            f"{tuple(state[name].shape)} instead of {tuple(expected[name].shape)}"
        )
    check_finite({name: state[name] for name in expected}, path)
    # Released checkpoints are fp32; others are cast so that they run on a CPU.
    matched = {name: state[name].detach().to(torch.float32) for name in expected}
    return matched


def _some(names: list[str]) -> str:
    return ", ".join(map(short, names[:3])) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
