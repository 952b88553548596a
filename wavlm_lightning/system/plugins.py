"""Classes from outside the package: beside a YAML, in the working directory, or registered by an installed package.

`import_by_path` is the package's only import by dotted path.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import inspect
import json
import os
import re
from collections.abc import Iterable, Sequence
from importlib.metadata import EntryPoint, entry_points
from itertools import pairwise
from pathlib import Path
from typing import Any

from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.files import write_json
from wavlm_lightning.system.paths import cache_directory, is_file
from wavlm_lightning.system.user_modules import open_for, opened_folders

# Entry-point groups of classes. An entry point has its class' name, which a YAML can then give without the module.
CLASS_GROUPS = ("wavlm_lightning.tasks", "wavlm_lightning.upstreams", "wavlm_lightning.objectives")
CORPORA = "wavlm_lightning.corpora"  # entry-point group of corpus recipes, under any name
CONFIGS = ("-c", "--config", "--also")  # options whose values are YAML files


def config_paths(argv: Sequence[str]) -> list[Path]:
    """The existing files among the values of `-c`, `--config` and `--also`."""
    given = [after for word, after in pairwise(argv) if word in CONFIGS]
    given += [word.partition("=")[2] for word in argv if word.partition("=")[0] in CONFIGS]
    return [path for path in map(Path, given) if is_file(path)]


def make_importable(argv: Sequence[str]) -> None:
    """Make the modules importable that a command's class paths name, and import the registered classes that it names.

    Modules are looked for beside the YAML files, the last of them first, and in the working directory, each after what is
    installed (`system.user_modules`). A registered package is imported only if one of its names occurs in the options or in
    the YAML files.
    """
    paths = config_paths(argv)
    folders = [path.resolve().parent for path in reversed(paths)]
    # The configuration of a run that was trained with modules from elsewhere.
    folders += [folder for parent in [*folders] for folder in class_folders(parent)]
    text = "\n".join([*argv, *_texts([*paths, *yaml_files(argv, folders)])])
    open_class_paths(text, folders)
    registered = entry_points()  # once: it reads the metadata of all that is installed
    points = [point for group in CLASS_GROUPS for point in registered.select(group=group)]
    for point in points:
        if re.search(rf"(?<![\w.]){re.escape(point.name)}\b", text):
            found = load(point)
            if not inspect.isclass(found) or found.__name__ != point.name:
                raise UserError(
                    f"entry point {point.name!r} of {point.group} is {point.value}, but must have the name of its class; "
                    "correct the package's pyproject.toml"
                )


def yaml_files(words: Iterable[str], folders: Sequence[Path]) -> list[Path]:
    """The existing YAML files that words, or the values of options, name, in the working directory or one of `folders`."""
    found: list[Path] = []
    for word in words:
        name = word.rpartition("=")[2]
        if name.endswith((".yaml", ".yml")) and "\0" not in name:
            found += [path for folder in (Path(), *folders) if (path := folder / name).is_file()][:1]
    return found


def _texts(paths: Sequence[Path]) -> list[str]:
    """The content of YAML files, and of those that they name (`model: other.yaml`)."""
    texts: dict[Path, str] = {}
    waiting = list(paths)
    while waiting:
        path = waiting.pop().resolve()
        if path not in texts:
            texts[path] = path.read_text(encoding="utf-8", errors="replace")
            waiting += yaml_files(re.findall(r"[^\s\"',\[\]{}:]+\.ya?ml\b", texts[path]), [path.parent])
    return list(texts.values())


def remember_class_folders(run: Path) -> None:
    """Note where the user's modules were found that a run was trained with, for `class_folders`.

    The note is in the user's cache and not in the run, because a run may come from somebody else, who must not be able to
    say what is imported. Without a cache that can be written there is no note.
    """
    if folders := opened_folders():
        with contextlib.suppress(OSError, UserError):
            note = _note(run)
            note.parent.mkdir(parents=True, exist_ok=True)
            write_json(note, {"run": str(run.resolve()), "folders": [str(each) for each in folders]}, durable=False)


def class_folders(run: Path) -> list[Path]:
    """The folders of the user's modules that a run was trained with, if it was trained with this cache, at this place."""
    try:
        content = json.loads(_note(run).read_text(encoding="utf-8"))
        return [Path(folder) for folder in content["folders"]] if content["run"] == str(run.resolve()) else []
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _note(run: Path) -> Path:
    name = hashlib.sha256(os.fsencode(run.resolve())).hexdigest()[:24]
    return cache_directory() / "class_folders" / f"{name}.json"


def open_class_paths(text: str, folders: Sequence[Path] = ()) -> None:
    """Let the modules be imported that dotted paths in a text name, from these folders or the working directory."""
    for path in sorted(set(re.findall(r"(?<![\w./-])[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+", text))):
        open_for(path, [*folders, Path.cwd()])


def load(point: EntryPoint) -> Any:
    """Import what an entry point names."""
    try:
        return point.load()
    except (ImportError, AttributeError) as error:
        package = point.dist.name if point.dist else point.module
        raise UserError(
            f"{point.name!r} is registered by {package} as {point.value}, which fails ({error}); fix or remove that package"
        ) from error


def registered_corpora() -> dict[str, EntryPoint]:
    """Corpus recipes of installed packages, by name."""
    return {point.name: point for point in entry_points(group=CORPORA)}


def is_dotted(name: str) -> bool:
    """Whether a name has the form of a dotted path of a module or class.

    Example:
        >>> is_dotted("my_corpus.MyCorpus"), is_dotted("../corpus")
        (True, False)
    """
    return re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", name) is not None


def find_recipe(name: str) -> Any:
    """A corpus recipe by dotted path: a module or class with `HELP`, `add_arguments` and `plan`."""
    found = import_by_path(name)
    missing = [part for part in ("HELP", "add_arguments", "plan") if not hasattr(found, part)]
    if missing:
        raise UserError(f"{name} is not a corpus recipe: it lacks {', '.join(missing)}; see `wavlm new corpus NAME`")
    return found


def import_by_path(path: str) -> Any:
    """Import a module (`my_task`), or an attribute of a module (`my_task.MyTask`), by its dotted path.

    Raises:
        UserError: there is no such module or attribute.
        ModuleNotFoundError: the module exists and imports one that does not.

    Example:
        >>> import_by_path("math.pi")
        3.141592653589793
    """
    open_for(path, [Path.cwd()])
    parent, _, attribute = path.rpartition(".")
    for module, name in ((path, ""), (parent, attribute)):
        if not module:
            continue
        try:
            found = importlib.import_module(module)
        except ModuleNotFoundError as error:
            # Only a missing part of the path itself is the user's typo; what the module imports needs its traceback.
            if error.name is None or not (module == error.name or module.startswith(f"{error.name}.")):
                raise
            continue
        if not name:
            return found
        if hasattr(found, name):
            return getattr(found, name)
    raise UserError(
        f"{path}: no such module or class; it is looked for in the working directory and in what is installed"
    )
