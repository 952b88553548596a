"""Lists of learning rates and seeds: taken out of the command line and its files, and put back one head at a time."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wavlm_lightning.system.errors import UserError

LISTED: dict[str, Callable[[Any], float | int]] = {"learning_rate": float, "seed": int}
"""Arguments of a task that may be lists, and what a value is."""


@dataclass(frozen=True)
class HeadLists:
    """What the heads of one task differ in.

    Attributes:
        values: by argument, its values; empty for one head.
    """

    values: dict[str, list[Any]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.values)

    def combined(self) -> list[dict[str, Any]]:
        """The product: arguments of each head; none for one head."""
        names = list(self.values)
        return [dict(zip(names, some, strict=True)) for some in itertools.product(*self.values.values())]

    def label(self, arguments: dict[str, Any], task: str = "") -> str:
        """What a head is called, and its folder.

        Args:
            arguments: one of `combined`.
            task: what the label begins with, where there are several tasks.
        """
        parts = [f"{name.replace('_', '-')}-{value!r}" for name, value in arguments.items()]
        return "-".join([task, *parts] if task else parts)

    def labels(self) -> list[str]:
        """Of all heads of the only task; none for one head."""
        return [self.label(arguments) for arguments in self.combined()] if self.values else []

    def put_back(self, model: dict[str, Any]) -> dict[str, Any]:
        """A model's block with the lists in it again.

        Args:
            model: without them.
        """
        return {**model, "init_args": {**model["init_args"], **self.values}}


def take_lists(argv: Sequence[str]) -> tuple[list[str], HeadLists]:
    """Replace lists of learning rates and seeds by their first values, so that a task's arguments stay plain numbers.

    Args:
        argv: a subcommand and its options; what comes later counts, as in LightningCLI.

    Returns:
        The same without lists (unchanged if there were none), and the lists.

    Raises:
        UserError: a list is empty, or has a value twice, or one that is no number.
    """
    found: dict[str, list[Any]] = {}
    left: list[str] = []
    words = iter(argv)
    for word in words:
        option, joined, value = word.partition("=")
        name = option.removeprefix("--model.").removeprefix("init_args.")
        if option not in ("-c", "--config") and (name not in LISTED or not option.startswith("--model.")):
            left.append(word)
            continue
        if not joined:
            value = next(words, "")
        changed = _in_file(value, found) if option in ("-c", "--config") else _in_option(name, value, found)
        left += [f"{option}={changed}"] if joined else [option, changed]
    return left, HeadLists({name: found[name] for name in LISTED if name in found})


def _in_option(name: str, value: str, found: dict[str, list[Any]]) -> str:
    found.pop(name, None)
    content = read_yaml(value)
    if not isinstance(content, list):
        return value
    found[name] = _values(name, content)
    return repr(found[name][0])


def _in_file(value: str, found: dict[str, list[Any]]) -> str:
    """A configuration's path; if it holds lists, its content without them, which the parser takes for a path as well."""
    path = Path(value)
    content = read_yaml(path.read_text()) if path.is_file() else None
    model = content.get("model") if isinstance(content, dict) else None
    return json.dumps(content) if isinstance(model, dict) and _in_model(model, found) else value


def lists_in(model: dict[str, Any]) -> HeadLists:
    """Take the lists out of a model's block, which keeps their first values.

    Args:
        model: changed.

    Raises:
        UserError: as for `take_lists`.
    """
    found: dict[str, list[Any]] = {}
    _in_model(model, found)
    return HeadLists({name: found[name] for name in LISTED if name in found})


def _in_model(model: dict[str, Any], found: dict[str, list[Any]]) -> bool:
    """Whether there were lists."""
    changed = False
    for arguments in (model.get("init_args"), model):
        for name in LISTED:
            if not isinstance(arguments, dict) or name not in arguments:
                continue
            found.pop(name, None)
            if isinstance(arguments[name], list):
                found[name] = _values(name, arguments[name])
                arguments[name], changed = found[name][0], True
    return changed


def _values(name: str, content: list[Any]) -> list[Any]:
    try:
        values = [LISTED[name](value) for value in content]
    except (TypeError, ValueError):
        raise UserError(f"model.{name}: {content} is not a list of numbers") from None
    if not values or len(set(values)) < len(values):
        raise UserError(f"model.{name}: {content} must name at least one value, and none twice")
    return values


def read_yaml(text: str) -> Any:
    """YAML as LightningCLI reads it (1e-3 is a number); None if it is none."""
    import yaml
    from jsonargparse import get_loader

    try:
        return get_loader("yaml")(text)
    except yaml.YAMLError:
        return None
