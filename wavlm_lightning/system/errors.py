"""`UserError`: the exception that a user sees as a single sentence."""

from __future__ import annotations

import re
import tomllib
from importlib import metadata
from pathlib import Path

LONGEST = 500  # characters of a message: what is longer holds a value that nobody reads to its end
LAST_LINE = re.compile(r"\n[A-Za-z_][\w.]*: ")  # of a traceback: the type of the exception, before its message


class UserError(Exception):
    """An error that the user can correct: the message says what is wrong, where, and what to do.

    The `wavlm` command prints the message alone and exits with status 2; other exceptions leave a log with their traceback.
    The message becomes one line; a long one loses its middle, because the file stands at its beginning, the remedy at its end.

    Example:
        >>> raise UserError("corpus.json not found in data/x; make the corpus with `wavlm prepare folder DIR --out data/x`")
        Traceback (most recent call last):
        wavlm_lightning.system.errors.UserError: corpus.json not found in data/x; ...
    """

    def __init__(self, message: object = "") -> None:
        super().__init__(one_line(str(message)))


def one_line(text: str, longest: int = LONGEST) -> str:
    """A message on one line of at most `longest` characters: line breaks become blanks, control characters are shown.

    Example:
        >>> one_line("a\\n  b" + "c" * 90, longest=20)
        'a bccccc ... ccccccc'
    """
    if text.startswith("Caught ") and "Original Traceback" in text:
        text = LAST_LINE.split(text)[-1]  # a DataLoader's worker sends the whole traceback as the message
    text = re.sub(r"[^\S ]+ *| *[\r\n]+ *", " ", text.strip())
    text = "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)
    if len(text) <= longest:
        return text
    end = longest // 3 + 1
    return f"{text[: longest - end - 5]} ... {text[-end:]}"


def pip_install(extra: str) -> str:
    """The command that installs what an extra of this package needs, from a checkout, a wheel or neither.

    It names the packages and not `wavlm_lightning[...]`, which pip finds only where the package itself came from.

    Example:
        >>> pip_install("onnx")
        "pip install 'onnx>=1.20' 'onnxruntime>=1.23' 'onnxscript>=0.6' (extra [onnx])"
    """
    found = [f"'{each}'" for each in _needed(extra)]
    return (
        f"pip install {' '.join(found)} (extra [{extra}])"
        if found
        else f"install the extra [{extra}] of wavlm_lightning"
    )


def _needed(extra: str) -> list[str]:
    """The requirements of an extra: of a checkout those in its pyproject.toml, which may be newer than its installation."""
    try:
        text = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
        project = tomllib.loads(text)["project"]
        if project["name"] == "wavlm_lightning":
            return list(project["optional-dependencies"].get(extra, []))
    except (OSError, ValueError, KeyError):
        pass  # installed from a wheel, or beside something else
    try:
        lines = metadata.requires("wavlm_lightning") or []
    except metadata.PackageNotFoundError:  # imported from a folder
        lines = []
    named = re.compile(rf"""^(.+?)\s*;\s*extra\s*==\s*['"]{re.escape(extra)}['"]$""")
    return [match[1] for line in lines if (match := named.match(line)) is not None]
