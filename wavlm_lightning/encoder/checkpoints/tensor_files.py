"""Tensors in files: read from untrusted ones (safetensors, PyTorch pickles without code), written whole or not at all."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pickle
import stat
import uuid
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

LONGEST = 120  # characters of another library's message that are shown


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message says in one sentence which file and why.

    Example:
        >>> raise CheckpointError("model.safetensors not found in exports/run7")
        Traceback (most recent call last):
        wavlm_lightning.encoder.checkpoints.tensor_files.CheckpointError: model.safetensors not found in exports/run7
    """


def check_regular(path: Path) -> None:
    """Refuse a pipe, a device or a folder in place of a file: reading one may wait for ever.

    `system.reading.check_file` for this package, which imports nothing of ours. What does not exist is left to who opens it.

    Raises:
        CheckpointError: naming the path.
    """
    if path.exists() and not path.is_file():
        raise CheckpointError(
            f"{path} is not a file but a {'folder' if path.is_dir() else 'pipe or a device'}; give a file"
        )


@contextlib.contextmanager
def readable(path: Path, what: str = "a checkpoint") -> Iterator[None]:
    """Turn any error in the block, which reads `path`, into a `CheckpointError` of one line that names it.

    Parsers and constructors raise what they like for values that they do not expect, so no list of exceptions is complete.
    `system.reading.reading` for this package, which imports nothing of ours.
    """
    try:
        yield
    except CheckpointError:
        raise
    except MemoryError as error:
        raise CheckpointError(
            f"{path} asks for more memory than there is, so it is not {what}; download it again"
        ) from error
    except Exception as error:
        raise CheckpointError(f"{path} is not readable as {what} ({short(error)}); download it again") from error


def short(value: object) -> str:
    """A value or the message of an exception on one line of at most 120 printable characters."""
    said = " ".join("".join(character if character.isprintable() else " " for character in str(value)).split())
    said = said or type(value).__name__
    return said if len(said) <= 120 else f"{said[:120]}..."


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file."""
    check_regular(path)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not valid JSON") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} does not hold a JSON object")
    return values


def read_pickle(path: Path, mapped: bool = False, checked: bool = True) -> Any:
    """The content of a PyTorch file that holds tensors, containers and plain values only; nothing in it is executed.

    Args:
        path: the file.
        mapped: map it into memory, so that tensors which nobody reads take none.
        checked: read it whole to compare its check sums.

    Raises:
        CheckpointError: the file is broken or holds objects that need code to be executed.
    """
    check_regular(path)
    if checked:
        check_sums(path)
    try:
        # fairseq's older checkpoints hold their settings as a Namespace, which is a container of values without code.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped and zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} holds more than tensors and plain values, and reading it would execute code from it; "
            "use a safetensors version, or re-save its state dict and settings as plain dicts on a machine that trusts it"
        ) from error
    except Exception as error:  # a damaged pickle may end in any of them
        raise CheckpointError(f"{path} is not a readable PyTorch file (incomplete download?)") from error


def check_sums(path: Path) -> None:
    """Compare the check sums of a PyTorch file, a zip archive, with its content; `torch.load` does not.

    Files of PyTorch before 1.6 have none.

    Raises:
        CheckpointError: a part of the file was changed after it had been written, or it is cut short.
    """
    try:
        if not zipfile.is_zipfile(path):
            return
        with zipfile.ZipFile(path) as archive:
            changed = archive.testzip()
    except Exception as error:  # zipfile raises many, such as struct.error and zlib.error
        raise CheckpointError(f"{path} is not a readable PyTorch file (incomplete download?)") from error
    if changed is not None:
        raise CheckpointError(
            f"{path} was damaged after it had been written: the check sum of {changed} is wrong; copy it again"
        )


def check_finite(tensors: Mapping[str, Tensor], source: Path | str) -> None:
    """Refuse weights that are NaN or infinite, whose outputs would be NaN or one class for every input.

    Raises:
        CheckpointError: naming the first such tensor, or the first that is none, sparse, quantised or without content.
    """
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor) or tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
            kind = (
                f"a tensor of {tensor.layout}, {tensor.dtype}" if isinstance(tensor, Tensor) else type(tensor).__name__
            )
            raise CheckpointError(
                f"{source}: {short(name)} is {kind}, not a plain tensor; save its weights as plain tensors"
            )
        if tensor.is_floating_point() and not tensor.isfinite().all():
            wrong = int((~tensor.isfinite()).sum())
            raise CheckpointError(
                f"{source}: {wrong} of {tensor.numel()} values of {name} are NaN or infinite; its training diverged, or the file "
                "was damaged: use an earlier checkpoint"
            )


def read_tensors(path: Path) -> dict[str, Tensor]:
    """A flat dict of tensors from a safetensors or PyTorch file."""
    check_regular(path)
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except Exception as error:  # of types and shapes that torch does not have, too
            raise CheckpointError(f"{path} is not a readable safetensors file (incomplete download?)") from error
    state = read_pickle(path)
    if not is_state_dict(state):
        raise CheckpointError(f"{path} does not hold a dict of tensors")
    return state


def is_state_dict(value: Any) -> bool:
    """Whether this is a non-empty dict from names to tensors."""
    return (
        isinstance(value, dict)
        and bool(value)
        and all(isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in value.items())
    )


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to; it replaces `path` when the block ends, so that no kill leaves half a file.

    `system.files.atomic_write` for this package, which imports nothing of ours; its sweep knows the temporary names.

    Raises:
        CheckpointError: the disk is full, or the folder takes no files.
    """
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        temporary.touch()
        allowed = stat.S_IMODE(temporary.stat().st_mode)  # 666 less the umask
        yield temporary
        temporary.chmod(allowed)  # safetensors puts a file of its own there, which its owner alone may read
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())  # a power failure must not leave an empty file under the true name
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{path} cannot be written ({short(error)}); free some space, or choose another folder"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file, whole or not at all."""
    with whole_file(path) as temporary:
        save_file(dict(tensors), temporary, metadata=metadata)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object with sorted keys, whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
