"""Reading fairseq's checkpoints without fairseq, and without executing anything in them.

Such a file pickles its dictionaries and settings as objects of fairseq and omegaconf, so torch's restricted unpickler
refuses it. Here every name that this unpickler does not know stands for `Inert`, which keeps what it is given and
does nothing: no module is imported, and no function of the file's choosing is called. A name in `os` or `sys` is
refused even so.
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

from wavlm_lightning.system.errors import UserError

LEGACY_PICKLES = 4
"""Before torch 1.6 a file was a row of pickles: magic number, version, system, and then the content."""


class Inert:
    """Stands for an object of a class that we neither have nor want to run.

    Attributes:
        arguments: what it was called with.
        state: its attributes.
    """

    arguments: tuple[Any, ...]
    state: dict[str, Any]

    def __new__(cls, *arguments: Any) -> Inert:
        """Keep the arguments."""
        inert = super().__new__(cls)
        inert.arguments, inert.state = arguments, {}
        return inert

    def __init__(self, *arguments: Any) -> None:
        """Nothing more."""

    def __setstate__(self, state: Any) -> None:
        # Objects with slots have a pair of dicts here, objects with a `__getstate__` of their own may have anything.
        self.state = state if isinstance(state, dict) else {}


def words(path: Path) -> set[str]:
    """All strings in a PyTorch file, among them the names of its tensors; no tensor is read.

    Raises:
        UserError: the file is none of torch's.
    """
    return _scan(path)[1]


def read(path: Path) -> dict[str, Any]:
    """A checkpoint with `Inert` in the place of everything that is not a tensor, a container, a string or a number.

    Args:
        path: of a file that fairseq wrote, whatever its age, or one made from it.

    Raises:
        UserError: the file cannot be read this way.
    """
    stubs: list[Any] = [(Inert, name) for name in _scan(path)[0]]
    try:
        with torch.serialization.safe_globals(stubs), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the pickle's version
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, AttributeError, TypeError, IndexError) as error:
        raise UserError(
            f"{path}: holds more than tensors, settings and dictionaries, so it was not read, and nothing in it was "
            "executed; take it from where it was published"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise UserError(f"{path}: not a readable PyTorch file; is it cut short?") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a checkpoint of fairseq, which is a dict")
    return content


def plain(value: Any) -> Any:
    """Settings as plain dicts, lists and values, whether they were a Namespace, omegaconf's nodes or dataclasses."""
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
    """Names of the globals that a file asks for, and all its strings."""
    names: set[str] = set()
    strings: set[str] = set()
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                record = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
                pickles = [archive.read(record)]
            for content in pickles:
                _scan_one(content, names, strings)
        else:
            with path.open("rb") as stream:
                for _ in range(LEGACY_PICKLES):
                    _scan_one(stream, names, strings)
    except (ValueError, StopIteration, OSError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: not a readable PyTorch file; is it cut short?") from error
    return names, strings


def _scan_one(content: Any, names: set[str], strings: set[str]) -> None:
    for opcode, argument, _ in pickletools.genops(content):
        if opcode.name == "GLOBAL":
            module, name = str(argument).split(" ", 1)
            names.add(f"{module}.{name}")
            # Pickles of torch's protocol have Python 2's names, of which its unpickler translates some.
            module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
            names.add(f"{module}.{name}")
        elif isinstance(argument, str):
            strings.add(argument)
