"""Reading sharded checkpoints (folders of torch.distributed.checkpoint) on one machine, without executing anything in them."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wavlm_lightning.encoder.checkpoints.tensor_files import CheckpointError, read_pickle

SHARD_INDEX, EXTRAS = ".metadata", "meta.pt"
"""Which tensor lies where, a pickle; and what is no tensor, as Lightning names it."""

WEIGHTS = "state_dict."
INDEX_CLASSES = {
    "torch": {"Size", "bfloat16", "bool", "float16", "float32", "float64", "int64"},
    "torch.distributed.checkpoint.metadata": {
        "BytesStorageMetadata",
        "ChunkStorageMetadata",
        "Metadata",
        "MetadataIndex",
        "StorageMeta",
        "TensorProperties",
        "TensorStorageMetadata",
        "_MEM_FORMAT_ENCODING",
    },
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch.serialization": {"_get_layout"},
    "pathlib": {"PosixPath", "WindowsPath"},
}
"""All that an index is made of."""


class _Index(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """Only classes that hold values."""
        if name not in INDEX_CLASSES.get(module, ()):
            raise pickle.UnpicklingError(f"{module}.{name}")
        return super().find_class(module, name)


def read_index(folder: Path) -> Any:
    """The index of a sharded checkpoint, a `torch.distributed.checkpoint.metadata.Metadata`.

    torch itself reads it with plain pickle, which would execute whatever a stranger has put there; what has been read
    here without complaint is safe for torch, too.

    Raises:
        CheckpointError: it is missing (the writing was cut short), broken, or holds more than an index.
    """
    try:
        with (folder / SHARD_INDEX).open("rb") as file:
            return _Index(file).load()
    except FileNotFoundError as error:
        raise CheckpointError(f"{folder} is not a whole sharded checkpoint: {SHARD_INDEX} is missing") from error
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{folder / SHARD_INDEX} is no index of a sharded checkpoint ({error})") from error
    except (EOFError, IndexError, OSError, ValueError, AttributeError, ImportError) as error:
        raise CheckpointError(f"{folder / SHARD_INDEX} is not readable; is it cut short?") from error


def read_sharded(folder: Path) -> dict[str, Any]:
    """A sharded checkpoint as if it were one file: weights put together, the optimiser's state left out.

    Args:
        folder: written by Lightning's `ModelParallelStrategy`.

    Returns:
        What `meta.pt` holds, and `state_dict` with whole tensors on the CPU.

    Raises:
        CheckpointError: it is not whole.
    """
    from torch.distributed.checkpoint import CheckpointException, FileSystemReader, load

    entries = read_index(folder).state_dict_metadata
    weights: dict[str, Tensor] = {
        name.removeprefix(WEIGHTS): torch.empty(entry.size, dtype=entry.properties.dtype)
        for name, entry in entries.items()
        if name.startswith(WEIGHTS)
    }
    extras = read_pickle(folder / EXTRAS)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*assuming the intent is to load in a single process")
            load({"state_dict": weights}, storage_reader=FileSystemReader(folder), no_dist=True)
    except CheckpointException as error:  # no Exception, and it holds what went wrong in each process
        raise CheckpointError(
            f"{folder} is not a whole sharded checkpoint; a file of it is missing or cut short"
        ) from error
    return {**extras, "state_dict": weights}
