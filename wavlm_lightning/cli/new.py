"""`wavlm new KIND NAME`: a file that runs as it is and is there to be changed, and the YAML that runs it."""

from __future__ import annotations

import argparse
import importlib.util
import keyword
import re
from pathlib import Path

from wavlm_lightning.system.errors import UserError

TEMPLATES = Path(__file__).parent / "templates"
KINDS: dict[str, str] = {
    "task": "a head with its loss and metric",
    "upstream": "an encoder to compare with",
    "objective": "a term of the pre-training loss",
    "corpus": "a recipe for `wavlm prepare`",
}
"""What can be made; each has its files in `templates`, where it is called `my_KIND`."""


def main(argv: list[str]) -> int:
    """Parse and run."""
    arguments = build_parser().parse_args(argv)
    written = write(arguments.kind, arguments.name, Path.cwd())
    print(f"made {' and '.join(path.name for path in written)}; next:")
    for line in next_commands(written[-1]):
        print(f"  {line}")
    return 0


def build_parser() -> argparse.ArgumentParser:
    """The parser of `wavlm new`."""
    kinds = "; ".join(f"{kind}: {text}" for kind, text in KINDS.items())
    parser = argparse.ArgumentParser(
        prog="wavlm new",
        description="Write NAME.py, which runs as it is on the mini corpus, and NAME.yaml into the current folder. "
        f"Nothing is to be installed or registered. {kinds}.",
    )
    parser.add_argument("kind", choices=KINDS, metavar="KIND", help=", ".join(KINDS))
    parser.add_argument("name", metavar="NAME", help="name of the module, such as my_task; its class is then MyTask")
    return parser


def write(kind: str, name: str, folder: Path) -> list[Path]:
    """Write the files of a kind.

    Args:
        kind: a key of `KINDS`.
        name: of the module.
        folder: where.

    Returns:
        The Python file, and the YAML if the kind has one.

    Raises:
        UserError: the name is no module name or already one, or a file is there.
    """
    check_name(name)
    sources = [path for ending in (".py", ".yaml") if (path := TEMPLATES / f"{kind}{ending}").is_file()]
    targets = [folder / f"{name}{source.suffix}" for source in sources]
    for target in targets:
        if target.exists():
            raise UserError(f"{target.name} is already here; choose another name, or remove it")
    if importlib.util.find_spec(name) is not None:
        raise UserError(f"{name}: a module of that name is already importable and would be hidden; choose another name")
    for source, target in zip(sources, targets, strict=True):
        target.write_text(renamed(source.read_text(encoding="utf-8"), kind, name), encoding="utf-8")
    return targets


def check_name(name: str) -> None:
    """Refuse what `import` could not name.

    Raises:
        UserError: it says what would do.
    """
    if re.fullmatch(r"[a-z][a-z0-9_]*", name) and not keyword.iskeyword(name):
        return
    better = re.sub(r"\W+|(?<=[a-z0-9])(?=[A-Z])", "_", name.removesuffix(".py")).strip("_").lower()
    usable = re.fullmatch(r"[a-z][a-z0-9_]*", better) and not keyword.iskeyword(better)
    hint = f"take {better}" if usable else "begin with a letter, and go on with letters, digits and _"
    raise UserError(f"{name!r} cannot be the name of a module; {hint}")


def class_name(name: str) -> str:
    """Of the class in a module.

    Example:
        >>> class_name("age_of_speaker")
        'AgeOfSpeaker'
    """
    return "".join(part.capitalize() for part in name.split("_"))


def renamed(text: str, kind: str, name: str) -> str:
    """A template with the user's name in the places of its own."""
    template = f"my_{kind}"
    for old, new in (
        (class_name(template), class_name(name)),
        (template.upper(), name.upper()),
        (template, name),
    ):
        text = re.sub(rf"(?<![A-Za-z0-9]){old}(?![a-z0-9])", new, text)
    return text


def next_commands(path: Path) -> list[str]:
    """The commands in the first lines of a file."""
    lines = (line.strip("# ") for line in path.read_text(encoding="utf-8").splitlines()[:12])
    return [line for line in lines if line.startswith("wavlm ")]
