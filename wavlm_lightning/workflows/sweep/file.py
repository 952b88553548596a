"""Reads W&B sweep files: search method, metric, parameters, and the command of each trial."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.name_hints import nearest
from wavlm_lightning.system.reading import check_file
from wavlm_lightning.system.shipped_configs import resolve_config
from wavlm_lightning.system.yaml_files import read_yaml

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

METHODS = ("grid", "random", "bayes")
KEYS = {
    "program", "method", "metric", "parameters", "early_terminate", "command", "run_cap",
    "name", "description", "project", "entity",
}  # fmt: skip
WANDB_KEYS = ("project", "entity")
NAME = re.compile(r"[\w.-][\w. -]*")
MOST_TRIALS = 10_000  # each has a folder, and Optuna reads the states of all of them whenever one ends
DEFAULT_COMMAND = ["${env}", "${interpreter}", "${program}", "${args}"]
LARGEST, LARGEST_EXPONENT = 1e300, 690.0  # of a bound; exp(690) is below 1e300
VARIABLE = re.compile(r"\$\{envvar:([A-Z0-9_]*)\}")
# Supported distributions of https://docs.wandb.ai/models/sweeps/sweep-config-keys, with their traits.
RANGES: dict[str, set[str]] = {
    "int_uniform": {"integer"},
    "uniform": set(),
    "q_uniform": {"rounded"},
    "log_uniform_values": {"log"},
    "q_log_uniform_values": {"log", "rounded"},
    "log_uniform": {"log", "exponents"},
}


@dataclass(frozen=True)
class Parameter:
    """An option whose value differs between the trials of a sweep: one of several choices, or a number in a range."""

    name: str  # of the option, without dashes
    values: tuple[Any, ...] = ()  # the choices; empty for a range
    low: float = 0.0
    high: float = 0.0  # inclusive
    log: bool = False  # sampled evenly on a logarithmic scale
    step: float | None = None  # values of a range are rounded to multiples of this
    integer: bool = False

    def distribution(self) -> BaseDistribution:
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        if self.values:
            return CategoricalDistribution([self.encode(value) for value in self.values])
        if self.integer:
            return IntDistribution(int(self.low), int(self.high))
        return FloatDistribution(self.low, self.high, log=self.log)

    def encode(self, value: Any) -> Any:
        """The value as Optuna stores it: choices as JSON, because Optuna takes no lists and confuses 1 with true."""
        return json.dumps(value) if self.values else value

    def decode(self, stored: Any) -> Any:
        if self.values:
            return json.loads(stored)
        if self.step is None:
            return stored
        # Ten digits hide the rounding error of the product: 3 * 0.1 is 0.30000000000000004.
        return float(f"{round(stored / self.step) * self.step:.10g}")


class Grid(Sequence[dict[str, Any]]):
    """All combinations of the choices of some parameters, each made when it is asked for: there may be 10^100.

    `size` is their number, which can be more than `len` may return.
    """

    def __init__(self, choices: Mapping[str, Sequence[Any]]) -> None:
        self.choices = choices
        self.size = math.prod(_count(values) for values in choices.values())

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, number: int) -> dict[str, Any]:  # type: ignore[override]  # no slices: they would be lists
        if not -self.size <= number < self.size:
            raise IndexError(number)  # the sequence protocol ends an iteration with it
        number %= self.size
        values: dict[str, Any] = {}
        for name, choices in reversed([*self.choices.items()]):
            number, place = divmod(number, _count(choices))
            values[name] = choices[place]
        return {name: values[name] for name in self.choices}


def _count(values: Sequence[Any]) -> int:
    return values.stop - values.start if isinstance(values, range) else len(values)  # `len` ends at 2^63


def _readable(count: int) -> str:
    return f"{count:,}" if count < 10**12 else f"about 10^{count.bit_length() * 3 // 10}"


@dataclass(frozen=True)
class SweepFile:
    """The content of a sweep file.

    Attributes:
        path: the file.
        method: `grid`, `random` or `bayes`.
        metric: name of the logged metric that ranks the trials.
        goal: `minimize` or `maximize`.
        parameters: the options that differ between trials.
        program: replacement of `${program}` in the command.
        command: words of a trial's command, with placeholders.
        halving: `early_terminate: hyperband`, which is asynchronous successive halving: trials are first compared after
            this many validations, and one in this many continues; None for never.
        run_cap: maximum number of trials; None for no limit.
        body: the parsed file.
    """

    path: Path
    method: str
    metric: str
    goal: Literal["minimize", "maximize"]
    parameters: tuple[Parameter, ...]
    program: str
    command: tuple[str, ...]
    halving: tuple[int, int] | None
    run_cap: int | None
    body: dict[str, Any]

    def grid(self) -> Grid:
        """The values of every trial of a grid; the last parameter changes fastest. Nothing is listed before it is asked for.

        Raises:
            UserError: a parameter is a range of real numbers.
        """
        for parameter in self.parameters:
            if not parameter.values and not parameter.integer:
                raise UserError(f"{self.path}: parameters: {parameter.name}: a grid needs `values: [...]`, not a range")
        return Grid({p.name: p.values or range(int(p.low), int(p.high) + 1) for p in self.parameters})

    def trial_count(self, asked: int | None) -> int:
        """Number of trials: `asked` (`--trials`) or `run_cap`, and for a grid at most its size.

        Raises:
            UserError: a search without end, because neither is given, or of more trials than a folder and Optuna can hold.
        """
        count = asked or self.run_cap
        if self.method == "grid":
            size = self.grid().size
            count = min(size, count or size)
        if count is None:
            raise UserError(
                f"{self.path}: method {self.method} has no end; give the number of trials with --trials or run_cap"
            )
        if count > MOST_TRIALS:
            raise UserError(
                f"{self.path}: {_readable(count)} trials, and a sweep has at most {MOST_TRIALS:,}; try fewer values, or give "
                "a number with --trials"
            )
        return count

    def words(self, values: Mapping[str, Any]) -> list[str]:
        """The command of a trial as W&B's agent builds it, from name of a parameter -> its value."""
        pairs = [f"{name}={value}" for name, value in values.items()]
        flags = {name: f"--{name}" if value is True else f"--{name}={value}" for name, value in values.items()}
        macros = {
            "env": ["/usr/bin/env"],
            "interpreter": ["python"],
            "program": [self.program],
            "args": [f"--{pair}" for pair in pairs],
            "args_no_equals": [word for name, value in values.items() for word in (f"--{name}", str(value))],
            "args_no_hyphens": pairs,
            "args_no_boolean_flags": [flags[name] for name, value in values.items() if value is not False],
            "args_append_hydra": [f"+{pair}" for pair in pairs],
            "args_override_hydra": [f"++{pair}" for pair in pairs],
            "args_json": [json.dumps(dict(values))],
        }
        words: list[str] = []
        for part in self.command:
            part = VARIABLE.sub(lambda found: os.environ.get(found[1], found[1]), part)
            words += macros.get(part[2:-1], []) if part.startswith("${") and part.endswith("}") else [part]
        return words

    @property
    def head(self) -> str:
        """The folder, inside that of a trial, of the head whose metric ranks the trials; empty for a run of one head."""
        return self.metric.rpartition("valid/")[0].rstrip("/")

    @property
    def variables(self) -> dict[str, str | None]:
        """The variables of the environment that the command names, and their values; None if not set."""
        named = [found[1] for part in self.command for found in VARIABLE.finditer(part)]
        return {name: os.environ.get(name) for name in named}

    @property
    def wandb_names(self) -> dict[str, str]:
        """The environment variables by which W&B's loggers know the project and the entity of the file."""
        return {f"WANDB_{key.upper()}": self.body[key] for key in WANDB_KEYS if self.body.get(key) is not None}

    def options(self, values: Mapping[str, Any]) -> list[str]:
        """The part of a trial's command that follows `wavlm fit`.

        Raises:
            UserError: the command does not start `wavlm fit`.
        """
        words = self.words(values)
        words = words[1:] if words[:1] == ["/usr/bin/env"] else words
        if words[1:3] == ["-m", "wavlm_lightning"]:
            words = ["wavlm", *words[3:]]
        if len(words) < 2 or Path(words[0]).name != "wavlm" or words[1] != "fit":
            raise UserError(f"{self.path}: only `wavlm fit` can be swept here, and its command is `{' '.join(words)}`")
        return words[2:]


