"""The tasks of a suite, each known by its YAML: `configs/superb`, `configs/fullstack`, or a file of the user's.

Corpus, learning rate, cache, and the runs of other tasks that it starts from (`chains`) are read from that file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.name_hints import nearest
from wavlm_lightning.system.plugins import import_by_path, is_dotted, make_importable
from wavlm_lightning.system.shipped_configs import configs_folder
from wavlm_lightning.system.yaml_files import read_yaml

DEFAULT = "superb"
SUITES: dict[str, tuple[str, ...]] = {DEFAULT: ("superb",), "full": ("superb", "fullstack")}  # suite -> its folders
# Measured cost of a task relative to KS, in the order in which tasks are run; used for the estimate of the time left. A task
# that is not here comes after them, by the utterances that its head is trained on.
COST: dict[str, float] = {
    "ks": 1, "ic": 1, "sid": 1.5, "er": 1, "pr": 2, "qbe": 1.5, "sd": 4, "sv": 2, "sf": 7, "asr": 8,
}  # fmt: skip
UTTERANCE_SECONDS = 5.0  # of a batch that is measured in seconds
PER_KS = 20  # KS trains on means over time: another head costs about this many times as much for an utterance


def suite_tasks(suite: str, mini: bool | None = None) -> list[str]:
    """The tasks of a suite in the order in which they are run: the names of its YAML files.

    Args:
        suite: `superb` or `full`.
        mini: only those that have a YAML for the mini corpora (true) or for the published ones (false); None for all.
    """
    folder = configs_folder()
    names = {path.stem for part in SUITES[suite] for path in folder.glob(f"{part}/**/*.yaml")}
    return _in_order({name for name in names if mini is None or _is_configured(name, mini)})


def check_tasks(tasks: Sequence[str] | None, suite: str | None = None, mini: bool | None = None) -> list[str]:
    """The requested tasks in the order in which they are run; by default all of the suite.

    Args:
        tasks: names of the suites' YAML files, in any case, or paths of the user's own.
        suite: `superb` or `full`; with `tasks`, these must belong to it. None is `superb`, and leaves `tasks` free.
        mini: whether they run on the mini corpora; a suite is then of the tasks that have a YAML for them, or for the
            published corpora. None: not known yet.

    Raises:
        UserError: no such task, not one of the suite, none for these corpora, or two of one name.
    """
    if tasks is None:
        return suite_tasks(suite or DEFAULT, mini)
    known = suite_tasks("full")
    chosen: dict[str, str] = {}  # name -> task
    for word in tasks:
        task = word if word.endswith(".yaml") else word.lower()
        if task.endswith(".yaml"):
            if not Path(task).is_file():
                raise UserError(f"--tasks: {task}: no such file; give a task's name or the YAML of one of your own")
        elif task not in known:
            hint = nearest(task, known)
            ours = [name for name in known if name in suite_tasks(DEFAULT)]
            others = [name for name in known if name not in ours]
            more = f", nor of the full suite's others ({', '.join(others)})" if others else ""
            raise UserError(f"--tasks: {word!r} is not one of SUPERB's tasks ({', '.join(ours)}){more}{hint}")
        elif suite is not None and task not in suite_tasks(suite):
            raise UserError(f"--tasks: {word!r} is no task of --suite {suite}; leave --suite out, or give --suite full")
        elif mini is not None and not _is_configured(task, mini):
            here, there = (
                ("the mini corpora", "published corpora") if mini else ("published corpora", "the mini corpora")
            )
            raise UserError(
                f"--tasks: {word!r} has a configuration for {there} alone, and --data is {here}; leave it out"
            )
        if chosen.setdefault(task_name(task), task) != task:
            raise UserError(
                f"--tasks: {chosen[task_name(task)]} and {task} would share a folder; rename one of the files"
            )
    return _in_order(list(chosen.values()))


def task_name(task: str) -> str:
    """The name of a task in folders: that of its YAML."""
    return Path(task).stem if task.endswith(".yaml") else task


def config_name(task: str, mini: bool) -> str:
    """The path of a task's YAML, for `-c`."""
    if task.endswith(".yaml"):
        return task
    names = [f"configs/{part}/{'mini/' if mini else ''}{task}.yaml" for part in SUITES["full"]]
    return next((name for name in names if (configs_folder().parent / name).is_file()), names[0])


def configuration(task: str, mini: bool) -> dict[str, Any]:
    """The content of a task's YAML."""
    path = Path(task) if task.endswith(".yaml") else configs_folder().parent / config_name(task, mini)
    content = read_yaml(path, "the configuration of a task", kind=dict)
    try:
        content["model"]["init_args"], content["data"]["init_args"]["corpus"], content["trainer"]["default_root_dir"]
    except (KeyError, TypeError):
        raise UserError(
            f"{path}: as a task of a suite it needs model.class_path with init_args, data.init_args.corpus and "
            "trainer.default_root_dir; add them, as configs/superb/mini/ks.yaml has them"
        ) from None
    return content


