"""One pre-training configuration from a track's base, any number of switches, and what a record changes on top."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.name_hints import nearest
from wavlm_lightning.system.shipped_configs import resolve_config
from wavlm_lightning.system.yaml_files import read_yaml

HERE = Path(__file__).resolve().parent
BASELINE = "baseline"
"""Name of the run without switches."""


Place = tuple[str, ...]
"""Keys from the root of a configuration, or `objectives`, a class and its argument."""
Owners = dict[Place, tuple[str, Any]]
"""What switches have set so far: place -> the name of the switch, and the value."""


@dataclass(frozen=True)
class Switch:
    """A change of the base, `switches/NAME.yaml`.

    Attributes:
        name: of the file.
        title: in tables.
        tracks: those for whose sizes it is written; all of them if empty.
        supervised: whether its targets have seen labels; then it is an upper bound and makes no record.
        updates: factor of the number of updates, such as 2 with batches of half the audio.
        codebooks: label set -> how it is made, see `Codebook`.
        config: keys of `wavlm fit` that it sets.
        objectives: `change` (class name -> arguments), `add` (entries) and `remove` (class names).
    """

    name: str
    title: str
    tracks: Sequence[str] = ()
    supervised: bool = False
    updates: float = 1.0
    codebooks: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    objectives: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Recipe:
    """What is trained: a configuration without seed, corpus and folder, and how its labels are made.

    Attributes:
        name: in folders and tables.
        switches: their names, in order.
        budget: updates of the base's batches; recipes are compared at one budget.
        updates: of pre-training.
        content: the configuration; its label sets have the names of `codebooks`.
        codebooks: those that `content` names -> how each is made.
        supervised: whether any target has seen labels.
        first_runs: keys of the recipes whose encoders make labels.
    """

    name: str
    switches: tuple[str, ...]
    budget: int
    updates: int
    content: dict[str, Any]
    codebooks: dict[str, Any]
    supervised: bool
    first_runs: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """Name, updates and a hash of all that decides on the weights: another recipe gets another folder."""
        return f"{self.name}-{self.budget}-{digest([self.content, self.codebooks, self.updates, *self.first_runs])}"


def digest(value: Any) -> str:
    """Six hexadecimal digits of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:6]


def read_track(name: str) -> dict[str, Any]:
    """The content of `tracks/NAME.yaml` (base, device, corpora, codebooks, heads, short budget, target) and its `name`."""
    return {"name": name, **read_yaml(_file("tracks", name, "track"), "a track", kind=dict)}


def read_switch(name: str) -> Switch:
    """The switch `switches/NAME.yaml`."""
    path = _file("switches", name, "switch")
    content = read_yaml(path, "a switch", kind=dict)
    known = {each for each in Switch.__dataclass_fields__ if each != "name"}
    if unknown := set(content) - known:
        raise UserError(f"{path}: no key {sorted(unknown)[0]!r}; there are {', '.join(sorted(known))}")
    if "title" not in content:
        raise UserError(f"{path}: a switch needs a title, which the tables show")
    return Switch(name, **content)


def read_record(name: str, track: Mapping[str, Any], updates: int | None = None) -> Recipe:
    """The recipe of `records/NAME.yaml`, or of a file elsewhere: `title`, `switches`, `updates`, `config`."""
    path = Path(name) if name.endswith(".yaml") else _file("records", name, "record")
    content = read_yaml(path, "a record", kind=dict)
    known = ("title", "switches", "updates", "config")
    if unknown := set(content) - set(known):
        raise UserError(f"{path}: no key {sorted(unknown)[0]!r}; there are {', '.join(known)}")
    return compose(
        track, content.get("switches") or [], updates or content.get("updates"), path.stem, content.get("config")
    )


def names(folder: str) -> list[str]:
    """The names of all files in `switches`, `records` or `tracks`."""
    return sorted(path.stem for path in (HERE / folder).glob("*.yaml"))


def switches_of(track: Mapping[str, Any]) -> list[str]:
    """The names of the switches that a track can have."""
    return [name for name in names("switches") if track["name"] in (read_switch(name).tracks or [track["name"]])]


