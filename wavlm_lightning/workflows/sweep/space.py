"""The parameters of a W&B sweep file: what may be tried, and how it is drawn."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wavlm_lightning.system.errors import UserError

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

RANGES = {
    "int_uniform": {"integer": True},
    "uniform": {},
    "q_uniform": {"rounded": True},
    "log_uniform_values": {"log": True},
    "q_log_uniform_values": {"log": True, "rounded": True},
    "log_uniform": {"log": True, "exponents": True},
}
"""The distributions of https://docs.wandb.ai/models/sweeps/sweep-config-keys that `wavlm sweep` draws from."""


@dataclass(frozen=True)
class Parameter:
    """One option that the trials of a sweep differ in.

    Attributes:
        name: the option, without dashes.
        values: what may be taken; empty for a range.
        low: smallest value of a range.
        high: largest value of a range.
        log: the range is drawn from evenly on a logarithmic scale.
        step: values of a range are rounded to multiples of this.
        integer: the range holds whole numbers.
    """

    name: str
    values: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    step: float | None = None
    integer: bool = False

    def distribution(self) -> BaseDistribution:
        """The same in Optuna's terms; a choice goes by its JSON, so that lists, 1 and true stay what they are."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        if self.values:
            return CategoricalDistribution([json.dumps(value) for value in self.values])
        if self.integer:
            return IntDistribution(int(self.low), int(self.high))
        return FloatDistribution(self.low, self.high, log=self.log)

    def encode(self, value: Any) -> Any:
        """A value as Optuna stores it."""
        return json.dumps(value) if self.values else value

    def decode(self, stored: Any) -> Any:
        """The value of the option, from what Optuna drew."""
        if self.values:
            return json.loads(stored)
        if self.step is None:
            return stored
        # Ten digits hide what a product of floats adds: 3 * 0.1 is 0.30000000000000004.
        return float(f"{round(stored / self.step) * self.step:.10g}")


def read_parameter(name: str, body: Any, place: str) -> Parameter:
    """A parameter from its entry in the file.

    Args:
        name: its key.
        body: its value.
        place: the file, for messages.

    Raises:
        UserError: the entry is none that can be drawn from here.
    """
    where = f"{place}: parameters: {name}"
    if not isinstance(body, dict):
        raise UserError(f"{where}: give `values: [...]`, `value: ...`, or `min:` and `max:`")
    if "parameters" in body:
        raise UserError(f"{where}: nested parameters become one option that nobody reads; write `{name}.KEY:` instead")
    if "value" in body:
        return Parameter(name, (body["value"],))
    if "values" in body:
        if not isinstance(body["values"], list) or not body["values"]:
            raise UserError(f"{where}: values must be a list of at least one")
        if "probabilities" in body:
            raise UserError(f"{where}: values are equally probable here; leave out `probabilities`")
        return Parameter(name, tuple(body["values"]))
    return _range(name, body, where)


def _range(name: str, body: dict[str, Any], where: str) -> Parameter:
    low: Any = body.get("min")
    high: Any = body.get("max")
    for bound, value in (("min", low), ("max", high)):
        if isinstance(value, str):
            raise UserError(f"{where}: {bound} is the text {value!r}; YAML reads 1.0e-5 as a number, but not 1e-5")
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise UserError(f"{where}: give `values: [...]`, `value: ...`, or `min:` and `max:`")
    whole = isinstance(low, int) and isinstance(high, int)
    kind = body.get("distribution", "int_uniform" if whole else "uniform")
    if kind not in RANGES:
        raise UserError(f"{where}: distribution {kind!r} is not drawn from here; choose one of {', '.join(RANGES)}")
    traits = RANGES[kind]
    if traits.get("integer") and not whole:
        raise UserError(f"{where}: {kind} needs whole numbers as min and max")
    if traits.get("exponents"):  # W&B's `log_uniform` is given by the natural logarithms of its bounds
        low, high = math.exp(low), math.exp(high)
    if not low < high or (traits.get("log") and low <= 0):
        raise UserError(f"{where}: min must be below max{' and above 0' if traits.get('log') else ''}")
    step = body.get("q", 1) if traits.get("rounded") else None
    if step is not None and not step > 0:
        raise UserError(f"{where}: q must be above 0")
    return Parameter(name, (), low, high, bool(traits.get("log")), step, bool(traits.get("integer")))
