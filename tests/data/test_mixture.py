"""Mixtures: shares of the audio as asked for, nothing twice before everything once, the same whenever it is resumed."""

from __future__ import annotations

import numpy as np
import pytest

from wavlm_lightning.data.loading.batching import BatchPlan
from wavlm_lightning.data.loading.mixture import Mixture, Source, folders_of, sources_of
from wavlm_lightning.data.loading.shard_order import utterances_of
from wavlm_lightning.system.errors import UserError

SIZES = (900, 250, 60)
RNG = np.random.default_rng(0)
LENGTHS = np.concatenate([RNG.integers(20_000 * n, 60_000 * n, size) for n, size in enumerate(SIZES, start=1)])
STARTS = np.r_[np.arange(0, 900, 10), np.arange(900, 1150, 10), np.arange(1150, 1210, 10), 1210]
BOUNDS = [0, 90, 115, 121]
SOURCE = np.repeat(np.arange(3), SIZES)


def mixture(weights=(0.6, 0.3, 0.1), window=2048, seed=0) -> Mixture:
    return Mixture(STARTS, LENGTHS, BOUNDS, weights, window, seed)


@pytest.mark.parametrize("weights", [(0.6, 0.3, 0.1), (1.0, 1.0, 1.0), (8.0, 1.0, 1.0)])
def test_shares_are_those_of_the_audio(weights):
    one = mixture(weights)
    seconds = np.zeros(3)
    for epoch in range(8):
        taken = utterances_of(one.stretches(epoch))
        # Each epoch is about as long as everything together.
        assert abs(LENGTHS[taken].sum() / LENGTHS.sum() - 1) < 0.05
        seconds += np.bincount(SOURCE[taken], weights=LENGTHS[taken], minlength=3)
    assert np.allclose(seconds / seconds.sum(), np.array(weights) / sum(weights), atol=0.01)


def test_nothing_comes_twice_before_everything_of_its_source_came_once():
    one = mixture((0.2, 0.3, 0.5))
    taken = np.concatenate([utterances_of(one.stretches(epoch)) for epoch in range(6)])
    for source in range(3):
        row = taken[SOURCE[taken] == source]
        for begin in range(0, len(row), SIZES[source]):
            turn = row[begin : begin + SIZES[source]]
            assert len(set(turn.tolist())) == len(turn)
        orders = [row[b : b + SIZES[source]].tolist() for b in (0, SIZES[source])]
        assert len(row) < 2 * SIZES[source] or orders[0] != orders[1]


@pytest.mark.parametrize("window", [2048, 16])
def test_ranks_share_a_mixture_and_resume_anywhere(window):
    def plan(rank: int) -> BatchPlan:
        return BatchPlan(LENGTHS, rank=rank, world_size=2, passes=mixture(window=window), batch_seconds=90.0, seed=0)

    shares = []
    for rank in range(2):
        one = plan(rank)
        one.set_epoch(3)
        shares.append(list(one))
        for begin in range(0, len(one), 7):
            again = plan(rank)
            again.set_epoch(3)
            again.begin = begin
            assert list(again) == shares[-1][begin:]
    assert len(shares[0]) == len(shares[1]) > 20
    seen = np.array([n for share in shares for batch in share for n, _ in batch])
    taken = utterances_of(mixture().stretches(3))
    most = np.bincount(taken, minlength=len(LENGTHS))
    assert (np.bincount(seen, minlength=len(LENGTHS)) <= most).all() and len(seen) > 0.9 * len(taken)
    # What comes several times is cropped anew each time.
    firsts = [seed for share in shares for batch in share for _, seed in batch]
    assert len(firsts) == len(set(firsts))


def test_what_a_user_may_name():
    assert sources_of("data/x") == [Source("data/x")]
    assert sources_of([Source("a", 2.0), Source("b", 1.0)])[0].weight == 2.0
    assert folders_of("data/x") == ["data/x"]
    assert folders_of("data/x-{08..11}/c") == [f"data/x-{n:02d}/c" for n in (8, 9, 10, 11)]
    assert folders_of("data/{ab,cd}") == ["data/ab", "data/cd"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "is empty"),
        ([Source("a", 1.0), "b"], "b has no weight"),
        ([Source("a", 1.0), Source("b", 0.0)], r"weight 0\.0 of b must be positive"),
        ([Source("a", 1.0), Source("b", float("nan"))], "weight nan of b"),
    ],
)
def test_sources_that_make_no_mixture(given, message):
    with pytest.raises(UserError, match=message):
        sources_of(given)


@pytest.mark.parametrize("pattern", ["a-{00..02", "a-{00}"])
def test_braces_that_are_no_range(pattern):
    with pytest.raises(UserError, match="braces"):
        folders_of(pattern)


def test_a_source_without_utterances_is_refused():
    with pytest.raises(UserError, match="source 2 of the mixture"):
        Mixture(np.array([0, 5, 5, 9]), LENGTHS[:9], [0, 1, 2, 3], [1.0, 1.0, 1.0])
