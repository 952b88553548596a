"""Quality of enhanced speech against a clean reference: SI-SDR, its improvement over the input, STOI."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib.util import find_spec

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional.audio import scale_invariant_signal_distortion_ratio

from wavlm_lightning.system.errors import UserError, pip_install

RATE = 16_000  # samples per second, of all audio here


def si_sdr(estimate: Tensor, reference: Tensor) -> Tensor:
    """Scale-invariant signal-to-distortion ratio in dB of `(samples,)`, means removed (Le Roux et al., arXiv 1811.02508)."""
    return scale_invariant_signal_distortion_ratio(estimate, reference, zero_mean=True)


def stoi(estimate: Tensor, reference: Tensor) -> Tensor:
    """Short-time objective intelligibility of `(samples,)` (Taal et al. 2011), a fraction; computed on the CPU by pystoi."""
    from torchmetrics.functional.audio.stoi import short_time_objective_intelligibility

    return short_time_objective_intelligibility(estimate, reference, RATE)


MEASURES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"si_sdr": si_sdr, "stoi": stoi}
NEEDED = {"stoi": "pystoi"}  # measure -> package
UNPROCESSED = "unprocessed/"  # prefix of the measures of the input


class EnhancementMeasures(Metric):
    """Measures of enhanced utterances, each heard alone and without padding, as means over utterances.

    Args:
        names: some of `MEASURES`, or one of them with an `i` for its improvement over the input (`si_sdri`).

    Example:
        >>> metric = EnhancementMeasures(["si_sdr", "si_sdri"])
        >>> metric.update(estimate, reference, noisy)
        >>> metric.compute()
        {'si_sdr': tensor(9.3), 'si_sdri': tensor(4.1), 'unprocessed/si_sdr': tensor(5.2)}
    """

    full_state_update = False
    is_differentiable = False
    sums: Tensor
    count: Tensor

    def __init__(self, names: Iterable[str]) -> None:
        super().__init__()
        self.names = list(names)
        unknown = [name for name in self.names if name not in MEASURES and name.removesuffix("i") not in MEASURES]
        if unknown:
            raise UserError(f"{unknown[0]!r} is no measure of enhancement; there are {', '.join(MEASURES)}")
        self.measured = [name for name in MEASURES if name in self.names or f"{name}i" in self.names]
        for name in self.measured:
            if name in NEEDED and find_spec(NEEDED[name]) is None:
                raise UserError(f"{name} needs {NEEDED[name]}: {pip_install('enhancement')}")
        # Rows: of the estimate and of the input.
        self.add_state("sums", torch.zeros(2, len(self.measured)), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, estimate: Tensor, reference: Tensor, noisy: Tensor) -> None:
        """Add an utterance: what the model answered, the clean reference and the input, `(samples,)` each."""
        for row, heard in enumerate((estimate, noisy)):
            for column, name in enumerate(self.measured):
                self.sums[row, column] += MEASURES[name](heard.float(), reference.float()).to(self.sums.device)
        self.count += 1

    def compute(self) -> dict[str, Tensor]:
        """By name, and with `unprocessed/` before the name the measures of the input."""
        after, before = self.sums / self.count
        values = {name: after[column] for column, name in enumerate(self.measured)}
        inputs = {name: before[column] for column, name in enumerate(self.measured)}
        improved = {f"{name}i": values[name] - inputs[name] for name in self.measured}
        named = {name: {**values, **improved}[name] for name in self.names}
        return named | {f"{UNPROCESSED}{name}": value for name, value in inputs.items()}
