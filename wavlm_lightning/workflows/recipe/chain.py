"""Pre-training configurations by name, and the chain of them that a codebook needs."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from wavlm_lightning.pretraining.recipe import CodebookRecipe, Recipe
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.shipped_configs import configs_folder, resolve_config


@dataclass(frozen=True)
class RecipeStage:
    """One pre-training of a recipe, with the codebook that it needs before.

    Attributes:
        name: of the file, without suffix; no two stages of a chain share it.
        path: the YAML file.
        content: what is in it.
        recipe: its section `recipe`.
    """

    name: str
    path: Path
    content: dict[str, Any]
    recipe: Recipe


def chain(name: str) -> list[RecipeStage]:
    """The configurations to train one after the other: each labels its corpus with the encoder before it.

    Args:
        name: of a file in `configs/pretrain` (`wavlm_base`), or a path ending in `.yaml`.

    Returns:
        First stage first; the last is the one asked for.

    Raises:
        UserError: a file is missing or no YAML, its section `recipe` is missing or wrong, or the codebooks go in a
            circle.
    """
    stages: list[RecipeStage] = []
    path = _find(name, None)
    while True:
        stage = _read(path)
        if any(stage.name == later.name for later in stages):
            raise UserError(
                f"{path}: the chain of recipe.codebook.encoder comes to {stage.name!r} twice; let its codebooks start from "
                "MFCC (encoder: null), and give every configuration a file name of its own"
            )
        stages.insert(0, stage)
        codebook = stage.recipe.codebook
        if codebook is None or codebook.encoder is None:
            return stages
        path = _find(codebook.encoder, path)


def _find(name: str, named_in: Path | None) -> Path:
    """The file of a name or path; a path may be relative to the file that names it."""
    if not name.endswith(".yaml"):
        folder = configs_folder() / "pretrain"
        path = folder / f"{name}.yaml"
        if path.is_file():
            return path
        known = ", ".join(sorted(each.stem for each in folder.glob("*.yaml")))
        asked = f"{named_in}: recipe.codebook.encoder names" if named_in else "there is"
        raise UserError(
            f"{asked} no pre-training configuration {name!r}; take one of {known}, or a path ending in .yaml"
        )
    path = Path(resolve_config(name))
    beside = named_in.parent / name if named_in else path
    for candidate in (path, beside):
        if candidate.is_file():
            return candidate
    raise UserError(f"{named_in or name}: the configuration {name} does not exist; give the path of a YAML file")


def _read(path: Path) -> RecipeStage:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        where = getattr(getattr(error, "problem_mark", None), "line", None)
        line = "" if where is None else f" at line {where + 1}"
        raise UserError(f"{path} is not readable as YAML{line}; correct it there") from error
    if not isinstance(content, dict) or not isinstance(content.get("recipe"), dict):
        raise UserError(
            f"{path} has no section `recipe`; add `recipe: {{hours: HOURS OF THE CORPUS, gpus: 8, gpu: a100, "
            "codebook: {clusters: 100}}`, or `codebook: null` if it needs no labels"
        )
    recipe: Recipe = _build(Recipe, content["recipe"], f"{path}: recipe")
    for key, value in (("hours", recipe.hours), ("gpus", recipe.gpus)):
        if value <= 0:
            raise UserError(f"{path}: recipe.{key} must be above 0, not {value}")
    if recipe.codebook is not None:
        _check_codebook(recipe.codebook, path)
    return RecipeStage(path.stem, path, content, recipe)


def _check_codebook(codebook: CodebookRecipe, path: Path) -> None:
    if codebook.encoder is not None and codebook.checkpoint is not None:
        raise UserError(
            f"{path}: recipe.codebook has both encoder and checkpoint; give the one whose layer is clustered"
        )
    if (codebook.encoder is None and codebook.checkpoint is None) != (codebook.layer is None):
        raise UserError(
            f"{path}: recipe.codebook needs a layer with encoder or checkpoint; give both, or neither for MFCC"
        )
    if not 0 < codebook.share <= 1:
        raise UserError(f"{path}: recipe.codebook.share must lie between 0 and 1, not {codebook.share}")
    for key in ("clusters", "layer", "restarts"):
        value = getattr(codebook, key)
        if value is not None and value < 1:
            raise UserError(f"{path}: recipe.codebook.{key} must be 1 or more, not {value}")


def _build(kind: type, values: Mapping[str, Any], where: str) -> Any:
    """A dataclass from a YAML mapping, nested ones as well; types are checked, int passes for float."""
    fields = {field.name: field for field in dataclasses.fields(kind)}
    types = typing.get_type_hints(kind)
    for key in values:
        if key not in fields:
            raise UserError(f"{where} has no key {key!r}; it knows {', '.join(fields)}")
    built = {}
    for name, field in fields.items():
        if name not in values:
            if field.default is dataclasses.MISSING:
                raise UserError(f"{where} lacks {name!r}; add it")
            continue
        value, choices = values[name], typing.get_args(types[name]) or (types[name],)
        nested = next((choice for choice in choices if dataclasses.is_dataclass(choice)), None)
        if nested is not None and isinstance(value, Mapping):
            value = _build(typing.cast(type, nested), value, f"{where}.{name}")
        elif float in choices and type(value) is int:
            value = float(value)
        elif type(value) not in choices:
            names = {type(None): "null", nested: "keys with values"}
            expected = " or ".join(names.get(choice, choice.__name__) for choice in choices)
            raise UserError(f"{where}.{name} must be {expected}, not {value!r}")
        built[name] = value
    return kind(**built)
