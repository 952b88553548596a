"""`wavlm new`: a Python file with a working class to change, and the YAML that runs it.

The templates are in `templates/`, one or two files a kind; they run as they are on the mini corpus. Tests:
`tests/workflows/test_new.py` and `test_plugins.py`.
"""

from __future__ import annotations

import importlib.util
import keyword
import re
from pathlib import Path

from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.files import check_output, write_text

TEMPLATES = Path(__file__).parent / "templates"
KINDS = {  # kind of file -> description; the template of each uses the name `my_KIND`
    "task": "a head with its loss and metric",
    "upstream": "an encoder to compare with",
    "objective": "a term of the pre-training loss",
    "corpus": "a recipe for `wavlm prepare`",
}


def write_template(kind: str, name: str, folder: Path) -> list[Path]:
    """Write `NAME.py`, and `NAME.yaml` if the kind has one.

    Args:
        kind: a key of `KINDS`.
        name: name of the module; the class is called `class_name(name)`.
        folder: where the files go.

    Returns:
        The Python file, then the YAML.

    Raises:
        UserError: the name cannot be used, or one of the files exists.
    """
    check_output(folder, "the current folder")
    check_name(name)
    # A corpus needs no YAML.
    sources = [path for ending in (".py", ".yaml") if (path := TEMPLATES / f"{kind}{ending}").is_file()]
    targets = [folder / f"{name}{source.suffix}" for source in sources]
    for target in targets:
        if target.exists():
            raise UserError(f"{target.name} is already here; choose another name, or remove it")
    if importlib.util.find_spec(name) is not None:
        raise UserError(f"{name}: a module of that name is already importable and would be hidden; choose another name")
    for source, target in zip(sources, targets, strict=True):
        write_text(target, renamed(source.read_text(encoding="utf-8"), kind, name))
    return targets


def check_name(name: str) -> None:
    """Raise a `UserError`, with a name that can be used, if `import` cannot use this one."""
    if re.fullmatch(r"[a-z][a-z0-9_]*", name) and not keyword.iskeyword(name):
        return
    better = re.sub(r"\W+|(?<=[a-z0-9])(?=[A-Z])", "_", name.removesuffix(".py")).strip("_").lower()
    usable = re.fullmatch(r"[a-z][a-z0-9_]*", better) and not keyword.iskeyword(better)
    hint = f"take {better}" if usable else "begin with a letter, and go on with letters, digits and _"
    raise UserError(f"{name!r} cannot be the name of a module; {hint}")


def class_name(name: str) -> str:
    """Name of the class in a module: `AgeOfSpeaker` in `age_of_speaker`."""
    return "".join(part.capitalize() for part in name.split("_"))


def renamed(text: str, kind: str, name: str) -> str:
    """A template's text with `my_KIND`, `MyKind` and `MY_KIND` replaced by the user's name."""
    template = f"my_{kind}"
    for old, new in ((class_name(template), class_name(name)), (template.upper(), name.upper()), (template, name)):
        text = re.sub(rf"(?<![A-Za-z0-9]){old}(?![a-z0-9])", new, text)
    return text


def next_commands(path: Path) -> list[str]:
    """The `wavlm` commands in the first lines of a written file."""
    lines = (line.strip("# ") for line in path.read_text(encoding="utf-8").splitlines()[:12])
    return [line for line in lines if line.startswith("wavlm ")]
