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
from wavlm_lightning.encoder.checkpoints.sharded_files import read_sharded
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

__all__ = ["ENCODER_KEY", "HEAD_KEY", "RECORD_KEY", "CheckpointError", "match_state", "read_checkpoint"]

ENCODER_KEY = "wavlm_config"  # of the encoder's configuration in the checkpoint of a run
HEAD_KEY = "task"  # of the description of a head in the checkpoint of its run
RECORD_KEY = (
    "upstream"  # of the record of an encoder that a head's run trained: `prefix` of its names in the state dict
)


def read_checkpoint(path: Path) -> tuple[WavLMConfig, dict[str, Tensor]]:
    """Read a run of ours, a Hugging Face folder, a unilm or fairseq `.pt`, or a torchaudio state dict.

    The tensors have the names of `WavLM`.

    Raises:
        CheckpointError: the file is missing, broken or of another format.
    """
    with readable(path):
        return _read(path)


def _read(path: Path) -> tuple[WavLMConfig, dict[str, Tensor]]:
    run = _of_run(path)
    if run is not None:
        return _from_run(run, best_of_head=run != path)
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


def _of_run(path: Path) -> Path | None:
    """The checkpoint of a training run that `path` is or holds: a `.ckpt`, one file or FSDP2's folder; None if it is none."""
    if path.suffix == ".ckpt" and path.exists():
        return path
    found = (path / "checkpoints" / name for name in ("last.ckpt", "best.ckpt"))
    return next((file for file in found if file.exists()), None)


def _from_run(path: Path, best_of_head: bool = False) -> tuple[WavLMConfig, dict[str, Tensor]]:
    """The encoder in the checkpoint of a pre-training run, or of a head that was trained with it.

    With `best_of_head`, for a run folder, that of a head is in its `best.ckpt`, whichever `path` is.
    """
    content = read_sharded(path) if path.is_dir() else read_pickle(path, mapped=True)
    best = path.with_name("best.ckpt")
    if best_of_head and path != best and best.exists() and isinstance(content, dict) and HEAD_KEY in content:
        return _from_run(best)  # a head is used as it was at its best
    if not isinstance(content, dict) or ENCODER_KEY not in content or not isinstance(content.get("state_dict"), dict):
        raise CheckpointError(f"{path} does not contain a WavLM; give a checkpoint of a pre-training run")
    prefix = f"{content.get(RECORD_KEY, {}).get('prefix', '')}encoder."
    state = {k.removeprefix(prefix): v for k, v in content["state_dict"].items() if k.startswith(prefix)}
    try:
        return WavLMConfig.from_dict(content[ENCODER_KEY]), state
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{path} describes an encoder that cannot be built: {error}") from error


def match_state(state: Mapping[str, Tensor], expected: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Check names, shapes and values of a checkpoint's tensors against the model's state dict, and cast the tensors to fp32.

    Raises:
        CheckpointError: names are missing or unexpected, a shape differs, or a value is not finite.
    """
    if wrong := [name for name, tensor in state.items() if not isinstance(tensor, Tensor) or tensor.is_quantized]:
        raise CheckpointError(f"{path}: {_some(wrong)} is no plain tensor; give weights that are not quantised")
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
