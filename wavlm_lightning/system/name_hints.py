""" "Did you mean ...?": the nearest known name of an option, class, module or configuration file.

`nearest` is the package's only comparison of names. Importing this module is cheap: the command's first error needs it.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import pkgutil
import sys
import typing
from collections.abc import Iterable, Sequence
from pathlib import Path

from wavlm_lightning.system.plugins import import_by_path
from wavlm_lightning.system.shipped_configs import configs_folder

# Top-level options of `wavlm fit`, `validate`, `test` and `predict`; `trainer.X` and `model.X` are looked up in the classes.
OPTIONS = (
    "help", "config", "print_config", "seed_everything", "trainer", "model", "data", "also", "threads", "checkpoint_every",
    "keep_checkpoints", "recipe", "ckpt_path", "weights_only", "verbose", "return_predictions",
)  # fmt: skip


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of an error message, `; did you mean 'NAME'?`; empty if no known name is similar.

    Example:
        >>> nearest("max_step", ["max_steps", "max_time"])
        "; did you mean 'max_steps'?"
    """
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def of_option(path: str, owner: str | None) -> str:
    """Hint for an unknown option such as `trainer.max_step`; `owner` is the class whose argument it would be, if any."""
    names = path.split(".")
    if owner is None and names[0] == "trainer" and len(names) > 1:
        owner, names = "lightning.pytorch.Trainer", names[1:]
    if owner is None:
        return nearest(names[0], OPTIONS)
    holder = import_by_path(owner)
    while names[0] in parameters(holder) and len(names) > 1:
        holder, names = _type_of(holder, names[0]), names[1:]
    return nearest(names[0], [*parameters(holder), "class_path", "init_args"])


def of_class(name: str, known_classes: Sequence[type]) -> str:
    """Hint for an unknown class that is given without its module."""
    return nearest(name.rsplit(".", 1)[-1], [known.__name__ for known in known_classes])


def of_module(name: str) -> str:
    """Hint for a module that cannot be found, among the modules of the same package."""
    package, _, last = name.rpartition(".")
    try:
        places = importlib.import_module(package).__path__ if package else None
    except (ImportError, AttributeError):
        return ""
    return nearest(last, [module.name for module in pkgutil.iter_modules(places)])


def of_attribute(module: str, name: str) -> str:
    """Hint for a missing attribute of an imported module."""
    return nearest(name, dir(sys.modules[module])) if module in sys.modules else ""


def of_config(path: str) -> str:
    """Hint for a missing YAML file, among the files of its folder and the shipped configurations."""
    given = Path(path)
    if hint := nearest(given.name, [file.name for file in given.parent.glob("*.yaml")]):
        return hint
    folder = configs_folder()
    ours = [file.relative_to(folder.parent).as_posix() for file in folder.rglob("*.yaml")]
    asked = "/".join(given.parts[given.parts.index("configs") :]) if "configs" in given.parts else given.name
    return nearest(asked, ours)


def known_classes() -> list[type]:
    """Every imported class of ours or derived from ours, and Lightning's callbacks and loggers."""
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


def parameters(holder: type | None) -> list[str]:
    """Names of a class' constructor arguments, those of its bases included."""
    if holder is None:
        return []
    return [parameter for base in inspect.getmro(holder) for parameter in inspect.signature(base).parameters]


def _type_of(holder: type | None, parameter: str) -> type | None:
    """The class in the annotation of a constructor argument."""
    for base in inspect.getmro(holder) if holder is not None else ():
        hint = typing.get_type_hints(inspect.getattr_static(base, "__init__")).get(parameter)
        for choice in (hint, *typing.get_args(hint)):
            if inspect.isclass(choice) and choice is not type(None):
                return choice
    return None
