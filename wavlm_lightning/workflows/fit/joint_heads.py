"""Several heads in one run: lists of learning rates and seeds, and further tasks by `--also FILE`.

A task's `learning_rate` and `seed` may be lists; there is one head for each combination. `--also` adds heads of further
tasks. All heads read the same batches and share one forward of the upstream (`tasks.joint.many_heads.ManyHeads`).
A command passes three steps: `take_lists` removes the lists before LightningCLI parses, `many_heads` builds the heads
from the parsed configuration, and `HeadConfigs.by_folder` gives the `config.yaml` of the run and of each head.
"""

from __future__ import annotations

import copy
import itertools
import json
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from jsonargparse import ArgumentError, ArgumentParser, Namespace

from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.name_hints import known_classes, of_config
from wavlm_lightning.system.paths import is_file
from wavlm_lightning.system.reading import check_file, read_text, reason_of
from wavlm_lightning.system.shipped_configs import resolve_config
from wavlm_lightning.system.yaml_files import Multiplying, parse_yaml
from wavlm_lightning.workflows.fit.parser_errors import user_error
from wavlm_lightning.workflows.fit.seeds import settle
from wavlm_lightning.workflows.fit.yaml_loader import load

if TYPE_CHECKING:  # `wavlm superb` plans its runs with `HeadLists`, before it needs Lightning
    from wavlm_lightning.tasks import Task
    from wavlm_lightning.tasks.joint.many_heads import ManyHeads

# Arguments of a task that may be lists, and the type of their values.
LISTED: dict[str, Callable[[Any], float | int]] = {"learning_rate": float, "seed": int}
OPTION = "--also"
HELP = "YAML of a further task on the same batches, whose `model` counts, on the first's upstream; may be given again"
# Keys of a further task's file that concern a run of its own, so that another value deserves no note.
NOT_COMPARED = {"corpus", "cache", "default_root_dir", "accelerator", "devices", "logger", "callbacks"}


# Lists of learning rates and seeds.


@dataclass(frozen=True)
class HeadLists:
    """The listed values of one task."""

    values: dict[str, list[Any]] = field(default_factory=dict)  # argument -> its values; empty for a single head

    def __bool__(self) -> bool:
        return bool(self.values)

    def combined(self) -> list[dict[str, Any]]:
        """Arguments of each head: all combinations of the listed values, or one empty dict without lists."""
        names = list(self.values)
        return [dict(zip(names, some, strict=True)) for some in itertools.product(*self.values.values())]

    def label(self, arguments: dict[str, Any], task: str = "") -> str:
        """A head's label and folder, from one of `combined` and, where there are several tasks, the task's name."""
        parts = [f"{name.replace('_', '-')}-{value!r}" for name, value in arguments.items()]
        return "-".join([task, *parts] if task else parts)

    def labels(self) -> list[str]:
        """Labels of all heads of a single task; empty without lists."""
        return [self.label(arguments) for arguments in self.combined()] if self.values else []

    def put_back(self, model: dict[str, Any]) -> dict[str, Any]:
        """A model's section with the lists restored."""
        return {**model, "init_args": {**model["init_args"], **self.values}}


def take_lists(argv: Sequence[str]) -> tuple[list[str], HeadLists]:
    """Replace lists of learning rates and seeds by their first values, so that the parser sees plain numbers.

    A later option replaces an earlier one, as in LightningCLI. Returns the options without lists, and the lists; a
    `UserError` if a list is empty, repeats a value, or has a value that is not a number.
    """
    found: dict[str, list[Any]] = {}
    left: list[str] = []
    words = iter(argv)
    for word in words:
        option, joined, value = word.partition("=")
        name = option.removeprefix("--model.").removeprefix("init_args.")
        if option not in ("-c", "--config") and (name not in LISTED or not option.startswith("--model.")):
            left.append(word)
            continue
        if not joined:
            value = next(words, "")
        changed = _take_from_file(value, found) if option in ("-c", "--config") else _take_value(name, value, found)
        left += [f"{option}={changed}"] if joined else [option, changed]
    return left, _in_order(found)


def lists_in(model: dict[str, Any]) -> HeadLists:
    """Replace the lists in a model's section by their first values, in place; see `take_lists`."""
    found: dict[str, list[Any]] = {}
    _take_from_model(model, found)
    return _in_order(found)


def _in_order(found: dict[str, list[Any]]) -> HeadLists:
    return HeadLists({name: found[name] for name in LISTED if name in found})


def _take_value(name: str, value: str, found: dict[str, list[Any]]) -> str:
    found.pop(name, None)
    content = read_yaml(value)
    if not isinstance(content, list):
        return value
    found[name] = _values(name, content)
    return repr(found[name][0])


