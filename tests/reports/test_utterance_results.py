"""Results of utterances beside a card: intervals, comparisons, and files that are damaged, old or of something else."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from scipy import stats

from wavlm_lightning.reports.utterances import (
    RESULTS_NAME,
    ScoredTrials,
    UtteranceResults,
    compare,
    described,
    interval,
    join_folds,
    read_results,
    write_results,
)
from wavlm_lightning.system.errors import UserError


def results(errors, counts, **changes) -> UtteranceResults:
    usual = {
        "task": "PR",
        "metric": "per",
        "better": "lower",
        "scale": 100.0,
        "corpus": "mini",
        "split": "test",
        "keys": tuple(f"utterance{number}" for number in range(len(errors))),
    }
    return UtteranceResults(
        **{**usual, "errors": np.asarray(errors, float), "counts": np.asarray(counts, float), **changes}
    )


def verification(rng: np.random.Generator, apart: float = 1.5) -> UtteranceResults:
    pairs = np.array(list(combinations(range(60), 2)))
    one = pairs[:, 0] // 6 == pairs[:, 1] // 6
    first, second = np.concatenate([pairs[one], rng.permutation(pairs[~one])[: 500 - one.sum()]]).T
    same = first // 6 == second // 6
    scored = ScoredTrials(first, second, same, rng.normal(size=500) + apart * same)
    keys, speakers = tuple(f"u{n}" for n in range(60)), tuple(f"s{n // 6}" for n in range(60))
    return results([], [], task="SV", metric="eer", keys=keys, speakers=speakers, trials=scored)


def test_what_is_written_is_read(tmp_path):
    rng = np.random.default_rng(0)
    for made in (
        results([1, 0.5], [3, 4]),
        results([1, 0, 1], [1, 1, 1], speakers=("a", "b", "a"), folds=("1", "1", "2"), better="higher"),
        verification(rng),
    ):
        path = write_results(tmp_path, made)
        read = read_results(tmp_path / "card.json")
        assert read.keys == made.keys and read.speakers == made.speakers and read.folds == made.folds
        assert interval(read) == pytest.approx(interval(made)) and described(read) == described(made)
        assert path.stat().st_size < 15_000
    assert write_results(tmp_path, None) is None and read_results(tmp_path) is None and not path.exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": "2"}, "has format '2'"),
        ({"errors": [1.0]}, "not one error and one count for each key"),
        ({"errors": [1.0, None]}, "not readable as results of utterances"),
        ({"keys": ["a", "a"]}, "a key is there twice"),
        ({"counts": [0, 0]}, "nothing is counted"),
        ({"speakers": ["a"]}, "not one speaker"),
        ({"trials": {"first": [0], "second": [7], "same": [1], "scores": [0.5]}}, "not pairs of both kinds"),
        ({"scale": "x"}, "not readable"),
    ],
)
def test_a_damaged_file_is_one_sentence(tmp_path, change, said):
    path = write_results(tmp_path, results([1, 2], [3, 4]))
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(UserError, match=rf"{RESULTS_NAME}.*{said}.*delete it, or test the run again"):
        read_results(tmp_path)
    path.write_text("{")
    with pytest.raises(UserError, match="not readable as results of utterances"):
        read_results(tmp_path)


def test_the_interval_is_that_of_scipy():
    rng = np.random.default_rng(1)
    words = rng.integers(3, 20, 200)
    wrong = rng.binomial(words, rng.beta(2, 8, 200))
    theirs = stats.bootstrap(
        (wrong, words),
        lambda a, b, axis: a.sum(axis) / b.sum(axis),
        paired=True,
        method="percentile",
        n_resamples=5000,
        rng=2,
    ).confidence_interval
    found = interval(results(wrong, words), resamples=5000)
    width = found.high - found.low
    # The end of an interval from 5000 resamples has a standard error near 1 % of its width.
    assert found.low == pytest.approx(100 * theirs.low, abs=0.05 * width)
    assert found.high == pytest.approx(100 * theirs.high, abs=0.05 * width)
    assert found.value == pytest.approx(100 * wrong.sum() / words.sum())


def test_speakers_are_resampled_where_they_are_known():
    """Of speakers with rates of their own, the interval over utterances holds the truth too rarely."""
    rng = np.random.default_rng(2)
    speakers = tuple(str(number // 20) for number in range(600))
    held = {"speakers": 0, "utterances": 0}
    for _ in range(150):
        errors = rng.binomial(10, rng.beta(2, 8, 30)[np.arange(600) // 20])
        for made in (results(errors, [10] * 600, speakers=speakers), results(errors, [10] * 600)):
            found = interval(made, resamples=200)
            held[made.resampled] += found.low <= 20 <= found.high
    assert held["speakers"] / 150 > 0.88 and held["utterances"] / 150 < 0.7
    for number, resampled in ((9, "utterances"), (10, "speakers")):
        few = results(np.ones(20), np.ones(20), speakers=tuple(str(place % number) for place in range(20)))
        assert few.resampled == resampled and few.units == (number if resampled == "speakers" else 20)


def test_the_figure_of_folds_is_their_mean_and_they_are_resampled_one_by_one():
    rng = np.random.default_rng(3)
    folds = [
        results(rng.random(40 + 60 * fold) < rate, np.ones(40 + 60 * fold), split=f"fold{fold}")
        for fold, rate in enumerate((0.2, 0.6))
    ]
    joined = join_folds(folds)
    found = interval(joined)
    assert found.value == pytest.approx(np.mean([interval(each).value for each in folds]))
    # Two independent means: variances add.
    widths = [interval(each).high - interval(each).low for each in folds]
    assert found.high - found.low == pytest.approx(0.5 * np.hypot(*widths), rel=0.1)
    assert joined.split == "fold0, fold1" and len(set(joined.keys)) == 140
    assert join_folds(folds[:1]) is folds[0] and join_folds([verification(rng)] * 2) is None
    worse = join_folds([replace(each, errors=np.ones(len(each.errors))) for each in folds])
    compared = compare(worse, joined)
    assert compared.difference == pytest.approx(100 - found.value) and compared.p_value < 0.001


@pytest.mark.parametrize("by_speaker", [False, True])
def test_two_encoders_of_equal_truth_are_significant_in_at_most_seven_per_cent(by_speaker):
    rng = np.random.default_rng(4)
    speakers = tuple(str(number // 5) for number in range(150)) if by_speaker else None
    significant = 0
    for _ in range(500):
        easy = rng.beta(1, 4, 150)
        rates = [easy, easy]
        if by_speaker:  # each encoder has voices that it finds hard
            rates = [np.clip(easy + np.repeat(rng.normal(0, 0.1, 30), 5), 0, 1) for _ in range(2)]
        made = [results(rng.binomial(8, rate), [8] * 150, speakers=speakers) for rate in rates]
        significant += compare(*made, resamples=300).p_value < 0.05
    assert 0.02 <= significant / 500 <= 0.07


def test_a_difference_is_found_in_the_units_of_the_card():
    rng = np.random.default_rng(5)
    errors = rng.binomial(10, 0.3, 200)
    better = np.maximum(errors - rng.integers(0, 2, 200), 0)
    one, other = results(errors, [10] * 200), results(better, [10] * 200)
    found = compare(one, other)
    assert found.p_value < 0.001 and found.utterances == 200 and found.resampled == "utterances"
    assert found.difference == pytest.approx(interval(one).value - interval(other).value)
    assert 0 < found.low < found.difference < found.high
    assert (compare(other, one).low, compare(other, one).high) == (-found.high, -found.low)
    assert compare(one, one).p_value == 1.0 and compare(one, one).low == compare(one, one).high == 0
    assert compare(other, one).difference == -found.difference


@pytest.mark.parametrize("few_speakers", [True, False])
def test_intervals_of_a_difference_hold_the_truth(few_speakers):
    """95 % intervals hold the true difference of two encoders in nearly 95 % of sets; the same utterances are hard for both."""
    rng, held = np.random.default_rng(11), 0
    for _ in range(200):
        hard = rng.beta(2, 4, 150)
        speakers = tuple(f"s{place % (3 if few_speakers else 30)}" for place in range(150))
        made = [results(rng.binomial(8, scale * hard), [8] * 150, speakers=speakers) for scale in (0.9, 0.7)]
        found = compare(*made, resamples=300)
        held += found.low <= 100 * (0.9 - 0.7) / 3 <= found.high
    assert 0.88 <= held / 200 <= 0.99


@pytest.mark.parametrize("number", [20, 300])
def test_no_errors_among_a_few_utterances_are_no_proof_of_none(number):
    """Of those rates at which no error is found in fewer than 2.5 % of sets, none is in the interval."""
    right = results(np.ones(number), np.ones(number), better="higher")
    found = interval(right)
    assert found.high == 100 and (found.low / 100) ** number == pytest.approx(0.025)
    assert described(right)["method"] == "exact binomial"
    wrong = interval(results(np.zeros(number), np.full(number, 7)))
    assert wrong.low == 0 and wrong.high == pytest.approx(100 - found.low)
    assert interval(results(np.full(5, 9.3), np.ones(5), scale=1.0)) == pytest.approx((9.3,) * 3)  # no share


def test_a_pair_that_is_listed_twice_counts_twice():
    made = verification(np.random.default_rng(7))
    twice = replace(made, trials=ScoredTrials(*(np.concatenate([part, part[:50]]) for part in made.trials)))
    assert compare(twice, twice).utterances == 550


def test_only_what_both_have_heard_is_compared():
    one = results([1, 0, 1, 1], [2, 2, 2, 2])
    other = results([0, 1, 0], [2, 2, 2], keys=("utterance3", "utterance0", "other"))
    assert compare(one, other).utterances == 2 and compare(one, other).difference == pytest.approx(100 * (2 - 1) / 4)


def test_what_cannot_be_compared_is_refused():
    one = results([1, 0], [2, 2])
    for change, said in (
        ({"corpus": "libri"}, "results of corpus 'mini' and of corpus 'libri' cannot be compared"),
        ({"split": "valid"}, "split"),
        ({"task": "ASR"}, "task"),
        ({"metric": "cer"}, "metric"),
        ({"keys": ("c", "d")}, "no utterances in common"),
        ({"counts": np.array([2.0, 3.0])}, "references of 'utterance1' differ"),
    ):
        with pytest.raises(UserError, match=said):
            compare(one, replace(one, **change))


def test_trials_are_compared_by_their_pairs():
    rng = np.random.default_rng(6)
    one = verification(rng, 2.5)
    assert one.resampled == "speakers" and one.units == 10
    order = rng.permutation(500)
    shuffled = replace(one, trials=ScoredTrials(*(part[order] for part in one.trials)))
    assert compare(one, shuffled).difference == pytest.approx(0, abs=1e-9) and compare(one, shuffled).p_value == 1.0
    worse = replace(one, trials=one.trials._replace(scores=rng.normal(size=500) + 0.5 * one.trials.same))
    found = compare(one, worse)
    assert found.p_value < 0.01 and found.difference < -10 and found.resampled == "speakers"
    with pytest.raises(UserError, match="truth of trials differs"):
        compare(one, replace(one, trials=one.trials._replace(same=~one.trials.same)))
    with pytest.raises(UserError, match="only one of the two results has trials"):
        compare(one, results([1], [1], task="SV", metric="eer"))
