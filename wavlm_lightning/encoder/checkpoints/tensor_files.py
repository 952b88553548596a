"""Reading tensors from files that strangers made: safetensors, or pickles that may hold nothing but tensors."""

from __future__ import annotations

import argparse
import json
import pickle
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message is one sentence that says which file and why.

    Example:
        >>> raise CheckpointError("model.safetensors not found in exports/run7")
        Traceback (most recent call last):
        wavlm_lightning.encoder.checkpoints.tensor_files.CheckpointError: model.safetensors not found in exports/run7
    """


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        CheckpointError: if the file does not hold one.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} is not valid JSON") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} does not hold a JSON object")
    return values


def read_pickle(path: Path) -> Any:
    """What a PyTorch file holds, if that is tensors, containers and numbers; nothing in it is ever executed.

    fairseq's older checkpoints carry their settings as an `argparse.Namespace`, which can hold values but do
    nothing, so it is let through. Everything else that is not data is refused.

    Raises:
        CheckpointError: if the file is broken or holds objects that would have to be executed to be read.
    """
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} holds more than tensors and plain values, and reading it would execute code from it; "
            "take a safetensors version, or re-save its state dict and settings as plain dicts where you trust it"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path} is not a readable PyTorch file (incomplete download?)") from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """A flat dict of tensors from a safetensors or PyTorch file.

    Raises:
        CheckpointError: if the file is broken or holds something else.
    """
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path} is not a readable safetensors file (incomplete download?)") from error
    state = read_pickle(path)
    if not is_state_dict(state):
        raise CheckpointError(f"{path} does not hold a dict of tensors")
    return state


def is_state_dict(value: Any) -> bool:
    """Whether this is a non-empty dict from names to tensors and nothing else."""
    return (
        isinstance(value, dict)
        and bool(value)
        and all(isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in value.items())
    )
