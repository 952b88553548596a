"""From lists and further tasks to heads: what each is made of, its label, and the configuration of its own run."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentError, ArgumentParser, Namespace

from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.name_hints import known_classes
from wavlm_lightning.tasks import Task
from wavlm_lightning.tasks.joint.many_heads import ManyHeads
from wavlm_lightning.workflows.fit.further_tasks import AlsoTask
from wavlm_lightning.workflows.fit.head_lists import HeadLists
from wavlm_lightning.workflows.fit.parser_errors import one_sentence


@dataclass(frozen=True)
class HeadConfigs:
    """What the configurations of a run and of its heads say that the parsed one does not.

    Attributes:
        models: class and arguments of each of several heads, by label; empty for a run of one head.
        lists: what the heads of the first task differ in.
        also: class and arguments of each further task, lists included, without its upstream.
    """

    models: dict[str, dict[str, Any]] = field(default_factory=dict)
    lists: HeadLists = field(default_factory=HeadLists)
    also: list[dict[str, Any]] = field(default_factory=list)

    def by_folder(self, content: dict[str, Any], root: Path) -> dict[Path, dict[str, Any]]:
        """The configuration of the whole run, and that of each head's as if it were alone.

        Args:
            content: the parsed one, without lists.
            root: run folder of all heads.
        """
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
    model: Any, spec: Namespace, lists: HeadLists, also: Sequence[AlsoTask]
) -> tuple[ManyHeads, HeadConfigs]:
    """One head for every combination of the listed values of each task, all on the upstream of the one that is there.

    Args:
        model: the first task with its first values.
        spec: its class path and arguments, as parsed.
        lists: what its heads differ in.
        also: the further tasks.

    Raises:
        UserError: one is no task, or takes no such argument, or two tasks have one name.
    """
    if not isinstance(model, Task):
        asked = [f"a list as model.{name}" for name in lists.values] + [one.source for one in also]
        raise UserError(
            f"{' and '.join(asked)}: that asks for several heads, but {type(model).__name__} is no task; leave it away"
        )
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Task, "model")
    heads: dict[str, Task] = {}
    models: dict[str, dict[str, Any]] = {}
    blocks: list[dict[str, Any]] = []
    names: dict[str, str] = {}
    further = [(one.source, _parsed(parser, one, spec.init_args.upstream), one.lists) for one in also]
    for number, (source, parsed, listed) in enumerate([("the first task", spec, lists), *further]):
        before = dict(names)
        for arguments in listed.combined():
            changed = parsed.clone()
            for name, value in arguments.items():
                changed.init_args[name] = value
            head = _task(parser, changed, model)
            task = re.sub(r"[^a-z0-9._+-]+", "-", head.name.lower())
            if task in before:
                raise UserError(
                    f"{source}: {before[task]} trains {head.name}, too; lists of learning rates and seeds train several "
                    "heads of one task"
                )
            names[task] = source
            label = listed.label(arguments, task if also else "")
            heads[label], models[label] = head, _block(parser, changed)
        if number:
            block = _block(parser, parsed)
            del block["init_args"]["upstream"]
            blocks.append(listed.put_back(block))
    return ManyHeads(heads), HeadConfigs(models, lists, blocks)


def _parsed(parser: ArgumentParser, also: AlsoTask, upstream: Any) -> Namespace:
    """Class and arguments of a further task, complete, with the upstream of the first."""
    arguments = {**also.model["init_args"], "upstream": upstream.as_dict()}
    try:
        return parser.parse_object({"model": {**also.model, "init_args": arguments}}).model
    except ArgumentError as error:
        raise UserError(f"{also.source}: {one_sentence(str(error), known_classes())}") from error


def _task(parser: ArgumentParser, spec: Namespace, model: Task) -> Task:
    """A task on the upstream of another."""
    on_upstream = spec.clone()
    on_upstream.init_args["upstream"] = model.upstream  # an object that is there already is taken as it is
    return parser.instantiate_classes(Namespace(model=on_upstream)).model


def _block(parser: ArgumentParser, spec: Namespace) -> dict[str, Any]:
    """What a configuration says of a model."""
    return yaml.safe_load(parser.dump(Namespace(model=spec), skip_none=False, format="yaml"))["model"]