def read_sweep(name: str, project: str | None = None, entity: str | None = None) -> SweepFile:
    """Read a sweep file.

    Args:
        name: its path; `configs/...` is found from any folder.
        project: W&B project, instead of the file's.
        entity: W&B user or team, instead of the file's.

    Raises:
        UserError: the file is missing or not a sweep file, or asks for something that is not supported here.
    """
    path = Path(resolve_config(name))
    check_file(path, "a sweep file")
    if not path.is_file():
        raise UserError(f"{name}: no such sweep file; the sweeps of the SUPERB tasks are in configs/sweeps")
    body = read_yaml(path, "a sweep file")
    if not isinstance(body, dict) or not isinstance(body.get("parameters"), dict) or not body["parameters"]:
        raise UserError(f"{name}: a sweep file is a mapping with `method`, `metric`, `parameters` and `command`")
    for key in body:
        if key not in KEYS:
            raise UserError(f"{name}: unknown key {key!r}{nearest(str(key), KEYS)}")
    body |= {key: value for key, value in (("project", project), ("entity", entity)) if value is not None}
    for key in WANDB_KEYS:
        if body.get(key) is not None and (not isinstance(body[key], str) or not NAME.fullmatch(body[key])):
            raise UserError(
                f"{name}: {key} {body[key]!r} is no name of a W&B {key}; give letters, digits, `-`, `_` and `.`"
            )
    method, metric, cap = body.get("method"), body.get("metric"), body.get("run_cap")
    if method not in METHODS:
        hint = nearest(str(method), METHODS)
        raise UserError(f"{name}: method must be one of {', '.join(METHODS)}, not {method!r}{hint}")
    if not isinstance(metric, dict) or "name" not in metric or metric.get("goal") not in ("minimize", "maximize"):
        raise UserError(
            f"{name}: metric must name what ranks the trials: `{{name: valid/loss, goal: minimize}}`, or maximize"
        )
    if cap is not None and (not isinstance(cap, int) or cap < 1):
        raise UserError(f"{name}: run_cap must be a whole number of 1 or more")
    if not isinstance(body.get("command") or [], list):
        raise UserError(f"{name}: command must be a list of words")
    named = body["parameters"].items()
    parameters = tuple(_parameter(str(key), value, f"{name}: parameters: {key}") for key, value in named)
    command = tuple(str(part) for part in body.get("command") or DEFAULT_COMMAND)
    halving = _halving(body.get("early_terminate"), name)
    program, ranks = str(body.get("program", "")), str(metric["name"])
    return SweepFile(path, method, ranks, metric["goal"], parameters, program, command, halving, cap, body)


