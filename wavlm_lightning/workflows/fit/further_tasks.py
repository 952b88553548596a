"""`--also FILE`: further tasks that train on the corpus and the batches of the first, and what they may say of them."""

from __future__ import annotations

import copy
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.name_hints import of_config
from wavlm_lightning.system.shipped_configs import resolve_config
from wavlm_lightning.workflows.fit.head_lists import HeadLists, lists_in, read_yaml

OPTION = "--also"
HELP = (
    "YAML of a further task on the same batches, whose `model` counts, on the upstream of the first; may be given again"
)
ITS_OWN = {"corpus", "cache", "default_root_dir", "accelerator", "devices", "logger", "callbacks"}
"""What a file says of its own corpus, place and machine; of no interest where it is another's task as well."""


@dataclass(frozen=True)
class AlsoTask:
    """One further task.

    Attributes:
        source: where it comes from, for messages.
        model: its class and arguments, without an upstream and without lists.
        lists: what its heads differ in.
        others: the file's `data` and `trainer`, which do not count.
    """

    source: str
    model: dict[str, Any]
    lists: HeadLists
    others: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, given: str | dict[str, Any]) -> AlsoTask:
        """Open one.

        Args:
            given: path of a YAML; or class and arguments, as the `config.yaml` of a run has them.

        Raises:
            UserError: there is no such file, or no model in it.
        """
        if isinstance(given, str):
            source, content = f"{OPTION} {given}", _content(given)
        else:
            source, content = OPTION, {"model": copy.deepcopy(given)}
        model = content["model"]
        if isinstance(model, str):
            model = {"class_path": model}
        if not isinstance(model, dict) or not isinstance(model.get("class_path"), str):
            raise UserError(f"{source}: its `model` has no class_path; give the YAML of a task")
        lists = lists_in(model)
        # Arguments may stand beside the class, too.
        arguments = {name: value for name, value in model.items() if name not in ("class_path", "init_args")}
        arguments |= model.get("init_args") or {}
        arguments.pop("upstream", None)
        others = {key: content[key] for key in ("data", "trainer") if isinstance(content.get(key), dict)}
        return cls(source, {"class_path": model["class_path"], "init_args": arguments}, lists, others)

    def check_data(self, data: dict[str, Any]) -> None:
        """Make sure that the file does not count on data of another kind.

        Args:
            data: the first task's, class and arguments.

        Raises:
            UserError: it names another class of data.
        """
        blocks = self.others.get("data", {}), data
        named, used = (str(block.get("class_path", "")).rpartition(".")[2] for block in blocks)
        if named and named != used:
            raise UserError(
                f"{self.source}: its data are {named}, those of the first task {used}, and all tasks share these; train "
                "them one at a time, or leave `data` out of that file"
            )

    def say_unused(self, data: dict[str, Any], trainer: dict[str, Any]) -> None:
        """A line on standard error for each value of the file that is not the first task's, whose counts.

        Args:
            data: the first task's, class and arguments.
            trainer: the first task's.
        """
        said = self.others.get("data", {}).get("init_args"), self.others.get("trainer")
        for key, theirs, ours in zip(("data", "trainer"), said, (data.get("init_args", {}), trainer), strict=True):
            for name, value in (theirs or {}).items():
                if name not in ITS_OWN and name in ours and ours[name] != value:
                    print(f"note: {self.source}: {key}.{name} is {ours[name]} for all, not {value}", file=sys.stderr)


def read_also(given: Sequence[str | dict[str, Any]] | None) -> list[AlsoTask]:
    """All further tasks of a command; see `AlsoTask.read`."""
    return [AlsoTask.read(one) for one in given or ()]


def added_up(argv: Sequence[str]) -> list[str]:
    """Let `--also` be given several times: each adds to what there is, as the parser does with `--also+`.

    Args:
        argv: a subcommand and its options.
    """
    return [f"{OPTION}+{word.removeprefix(OPTION)}" if word.partition("=")[0] == OPTION else word for word in argv]


def _content(given: str) -> dict[str, Any]:
    path = Path(resolve_config(given))
    if not path.is_file():
        raise UserError(f"{OPTION} {given}: no such file{of_config(given)}")
    try:
        content = read_yaml(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{OPTION} {given}: not readable ({error}); give the YAML of a task") from error
    if not isinstance(content, dict):
        raise UserError(f"{OPTION} {given}: no YAML that could be read; correct it, or give that of a task")
    if "model" not in content:
        raise UserError(f"{OPTION} {given}: says nothing of a `model`; give the YAML of a task")
    return content
