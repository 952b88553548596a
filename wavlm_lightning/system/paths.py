"""Folders outside the working directory, and names from files of others that become file names."""

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from wavlm_lightning.system.errors import UserError

LONGEST = 180  # bytes of a name: endings such as `.index.json` and the temporary name must fit a file system's 255


def cache_directory() -> Path:
    """The user's cache folder: $WAVLM_CACHE, or `wavlm_lightning` in $XDG_CACHE_HOME or ~/.cache; it may not exist."""
    if own := os.environ.get("WAVLM_CACHE"):
        return Path(own).expanduser().absolute()
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home).expanduser().absolute() / "wavlm_lightning"


def plain_name(name: object, where: str, remedy: str, ending: str = "") -> str:
    """`name`, if it can only be the name of a file in the folder that it is joined to.

    The one check of names from a `corpus.json`, a manifest or a server. A plain name begins with a letter, a digit or `_`,
    and goes on with these, blanks and `.+=@,-`: no separators of any system, no `..`, drives, control characters or NUL.

    Args:
        name: what the file says.
        where: for the message: which file says it.
        remedy: for the message: what to do.
        ending: that the name must have, such as `.tar`.

    Raises:
        UserError: it is no plain name, or has more than 180 bytes.

    Example:
        >>> plain_name("train-000000.tar", "corpus.json", "prepare it again", ".tar")
        'train-000000.tar'
    """
    if not isinstance(name, str) or re.fullmatch(r"\w(?:[\w .+=@,-]*[\w+=@,-])?", name) is None:
        raise UserError(f"{where} contains {_shown(name)}, which is not a plain file name; {remedy}")
    if len(name.encode("utf-8", "surrogatepass")) > LONGEST:
        raise UserError(f"{where} contains a name of more than {LONGEST} bytes, {_shown(name)}; {remedy}")
    if not name.endswith(ending):
        raise UserError(f"{where} contains {_shown(name)} where a name that ends with {ending} belongs; {remedy}")
    return name


def unique_names(names: Sequence[str], taken: Iterable[str] = (), case_counts: bool = False) -> list[str]:
    """The names with a number behind those that came before: two names that were made safe may have become one.

    Every place that replaces characters of names from outside (files, recordings of RTTM, artefacts) ends here.

    Args:
        names: in order; the first of equal ones stays as it is.
        taken: names that none may have.
        case_counts: whether names that differ in capital letters alone are two; they are one file on some systems.

    Example:
        >>> unique_names(["talk", "Talk", "talk-2"])
        ['talk', 'Talk-2', 'talk-2-2']
    """
    folded = str if case_counts else str.casefold
    used = {folded(name) for name in taken}
    found = []
    for wanted in names:
        name, number = wanted, 1
        while folded(name) in used:
            number += 1
            name = f"{wanted}-{number}"
        used.add(folded(name))
        found.append(name)
    return found


def _shown(name: object) -> str:
    text = ascii(name)
    return text if len(text) <= 80 else f"{text[:77]}..."


def is_file(path: Path) -> bool:
    """Whether a path is a file; also for a text that is too long for a name, such as a configuration given as text."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False
