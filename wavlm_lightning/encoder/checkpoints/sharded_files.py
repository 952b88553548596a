"""Reading sharded checkpoints (torch.distributed.checkpoint, FSDP2) in one process, without executing anything in them."""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import math
import pickle
import warnings
from collections.abc import Collection, Iterator
from pathlib import Path, PurePath
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from wavlm_lightning.encoder.checkpoints.tensor_files import (
    CheckpointError,
    check_regular,
    read_json,
    read_pickle,
    write_json,
)

SHARD_INDEX, EXTRAS = ".metadata", "meta.pt"  # DCP's index file, a pickle; Lightning's file for non-tensor state
SUMS = "sha256.json"  # hash of each file of the folder, by name; checkpoints of older versions have none

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
        check_regular(folder / SHARD_INDEX)
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
    try:
        _check_places(index, folder)
    except CheckpointError:
        raise
    except Exception as error:  # an index that somebody else wrote may hold anything
        raise CheckpointError(
            f"{folder / SHARD_INDEX} is not the index of a sharded checkpoint ({type(error).__name__}: {error})"
        ) from error
    return index


def _check_places(index: Any, folder: Path) -> None:
    """Check that every element of every tensor is in exactly one part, and every part within a file.

    What no part covers would stay as the memory happened to be, and the size of a tensor is believed only as far as there are
    bytes for it.
    """
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata

    sizes = {path.name: path.stat().st_size for path in folder.iterdir() if path.is_file()}
    found: dict[str, dict[tuple[int, ...], Any]] = {}
    for key, place in index.storage_data.items():
        size = sizes.get(place.relative_path)
        if size is None or not 0 <= place.offset <= place.offset + place.length <= size:
            raise CheckpointError(
                f"{folder} is not a whole sharded checkpoint; {place.relative_path} is missing or cut short"
            )
        found.setdefault(key.fqn, {})[tuple(key.offset or ())] = place
    for name, entry in index.state_dict_metadata.items():
        if not isinstance(entry, TensorStorageMetadata):
            continue
        if not _covers(tuple(entry.size), [(tuple(chunk.offsets), tuple(chunk.sizes)) for chunk in entry.chunks]):
            raise CheckpointError(f"{folder / SHARD_INDEX}: the parts of {name} are not the whole of it")
        itemsize = entry.properties.dtype.itemsize
        for chunk in entry.chunks:
            place = found.get(name, {}).get(tuple(chunk.offsets))
            if place is None or place.length < math.prod(chunk.sizes) * itemsize:
                raise CheckpointError(
                    f"{folder / SHARD_INDEX}: a part of {name} has no place in a file, or too small a one"
                )


def _covers(size: tuple[int, ...], parts: list[tuple[tuple[int, ...], tuple[int, ...]]]) -> bool:
    """Whether parts (offsets, sizes) cover each element of a tensor exactly once."""
    if any(len(offsets) != len(size) or len(sizes) != len(size) for offsets, sizes in parts):
        return False
    # FSDP2 cuts along the first dimension; processes without a share of a small tensor may have empty parts.
    parts = sorted(part for part in parts if math.prod(part[1]))
    inside = all(
        begin >= 0 and length >= 0 and begin + length <= whole
        for offsets, sizes in parts
        for begin, length, whole in zip(offsets, sizes, size, strict=True)
    )
    if not inside or sum(math.prod(sizes) for _, sizes in parts) != math.prod(size):
        return False
    if all(sizes[1:] == size[1:] for _, sizes in parts):  # slices of the first dimension
        return all(a[0][:1] == () or a[0][0] + a[1][0] == b[0][0] for a, b in itertools.pairwise(parts))
    return not any(_overlap(a, b) for a, b in itertools.combinations(parts, 2))


def _overlap(one: tuple[tuple[int, ...], tuple[int, ...]], other: tuple[tuple[int, ...], tuple[int, ...]]) -> bool:
    return all(a < b + m and b < a + n for a, n, b, m in zip(*one, *other, strict=True))


def hash_files(folder: Path, rank: int) -> dict[str, str]:
    """Hashes of the files of a sharded checkpoint that process `rank` wrote, by name; the first process also wrote the others.

    Each process hashes its own, which are in its memory still.
    """
    mine = [path for path in folder.glob(f"__{rank}_*") if path.is_file()]
    mine += [folder / name for name in (SHARD_INDEX, EXTRAS)] if rank == 0 else []
    return {path.name: _hash(path) for path in mine if path.is_file()}


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_hashes(folder: Path, hashes: dict[str, str]) -> None:
    """Write the hashes of all files of a sharded checkpoint, which `check_hashes` compares."""
    write_json(folder / SUMS, hashes)


def check_hashes(folder: Path, part: int = 0, parts: int = 1, names: Collection[str] | None = None) -> None:
    """Compare the files of a sharded checkpoint with the hashes that were written with it.

    The index says which bytes of a file are which part of a tensor, and files of two checkpoints of one model differ in
    nothing else: exchanged, they would be read as other weights.

    Args:
        folder: the checkpoint. Those of older versions have no hashes, and nothing is compared.
        part: only each `parts`-th file, from this one on, because each of several processes compares some.
        parts: number of processes.
        names: only these files.

    Raises:
        CheckpointError: a file was altered, exchanged or added after the checkpoint had been written, or is missing.
    """
    if not (folder / SUMS).exists():
        return
    expected = read_json(folder / SUMS)
    there = {path.name for path in folder.iterdir()} - {SUMS}
    listed = [name for name in sorted({*expected, *there}) if names is None or name in names]
    for name in listed[part::parts]:
        path = folder / name
        if name not in there:
            raise CheckpointError(f"{folder} is not a whole sharded checkpoint: {name} is missing")
        if name not in expected:
            if name.endswith(".distcp"):
                raise CheckpointError(
                    f"{path} was not written with this checkpoint; remove it, or use another checkpoint"
                )
            continue  # of no harm: nothing reads it
        check_regular(path)
        if _hash(path) != expected[name]:
            raise CheckpointError(
                f"{path} is cut short, was altered, or belongs to another checkpoint; use another one"
            )


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

    check_hashes(folder)
    entries = read_index(folder).state_dict_metadata
    weights: dict[str, Tensor] = {}
    for name, entry in entries.items():
        if name.startswith(WEIGHTS):
            if not isinstance(entry, TensorStorageMetadata):
                raise CheckpointError(f"{folder / SHARD_INDEX}: {name} is listed as something else than a tensor")
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