def corpus_name(task: str, mini: bool) -> str:
    """Name of a task's corpus in the folder of corpora."""
    return Path(configuration(task, mini)["data"]["init_args"]["corpus"]).name


def head_class(task: str, mini: bool) -> Any:
    """The class of a task's head, which a YAML may name without its module, as `wavlm fit` takes it."""
    if task.endswith(".yaml"):
        make_importable(["-c", task])
    path = configuration(task, mini)["model"]["class_path"]
    if is_dotted(path):
        return import_by_path(path)
    from wavlm_lightning.tasks import Task  # not above: the list of tasks needs no torch

    waiting = [Task]
    while waiting:
        kind = waiting.pop()
        if kind.__name__ == path:
            return kind
        waiting += kind.__subclasses__()
    raise UserError(
        f"{task}: model.class_path {path}: no head of this package is called so; give its module, too, as MODULE.{path}"
    )


def official_rates(task: str) -> list[float]:
    """The learning rates to search: those that SUPERB's authors tried (the task's sweep file), else that of its YAML."""
    for part in SUITES["full"]:
        path = configs_folder() / "sweeps" / part / f"{task}.yaml"
        if path.is_file():
            content = read_yaml(path, "a sweep file")
            return [float(rate) for rate in content["parameters"]["model.learning_rate"]["values"]]
    rate = configuration(task, mini=False)["model"]["init_args"].get("learning_rate")
    return [] if rate is None else [float(rate)]


def cost(task: str, mini: bool) -> float:
    """Cost of a task relative to KS."""
    if task in COST:
        return COST[task]
    return max(0.5, PER_KS * _utterances(configuration(task, mini)) / _utterances(configuration("ks", mini)))


def _utterances(content: dict[str, Any]) -> float:
    trainer = content["trainer"]
    batches = trainer.get("max_steps", 1) * trainer.get("accumulate_grad_batches", 1)
    data = content["data"]["init_args"]
    return batches * (data.get("batch_size", 1) or data["batch_seconds"] / UTTERANCE_SECONDS)


def _in_order(tasks: Sequence[str] | set[str]) -> list[str]:
    listed = [task for task in COST if task in tasks]
    others = sorted(set(tasks).difference(listed), key=lambda task: (cost(task, _is_configured(task, mini=True)), task))
    return [*listed, *others]


def _is_configured(task: str, mini: bool) -> bool:
    """Whether a task of a suite has a YAML for the mini corpora, or for the published ones."""
    return (configs_folder().parent / config_name(task, mini)).is_file()


# Chains: a task whose YAML names the run of another one.


def chains(tasks: Sequence[str], mini: bool) -> dict[str, list[str]]:
    """Task -> the tasks whose runs its YAML names, of the tasks given and of all that these need in turn.

    A YAML names the run of another task by the `trainer.default_root_dir` of that task's YAML, or a path inside it. The keys are
    in the order in which the tasks are run: what is needed comes first.

    Raises:
        UserError: two tasks need each other.
    """
    known = [*dict.fromkeys([*tasks, *suite_tasks("full", mini)])]
    homes = {str(configuration(task, mini)["trainer"]["default_root_dir"]): task for task in known}
    found: dict[str, list[str]] = {}

    def add(task: str, waiting: tuple[str, ...]) -> None:
        if task in waiting:
            raise UserError(
                f"{config_name(task, mini)}: needs its own run through {' and '.join(waiting)}; name another run"
            )
        if task in found:
            return
        needed = [other for other in _named_runs(configuration(task, mini), homes) if other != task]
        for other in needed:
            add(other, (*waiting, task))
        found[task] = needed

    for task in tasks:
        add(task, ())
    return found


def _named_runs(content: dict[str, Any], homes: dict[str, str]) -> list[str]:
    model = {name: value for name, value in content["model"]["init_args"].items() if name != "upstream"}
    values = [*_texts(model), *_texts(content["data"]["init_args"])]
    return [*dict.fromkeys(task for value in values for home, task in homes.items() if inside(value, home) is not None)]


def inside(value: str, home: str) -> str | None:
    """What follows `home` in a path that is this folder or lies in it ("" for the folder itself); None for any other."""
    return value[len(home) :] if value == home or value.startswith(f"{home}/") else None


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _texts(part)


def replaced(value: Any, change: Callable[[str, str], str], key: str = "") -> Any:
    """A copy of a part of a YAML in which `change(key, text)` has replaced every text; `key` is that above it."""
    if isinstance(value, str):
        return change(key, value)
    if isinstance(value, dict):
        return {name: replaced(part, change, str(name)) for name, part in value.items()}
    return [replaced(part, change, key) for part in value] if isinstance(value, list) else value
