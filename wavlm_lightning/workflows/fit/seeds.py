"""The seed of a run, `seed_everything`, where its model, its data and their parts have no seed of their own.

Their random streams do not depend on torch's global one, which Lightning seeds. What a run was asked for stays in its
`config.yaml`: a seed that is null there is that of the run, also of another run that begins from this file.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any


def settle(config: Any, seed: Any) -> Any:
    """Put `seed` where a `seed` of model or data is null, in place, and return the configuration.

    A frozen part keeps null, which is its own default: an encoder with random weights, as a control, is the same in all runs.

    Args:
        config: `model` and `data`, of a command line (jsonargparse's Namespace) or of a file (dict); missing ones are skipped.
        seed: of the run; nothing is changed if it is null or false.
    """
    if seed is not None and not isinstance(seed, bool):
        for part in ("model", "data"):
            for arguments in _blocks(config.get(part)):
                if arguments.get("seed", seed) is None:
                    arguments["seed"] = seed
    return config


def adopt(config: Any, before: Mapping[str, Any]) -> Any:
    """Put the seeds of a run that goes on where those of `config` are null, in place, and return it.

    Args:
        config: as for `settle`.
        before: the content of the run's `config.yaml`; empty if there is none, and nothing is changed.
    """
    seeds = settle(copy.deepcopy(dict(before)), before.get("seed_everything"))
    for part in ("model", "data"):
        _adopt(config.get(part), seeds.get(part))
    return config


def _adopt(block: Any, before: Any) -> None:
    ours: Any
    theirs: Any
    ours, theirs = (each.get("init_args") if hasattr(each, "get") else None for each in (block, before))
    if not (hasattr(ours, "get") and hasattr(theirs, "get")):
        return
    for name, value in _items(ours):
        if name == "seed" and value is None and isinstance(theirs.get(name), int):  # a list is of several heads
            ours[name] = theirs[name]
        _adopt(value, theirs.get(name))


def _items(arguments: Any) -> list[tuple[str, Any]]:
    return list((arguments if isinstance(arguments, dict) else vars(arguments)).items())


def _blocks(block: Any) -> Iterator[Any]:
    """The arguments of a class and of the classes among them, but for those of frozen ones."""
    arguments: Any = block.get("init_args") if hasattr(block, "get") else None
    if not hasattr(arguments, "get") or arguments.get("frozen") is True:
        return
    yield arguments
    for _, value in _items(arguments):
        for each in value if isinstance(value, list) else [value]:
            yield from _blocks(each)
