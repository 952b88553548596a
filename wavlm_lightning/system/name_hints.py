"""Which name may have been meant: of an option, a class, a module or a configuration."""

from __future__ import annotations

import difflib
import importlib
import inspect
import pkgutil
import sys
import typing
from collections.abc import Iterable, Sequence
from pathlib import Path

from wavlm_lightning.system.shipped_configs import configs_folder

OPTIONS = (
    "help",
    "config",
    "print_config",
    "seed_everything",
    "trainer",
    "model",
    "data",
    "also",
    "checkpoint_every",
    "recipe",
    "ckpt_path",
    "weights_only",
    "verbose",
    "return_predictions",
)
"""Of `wavlm fit` and its kin, without what lies below them."""


def nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'NAME'?`, or nothing if no name is near.

    Example:
        >>> nearest("max_step", ["max_steps", "max_time"])
        "; did you mean 'max_steps'?"
    """
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def of_option(path: str, owner: str | None) -> str:
    """For an option that is not there.

    Args:
        path: such as `trainer.max_step`.
        owner: dotted path of the class below whose key it stands; None at the top.
    """
    names = path.split(".")
    if owner is None and names[0] == "trainer" and len(names) > 1:
        owner, names = "lightning.pytorch.Trainer", names[1:]
    if owner is None:
        return nearest(names[0], OPTIONS)
    holder = _import(owner)
    while names[0] in parameters(holder) and len(names) > 1:
        holder, names = _type_of(holder, names[0]), names[1:]
    return nearest(names[0], [*parameters(holder), "class_path", "init_args"])


def of_class(name: str, known_classes: Sequence[type]) -> str:
    """For a class given without its module."""
    return nearest(name.rsplit(".", 1)[-1], [known.__name__ for known in known_classes])


def of_module(name: str) -> str:
    """For a module that cannot be found: of those beside it."""
    package, _, last = name.rpartition(".")
    try:
        places = importlib.import_module(package).__path__ if package else None
    except (ImportError, AttributeError):
        return ""
    return nearest(last, [module.name for module in pkgutil.iter_modules(places)])


def of_attribute(module: str, name: str) -> str:
    """For what a module does not have."""
    return nearest(name, dir(sys.modules[module])) if module in sys.modules else ""


def of_config(path: str) -> str:
    """For a YAML that is not there: of those that we publish, and of those in its folder."""
    given = Path(path)
    beside = {file.name: str(file) for file in given.parent.glob("*.yaml")}
    if near := difflib.get_close_matches(given.name, beside, n=1):
        return f"; did you mean {near[0]!r}, which is there?"
    folder = configs_folder()
    ours = [file.relative_to(folder.parent).as_posix() for file in folder.rglob("*.yaml")]
    asked = "/".join(given.parts[given.parts.index("configs") :]) if "configs" in given.parts else given.name
    return nearest(asked, ours)


def known_classes() -> list[type]:
    """Every class of ours, or derived from ours, that has been imported, and Lightning's callbacks and loggers."""
    import lightning.pytorch as pl
    import torch
    from lightning.pytorch.loggers import Logger

    known: list[type] = []
    pending: list[type] = [pl.LightningModule, pl.LightningDataModule, torch.nn.Module, pl.Callback, Logger]
    while pending:
        parent = pending.pop()
        children: list[type] = parent.__subclasses__()
        if not issubclass(parent, pl.Callback | Logger):
            children = [child for child in children if not child.__module__.startswith(("torch", "lightning"))]
        known += children
        pending += children
    return known


def _import(path: str) -> type | None:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name, None)


def parameters(holder: type | None) -> list[str]:
    """Names of the arguments of a class, its bases' included."""
    if holder is None:
        return []
    return [parameter for base in inspect.getmro(holder) for parameter in inspect.signature(base).parameters]


def _type_of(holder: type | None, parameter: str) -> type | None:
    """The class that an argument is annotated with."""
    for base in inspect.getmro(holder) if holder is not None else ():
        hint = typing.get_type_hints(inspect.getattr_static(base, "__init__")).get(parameter)
        for choice in (hint, *typing.get_args(hint)):
            if inspect.isclass(choice) and choice is not type(None):
                return choice
    return None