def _file(folder: str, name: str, what: str) -> Path:
    path = HERE / folder / f"{name}.yaml"
    if not path.is_file():
        known = names(folder)
        raise UserError(f"no {what} {name!r} in {HERE / folder}; there are {', '.join(known)}{nearest(name, known)}")
    return path


def compose(
    track: Mapping[str, Any],
    switches: Sequence[str],
    updates: int | None = None,
    name: str | None = None,
    config: Mapping[str, Any] | None = None,
) -> Recipe:
    """The recipe of a track with switches, and with `config` (keys of `wavlm fit`) over everything else.

    Without `updates` it has those of the base.

    Raises:
        UserError: two switches set one key to different values, or a switch changes an objective that is not there.
    """
    content = copy.deepcopy(read_yaml(Path(resolve_config(track["base"])), "a configuration", kind=dict))
    merge(content, track.get("config") or {}, "the track", None)
    budget = int(content["trainer"]["max_steps"]) if updates is None else updates
    books, owner = copy.deepcopy(dict(track["codebooks"])), Owners()
    read = [read_switch(each) for each in switches]
    removed: set[str] = set()
    for switch in read:
        if switch.tracks and track["name"] not in switch.tracks:
            raise UserError(
                f"switch {switch.name} has the sizes of {' and '.join(switch.tracks)}; write one for track {track['name']}, or "
                "leave it out"
            )
        for label, how in switch.codebooks.items():
            if books.setdefault(label, how) != how:
                raise UserError(
                    f"switch {switch.name}: another codebook is called {label!r}; give it a name of its own"
                )
        merge(content, switch.config, switch.name, owner)
        change_objectives(content, switch.objectives, switch.name, removed, owner)
    merge(content, config or {}, "the record", None)
    updates = round(budget * math.prod(switch.updates for switch in read))
    content = in_updates(content, updates)
    name_objectives(content)
    trainer = content["trainer"]
    trainer["max_steps"] = updates
    batches = updates * int(trainer.get("accumulate_grad_batches") or 1)
    # About as often as the base, and so that the last validation scores the end of the run, whatever its length.
    validations = max(1, round(batches / int(trainer.get("val_check_interval") or batches)))
    trainer["val_check_interval"] = batches // validations
    used = label_sets(content)
    if missing := [each for each in used if each not in books]:
        raise UserError(
            f"{name or '+'.join(switches)}: nothing says how the labels {missing[0]!r} are made; add it to codebooks"
        )
    return Recipe(
        name or "+".join(switches) or BASELINE,
        tuple(switches),
        budget,
        updates,
        content,
        {each: books[each] for each in used},
        any(switch.supervised for switch in read),
        tuple(first.key for each in used if (first := first_run(track, books[each])) is not None),
    )


def first_run(track: Mapping[str, Any], how: Mapping[str, Any]) -> Recipe | None:
    """The recipe of the encoder that makes the labels of a codebook; None for labels without one."""
    first = how.get("first_run")
    return compose(track, first.get("switches", []), first["updates"], "first_run") if first else None


def name_objectives(content: dict[str, Any]) -> None:
    """Put the number of an objective for its class in the names that callbacks move, `objectives.LogMelRegression.weight`.

    A callback becomes one for each objective of the class.
    """
    classes = [class_name(each) for each in content["model"]["init_args"]["objectives"]]
    named: list[dict[str, Any]] = []
    for callback in content["trainer"].get("callbacks") or []:
        arguments = callback.get("init_args", {})
        head, _, rest = str(arguments.get("name", "")).partition(".")
        wanted, _, attribute = rest.partition(".")
        if head != "objectives" or wanted.isdigit():
            named.append(callback)
            continue
        if wanted not in classes:
            raise UserError(f"a callback moves {arguments['name']}, but the configuration has {', '.join(classes)}")
        places = (place for place, each in enumerate(classes) if each == wanted)
        named += [{**callback, "init_args": {**arguments, "name": f"objectives.{n}.{attribute}"}} for n in places]
    if named:
        content["trainer"]["callbacks"] = named


def in_updates(value: Any, updates: int) -> Any:
    """The value, with every text such as `0.5 of the updates` in it as a number of updates."""
    if isinstance(value, dict):
        return {key: in_updates(each, updates) for key, each in value.items()}
    if isinstance(value, list):
        return [in_updates(each, updates) for each in value]
    share = re.fullmatch(r"([0-9.]+) of the updates", value) if isinstance(value, str) else None
    return value if share is None else round(float(share[1]) * updates)


