"""Quality of enhanced or extracted speech against a clean reference: SI-SDR, improvement over the input, STOI, PESQ."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable
from importlib.util import find_spec

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional.audio import scale_invariant_signal_distortion_ratio

from wavlm_lightning.system.errors import UserError, pip_install

RATE = 16_000  # samples per second, of all audio here
FAINTEST = 1e-20  # of full scale, below which the squares of PESQ have no digits left
SILENT = 1e-4  # samples below it are rounding noise: three steps of a 16-bit file


def si_sdr(estimate: Tensor, reference: Tensor) -> Tensor:
    """Scale-invariant signal-to-distortion ratio in dB of `(samples,)`, means removed (Le Roux et al., arXiv 1811.02508).

    It says nothing where one of the two is silent, see `si_sdr_of_sound`.
    """
    return scale_invariant_signal_distortion_ratio(_audible(estimate), _audible(reference), zero_mean=True)


def _audible(waveform: Tensor) -> Tensor:
    """A waveform of little energy made louder by a power of two; others as they are."""
    # torchmetrics adds 1e-7 to the energies of signal and error, beside which a quiet error disappears.
    energy = float(waveform.square().sum())
    peak = float(waveform.abs().max()) if energy < 1 else 1.0
    return waveform * 2.0 ** min(-math.frexp(peak)[1], 126) if 0 < peak < 1 else waveform


def si_sdr_of_sound(estimate: Tensor, reference: Tensor) -> Tensor | None:
    """`si_sdr`, or None where the estimate or the reference is silent or constant, which has no ratio; see `figure`."""
    return si_sdr(estimate, reference) if _sounds(estimate) and _sounds(reference) else None


def _sounds(waveform: Tensor) -> bool:
    """Whether a waveform has more than a constant, beyond the rounding of float32."""
    # NaN counts as sound: the figure is then NaN, and nobody takes the utterance for a silent one.
    return not bool((waveform - waveform.mean()).abs().max() <= 1e-6 * waveform.abs().max())


def stoi(estimate: Tensor, reference: Tensor) -> Tensor | None:
    """Short-time objective intelligibility of `(samples,)` (Taal et al. 2011), a fraction; computed on the CPU by pystoi.

    None for a reference without sound, or with less than the 0.4 s of speech that a first figure needs.
    """
    from torchmetrics.functional.audio.stoi import short_time_objective_intelligibility

    if not _sounds(reference) or len(reference) < RATE // 10:  # pystoi fails below 26 ms
        return None
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "Not enough STFT frames", RuntimeWarning)
        try:
            return short_time_objective_intelligibility(estimate, reference, RATE)
        except RuntimeWarning:
            return None


def pesq(estimate: Tensor, reference: Tensor) -> Tensor | None:
    """Wide-band PESQ (ITU-T P.862.2) of `(samples,)`, 1.04 to 4.64, by the package pesq; None where P.862 gives no figure.

    That is so without an utterance in the reference, of less than a quarter of a second, and for an estimate without sound.
    NaN for an estimate that is not finite.
    """
    from pesq import PesqError
    from pesq import pesq as wide_band

    if not estimate.isfinite().all():
        return torch.tensor(torch.nan)
    if estimate.abs().max() < FAINTEST:
        return None
    try:
        return torch.tensor(wide_band(RATE, reference.cpu().numpy(), estimate.cpu().numpy(), "wb"))
    except PesqError:
        return None


MEASURES: dict[str, Callable[[Tensor, Tensor], Tensor | None]] = {
    "si_sdr": si_sdr_of_sound,
    "stoi": stoi,
    "pesq": pesq,
}
WORST = {"si_sdr": -30.0, "stoi": 0.0, "pesq": 1.04}
"""What an answer without sound has: the end of the scale; for SI-SDR, whose scale has none, about what noise has."""
NEEDED = {"stoi": "pystoi", "pesq": "pesq"}  # measure -> package
UNPROCESSED = "unprocessed/"  # prefix of the measures of the input
ORACLE = "oracle/"  # prefix of the measures of the best answer that a head of this kind could give
LEFT_OUT = "left_out/"  # prefix of the number of utterances for which a measure gives no figure
SILENT_ANSWERS = "silent/answers"  # how many answers had no sound, and count as `WORST`


def figure(name: str, answer: Tensor, reference: Tensor) -> Tensor | None:
    """A measure of `MEASURES` of `(samples,)`; None where the reference allows none.

    An answer without sound has `WORST`: left out of a mean, it would raise the mean.
    """
    value = MEASURES[name](answer, reference)
    if value is None and MEASURES[name](reference, reference) is not None:
        return torch.tensor(WORST[name], device=answer.device)
    return value


def install_measure(name: str) -> str:
    """The command that installs what a measure needs."""
    # pesq has no wheel, and a compiler is too much to ask for everywhere, so it is in no extra.
    return "pip install pesq (needs a C compiler)" if name == "pesq" else pip_install("enhancement")


def is_installed(name: str) -> bool:
    """Whether a measure of `MEASURES` can be computed here."""
    return name not in NEEDED or find_spec(NEEDED[name]) is not None


class EnhancementMeasures(Metric):
    """Measures of enhanced utterances, each heard alone and without padding, as means over utterances.

    An answer without sound counts, with `WORST`; an utterance whose reference allows no figure (silence; too short for STOI or
    PESQ) is left out and counted.

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
    missing: Tensor
    silent: Tensor
    oracles: Tensor

    def __init__(self, names: Iterable[str]) -> None:
        super().__init__()
        self.names = list(names)
        unknown = [name for name in self.names if name not in MEASURES and name.removesuffix("i") not in MEASURES]
        if unknown:
            raise UserError(f"{unknown[0]!r} is no measure of enhancement; there are {', '.join(MEASURES)}")
        self.measured = [name for name in MEASURES if name in self.names or f"{name}i" in self.names]
        for name in self.measured:
            if not is_installed(name):
                raise UserError(f"{name} needs {NEEDED[name]}: {install_measure(name)}")
        # Rows: of the estimate, of the input and of the oracle.
        self.add_state("sums", torch.zeros(3, len(self.measured)), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("oracles", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("silent", torch.tensor(0), dist_reduce_fx="sum")
        self.latest: dict[str, list[float]] = {}  # by name, of the last utterance; empty where it has no figure
        self.add_state("missing", torch.zeros(len(self.measured), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, estimate: Tensor, reference: Tensor, noisy: Tensor, oracle: Tensor | None = None) -> None:
        """Add an utterance, `(samples,)` each: the model's answer, the clean reference, the input, and what an oracle answers."""
        answers = [estimate, noisy, *([] if oracle is None else [oracle])]
        self.oracles += len(answers) - 2
        self.latest = {name: [] for name in self.names}
        for column, name in enumerate(self.measured):
            found = [figure(name, heard.float(), reference.float()) for heard in answers]
            if any(value is None for value in found):
                self.missing[column] += 1
                continue
            for row, value in enumerate(found):
                assert value is not None
                self.sums[row, column] += value.to(self.sums.device)
            after, before = (float(value) for value in found[:2] if value is not None)
            for each, number in ((name, after), (f"{name}i", after - before)):
                if each in self.names:
                    self.latest[each].append(number)
        self.silent += int(_sounds(reference.float()) and not _sounds(estimate.float()))
        self.count += 1

    def compute(self) -> dict[str, Tensor]:
        """By name; with `unprocessed/` before it the measures of the input, with `oracle/` those of an oracle that was given for
        every utterance, with `left_out/` how many utterances have none, and as `silent/answers` how many answers had no sound."""
        after, before, best = self.sums / (self.count - self.missing)
        values = {name: after[column] for column, name in enumerate(self.measured)}
        inputs = {name: before[column] for column, name in enumerate(self.measured)}
        improved = {f"{name}i": values[name] - inputs[name] for name in self.measured}
        named = {name: {**values, **improved}[name] for name in self.names}
        left_out = {f"{LEFT_OUT}{self.measured[n]}": self.missing[n] for n in self.missing.nonzero()[:, 0].tolist()}
        if self.silent:
            left_out[SILENT_ANSWERS] = self.silent
        named |= {f"{UNPROCESSED}{name}": value for name, value in inputs.items()}
        if self.count and self.oracles == self.count:
            named |= {f"{ORACLE}{name}": best[column] for column, name in enumerate(self.measured)}
        return named | left_out


class ExtractionMeasures(EnhancementMeasures):
    """The same of an extracted speaker, with `confusion`.

    `confusion` is the share of the answers that are nearer, by SI-SDR, to the rest of the mixture (the other speakers, and noise
    if there is some) than to the target; an answer without sound is confused, too, and utterances without a rest do not count.

    Args:
        names: as for `EnhancementMeasures`, without `confusion`.
    """

    confused: Tensor
    pairs: Tensor

    def __init__(self, names: Iterable[str]) -> None:
        super().__init__(names)
        for name in ("confused", "pairs"):
            self.add_state(name, torch.tensor(0), dist_reduce_fx="sum")

    def update(self, estimate: Tensor, reference: Tensor, noisy: Tensor, oracle: Tensor | None = None) -> None:
        """Add an utterance, `(samples,)` each: the answer, the target alone, the mixture, and what an oracle answers."""
        if not reference.any():
            raise UserError("the target speaker is silent, so no answer has an SI-SDR; leave the utterance out")
        super().update(estimate, reference, noisy, oracle)
        rest = noisy.float() - reference.float()
        if rest.abs().max() > SILENT:
            self.pairs += 1
            answer = estimate.float()
            self.confused += int(not _sounds(answer) or si_sdr(answer, rest) > si_sdr(answer, reference.float()))

    def compute(self) -> dict[str, Tensor]:
        """As of `EnhancementMeasures`, and `confusion`."""
        values = super().compute()
        if self.pairs:
            values["confusion"] = self.confused / self.pairs
        return values
