"""A W&B sweep file, and the commands that W&B's agent would make of it."""

from __future__ import annotations

import difflib
import itertools
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.shipped_configs import resolve_config
from wavlm_lightning.workflows.sweep.space import Parameter, read_parameter

METHODS = ("grid", "random", "bayes")
KEYS = {
    "program", "method", "metric", "parameters", "early_terminate", "command", "run_cap",
    "name", "description", "project", "entity",
}  # fmt: skip
DEFAULT_COMMAND = ["${env}", "${interpreter}", "${program}", "${args}"]
VARIABLE = re.compile(r"\$\{envvar:([A-Z0-9_]*)\}")


@dataclass(frozen=True)
class Halving:
    """`early_terminate` of a sweep: hyperband as W&B means it, which is asynchronous successive halving.

    Attributes:
        first: validations after which a trial is first compared with the others.
        factor: one in so many goes on; the next comparison comes after so many times as many validations.
    """

    first: int
    factor: int


@dataclass(frozen=True)
class SweepFile:
    """What a sweep file says.

    Attributes:
        path: the file.
        method: `grid`, `random` or `bayes`.
        metric: the logged metric by which trials are ranked.
        goal: `minimize` or `maximize`.
        parameters: what the trials differ in.
        program: what `${program}` stands for.
        command: the words of a trial's command, with placeholders.
        halving: when trials are given up early; None for never.
        run_cap: trials at most; None for no limit.
        body: the whole file.
    """

    path: Path
    method: str
    metric: str
    goal: str
    parameters: tuple[Parameter, ...]
    program: str
    command: tuple[str, ...]
    halving: Halving | None
    run_cap: int | None
    body: dict[str, Any]

    def grid(self) -> list[dict[str, Any]]:
        """The values of every trial of a grid, the last parameter changing fastest.

        Raises:
            UserError: a parameter is a range.
        """
        for parameter in self.parameters:
            if not parameter.values and not parameter.integer:
                raise UserError(f"{self.path}: parameters: {parameter.name}: a grid needs `values: [...]`, not a range")
        choices = [
            parameter.values or tuple(range(int(parameter.low), int(parameter.high) + 1))
            for parameter in self.parameters
        ]
        names = [parameter.name for parameter in self.parameters]
        return [dict(zip(names, values, strict=True)) for values in itertools.product(*choices)]

    def words(self, values: Mapping[str, Any]) -> list[str]:
        """The command of a trial, word by word as W&B's agent starts it.

        Args:
            values: by parameter.
        """
        pairs = [f"{name}={value}" for name, value in values.items()]
        flags = [f"--{pair}" for pair in pairs]
        meaning = {
            "env": ["/usr/bin/env"],
            "interpreter": ["python"],
            "program": [self.program],
            "args": flags,
            "args_no_equals": [word for name, value in values.items() for word in (f"--{name}", str(value))],
            "args_no_hyphens": pairs,
            "args_no_boolean_flags": [
                f"--{name}" if value is True else flag
                for (name, value), flag in zip(values.items(), flags, strict=True)
                if value is not False
            ],
            "args_append_hydra": [f"+{pair}" for pair in pairs],
            "args_override_hydra": [f"++{pair}" for pair in pairs],
            "args_json": [json.dumps(dict(values))],
        }
        words: list[str] = []
        for part in self.command:
            part = VARIABLE.sub(lambda found: os.environ.get(found[1], found[1]), part)
            words += meaning.get(part[2:-1], []) if part.startswith("${") and part.endswith("}") else [part]
        return words

    def options(self, values: Mapping[str, Any]) -> list[str]:
        """What a trial's command says after `wavlm fit`.

        Raises:
            UserError: the command starts something else.
        """
        words = self.words(values)
        if words[:1] == ["/usr/bin/env"]:
            words = words[1:]
        if words[1:3] == ["-m", "wavlm_lightning"]:
            words = ["wavlm", *words[3:]]
        if len(words) < 2 or Path(words[0]).name != "wavlm" or words[1] != "fit":
            raise UserError(f"{self.path}: only `wavlm fit` can be swept here, and its command is `{' '.join(words)}`")
        return words[2:]


def read_sweep(name: str) -> SweepFile:
    """Read a sweep file.

    Args:
        name: its path; `configs/...` is found from any folder.

    Raises:
        UserError: it is none, or says what cannot be run here.
    """
    path = Path(resolve_config(name))
    if not path.is_file():
        raise UserError(f"{name}: no such sweep file; those of the suite lie in configs/sweeps")
    try:
        body = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise UserError(f"{name}: not YAML ({' '.join(str(error).split())})") from error
    if not isinstance(body, dict) or not isinstance(body.get("parameters"), dict) or not body["parameters"]:
        raise UserError(f"{name}: a sweep file is a mapping with `method`, `metric`, `parameters` and `command`")
    for key in body:
        if key not in KEYS:
            raise UserError(f"{name}: unknown key {key!r}{_nearest(key, KEYS)}")
    method = body.get("method")
    if method not in METHODS:
        raise UserError(f"{name}: method {method!r} is none of {', '.join(METHODS)}{_nearest(method, METHODS)}")
    metric = body.get("metric")
    if not isinstance(metric, dict) or "name" not in metric or metric.get("goal") not in ("minimize", "maximize"):
        raise UserError(f"{name}: metric must say by what to rank: `{{name: valid/loss, goal: minimize}}`, or maximize")
    cap = body.get("run_cap")
    if cap is not None and (not isinstance(cap, int) or cap < 1):
        raise UserError(f"{name}: run_cap must be a whole number from 1 up")
    return SweepFile(
        path,
        method,
        str(metric["name"]),
        metric["goal"],
        tuple(read_parameter(str(key), value, name) for key, value in body["parameters"].items()),
        str(body.get("program", "")),
        tuple(str(part) for part in body.get("command") or DEFAULT_COMMAND),
        _halving(body.get("early_terminate"), name),
        cap,
        body,
    )


def _halving(body: Any, place: str) -> Halving | None:
    """When to give trials up.

    W&B compares after `min_iter * eta^k` validations, or after `max_iter / eta^k` for k = s, ..., 1.
    """
    if body is None:
        return None
    factor = body.get("eta", 3) if isinstance(body, dict) else None
    if factor is None or body.get("type") != "hyperband" or not isinstance(factor, int) or factor < 2:
        raise UserError(f"{place}: early_terminate must be `{{type: hyperband, min_iter: N, eta: 3}}`, eta from 2 up")
    if "min_iter" in body:
        first = body["min_iter"]
    elif "max_iter" in body and "s" in body:
        first = int(body["max_iter"] / factor ** body["s"])
    else:
        raise UserError(f"{place}: early_terminate needs min_iter, or max_iter and s")
    if not isinstance(first, int) or first < 1:
        raise UserError(f"{place}: early_terminate would compare trials before their first validation; raise min_iter")
    return Halving(first, factor)


def _nearest(word: Any, known: Any) -> str:
    near = difflib.get_close_matches(str(word), known, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
