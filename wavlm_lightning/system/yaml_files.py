"""The package's only reading of YAML: with a bound on what its aliases grow to, which a text of 1 kB can bring to terabytes.

An alias (`*name`) costs the text a few bytes, and everybody who copies, merges or prints the value all that it stands for.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.reading import read_text, reading, reason_of

DEEPEST = 100  # collections within each other: the parser in C overruns the stack somewhere beyond
# In C it takes a tenth of the time; both make the same values.
LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
GROWTH, FREE = 10, 100_000  # what aliases may bring: this many times the text, and this many characters more


class Multiplying(UserError):
    """A YAML text whose aliases grow beyond the bound, or that contain themselves."""


def parse_yaml(text: str, loader: Any = LOADER) -> Any:
    """The value of a YAML text.

    Args:
        text: the text.
        loader: a class that derives from PyYAML's `SafeLoader` or `CSafeLoader`.

    Raises:
        Multiplying: its aliases grow too large.
        yaml.YAMLError: it is not YAML.
    """
    check_aliases(text)
    return yaml.load(text, Loader=loader)


def check_aliases(text: str) -> None:
    """Refuse a text whose aliases, each written out, grow beyond the bound; the values are not made for it.

    Raises:
        Multiplying: they do.
        yaml.YAMLError: it is not YAML, or nested too deeply.
    """
    most = GROWTH * len(text) + FREE
    sizes: dict[str, int] = {}  # anchor -> characters of its value, written out
    sums = [0]  # of the collections that are open
    anchors: list[str | None] = []
    for event in yaml.parse(text, Loader=LOADER):
        if isinstance(event, yaml.AliasEvent):
            if event.anchor in anchors:
                raise Multiplying(f"the alias *{event.anchor} stands inside its own value; write the value out")
            sums[-1] += sizes.get(str(event.anchor), 0)  # an unknown one is the parser's business
        elif isinstance(event, yaml.ScalarEvent):
            size = len(event.value) + 1
            sums[-1] += size
            if event.anchor is not None:
                sizes[event.anchor] = size
        elif isinstance(event, yaml.CollectionStartEvent):
            sums.append(1)
            anchors.append(event.anchor)
            if len(anchors) > DEEPEST:
                raise yaml.YAMLError("nested too deeply")
        elif isinstance(event, yaml.CollectionEndEvent):
            size, anchor = sums.pop(), anchors.pop()
            sums[-1] += size
            if anchor is not None:
                sizes[anchor] = size
        if sums[-1] > most:
            raise Multiplying(
                f"its aliases (*name) stand for more than {most:,} characters, written out, in a text of {len(text):,}; "
                "write out what is needed"
            )


def read_yaml(path: Path, what: str, remedy: str = "correct it there", kind: type = object) -> Any:
    """The content of a YAML file, of the type `kind`.

    Raises:
        UserError: the file is missing, no regular file, not UTF-8, or not YAML; or its aliases grow too large.
    """
    text = read_text(path, what)
    with reading(path, what, remedy):
        try:
            content = parse_yaml(text)
        except Multiplying as error:
            raise UserError(f"{path}: {error}") from error
        except yaml.YAMLError as error:
            raise UserError(f"{path}: not readable as YAML ({reason_of(error)}); {remedy}") from error
        if not isinstance(content, kind):
            raise TypeError(f"it holds {type(content).__name__}, not {kind.__name__}")
        return content