def _parameter(name: str, body: Any, where: str) -> Parameter:
    if not isinstance(body, dict):
        raise UserError(f"{where}: give `values: [...]`, `value: ...`, or `min:` and `max:`")
    if "parameters" in body:
        raise UserError(f"{where}: nested parameters would become one unknown option; write `{name}.KEY:` instead")
    if "value" in body:
        return Parameter(name, (body["value"],))
    if "values" not in body:
        return _range(name, body, where)
    if not isinstance(body["values"], list) or not body["values"]:
        raise UserError(f"{where}: values must be a list with at least one entry")
    if "probabilities" in body:
        raise UserError(f"{where}: values are equally probable here; remove `probabilities`")
    return Parameter(name, tuple(body["values"]))


def _range(name: str, body: dict[str, Any], where: str) -> Parameter:
    bounds: dict[str, Any] = {"min": body.get("min"), "max": body.get("max")}
    for bound, value in bounds.items():
        if isinstance(value, str):
            raise UserError(f"{where}: {bound} is the text {value!r}; YAML reads 1.0e-5 as a number, but not 1e-5")
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise UserError(f"{where}: give `values: [...]`, `value: ...`, or `min:` and `max:`")
        if not -LARGEST <= value <= LARGEST:  # also not infinite, and not NaN
            raise UserError(f"{where}: {bound} is out of range; give a number between -1e300 and 1e300")
    low, high = bounds.values()
    whole = isinstance(low, int) and isinstance(high, int)
    kind = body.get("distribution", "int_uniform" if whole else "uniform")
    if kind not in RANGES:
        raise UserError(f"{where}: distribution {kind!r} is not supported here; choose one of {', '.join(RANGES)}")
    log, integer = "log" in RANGES[kind], "integer" in RANGES[kind]
    if integer and not whole:
        raise UserError(f"{where}: {kind} needs whole numbers as min and max")
    if "exponents" in RANGES[kind]:  # the bounds of W&B's `log_uniform` are natural logarithms
        if high > LARGEST_EXPONENT:
            raise UserError(f"{where}: max is the natural logarithm of the largest value here, and {high} is too large")
        low, high = math.exp(low), math.exp(high)
    if not low < high or (log and low <= 0):
        raise UserError(f"{where}: min must be below max{' and above 0' if log else ''}")
    step = body.get("q", 1) if "rounded" in RANGES[kind] else None
    if step is not None and (isinstance(step, bool) or not isinstance(step, int | float) or not 0 < step <= LARGEST):
        raise UserError(f"{where}: q must be above 0")
    return Parameter(name, (), low, high, log, step, integer)


def _halving(body: Any, name: str) -> tuple[int, int] | None:
    """`early_terminate`: W&B compares after `min_iter * eta^k` validations, or `max_iter / eta^k` for k = s, ..., 1."""
    if body is None:
        return None
    factor = body.get("eta", 3) if isinstance(body, dict) else None
    if factor is None or body.get("type") != "hyperband" or not isinstance(factor, int) or not 2 <= factor <= 1000:
        raise UserError(
            f"{name}: early_terminate must be `{{type: hyperband, min_iter: N, eta: 3}}` with eta of 2 to 1000"
        )
    if "min_iter" in body:
        first = body["min_iter"]
    elif "max_iter" in body and "s" in body:
        brackets, last = body["s"], body["max_iter"]
        if not isinstance(brackets, int) or not 0 <= brackets <= 64 or not isinstance(last, int) or last < 1:
            raise UserError(f"{name}: early_terminate: max_iter and s must be whole numbers, s of at most 64")
        first = last // factor**brackets
    else:
        raise UserError(f"{name}: early_terminate needs min_iter, or max_iter and s")
    if not isinstance(first, int) or first < 1:
        raise UserError(f"{name}: early_terminate would compare trials before their first validation; raise min_iter")
    return first, factor
