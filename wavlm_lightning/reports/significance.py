"""Which figures one may believe: 95 % intervals, the digits they support, ties, chance, and test sets that are too small."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from wavlm_lightning.reports.cards import DECIMALS, HeadlineInterval, MetricValue, ResultCard
from wavlm_lightning.reports.utterances import UtteranceResults, compare, interval, join_folds, read_results
from wavlm_lightning.system.errors import UserError

ALPHA = 0.05  # level of a paired test
FEW_UTTERANCES = 200  # a test set with fewer is called small
WIDE_INTERVAL = 10.0  # points; a figure in percent with a wider 95 % interval is called uncertain
BOLD = "ahead of every other row (paired test, p < 0.05; without results of each utterance, at the digits shown) and above chance"
Verdict = Literal["ahead", "level", "behind"]


class Difference(NamedTuple):
    """A figure against that of a reference, on the same test set.

    Attributes:
        value: figure minus reference, in the unit of the metric; where one of them was tested on more utterances, on those
            that both have heard.
        verdict: of the figure; "level" if the difference is not beyond chance, seeds or the digits shown.
        p_value: of the paired test over utterances; None if either run has no results of its utterances.
        utterances: that both runs were tested on; 0 without a test.
        why: what makes them level or what is missing, for the reader; empty if the test decides.
        ends: of the 95 % interval of the paired difference; None without a test, or if no utterance differs.
    """

    value: float
    verdict: Verdict
    p_value: float | None
    utterances: int
    why: str
    ends: tuple[float, float] | None = None


@dataclass(frozen=True)
class Measured:
    """A figure with what is known of its certainty.

    Args:
        metric: the figure.
        utterances: results of the test's utterances, if the metric is the one that they are of.
        deviation: standard deviation over seeds, in the unit of the metric; None for a single seed.
        given: the interval on the card, for a metric whose utterances are not there or need not be drawn again.
    """

    metric: MetricValue
    utterances: UtteranceResults | None = None
    deviation: float | None = None
    given: HeadlineInterval | None = None

    @property
    def value(self) -> float:
        return self.metric["value"]

    @cached_property
    def interval(self) -> tuple[float, float] | None:
        """The ends of the 95 % interval in the unit of the metric; None without results of the utterances."""
        if self.given is not None:
            return self.given["low"], self.given["high"]
        if self.utterances is None:
            return None
        found = interval(self.utterances)
        return found.low, found.high

    @property
    def resampled(self) -> str:
        """What the interval is drawn from, such as "speakers"; empty without one."""
        if self.given is not None:
            return self.given["resampled"]
        return "" if self.utterances is None else self.utterances.resampled

    @property
    def decimals(self) -> int:
        """Decimals that the interval supports: two significant digits of half its width; without one, those of the metric."""
        most = self.metric.get("decimals", DECIMALS)
        if self.interval is None or not (half := (self.interval[1] - self.interval[0]) / 2) > 0:
            return most
        return min(most, max(0, 1 - math.floor(math.log10(half))))

    @property
    def text(self) -> str:
        """The figure, with its deviation if there are several seeds: "53.40 ± 0.40"."""
        text = f"{self.value:.{self.decimals}f}"
        return text if self.deviation is None else f"{text} ± {self.deviation:.{self.decimals}f}"

    @property
    def interval_text(self) -> str:
        """The interval, "[41.2, 46.3]"; empty without one."""
        if self.interval is None:
            return ""
        low, high = (f"{end:.{self.decimals}f}" for end in self.interval)
        return f"[{low},\u00a0{high}]"

    @property
    def at_chance(self) -> bool:
        """Whether the figure is not clearly better than guessing; never, if nothing says what guessing scores."""
        if (chance := self.metric.get("chance")) is None:
            return False
        sign = 1 if self.metric["better"] == "higher" else -1
        if self.interval is not None:
            return min(sign * end for end in self.interval) <= sign * chance
        decimals = self.metric.get("decimals", DECIMALS)
        return sign * round(self.value, decimals) <= sign * round(chance, decimals)

    @property
    def is_wide(self) -> bool:
        """Whether the figure is in percent and its interval wider than `WIDE_INTERVAL` points."""
        return (
            self.metric["unit"] == "%"
            and self.interval is not None
            and self.interval[1] - self.interval[0] > WIDE_INTERVAL
        )


def results_of(file: Path, card: ResultCard) -> UtteranceResults | None:
    """Results of the utterances behind a card: beside it, in the run of the chosen learning rate, or in its folds.

    Raises:
        UserError: a file of results is damaged.
    """
    folder, folds = file.parent, card.details.get("folds", {})
    # The first fold's path stands for folds whose parent has no card.
    is_fold = bool(folds) and folder.name.startswith("fold")
    if not is_fold and (found := read_results(file)) is not None:
        return found
    run = card.details.get("run")
    if run and not is_fold and (found := read_results(folder / run)) is not None:
        return found
    parent = folder.parent if is_fold else folder
    some = [read_results(parent / f"fold{number}" / (run or "")) for number in range(1, len(folds) + 1)]
    known = [one for one in some if one is not None]
    return join_folds(known) if known and len(known) == len(some) else None


def over_seeds(seeds: Sequence[UtteranceResults]) -> UtteranceResults | None:
    """The mean over seeds of the result of each utterance; None for several with trials or n-grams, or of other utterances."""
    if len(seeds) == 1:
        return seeds[0]
    if not seeds or any(one.trials is not None or one.ngrams is not None for one in seeds):
        return None
    told = all(one.data for one in seeds)  # older results do not say on what data they are
    if any(_of_test(one, told) != _of_test(seeds[0], told) for one in seeds):
        return None
    if any(not np.allclose(one.counts, seeds[0].counts) for one in seeds):
        return None
    return replace(seeds[0], errors=np.mean([one.errors for one in seeds], axis=0))


def _of_test(one: UtteranceResults, told: bool) -> tuple[object, ...]:
    data = one.data if told else ""
    return one.task, one.metric, one.better, one.scale, one.corpus, one.split, data, one.rows, one.folds, one.keys


def difference(reference: Measured, other: Measured) -> Difference:
    """Compare two figures of one metric: by the paired test over utterances if both have results, else by their digits.

    The figures are level if p >= 0.05, if both are at chance, if they differ by no more than the seeds do, and, without a
    test, if they are equal at the digits shown.
    """
    value = other.value - reference.value
    p_value, utterances, why, shared, ends = None, 0, "not tested", "", None
    one, two = other.utterances, reference.utterances
    # What F1 divides by depends on the answers, so that a paired test of sums over one base does not apply.
    if one is not None and two is not None and not _is_f1_of_one_test(one, two):
        try:
            found = compare(one, two)
        except UserError:  # another corpus, split or set of utterances
            return Difference(value, "level", None, 0, "not the same test data")
        p_value, utterances, why = found.p_value, found.utterances, ""
        ends = (found.low, found.high) if found.low < found.high else None
        if utterances < max(one.tested, two.tested):
            # The figures of the whole tests are of unlike utterances, so that even their order may be the wrong one.
            rows = one.rows if one.trials is None else "trials"
            value, shared = found.difference, f"on the {utterances:,} {rows} that both have heard"
    better = (value < 0) == (other.metric["better"] == "lower")
    verdict: Verdict = "ahead" if better else "behind"
    deviations = [each.deviation for each in (reference, other) if each.deviation is not None]
    decimals = other.metric.get("decimals", DECIMALS)
    if p_value is not None and p_value >= ALPHA:
        verdict = "level"
    elif p_value is None and f"{other.value:.{decimals}f}" == f"{reference.value:.{decimals}f}":
        verdict, why = "level", "equal, not tested"
    elif reference.at_chance and other.at_chance:
        verdict, why = "level", "both at chance"
    elif deviations and abs(value) <= math.hypot(*deviations):
        verdict, why = "level", "within the spread of seeds"
    return Difference(value, verdict, p_value, utterances, ", ".join(filter(None, [why, shared])), ends)


def _is_f1_of_one_test(one: UtteranceResults, other: UtteranceResults) -> bool:
    """Whether both are an F1 of the same recordings."""
    told = one.data and other.data
    places = [(each.metric, each.corpus, each.split, told and each.data, each.keys) for each in (one, other)]
    return one.metric.endswith("f1") and places[0] == places[1]


def leader(figures: Mapping[str, Measured], ahead: Callable[[str, str], bool] | None = None) -> str | None:
    """The row that is ahead of every other one and above chance; None on ties, at chance, and for fewer than two rows.

    `ahead` says whether its first row is ahead of its second, by default by `difference`.
    """
    if len(figures) < 2:
        return None
    sign = 1 if next(iter(figures.values())).metric["better"] == "higher" else -1
    order = sorted(figures, key=lambda name: sign * figures[name].value, reverse=True)
    # Tested on unlike utterances, a row may be ahead of one whose figure is the better one.
    unlike = len({(one.keys, one.tested) if (one := each.utterances) else None for each in figures.values()}) > 1
    beats = ahead or (lambda best, name: difference(figures[name], figures[best]).verdict == "ahead")
    for best in order if unlike else order[:1]:
        if not figures[best].at_chance and all(beats(best, name) for name in order if name != best):
            return best
    return None


def p_text(p_value: float | None) -> str:
    """A p-value with the digits that a permutation test supports: "0.21", "0.003", "< 0.001"."""
    if p_value is None:
        return ""
    if p_value < 0.001:
        return "< 0.001"
    return f"{p_value:.3f}" if p_value < 0.1 else f"{p_value:.2f}"


def small_tests(figures: Sequence[tuple[str, int, Sequence[Measured]]]) -> str:
    """Warn of small test sets and wide intervals, and name the rule; `figures` are (column, utterances, its figures).

    Empty if no column deserves a warning.
    """
    few = [f"{name} ({count:,} utterances)" for name, count, _ in figures if count < FEW_UTTERANCES]
    wide = [name for name, count, some in figures if count >= FEW_UTTERANCES and any(one.is_wide for one in some)]
    parts = [f"small test sets: {', '.join(few)}"] if few else []
    parts += [f"wide intervals: {', '.join(wide)}"] if wide else []
    if not parts:
        return ""
    return (
        f"**Read with care**, {'; '.join(parts)}. The rule: fewer than {FEW_UTTERANCES} test utterances, or a 95 % "
        f"interval wider than {WIDE_INTERVAL:.0f} points."
    )
