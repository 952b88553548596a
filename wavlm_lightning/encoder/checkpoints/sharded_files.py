"""Reading sharded checkpoints (torch.distributed.checkpoint, FSDP2) in one process, without executing anything in them."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wavlm_lightning.encoder.checkpoints.tensor_files import CheckpointError, read_pickle

SHARD_INDEX, EXTRAS = ".metadata", "meta.pt"  # DCP's index file, a pickle; Lightning's file for non-tensor state

WEIGHTS = "state_dict."
# Underscore names of torch 2.11, which its index files contain. If torch renames them, `read_index` refuses the file.
# Module -> names that an index may refer to.
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


class _Index(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if name not in INDEX_CLASSES.get(module, ()):
            raise pickle.UnpicklingError(f"{module}.{name}")
        return super().find_class(module, name)


def read_index(folder: Path) -> Any:
    """The index of a sharded checkpoint, a `torch.distributed.checkpoint.metadata.Metadata`.

    torch reads it with plain pickle, which would execute code in a prepared file. An index that this function accepts is
    safe for torch to read.

    Raises:
        CheckpointError: the index is missing (the writing was cut short), broken, or holds other objects.
    """
    try:
        with (folder / SHARD_INDEX).open("rb") as file:
            return _Index(file).load()
    except FileNotFoundError as error:
        raise CheckpointError(f"{folder} is not a whole sharded checkpoint: {SHARD_INDEX} is missing") from error
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{folder / SHARD_INDEX} is not the index of a sharded checkpoint ({error})") from error
    except (EOFError, IndexError, OSError, ValueError, AttributeError, ImportError) as error:
        raise CheckpointError(f"{folder / SHARD_INDEX} is not readable; is it cut short?") from error


def read_sharded(folder: Path) -> dict[str, Any]:
    """Read a sharded checkpoint like a single file: whole tensors on the CPU, the optimiser's state left out.

    Raises:
        CheckpointError: a file is missing, broken or cut short.
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
    except CheckpointException as error:  # derives from BaseException
        raise CheckpointError(
            f"{folder} is not a whole sharded checkpoint; a file of it is missing or cut short"
        ) from error
    return {**extras, "state_dict": weights}
