"""Read fairseq's checkpoints without fairseq, and without executing code in them.

Such a file pickles its settings as objects of fairseq and omegaconf, which torch's restricted unpickler refuses. Here
every class that this unpickler does not know is replaced by `Inert`, which only stores its arguments: no module of the
file's choice is imported, and no function is called. The unpickler still refuses names in `os` or `sys`.
"""

from __future__ import annotations

import pickle
import pickletools
import warnings
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from pathlib import Path
from typing import Any

import torch

from wavlm_lightning.encoder.checkpoints.tensor_files import CheckpointError, check_sums
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.reading import check_file

LEGACY_PICKLES = 4  # before torch 1.6 a file was a sequence of pickles: magic number, version, system, content


class Inert:
    """A placeholder for an object of an unknown class, which is not imported."""

    arguments: tuple[Any, ...]  # of its constructor
    state: dict[str, Any]  # its attributes

    def __new__(cls, *arguments: Any) -> Inert:
        inert = super().__new__(cls)
        inert.arguments, inert.state = arguments, {}
        return inert

    def __init__(self, *arguments: Any) -> None:
        pass  # `object.__init__` would refuse the arguments

    def __setstate__(self, state: Any) -> None:
        # The state is a pair of dicts for objects with slots, and may be anything with a custom `__getstate__`.
        self.state = state if isinstance(state, dict) else {}


def words(path: Path) -> set[str]:
    """All strings in a PyTorch file, among them the names of its tensors; no tensor is read."""
    return _scan(path)[1]


def read(path: Path) -> dict[str, Any]:
    """A checkpoint in which every object that is not a tensor, container, string or number is an `Inert`.

    Any version of fairseq may have written it. A UserError says if it cannot be read this way.
    """
    stubs: list[Any] = [(Inert, name) for name in _scan(path)[0]]
    try:
        check_sums(path)
    except CheckpointError as error:
        raise UserError(str(error)) from error
    try:
        with torch.serialization.safe_globals(stubs), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the version of the pickle protocol
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, AttributeError, TypeError, IndexError) as error:
        raise UserError(
            f"{path}: holds more than tensors, settings and dictionaries, so it was not read, and nothing in it was "
            "executed; take it from where it was published"
        ) from error
    except Exception as error:  # a damaged pickle may end in any of them
        raise UserError(f"{path}: not a readable PyTorch file; is it cut short?") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a checkpoint of fairseq, which is a dict")
    return content


def plain(value: Any) -> Any:
    """Convert settings (Namespace, omegaconf nodes, dataclasses) to plain dicts, lists and values."""
    if isinstance(value, Inert):
        for inside in ("_content", "_val"):  # omegaconf's containers and leaves
            if inside in value.state:
                return plain(value.state[inside])
        if value.arguments and not value.state:  # a member of an enumeration
            return plain(value.arguments[-1])
        return plain(value.state)
    if isinstance(value, dict):
        return {str(plain(key)): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def _scan(path: Path) -> tuple[set[str], set[str]]:
    """Names of the globals that a file refers to, and all its strings."""
    names: set[str] = set()
    strings: set[str] = set()
    check_file(path, "a PyTorch file")
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                record = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
                _scan_one(archive.read(record), names, strings)
        else:
            with path.open("rb") as stream:
                for _ in range(LEGACY_PICKLES):
                    _scan_one(stream, names, strings)
    except Exception as error:  # of zip, zlib and pickletools, as the damage has it
        raise UserError(f"{path}: not a readable PyTorch file; is it cut short?") from error
    return names, strings


def _scan_one(content: Any, names: set[str], strings: set[str]) -> None:
    for opcode, argument, _ in pickletools.genops(content):
        if opcode.name == "GLOBAL":
            module, name = str(argument).split(" ", 1)
            names.add(f"{module}.{name}")
            # Protocol 2 pickles have Python 2 names, some of which the unpickler translates, so both are collected.
            module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
            names.add(f"{module}.{name}")
        elif isinstance(argument, str):
            strings.add(argument)
