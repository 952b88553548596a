"""What a check of `wavlm doctor` yields, and what several checks need to say it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from typing import Literal

Status = Literal["ok", "warn", "FAIL"]
REPAIR_PAIR = (
    "torch and torchaudio must be of one release and one build: put the tested pair back with "
    "`pip install --force-reinstall -c constraints.txt torch torchaudio` (or delete .venv and run `make install`)"
)


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's report."""

    check: str
    status: Status
    message: str


Check = Callable[[], Iterator[Finding]]


def installed_version(name: str) -> str | None:
    """The version in the metadata of an installed package, which is not imported; None if there is none."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def first_line(error: Exception) -> str:
    """What an error says, in one line of 200 characters at most; its type if it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