def merge(
    content: dict[str, Any],
    changes: Mapping[str, Any],
    who: str,
    owner: Owners | None,
    at: Place = (),
) -> None:
    """Set the keys of `changes` in `content`, in place; lists of callbacks are joined, other values replaced.

    With `owner` a second switch may not set a key to another value.
    """
    for key, value in changes.items():
        place = (*at, key)
        if isinstance(value, Mapping):
            if not isinstance(content.get(key), dict):
                content[key] = {}
            merge(content[key], value, who, owner, place)
        elif place == ("trainer", "callbacks"):
            for callback in value:
                claim(owner, moved_place(callback), who, callback)
            content[key] = [*(content.get(key) or []), *copy.deepcopy(value)]
        else:
            claim(owner, place, who, value)
            content[key] = copy.deepcopy(value)


def claim(owner: Owners | None, place: Place, who: str, value: Any) -> None:
    """Note that a switch sets a place; a UserError if another switch has set it, or a part of it, to another value."""
    if owner is None or not place:
        return
    for other, (holder, before) in owner.items():
        shorter, longer = sorted((other, place), key=len)
        if holder != who and longer[: len(shorter)] == shorter and (other != place or before != value):
            raise UserError(
                f"switches {holder} and {who} both set {'.'.join(longer)}; leave one out, or set it in a record's config"
            )
    owner[place] = who, value


def moved_place(callback: Mapping[str, Any]) -> Place:
    """The place of the number that a callback moves over a run, a key of the model or of an objective; empty if it moves none."""
    name = callback.get("init_args", {}).get("name")
    if not isinstance(name, str):
        return ()
    return (*(() if name.startswith("objectives.") else ("model", "init_args")), *name.split("."))


def change_objectives(
    content: dict[str, Any], changes: Mapping[str, Any], who: str, removed: set[str], owner: Owners
) -> None:
    """Change, add and remove objectives of a configuration, in place; `removed` are the classes that earlier switches removed."""
    if unknown := set(changes) - {"change", "add", "remove"}:
        raise UserError(f"switch {who}: objectives has no key {sorted(unknown)[0]!r}; there are change, add and remove")
    objectives = content["model"]["init_args"]["objectives"]
    for name, arguments in changes.get("change", {}).items():
        entries = [each for each in objectives if class_name(each) == name]
        if not entries:
            raise UserError(
                f"switch {who}: changes {name}, but the configuration has {', '.join(map(class_name, objectives))}"
            )
        for argument, value in arguments.items():
            claim(owner, ("objectives", name, argument), who, value)
        for entry in entries:
            entry.setdefault("init_args", {}).update(copy.deepcopy(arguments))
    for name in changes.get("remove", []):
        if name not in {*map(class_name, objectives), *removed}:
            raise UserError(
                f"switch {who}: removes {name}, but the configuration has {', '.join(map(class_name, objectives))}"
            )
        objectives[:] = [each for each in objectives if class_name(each) != name]
        removed.add(name)
    objectives += copy.deepcopy(changes.get("add", []))


def class_name(objective: Mapping[str, Any]) -> str:
    """The last part of an entry's class path."""
    return str(objective["class_path"]).rpartition(".")[2]


def label_sets(content: Mapping[str, Any]) -> list[str]:
    """The label sets of a configuration, the first of them that of objectives which name none."""
    labels = content["data"]["init_args"].get("labels") or []
    return [labels] if isinstance(labels, str) else list(labels)


def rename_labels(content: dict[str, Any], new: Mapping[str, str]) -> None:
    """Give label sets other names, in the data and in the objectives, in place."""
    data = content["data"]["init_args"]
    if isinstance(data.get("labels"), str):
        data["labels"] = new[data["labels"]]
    elif data.get("labels"):
        data["labels"] = [new[each] for each in data["labels"]]
    for objective in content["model"]["init_args"]["objectives"]:
        arguments = objective.get("init_args", {})
        if arguments.get("labels"):
            arguments["labels"] = new[arguments["labels"]]
