"""Sharded checkpoints whose files were exchanged, or whose index leaves elements out, are refused before a weight is used."""

from __future__ import annotations

import copy
import json
import pickle
import shutil

import pytest
import torch
from torch.distributed.checkpoint import FileSystemWriter, save

from wavlm_lightning.encoder import CheckpointError
from wavlm_lightning.encoder.checkpoints.sharded_files import (
    EXTRAS,
    SHARD_INDEX,
    SUMS,
    _covers,
    check_hashes,
    hash_files,
    read_index,
    read_sharded,
    write_hashes,
)


def write(folder, value: float):
    folder.mkdir()
    weights = {"weight": torch.full((6, 4), value), "scale": torch.tensor(value), "empty": torch.zeros(0, 3)}
    save({"state_dict": weights}, storage_writer=FileSystemWriter(folder), no_dist=True)
    torch.save({"global_step": int(value)}, folder / EXTRAS)
    write_hashes(folder, hash_files(folder, 0))
    return folder


@pytest.fixture
def folder(tmp_path):
    return write(tmp_path / "a", 1.0)


@pytest.fixture
def other(tmp_path):
    return write(tmp_path / "b", 2.0)


def test_a_whole_one_is_read(folder):
    content = read_sharded(folder)
    assert content["global_step"] == 1 and torch.equal(content["state_dict"]["weight"], torch.ones(6, 4))
    assert json.loads((folder / SUMS).read_text()).keys() == {"__0_0.distcp", SHARD_INDEX, EXTRAS}


@pytest.mark.parametrize("name", ["__0_0.distcp", SHARD_INDEX, EXTRAS])
@pytest.mark.parametrize("damage", ["exchanged", "flipped", "cut", "missing"])
def test_files_of_two_checkpoints_are_not_mixed(folder, other, name, damage):
    path = folder / name
    if damage == "exchanged":
        if name == SHARD_INDEX and (other / name).read_bytes() == path.read_bytes():
            pytest.skip("the indices of two steps are equal")
        shutil.copy(other / name, path)
    elif damage == "missing":
        path.unlink()
    else:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content if damage == "flipped" else content[:-9])
    with pytest.raises(CheckpointError, match=r"belongs to another checkpoint|is missing"):
        read_sharded(folder)


def test_each_process_compares_its_part(folder, other):
    shutil.copy(other / "__0_0.distcp", folder)
    names = sorted(json.loads((folder / SUMS).read_text()))
    for part in range(3):
        if names[part] == "__0_0.distcp":
            with pytest.raises(CheckpointError):
                check_hashes(folder, part, 3)
        else:
            check_hashes(folder, part, 3)


def test_a_shard_that_is_of_another_checkpoint_and_one_that_is_too_many(folder, other):
    shutil.copy(other / "__0_0.distcp", folder / "__1_0.distcp")
    with pytest.raises(CheckpointError, match="was not written with this checkpoint"):
        read_sharded(folder)


def alter(folder, change):
    """As somebody would who knows the index; hashes are left out, as in checkpoints of older versions."""
    (folder / SUMS).unlink(missing_ok=True)
    index = read_index(folder)
    change(index)
    (folder / SHARD_INDEX).write_bytes(pickle.dumps(index))


def chunks(index):
    return index.state_dict_metadata["state_dict.weight"].chunks


def no_chunks(index):
    chunks(index).clear()


def half(index):
    chunks(index)[0].sizes = torch.Size((3, 4))


def twice(index):
    first, second = chunks(index)[0], copy.deepcopy(chunks(index)[0])
    first.sizes = second.sizes = torch.Size((3, 4))
    chunks(index).append(second)


def outside(index):
    chunks(index)[0].offsets = torch.Size((1, 0))


def huge(index):
    entry = index.state_dict_metadata["state_dict.weight"]
    entry.size = chunks(index)[0].sizes = torch.Size((2**40, 4))


def other_rank(index):
    chunks(index)[0].sizes = torch.Size((24,))


def no_place(index):
    index.storage_data.clear()


def beyond_the_file(index):
    for place in index.storage_data.values():
        place.offset += 10**9


def no_entries(index):
    index.state_dict_metadata = None


@pytest.mark.parametrize(
    "change",
    [no_chunks, half, twice, outside, huge, other_rank, no_place, beyond_the_file, no_entries],
    ids=lambda f: f.__name__,
)
def test_every_element_is_in_exactly_one_part(folder, change):
    alter(folder, change)
    with pytest.raises(CheckpointError) as caught:
        read_sharded(folder)
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)


def test_one_without_hashes_is_read_as_ever(folder):
    alter(folder, lambda index: None)
    assert torch.equal(read_sharded(folder)["state_dict"]["weight"], torch.ones(6, 4))


@pytest.mark.parametrize(
    ("size", "parts", "whole"),
    [
        ((6,), [((0,), (3,)), ((3,), (3,))], True),
        ((6,), [((3,), (3,)), ((0,), (3,)), ((6,), (0,))], True),
        ((6,), [((0,), (3,)), ((2,), (3,))], False),
        ((6,), [((0,), (4,)), ((2,), (2,))], False),
        ((4, 4), [((0, 0), (2, 4)), ((2, 0), (2, 2)), ((2, 2), (2, 2))], True),
        ((4, 4), [((0, 0), (2, 4)), ((2, 0), (2, 2)), ((1, 2), (2, 2))], False),
        ((4, 4), [((0, 0), (4, 4)), ((0, 0), (4, 4))], False),
        ((4, 4), [((0, -1), (4, 4))], False),
        ((), [((), ())], True),
        ((), [], False),
        ((), [((), ()), ((), ())], False),
        ((0, 3), [], True),
        ((0, 3), [((0, 0), (0, 3))], True),
    ],
)
def test_parts_of_a_tensor(size, parts, whole):
    assert _covers(size, parts) is whole
