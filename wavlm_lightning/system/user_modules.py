"""Finds a user's own modules, in the working directory and beside a YAML, where a class path names one; never anything else.

A folder on `sys.path` would do far more: a file `csv.py` there hides a library, and a `dist-info` folder registers entry points,
which other packages run. So these folders are on `sys.path` in a form that only the path hook below understands: `FOLDER/*.py`
serves the Python files of FOLDER, after everything that is installed, and no metadata. An entry is added when a class path names
a module that is nowhere else (`open_for`). Processes that are spawned get `sys.path`, and with it the entries.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from importlib.machinery import SOURCE_SUFFIXES, FileFinder, SourceFileLoader
from importlib.util import find_spec
from pathlib import Path

MARK = f"{os.sep}*.py"  # ending of our entries of `sys.path`


def _hook(entry: str) -> FileFinder:
    """The path hook: finder of the Python files of a folder, for an entry of ours."""
    if not entry.endswith(MARK):
        raise ImportError(f"{entry} is not a folder of user modules")
    return FileFinder(entry.removesuffix(MARK) or os.sep, (SourceFileLoader, SOURCE_SUFFIXES))


def install() -> None:
    """Register the path hook, once; a spawned process may have looked at its `sys.path` before."""
    if _hook not in sys.path_hooks:
        sys.path_hooks.append(_hook)
    for entry, finder in [*sys.path_importer_cache.items()]:
        if finder is None and entry.endswith(MARK):
            del sys.path_importer_cache[entry]


def open_for(path: str, folders: Iterable[Path]) -> None:
    """Let the module of a class path be imported from the first of some folders that has it, unless it is installed.

    Modules beside it can then be imported, too, because it may need them.

    Args:
        path: dotted path of a module or class.
        folders: where to look, in this order.

    Example:
        >>> open_for("my_heads.LanguageIdentification", [Path.cwd()])
    """
    top, _, rest = path.partition(".")
    if top in sys.modules or not top.isidentifier():
        return
    try:
        installed = find_spec(top)
    except (ImportError, ValueError):
        return
    if (
        installed is not None and installed.origin is not None
    ):  # otherwise only a folder of that name, without __init__.py
        return
    inner = rest.partition(".")[0]
    inside = [f"{top}.py", f"{top}/__init__.py", *([f"{top}/{inner}.py", f"{top}/{inner}"] if inner else [])]
    for folder in (each.absolute() for each in folders):
        if any((folder / each).exists() for each in inside):
            entry = str(folder).rstrip(os.sep) + MARK
            if entry not in sys.path:
                sys.path.append(entry)
            return


def opened_folders() -> list[Path]:
    """The folders that `open_for` has opened, in that order."""
    return [Path(entry.removesuffix(MARK) or os.sep) for entry in sys.path if entry.endswith(MARK)]


def leave_working_directory(package_folder: Path) -> None:
    """Undo what `python -m` does first: put the working directory before everything else on `sys.path`.

    Processes that this one starts do the same unless told not to.

    Args:
        package_folder: the folder that holds this package. If that is the working directory, as in a source tree that is not
            installed, it goes last instead.
    """
    here = Path.cwd()
    if sys.path and not sys.flags.safe_path and Path(sys.path[0] or here) == here:
        del sys.path[0]
    if package_folder == here:
        sys.path.append(str(here))
    else:
        os.environ["PYTHONSAFEPATH"] = "1"
