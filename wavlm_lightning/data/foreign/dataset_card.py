"""What the card of a Hugging Face data set says (the YAML head of its README.md): licence, files of each split, class names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wavlm_lightning.data.label_sets import COLUMNS
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.reading import read_text, reading
from wavlm_lightning.system.yaml_files import Multiplying, parse_yaml


@dataclass(frozen=True)
class DatasetCard:
    """The card of a data set.

    Attributes:
        licence: as the card says it; None if it does not.
        configs: name of a configuration -> split -> patterns of its files.
        default: name of the configuration that is used if none is asked for; None if there is none.
        features: name of a configuration -> class names of its columns.
    """

    licence: str | None = None
    configs: Mapping[str, Mapping[str, list[str]]] = field(default_factory=dict)
    default: str | None = None
    features: Mapping[str, Mapping[str, list[str]]] = field(default_factory=dict)


def read_card(folder: Path) -> DatasetCard:
    """The card of a folder; an empty one if it has none. `UserError` if its head is no YAML."""
    path = folder / "README.md"
    if not path.is_file():
        return DatasetCard()
    text = read_text(path, "the card of a data set")
    if not text.startswith("---"):
        return DatasetCard()
    with reading(path, "the card of a data set", "correct it, or remove it"):
        try:
            head = parse_yaml(text[3:].partition("\n---")[0])
        except Multiplying as error:
            raise UserError(f"{path}: {error}") from error
        return _card(head) if isinstance(head, dict) else DatasetCard()


def _card(head: dict[str, Any]) -> DatasetCard:
    listed = [entry for entry in head.get("configs") or [] if isinstance(entry, dict) and "config_name" in entry]
    configs = {str(entry["config_name"]): _files(entry.get("data_files")) for entry in listed}
    marked = [str(entry["config_name"]) for entry in listed if entry.get("default")]
    usual = [name for name in configs if name == "default" or len(configs) == 1]
    default = next(iter([*marked, *usual]), None)
    infos = head.get("dataset_info") or []
    features = {
        str(info.get("config_name", default or "default")): class_names(info.get("features"))
        for info in (infos if isinstance(infos, list) else [infos])
        if isinstance(info, dict)
    }
    return DatasetCard(licence_of(head.get("license")), {k: v for k, v in configs.items() if v}, default, features)


def licence_of(value: Any) -> str | None:
    """A licence, or several, as text."""
    if isinstance(value, list):
        return ", ".join(map(str, value)) or None
    return str(value) if value else None


def _files(listed: Any) -> dict[str, list[str]]:
    if isinstance(listed, str):
        return {"train": [listed]}
    found: dict[str, list[str]] = {}
    for entry in listed or []:
        if isinstance(entry, str):
            found.setdefault("train", []).append(entry)
        else:
            paths = entry["path"]
            found.setdefault(str(entry.get("split", "train")), []).extend([paths] if isinstance(paths, str) else paths)
    return found


def class_names(features: Any) -> dict[str, list[str]]:
    """Class names by column, from features as `datasets` writes them: in JSON a dict, in a card a list."""
    found: dict[str, list[str]] = {}
    if isinstance(features, dict):
        for name, feature in features.items():
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel":
                found[name] = [str(each) for each in feature.get("names") or []]
    for feature in features if isinstance(features, list) else []:
        kind = feature.get("dtype")
        names = kind["class_label"].get("names") if isinstance(kind, dict) and "class_label" in kind else None
        if isinstance(names, dict):
            found[str(feature["name"])] = [str(names[key]) for key in sorted(names, key=int)]
        elif isinstance(names, list):
            found[str(feature["name"])] = [str(each) for each in names]
    return found


def class_name(names: list[str], value: Any, where: str) -> str | None:
    """The name of a class; None if the data set marks it as unknown (-1 or empty)."""
    if value is None or value == -1:
        return None
    if isinstance(value, str):
        return value
    if not isinstance(value, int) or not 0 <= value < len(names):
        raise UserError(
            f"{where}: class {value!r} is none of the {len(names)} that the data set names; download it again"
        )
    return names[value]


def label_columns(given: list[str], classes: Mapping[str, list[str]], chosen: Mapping[str, str]) -> list[str]:
    """The columns that become label sets: those given, and those whose classes the data set names, by our names.

    Args:
        given: our names.
        classes: class names by column of the data set.
        chosen: our name -> column of the data set.
    """
    ours = {field: name for name, field in chosen.items()}
    known = {"text", *COLUMNS.values(), *given}
    return [*given, *(name for field in classes if (name := ours.get(field, field)) not in known)]


def named_classes(fields: Mapping[str, Any], classes: Mapping[str, list[str]], where: str) -> dict[str, Any]:
    """Fields with names of classes in place of their numbers."""
    return {
        name: class_name(classes[name], value, where) if classes.get(name) else value for name, value in fields.items()
    }
