"""Results of each utterance beside a card: from them come the interval of the headline figure and paired comparisons.

The file `utterances.json` holds, for each utterance of the test, what it adds to the headline metric; for verification it
holds the trials and their scores. `interval` and `compare` resample speakers where they are known.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from wavlm_lightning.metrics.intervals import (
    LEVEL,
    RESAMPLES,
    Interval,
    exact_interval,
    exchanged_sums,
    paired_p_value,
    resampled_rates,
    resampled_sums,
)
from wavlm_lightning.metrics.text.ngram_counts import COLUMNS, bleu_of
from wavlm_lightning.metrics.trial_intervals import trial_interval, trial_measures, trial_p_value
from wavlm_lightning.metrics.verification import equal_error_rate
from wavlm_lightning.reports.aggregate import fold_names, joined_hash
from wavlm_lightning.reports.cards import HeadlineInterval
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.files import remove, write_json
from wavlm_lightning.system.reading import read_json, reading, shown

FORMAT = "wavlm_lightning/utterances/1"
RESULTS_NAME = "utterances.json"
METHOD = "percentile bootstrap"
EXACT = "exact binomial"  # where all results are equal
FEWEST_SPEAKERS = 10
DIGITS = 9  # of scores in the file; single precision has seven


class ScoredTrials(NamedTuple):
    """Pairs of utterances of a verification test with their scores."""

    first: np.ndarray  # place of the one utterance among the keys, int64 `(trials,)`
    second: np.ndarray  # of the other
    same: np.ndarray  # whether both are of one speaker, bool `(trials,)`
    scores: np.ndarray  # float64 `(trials,)`, higher for pairs that are more alike


@dataclass(frozen=True, kw_only=True)
class UtteranceResults:
    """What each utterance of a test adds to the headline metric.

    The metric, a fraction, is `sum(errors) / sum(counts)`; with folds, the mean over folds of that ratio; with trials, their
    equal error rate; with n-grams, BLEU of their sums.

    Args:
        task: abbreviation, such as "PR".
        metric: name of the headline metric.
        better: whether low or high is good.
        scale: times the fraction gives the value on the card.
        corpus: name of the corpus.
        split: that was tested.
        data: a hash of its utterances; empty on results of older versions.
        rows: what a row is: `utterances`, `recordings` or `queries`.
        keys: of the utterances, in the order of the split.
        errors: float64 `(utterances,)`: wrong words, seconds of error, or, where the headline is a mean, the figure of the
            utterance (1 for a right answer of a classifier); empty with trials or n-grams.
        counts: float64 `(utterances,)`: words, seconds of speech; 1 where the headline is a mean; empty with trials or n-grams.
        speakers: of each utterance, or None if the corpus does not name them.
        folds: split of each utterance whose figures were averaged, or None.
        trials: of verification.
        ngrams: of translations, int64 `(utterances, COLUMNS)`, see `metrics.text.ngram_counts`.
    """

    task: str
    metric: str
    better: Literal["lower", "higher"]
    scale: float
    corpus: str
    split: str
    keys: tuple[str, ...]
    errors: np.ndarray
    counts: np.ndarray
    data: str = ""
    rows: str = "utterances"
    speakers: tuple[str, ...] | None = None
    folds: tuple[str, ...] | None = None
    trials: ScoredTrials | None = None
    ngrams: np.ndarray | None = None

    @property
    def value(self) -> float:
        """The headline figure, a fraction."""
        if self.trials is not None:
            return equal_error_rate(self.trials.scores, self.trials.same)[0]
        if self.ngrams is not None:
            return float(bleu_of(self.ngrams.sum(0)))
        ratios = [self.errors[members].sum() / self.counts[members].sum() for members in _folds(self)]
        return float(np.mean(ratios))

    @property
    def resampled(self) -> str:
        """What `interval` and `compare` resample: `speakers` where ten are known, in each fold.

        A few speakers do not say how other speakers would differ, and a bootstrap over them holds the truth far too rarely.
        Utterances are resampled instead; the interval then holds for these speakers.
        """
        if self.speakers is not None:
            names = np.array(self.speakers)
            if min(len(set(names[members].tolist())) for members in _folds(self)) >= FEWEST_SPEAKERS:
                return "speakers"
        return self.rows if self.trials is None else "trials"

    @property
    def units(self) -> int:
        """Number of the speakers, utterances or trials that are resampled."""
        if self.resampled == "speakers":
            return len(set(self.speakers or ()))
        return self.tested

    @property
    def tested(self) -> int:
        """Number of what `compare` pairs: utterances, recordings, queries or trials."""
        return len(self.keys) if self.trials is None else len(self.trials.same)

    @property
    def unanimous(self) -> bool:
        """Whether a share is 0 or 1 because every utterance says so; its interval is then that of Clopper and Pearson (1934)."""
        if self.ngrams is not None:  # BLEU is no share
            return False
        return self.scale == 100 and (
            self.value in (0.0, 1.0)
            if self.trials is not None
            else not self.errors.any() or bool((self.errors == self.counts).all())
        )

    @property
    def groups(self) -> tuple[str, ...] | None:
        """Speaker of each utterance, if speakers are resampled."""
        return self.speakers if self.resampled == "speakers" else None


class Comparison(NamedTuple):
    """Two encoders on the same utterances."""

    p_value: float  # two-sided, for equal truth
    difference: float  # of the first to the second, in the card's unit
    utterances: int  # compared: utterances, recordings, queries, or trials of verification
    resampled: str = "utterances"  # what was exchanged or resampled
    low: float = math.nan  # ends of the 95 % bootstrap interval of the difference
    high: float = math.nan


def interval(results: UtteranceResults, level: float = LEVEL, resamples: int = RESAMPLES) -> Interval:
    """The headline figure and its percentile bootstrap interval, in the card's unit.

    It says how much the figure would vary over other utterances, or speakers, of the same kind; not over seeds of training.

    Example:
        >>> interval(read_results(Path("runs/demo/pr-fbank")))
        Interval(value=61.5, low=58.9, high=64.1)
    """
    trials = results.trials
    if trials is not None:
        found = trial_interval(
            trials.scores,
            trials.same,
            _sides(results),
            level=level,
            resamples=resamples,
        )
    elif results.ngrams is not None:
        figures = bleu_of(resampled_sums(results.ngrams, results.groups, resamples))
        low, high = np.quantile(figures, [(1 - level) / 2, (1 + level) / 2])
        found = Interval(results.value, float(low), float(high))
    else:
        drawn, speakers = [], results.groups
        for number, members in enumerate(_folds(results)):
            errors, counts = results.errors[members].tolist(), results.counts[members].tolist()
            groups = None if speakers is None else [speakers[place] for place in members]
            # Each fold has draws of its own.
            drawn.append(resampled_rates(errors, counts, groups, resamples, seed=number))
        rates = np.mean(drawn, axis=0)
        low, high = np.nanquantile(rates, [(1 - level) / 2, (1 + level) / 2])
        found = Interval(results.value, float(low), float(high))
    if results.unanimous:
        trials = results.trials
        number = results.units if trials is None else min(int(trials.same.sum()), int((~trials.same).sum()))
        found = exact_interval(found.value, number, level)
    return Interval(*(results.scale * value for value in found))


def described(results: UtteranceResults) -> HeadlineInterval:
    """The interval as a card holds it."""
    found = interval(results)
    return {
        "low": round(found.low, 4),
        "high": round(found.high, 4),
        "level": LEVEL,
        "method": EXACT if results.unanimous else METHOD,
        "resamples": 0 if results.unanimous else RESAMPLES,
        "resampled": results.resampled,
        "units": results.units,
    }


def compare(one: UtteranceResults, other: UtteranceResults, resamples: int = RESAMPLES) -> Comparison:
    """Whether two encoders differ on the utterances that both have heard.

    Results of one utterance, or of all utterances of a speaker, are exchanged at random (a permutation test); of trials, the
    difference is bootstrapped.

    Raises:
        UserError: another task, metric, corpus or split, no utterance in common, or other references.

    Example:
        >>> compare(read_results(Path("runs/wavlm/pr")), read_results(Path("runs/fbank/pr"))).p_value
        0.0005
    """
    for name in ("task", "metric", "corpus", "split", "rows"):
        mine, theirs = getattr(one, name), getattr(other, name)
        if mine != theirs:
            raise UserError(
                f"results of {name} {mine!r} and of {name} {theirs!r} cannot be compared; test both runs on the same split"
            )
    if one.data and other.data and one.data != other.data:
        raise UserError(
            f"results of {one.task} on two different corpora that are both called {one.corpus!r} cannot be compared; test both "
            "runs on the same one"
        )
    for name in ("trials", "ngrams"):
        if (getattr(one, name) is None) != (getattr(other, name) is None):
            raise UserError(f"{one.task}: only one of the two results has {name}; test both runs again")
    return _compare_trials(one, other, resamples) if one.trials is not None else _compare_rows(one, other, resamples)


def _compare_rows(one: UtteranceResults, other: UtteranceResults, resamples: int) -> Comparison:
    place = {key: number for number, key in enumerate(other.keys)}
    mine = np.array([number for number, key in enumerate(one.keys) if key in place], dtype=np.int64)
    if not len(mine):
        raise UserError(f"{one.task}: the two runs have no {one.rows} in common; test both on the same ones")
    a, b = _some(one, mine), _some(other, np.array([place[one.keys[number]] for number in mine]))
    if a.ngrams is not None:
        return _compare_ngrams(a, b, resamples)
    unlike = np.flatnonzero(~np.isclose(a.counts, b.counts, rtol=1e-6)) if a.folds == b.folds else np.array([0])
    if len(unlike):
        raise UserError(
            f"{one.task}: the references of {a.keys[unlike[0]]!r} differ between the two runs; test both on the same corpus"
        )
    # With these weights the sum over utterances is the headline metric: a ratio, or the mean of the folds' ratios.
    weights, folds = np.zeros(len(a.keys)), _folds(a)
    for members in folds:
        weights[members] = 1 / (len(folds) * max(a.counts[members].sum(), 1e-12))
    groups = a.groups if a.speakers == b.speakers else None
    scaled = weights / weights.max()  # ones without folds, so that sums of whole numbers stay exact
    p_value = paired_p_value(a.errors * scaled, b.errors * scaled, groups, resamples)
    difference = float(((a.errors - b.errors) * weights).sum()) * one.scale
    drawn = []
    for number, members in enumerate(folds):
        speakers = None if groups is None else [groups[place] for place in members]
        gaps = (a.errors - b.errors)[members].tolist()
        drawn.append(resampled_rates(gaps, a.counts[members].tolist(), speakers, resamples, seed=number))
    ends = _ends(np.mean(drawn, axis=0), one.scale)
    return Comparison(p_value, difference, len(mine), one.rows if groups is None else "speakers", *ends)


def _compare_ngrams(one: UtteranceResults, other: UtteranceResults, resamples: int) -> Comparison:
    """Compare BLEU of the same utterances in the same order."""
    assert one.ngrams is not None and other.ngrams is not None
    unlike = np.flatnonzero(one.ngrams[:, -1] != other.ngrams[:, -1])
    if len(unlike):
        raise UserError(
            f"{one.task}: the references of {one.keys[unlike[0]]!r} differ between the two runs; test both on the same corpus"
        )
    groups = one.groups if one.speakers == other.speakers else None
    observed = one.value - other.value
    first, second = exchanged_sums(one.ngrams, other.ngrams, groups, resamples)
    beyond = int((np.abs(bleu_of(first) - bleu_of(second)) >= abs(observed) - 1e-12).sum())
    # The same utterances are drawn of both.
    drawn = resampled_sums(np.concatenate([one.ngrams, other.ngrams], 1), groups, resamples)
    ends = _ends(bleu_of(drawn[:, :COLUMNS]) - bleu_of(drawn[:, COLUMNS:]), one.scale)
    what = one.rows if groups is None else "speakers"
    return Comparison((beyond + 1) / (resamples + 1), observed * one.scale, len(one.keys), what, *ends)


def _ends(differences: np.ndarray, scale: float) -> tuple[float, float]:
    """The ends of the 95 % interval of resampled differences, in the card's unit."""
    low, high = np.nanquantile(differences, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return scale * float(low), scale * float(high)


def _compare_trials(one: UtteranceResults, other: UtteranceResults, resamples: int) -> Comparison:
    named = [_by_pair(one), _by_pair(other)]
    pairs = [pair for pair in named[0] if pair in named[1]]
    mine, theirs = ([rows[pair] for pair in pairs] for rows in named)
    same = [row[1] for row in mine]
    if not 0 < sum(same) < len(same):
        raise UserError(f"{one.task}: the two runs have too few trials in common; test both on the same ones")
    if same != [row[1] for row in theirs]:
        raise UserError(f"{one.task}: the truth of trials differs between the two runs; test both on the same corpus")
    sides = None
    if one.groups is not None and other.groups is not None:
        sides = [(one.groups[row[2]], one.groups[row[3]]) for row in mine]
    scores = [[row[0] for row in rows] for rows in (mine, theirs)]
    whole, drawn = trial_measures(scores, same, sides, resamples=resamples)
    difference = float(whole[0] - whole[1]) * one.scale
    ends = _ends(drawn[:, 0] - drawn[:, 1], one.scale)
    return Comparison(
        trial_p_value(whole, drawn), difference, len(pairs), "trials" if sides is None else "speakers", *ends
    )


def _by_pair(results: UtteranceResults) -> dict[tuple[frozenset[str], int], tuple[float, bool, int, int]]:
    """Score, truth and places of the two utterances of each trial, by their keys; a pair may be listed twice."""
    assert results.trials is not None
    times: Counter[frozenset[str]] = Counter()
    found = {}
    for first, second, same, score in zip(*(part.tolist() for part in results.trials), strict=True):
        pair = frozenset((results.keys[first], results.keys[second]))
        found[pair, times[pair]] = score, bool(same), first, second
        times[pair] += 1
    return found


def _sides(results: UtteranceResults) -> list[tuple[str, str]] | None:
    """The speakers of both sides of each trial."""
    speakers, trials = results.groups, results.trials
    if speakers is None or trials is None:
        return None
    return [(speakers[a], speakers[b]) for a, b in zip(trials.first.tolist(), trials.second.tolist(), strict=True)]


def _folds(results: UtteranceResults) -> list[np.ndarray]:
    """Places of the utterances of each fold."""
    if results.folds is None:
        return [np.arange(len(results.keys))]
    folds = np.array(results.folds)
    return [np.flatnonzero(folds == name) for name in dict.fromkeys(results.folds)]


def _some(results: UtteranceResults, members: np.ndarray) -> UtteranceResults:
    """The results of some utterances, in that order."""

    def of(values: tuple[str, ...] | None) -> tuple[str, ...] | None:
        return None if values is None else tuple(values[number] for number in members)

    return replace(
        results,
        keys=of(results.keys) or (),
        errors=results.errors[members] if results.ngrams is None else results.errors,
        counts=results.counts[members] if results.ngrams is None else results.counts,
        ngrams=None if results.ngrams is None else results.ngrams[members],
        speakers=of(results.speakers),
        folds=of(results.folds),
    )


def join_folds(results: Sequence[UtteranceResults]) -> UtteranceResults | None:
    """The results of a cross-validation, whose figure is the mean over folds; None for a fold without, trials or n-grams."""
    if len(results) == 1:
        return results[0]
    if not results or any(one is not None for each in results for one in (each.trials, each.folds, each.ngrams)):
        return None
    first, known = results[0], all(each.speakers is not None for each in results)
    named = list(zip(fold_names([each.split for each in results]), results, strict=True))
    return replace(
        first,
        split=", ".join(each.split for each in results),
        data=joined_hash([each.data for each in results]),
        # An utterance may be in several folds.
        keys=tuple(f"{name}/{key}" for name, each in named for key in each.keys),
        errors=np.concatenate([each.errors for each in results]),
        counts=np.concatenate([each.counts for each in results]),
        speakers=tuple(speaker for each in results for speaker in each.speakers or ()) if known else None,
        folds=tuple(name for name, each in named for _ in each.keys),
    )


def _path(run: Path) -> Path:
    run = Path(run)
    return (run.parent if run.suffix == ".json" else run) / RESULTS_NAME


def write_results(run: Path, results: UtteranceResults | None) -> Path | None:
    """Write `utterances.json` beside the card of a run folder; None removes that of an earlier test."""
    path = _path(run)
    if results is None:
        remove(path)
        return None
    content: dict[str, Any] = {"format": FORMAT}
    for entry in fields(results):
        value = getattr(results, entry.name)
        if isinstance(value, ScoredTrials):
            value = {name: _numbers(part) for name, part in value._asdict().items()}
        elif isinstance(value, np.ndarray):
            value = _numbers(value)
        if value is not None:
            content[entry.name] = value
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, content, indent=None, separators=(",", ":"), allow_nan=False)
    return path