def _take_from_file(value: str, found: dict[str, list[Any]]) -> str:
    """The path unchanged, or the content without its lists: `-c` takes a configuration as text, too."""
    path = Path(value)
    check_file(path, "a configuration in YAML")
    try:
        content = read_yaml(read_text(path, "a configuration in YAML")) if is_file(path) else None
    except Multiplying as error:
        raise UserError(f"{value}: {error}") from error
    model = content.get("model") if isinstance(content, dict) else None
    return json.dumps(content) if isinstance(model, dict) and _take_from_model(model, found) else value


def _take_from_model(model: dict[str, Any], found: dict[str, list[Any]]) -> bool:
    """Whether there were lists."""
    changed = False
    for arguments in (model.get("init_args"), model):  # jsonargparse takes arguments beside `class_path`, too
        for name in LISTED:
            if not isinstance(arguments, dict) or name not in arguments:
                continue
            found.pop(name, None)
            if isinstance(arguments[name], list):
                found[name] = _values(name, arguments[name])
                arguments[name], changed = found[name][0], True
    return changed


def _values(name: str, content: list[Any]) -> list[Any]:
    try:
        values = [LISTED[name](value) for value in content]
    except (TypeError, ValueError):
        raise UserError(f"model.{name}: {content} is not a list of numbers") from None
    if not values or len(set(values)) < len(values):
        raise UserError(f"model.{name}: {content} must name at least one value, and none twice")
    return values


def read_yaml(text: str) -> Any:
    """Parse YAML as LightningCLI does; None if it is malformed, `Multiplying` if its aliases grow too large."""
    try:
        return load(text)
    except yaml.YAMLError:
        return None


# Further tasks.


@dataclass(frozen=True)
class AlsoTask:
    """One further task."""

    source: str  # the option it comes from, for messages
    model: dict[str, Any]  # class and arguments, without upstream and lists
    lists: HeadLists
    others: dict[str, Any] = field(default_factory=dict)  # `data`, `trainer`, `seed_everything` of the file, not used

    @classmethod
    def read(cls, given: str | dict[str, Any]) -> AlsoTask:
        """Read the value of one `--also`: the path of a YAML file, or class and arguments as in a run's `config.yaml`."""
        if isinstance(given, str):
            source, content = f"{OPTION} {given}", _read_task_file(given)
        else:
            source, content = OPTION, {"model": copy.deepcopy(given)}
        model = content["model"]
        if isinstance(model, str):
            model = {"class_path": model}
        if not isinstance(model, dict) or not isinstance(model.get("class_path"), str):
            raise UserError(f"{source}: its `model` has no class_path; give the YAML of a task")
        if not isinstance(model.get("init_args") or {}, dict):
            raise UserError(f"{source}: the `init_args` of its `model` are no mapping; give `name: value` for each")
        lists = lists_in(model)
        # jsonargparse takes arguments beside `class_path`, too.
        arguments = {name: value for name, value in model.items() if name not in ("class_path", "init_args")}
        arguments |= model.get("init_args") or {}
        arguments.pop("upstream", None)
        others = {key: content[key] for key in ("data", "trainer") if isinstance(content.get(key), dict)}
        others |= {key: content[key] for key in ("seed_everything",) if key in content}
        return cls(source, {"class_path": model["class_path"], "init_args": arguments}, lists, others)

    def check_data(self, data: dict[str, Any]) -> None:
        """Raise a `UserError` if the file names another data class than the first task's `data` section."""
        blocks = self.others.get("data", {}), data
        named, used = (str(block.get("class_path", "")).rpartition(".")[2] for block in blocks)
        if named and named != used:
            raise UserError(
                f"{self.source}: its data are {named}, those of the first task {used}, and all tasks share these; train "
                "them one at a time, or leave `data` out of that file"
            )

    def note_unused(self, data: dict[str, Any], trainer: dict[str, Any], seed: Any) -> None:
        """Print one line on standard error for each value of the file that the first task's sections, and its seed, replace."""
        own = self.others.get("seed_everything", seed)
        if own != seed and self.model["init_args"].get("seed") is None:
            print(f"note: {self.source}: seed_everything is {seed} for all, not {own}", file=sys.stderr)
        said = self.others.get("data", {}).get("init_args"), self.others.get("trainer")
        for key, theirs, ours in zip(("data", "trainer"), said, (data.get("init_args", {}), trainer), strict=True):
            for name, value in (theirs or {}).items():
                if name not in NOT_COMPARED and name in ours and ours[name] != value:
                    print(f"note: {self.source}: {key}.{name} is {ours[name]} for all, not {value}", file=sys.stderr)


def read_also(given: Sequence[str | dict[str, Any]] | None) -> list[AlsoTask]:
    """Read the values of all `--also`; see `AlsoTask.read`."""
    return [AlsoTask.read(one) for one in given or ()]


def added_up(argv: Sequence[str]) -> list[str]:
    """Rename `--also` to `--also+`, by which jsonargparse appends: `--also` may then be given several times."""
    return [f"{OPTION}+{word.removeprefix(OPTION)}" if word.partition("=")[0] == OPTION else word for word in argv]


