"""jsonargparse's nested complaints, as one sentence with the nearest name that exists."""

from __future__ import annotations

import difflib
import importlib
import inspect
import re

NOISE = re.compile(
    r"^$|NoneType|Subtypes:|Errors:|Given value|Does not validate against|Expected a path but .* either not accessible"
)


def one_sentence(text: str, known_classes: list[type]) -> str:
    """The innermost complaint, after the keys that lead to it.

    Args:
        text: the parser's message.
        known_classes: whose short names may be meant where a class is not found.

    Example:
        >>> one_sentence('Parser key "model":\\n  Parser key "lr":\\n    Expected a number', [])
        'model, lr: Expected a number'
    """
    lines = [line.strip().removeprefix("- ") for line in text.splitlines()]
    lines = [line for line in lines if not NOISE.search(line)]
    place, owner, complaint = "", None, lines[-1] if lines else text.strip()
    for line in lines:
        if key := re.fullmatch(r'Parser key "([^"]+)":', line):
            place += f"{', ' if place else ''}{key[1]}"
        elif path := re.fullmatch(r"Problem with given class_path '([^']+)':", line):
            owner = path[1]
            place += f" ({owner.rsplit('.', 1)[-1]})"
        else:
            complaint = line
            break
    sentence = f"{place}: {complaint}" if place else complaint
    return sentence + _suggestion(complaint, owner, known_classes)


def _suggestion(complaint: str, owner: str | None, known_classes: list[type]) -> str:
    if option := re.search(r"Option '([\w.]+)' is not accepted", complaint):
        return _nearest(option[1], _parameters(owner))
    if name := re.search(r"Expected a dot import path string: (\S+)", complaint):
        return _nearest(name[1], [known.__name__ for known in known_classes])
    if argument := re.search(r"unrecognized arguments: --trainer\.(\w+)", complaint):
        return _nearest(argument[1], _parameters("lightning.pytorch.Trainer"))
    return ""


def _parameters(class_path: str | None) -> list[str]:
    """Names of the arguments of a class, its bases' included."""
    if class_path is None:
        return []
    module, name = class_path.rsplit(".", 1)
    owner = getattr(importlib.import_module(module), name)
    return [parameter for base in inspect.getmro(owner) for parameter in inspect.signature(base).parameters]


def _nearest(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name.rsplit(".", 1)[-1], known, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
