"""Classes from outside the package: beside a YAML, in the working directory, or registered by an installed package."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

from wavlm_lightning.system.errors import UserError

CLASS_GROUPS = ("wavlm_lightning.tasks", "wavlm_lightning.upstreams", "wavlm_lightning.objectives")
"""Entry-point groups of classes; an entry point has the name of its class, which can then be named without its module."""
CORPORA = "wavlm_lightning.corpora"
"""Entry-point group of corpus recipes, under any name."""

CONFIGS = ("-c", "--config", "--also")
"""Options whose values are YAML files."""


def config_paths(argv: Sequence[str]) -> list[Path]:
    """The files after `-c`, `--config` and `--also` that are there."""
    given = [after for word, after in pairwise(argv) if word in CONFIGS]
    given += [word.partition("=")[2] for word in argv if word.partition("=")[0] in CONFIGS]
    return [path for path in map(Path, given) if path.is_file()]


def make_importable(argv: Sequence[str]) -> None:
    """Let a command find the classes that it and its YAML files name without a module or in a module beside the YAML.

    A registered package is imported only if one of its names occurs.

    Args:
        argv: of `wavlm fit` and its kin.

    Raises:
        UserError: a registered class that is asked for cannot be imported.
    """
    paths = config_paths(argv)
    for folder in (str(path.resolve().parent) for path in paths):
        if folder not in sys.path:
            sys.path.insert(0, folder)
    points = [point for group in CLASS_GROUPS for point in entry_points(group=group)]
    if not points:
        return
    text = "\n".join([*argv, *(path.read_text(encoding="utf-8", errors="replace") for path in paths)])
    for point in points:
        if re.search(rf"(?<![\w.]){re.escape(point.name)}\b", text):
            found = load(point)
            if not inspect.isclass(found) or found.__name__ != point.name:
                raise UserError(
                    f"entry point {point.name!r} of {point.group} is {point.value}; a registered class goes by the name "
                    "of its class: mend the package's pyproject.toml"
                )


def load(point: EntryPoint) -> Any:
    """What an entry point names.

    Raises:
        UserError: it cannot be imported.
    """
    try:
        return point.load()
    except (ImportError, AttributeError) as error:
        package = point.dist.name if point.dist else point.module
        raise UserError(
            f"{point.name!r} is registered by {package} as {point.value}, which fails ({error}); mend or remove it"
        ) from error


def registered_corpora() -> dict[str, EntryPoint]:
    """Corpus recipes of installed packages, by name."""
    return {point.name: point for point in entry_points(group=CORPORA)}


def is_dotted(name: str) -> bool:
    """Whether it may be the path of a module or of what is in one.

    Example:
        >>> is_dotted("my_corpus.MyCorpus"), is_dotted("../corpus")
        (True, False)
    """
    return re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", name) is not None


def find_recipe(name: str) -> Any:
    """A corpus recipe by the dotted path of a module or class that has `HELP`, `add_arguments` and `plan`.

    Raises:
        UserError: there is none.
    """
    found = _import(name)
    lacks = [part for part in ("HELP", "add_arguments", "plan") if not hasattr(found, part)]
    if lacks:
        raise UserError(f"{name} is no corpus recipe: it has no {', '.join(lacks)}; see `wavlm new corpus NAME`")
    return found


def _import(name: str) -> ModuleType | type:
    """A module, or what is in one."""
    for module, attribute in ((name, ""), name.rpartition(".")[::2]):
        try:
            found = importlib.import_module(module) if module else None
        except ModuleNotFoundError as error:
            # Otherwise the user's own module is there, and what it imports is not: that deserves its traceback.
            if error.name is None or not (module == error.name or module.startswith(f"{error.name}.")):
                raise
            continue
        if found is not None and (not attribute or hasattr(found, attribute)):
            return getattr(found, attribute) if attribute else found
    raise UserError(
        f"{name}: no such module or class; it is looked for in the working directory and in what is installed"
    )
