"""Checks of a sweep before its first trial: options, values, layers, metric, corpus, and a chosen encoder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.name_hints import nearest
from wavlm_lightning.workflows.sweep.file import Parameter, SweepFile

if TYPE_CHECKING:
    from wavlm_lightning.tasks import Task

MOST = 100  # combinations to parse; each takes a sixth of a second


def check_trials(sweep: SweepFile, extra: Sequence[str] = (), *, here: bool = True, chosen: bool = False) -> None:
    """Read the options of the first trial, and of one with each other value of each parameter, without building anything.

    Args:
        sweep: the sweep file.
        extra: further options of every trial.
        here: whether the trials run on this machine, so that their corpus must be there.
        chosen: whether an option must name the encoder, if the configuration's own has random weights.

    Raises:
        UserError: an option, a value, a layer, the metric, the corpus or one of its splits does not exist.
    """
    from wavlm_lightning.workflows.fit import read_options
    from wavlm_lightning.workflows.fit.early_checks import check_data, check_layers, check_upstream_chosen

    for number, values in enumerate(_samples(sweep.parameters)):
        if number == MOST:
            break
        options = [*sweep.options(values), *extra]
        try:
            config = read_options(*options)
            check_layers(config.model)
            if number == 0:
                check_data(config.data, missing=not here)
        except UserError as error:
            raise UserError(f"{sweep.path}: its trials cannot run: {error}") from error
        if number == 0:
            if chosen:
                words = [*options, *(f"--{parameter.name}" for parameter in sweep.parameters)]
                check_upstream_chosen(config.model, words, str(sweep.path))
            _check_metric(sweep, config, options)


def _samples(parameters: Sequence[Parameter]) -> Iterator[dict[str, Any]]:
    """Values of the first trial, then of trials in which one parameter has another value."""
    choices = {each.name: _values(each) for each in parameters}
    first = {name: values[0] for name, values in choices.items()}
    yield first
    for name, values in choices.items():
        for value in values[1:]:
            yield {**first, name: value}


def _values(parameter: Parameter) -> Sequence[Any]:
    """All choices, or both ends of a range."""
    if parameter.values:
        return parameter.values
    ends = [parameter.low, parameter.high]
    return [int(end) if parameter.integer else parameter.decode(end) for end in ends]


def _check_metric(sweep: SweepFile, config: Any, options: Sequence[str]) -> None:
    """Refuse a metric that the task never logs; left to the trials where heads are several or not of this package."""
    from wavlm_lightning.system.plugins import import_by_path
    from wavlm_lightning.tasks import Task

    kind = import_by_path(config.model.class_path)
    several = any(word.partition("=")[0] == "--also" for word in options) or sweep.metric.partition("/")[0] != "valid"
    if several or not issubclass(kind, Task) or not kind.__module__.startswith(f"{__name__.partition('.')[0]}."):
        return
    directions = _directions(kind)
    metric = sweep.metric.removeprefix("valid/")
    if metric in directions:
        check_goal(sweep, kind.name, directions[metric])
    elif metric != "loss":
        names = [f"valid/{name}" for name in (*directions, "loss")]
        raise UserError(
            f"{sweep.path}: metric.name is {sweep.metric!r}, which {kind.name} does not log{nearest(sweep.metric, names)}; it "
            f"logs {', '.join(names)}"
        )


def _directions(kind: type[Task]) -> dict[str, str]:
    return {kind.metric: kind.better, **kind.others}


def check_goal(sweep: SweepFile, task: str, better: str) -> None:
    """Refuse a sweep that would look for its metric's worst value; `better` is `lower` or `higher`."""
    goal = {"lower": "minimize", "higher": "maximize"}[better]
    if goal != sweep.goal:
        raise UserError(
            f"{sweep.path}: metric.goal is {sweep.goal}, but {sweep.metric} of {task} is good if {better}; set goal: {goal}"
        )
