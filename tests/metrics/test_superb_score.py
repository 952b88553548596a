"""SUPERB Score and Rank: every published figure, and what partial and new models get."""

from __future__ import annotations

import pytest

from wavlm_lightning.metrics.superb import (
    METRICS,
    REFERENCE_POINTS,
    TASKS,
    SuperbEntry,
    leaderboard,
    partial_score,
    points,
    published_entries,
    rank,
    score,
)

ENTRIES = {entry.name: entry for entry in published_entries()}
SHOWN = [entry for entry in published_entries() if entry.shown]
# Score and Rank of the entries that the table does not show, under the same definitions.
HIDDEN = {
    "FBANK": (0, 1.55),
    "PASE+": (149, 2.45),
    "NPC": (386, 5.40),
    "Mockingjay": (54, 1.15),
    "TERA": (150, 3.50),
    "modified CPC": (278, 5.30),
}


def test_the_board():
    assert len(SHOWN) == 18
    assert set(ENTRIES) == {entry.name for entry in SHOWN} | set(HIDDEN)
    assert len(TASKS) == 10
    assert set(METRICS) == set(REFERENCE_POINTS)


@pytest.mark.parametrize("entry", SHOWN, ids=lambda entry: entry.name)
def test_published_figures(entry):
    assert score(entry.values) == entry.score
    assert rank(entry.values) == pytest.approx(entry.rank, abs=1e-9)


@pytest.mark.parametrize("name", HIDDEN)
def test_hidden_entries(name):
    entry = ENTRIES[name]
    assert not entry.shown
    assert (entry.score, entry.rank) == (None, None)
    assert score(entry.values) == HIDDEN[name][0]
    assert rank(entry.values) == pytest.approx(HIDDEN[name][1], abs=1e-9)


def test_points():
    for metric, (low, high) in REFERENCE_POINTS.items():
        assert points(metric, low) == 0
        assert points(metric, high) == pytest.approx(1000)
        assert points(metric, 2 * high - low) == pytest.approx(2000)  # unbounded
    with pytest.raises(ValueError, match="unknown SUPERB metric 'SF'"):
        points("SF", 3.0)
    with pytest.raises(ValueError, match="finite"):
        points("SV", float("nan"))


def test_slot_filling_counts_once():
    low = {metric: REFERENCE_POINTS[metric][0] for metric in METRICS}
    assert score(low) == 0
    assert score({**low, "SF_F1": REFERENCE_POINTS["SF_F1"][1]}) == 50
    assert score({**low, "SV": REFERENCE_POINTS["SV"][1]}) == 100


def test_rank_counts_strictly_worse_entries():
    wavlm = ENTRIES["WavLM Large"]
    assert rank(wavlm.values, [wavlm]) == 0  # a tie wins nothing
    assert rank(wavlm.values, [ENTRIES["FBANK"], wavlm]) == 1
    assert rank(wavlm.values, []) == 0
    slightly_worse = SuperbEntry("slightly worse", {**wavlm.values, "SF_CER": wavlm.values["SF_CER"] + 1})
    assert rank(wavlm.values, [slightly_worse]) == pytest.approx(0.05)
    assert rank({"SV": 1.0}) == pytest.approx(2.4)  # nine tasks missing win nothing


def test_a_new_model_raises_the_others_only_in_a_pool_with_it():
    fbank = ENTRIES["FBANK"]
    perfect = {metric: 0.0 if low > high else 100.0 for metric, (low, high) in REFERENCE_POINTS.items()}
    assert rank(perfect) == 24
    hopeless = SuperbEntry("hopeless", {metric: 100.0 - value for metric, value in perfect.items()})
    assert rank(fbank.values, [*published_entries(), hopeless]) == pytest.approx(rank(fbank.values) + 1)
    best = SuperbEntry("perfect", perfect)
    assert rank(fbank.values, [*published_entries(), best]) == rank(fbank.values)


def test_missing_tasks_have_no_score():
    values = dict(ENTRIES["HuBERT Base"].values)
    del values["SD"], values["QbE"]
    with pytest.raises(ValueError, match="missing QbE, SD"):
        score(values)
    del values["SF_CER"]
    with pytest.raises(ValueError, match="SF is scored by SF_F1 and SF_CER, only SF_F1 is given"):
        partial_score(values)


def test_partial_scores():
    values = ENTRIES["WavLM Base+"].values
    assert partial_score({"PR": values["PR"]}) == points("PR", values["PR"])
    two = {metric: values[metric] for metric in ("PR", "SF_F1", "SF_CER")}
    slots = (points("SF_F1", values["SF_F1"]) + points("SF_CER", values["SF_CER"])) / 2
    assert partial_score(two) == pytest.approx((points("PR", values["PR"]) + slots) / 2)
    assert round(partial_score(values)) == score(values)
    with pytest.raises(ValueError, match="at least one task"):
        partial_score({})


def test_leaderboard():
    whole = leaderboard()
    assert [entry.name for entry, _ in whole[:3]] == ["WavLM Large", "WavLM Base+", "WavLM Base"]
    assert [round(mean) for _, mean in whole] == sorted((entry.score for entry in SHOWN), reverse=True)
    part = leaderboard(["SF", "PR"])
    assert {entry.name for entry, _ in part} == {entry.name for entry in SHOWN}
    for entry, mean in part:
        assert mean == partial_score({metric: entry.values[metric] for metric in ("PR", "SF_F1", "SF_CER")})
    assert [mean for _, mean in part] == sorted((mean for _, mean in part), reverse=True)
    own = SuperbEntry("mine", {"QbE": 99.0})
    assert leaderboard(["QbE"], [*published_entries(), own])[0][0] is own
    with pytest.raises(ValueError, match="mine has no PR"):
        leaderboard(["PR"], [own])
    with pytest.raises(ValueError, match="unknown SUPERB task SE"):
        leaderboard(["SE"])
    with pytest.raises(ValueError, match="at least one task"):
        leaderboard([])
