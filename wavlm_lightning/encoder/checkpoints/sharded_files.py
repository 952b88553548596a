"""Reading sharded checkpoints (torch.distributed.checkpoint, FSDP2) in one process, without executing anything in them."""

from __future__ import annotations

import contextlib
import io
import math
import pickle
import warnings
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any
from unittest import mock

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
    from torch.distributed.checkpoint.filesystem import _StorageInfo
    from torch.distributed.checkpoint.metadata import Metadata

    try:
        with (folder / SHARD_INDEX).open("rb") as file:
            index = _Index(file).load()
    except FileNotFoundError as error:
        raise CheckpointError(f"{folder} is not a whole sharded checkpoint: {SHARD_INDEX} is missing") from error
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{folder / SHARD_INDEX} is not the index of a sharded checkpoint ({error})") from error
    except Exception as error:  # a damaged pickle may end in any of them
        raise CheckpointError(f"{folder / SHARD_INDEX} is not readable; is it cut short?") from error
    if not isinstance(index, Metadata) or not isinstance(index.storage_data, dict):
        raise CheckpointError(f"{folder / SHARD_INDEX} is not the index of a sharded checkpoint")
    for place in index.storage_data.values():
        if not isinstance(place, _StorageInfo) or not isinstance(place.relative_path, str):
            raise CheckpointError(f"{folder / SHARD_INDEX} is not the index of a sharded checkpoint")
        if PurePath(place.relative_path).name != place.relative_path or place.relative_path == "..":
            raise CheckpointError(f"{folder / SHARD_INDEX} names a file outside its folder: {place.relative_path}")
    return index


@contextlib.contextmanager
def restricted_entries(folder: Path) -> Iterator[None]:
    """Let torch read the entries of a sharded checkpoint that are no tensors with its restricted loader.

    Its planner reads them with plain pickle, which would execute code in a prepared file. They are learning rates and
    other plain values of an optimiser.

    Raises:
        CheckpointError: an entry holds more than tensors and plain values; inside the block, from torch's `load`, perhaps
            as the cause of a `CheckpointException`.
    """
    from torch.distributed.checkpoint import DefaultLoadPlanner

    original = DefaultLoadPlanner.load_bytes

    def load_bytes(planner: Any, item: Any, value: io.BytesIO) -> None:
        name = item.dest_index.fqn
        try:
            plain_value = torch.load(value, map_location="cpu", weights_only=True)
        except Exception as error:
            raise CheckpointError(
                f"{folder}: the entry {name} holds more than tensors and plain values, and reading it could execute code "
                "from it; resume a checkpoint of your own"
            ) from error
        # What torch reads is what it wrote itself a moment ago.
        again = io.BytesIO()
        torch.save(plain_value, again)
        again.seek(0)
        original(planner, item, again)

    with mock.patch.object(DefaultLoadPlanner, "load_bytes", load_bytes):
        yield


def read_sharded(folder: Path) -> dict[str, Any]:
    """Read a sharded checkpoint like a single file: whole tensors on the CPU, the optimiser's state left out.

    Raises:
        CheckpointError: a file is missing, broken or cut short.
    """
    from torch.distributed.checkpoint import CheckpointException, FileSystemReader, load
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata

    entries = read_index(folder).state_dict_metadata
    weights: dict[str, Tensor] = {}
    for name, entry in entries.items():
        if name.startswith(WEIGHTS):
            if not isinstance(entry, TensorStorageMetadata):
                raise CheckpointError(f"{folder / SHARD_INDEX}: {name} is listed as something else than a tensor")
            # What no chunk covers would stay as the memory happened to be.
            if sum(math.prod(chunk.sizes) for chunk in entry.chunks) != math.prod(entry.size):
                raise CheckpointError(f"{folder / SHARD_INDEX}: the parts of {name} are not the whole of it")
            weights[name.removeprefix(WEIGHTS)] = torch.empty(entry.size, dtype=entry.properties.dtype)
    extras = read_pickle(folder / EXTRAS)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*assuming the intent is to load in a single process")
            with restricted_entries(folder):
                load({"state_dict": weights}, storage_reader=FileSystemReader(folder), no_dist=True)
    except CheckpointException as error:  # derives from BaseException
        raise CheckpointError(
            f"{folder} is not a whole sharded checkpoint; a file of it is missing or cut short"
        ) from error
    return {**extras, "state_dict": weights}