def _read_task_file(given: str) -> dict[str, Any]:
    path = Path(resolve_config(given))
    check_file(path, "the YAML of a task")
    if not path.is_file():
        raise UserError(f"{OPTION} {given}: no such file{of_config(given)}")
    try:
        content = load(read_text(path, "the YAML of a task"))
    except Multiplying as error:
        raise UserError(f"{OPTION} {given}: {error}") from error
    except yaml.YAMLError as error:
        raise UserError(f"{OPTION} {given}: not readable as YAML ({reason_of(error)}); correct it there") from error
    if not isinstance(content, dict):
        raise UserError(f"{OPTION} {given}: not a mapping; give the YAML of a task")
    if "model" not in content:
        raise UserError(f"{OPTION} {given}: has no `model`; give the YAML of a task")
    return content


# From lists and further tasks to heads.


@dataclass(frozen=True)
class HeadConfigs:
    """Parts of the configurations of a run and its heads that are missing from the parsed configuration."""

    models: dict[str, dict[str, Any]] = field(default_factory=dict)  # label -> class and arguments; empty for one head
    lists: HeadLists = field(default_factory=HeadLists)  # of the first task
    also: list[dict[str, Any]] = field(default_factory=list)  # each further task, with its lists, without its upstream

    def by_folder(self, content: dict[str, Any], root: Path) -> dict[Path, dict[str, Any]]:
        """Run folder -> configuration: of the run in `root`, and of each head in it as if it had been trained alone."""
        found = {root: copy.deepcopy(content)}
        if self.models:
            found[root]["model"] = self.lists.put_back(content["model"])
            found[root]["also"] = self.also or None
        for label, model in self.models.items():
            alone = found[root / label] = copy.deepcopy(content)
            alone["model"], alone["also"] = model, None
            alone["trainer"]["default_root_dir"] = str(root / label)
        return found


def many_heads(
    model: Any, spec: Namespace, lists: HeadLists, also: Sequence[AlsoTask], seed: int | None
) -> tuple[ManyHeads, HeadConfigs]:
    """Build one head for every combination of listed values of each task, all on the first task's upstream object.

    `model` is the first task, built with its first values, `spec` its class path and arguments as parsed, `lists` its
    listed values, `seed` that of tasks that have none of their own. A `UserError` if a model is not a task, does not
    take an argument, or two tasks have one name.
    """
    from wavlm_lightning.tasks import Task
    from wavlm_lightning.tasks.joint.many_heads import ManyHeads

    if not isinstance(model, Task):
        asked = [f"a list as model.{name}" for name in lists.values] + [one.source for one in also]
        kind = type(model).__name__
        raise UserError(f"{' and '.join(asked)}: that asks for several heads, but {kind} is not a task; remove it")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Task, "model")
    heads: dict[str, Task] = {}
    models: dict[str, dict[str, Any]] = {}
    blocks: list[dict[str, Any]] = []
    names: dict[str, str] = {}
    further = [(one.source, _parsed(parser, one, spec.init_args.upstream), one.lists) for one in also]
    for number, (source, parsed, listed) in enumerate([("the first task", spec, lists), *further]):
        before = dict(names)  # of the other tasks: heads of one task share its name
        for arguments in listed.combined():
            changed = parsed.clone()
            for name, value in arguments.items():
                changed.init_args[name] = value
            head = _head_on_upstream(parser, changed, model, seed)
            task = re.sub(r"[^a-z0-9._+-]+", "-", head.name.lower())
            if task in before:
                raise UserError(
                    f"{source}: {before[task]} trains {head.name}, too; lists of learning rates and seeds train several "
                    "heads of one task"
                )
            names[task] = source
            label = listed.label(arguments, task if also else "")
            heads[label], models[label] = head, _section(parser, changed)
        if number:
            block = _section(parser, parsed)
            del block["init_args"]["upstream"]
            blocks.append(listed.put_back(block))
    return ManyHeads(heads), HeadConfigs(models, lists, blocks)


def _parsed(parser: ArgumentParser, also: AlsoTask, upstream: Any) -> Namespace:
    """Class and arguments of a further task, complete, with the first task's upstream."""
    arguments = {**also.model["init_args"], "upstream": upstream.as_dict()}
    try:
        return parser.parse_object({"model": {**also.model, "init_args": arguments}}).model
    except ArgumentError as error:
        raise UserError(f"{also.source}: {user_error(error, known_classes())}") from error


def _head_on_upstream(parser: ArgumentParser, spec: Namespace, model: Task, seed: int | None) -> Task:
    on_upstream = settle(Namespace(model=spec.clone()), seed).model
    on_upstream.init_args["upstream"] = model.upstream  # jsonargparse passes an existing object through
    return parser.instantiate_classes(Namespace(model=on_upstream)).model


def _section(parser: ArgumentParser, spec: Namespace) -> dict[str, Any]:
    """The `model` section of a configuration."""
    return parse_yaml(parser.dump(Namespace(model=spec), skip_none=False, format="yaml"))["model"]