def _numbers(values: np.ndarray) -> list[float | int]:
    """Whole numbers as such, others with nine digits, so that the file stays small."""
    if values.dtype.kind in "biu":
        return values.astype(int).tolist()
    return [int(value) if value.is_integer() else float(f"{value:.{DIGITS}g}") for value in values.tolist()]


def read_results(run: Path) -> UtteranceResults | None:
    """The results beside the card of a run (its folder, or the card); None for a run that has none, as older ones.

    Raises:
        UserError: the file is damaged or of another format.
    """
    path, what, remedy = _path(run), "results of utterances", "delete it, or test the run again"
    if not path.exists():
        return None
    content = read_json(path, what, remedy)
    if content.get("format") != FORMAT:
        raise UserError(f"{path} has format {shown(content.get('format'))}, not {FORMAT!r}; {remedy}")
    with reading(path, what, remedy):
        return _parsed(content)


def _parsed(content: dict[str, Any]) -> UtteranceResults:
    names = {entry.name for entry in fields(UtteranceResults)}
    found = {name: value for name, value in content.items() if name in names}
    for name in ("keys", "speakers", "folds"):
        if found.get(name) is not None:
            found[name] = tuple(map(str, found[name]))
    for name in ("errors", "counts"):
        found[name] = np.asarray(found[name], dtype=np.float64)
    if (trials := found.get("trials")) is not None:
        kinds = (np.int64, np.int64, bool, np.float64)
        parts = zip(ScoredTrials._fields, kinds, strict=True)
        found["trials"] = ScoredTrials(*(np.asarray(trials[name], dtype=kind) for name, kind in parts))
    if found.get("ngrams") is not None:
        found["ngrams"] = np.asarray(found["ngrams"], dtype=np.int64)
    found["scale"] = float(found["scale"])
    results = UtteranceResults(**found)
    check_results(results)
    return results


def check_results(results: UtteranceResults) -> None:
    """Raise a `ValueError` if the parts do not fit together, or nothing can be computed from them."""
    number, trials = len(results.keys), results.trials
    if len(set(results.keys)) < number:
        raise ValueError("a key is there twice")
    if any(part is not None and len(part) != number for part in (results.speakers, results.folds)):
        raise ValueError("not one speaker or fold for each key")
    if (ngrams := results.ngrams) is not None:
        if ngrams.shape != (number, COLUMNS) or (ngrams < 0).any() or not number:
            raise ValueError("not the counts of n-grams of each key")
        return
    numbers = (results.errors, results.counts) if trials is None else (trials.scores,)
    if any(part.ndim != 1 or not np.isfinite(part).all() for part in numbers):
        raise ValueError("a number is missing or not finite")
    if trials is None:
        if not len(results.errors) == len(results.counts) == number or (results.counts < 0).any():
            raise ValueError("not one error and one count for each key")
        if not number or any(not results.counts[members].sum() > 0 for members in _folds(results)):
            raise ValueError("nothing is counted")
        return
    if len({len(part) for part in trials}) > 1 or not 0 < trials.same.sum() < len(trials.same):
        raise ValueError("not pairs of both kinds, with a score each")
    places = np.concatenate([trials.first, trials.second])
    if places.min() < 0 or places.max() >= number:
        raise ValueError("a trial of an utterance that is not there")
