"""Epochs in windows of shards: complete, equal on all ranks, close together, new each time, and resumable anywhere."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wavlm_lightning.data.loading.batching import BatchPlan, plan_batches, stretch
from wavlm_lightning.data.loading.shard_order import Passes, starts_among

SAMPLES = np.random.default_rng(0).integers(16_000, 300_000, 600)
STARTS = np.sort(np.r_[0, np.random.default_rng(1).choice(np.arange(1, 600), 39, replace=False), 600])
"""Forty shards of 1 to some dozens of utterances."""
GOLDEN = [[25, 27, 4], [22, 30, 37], [26, 10, 24, 7]]


def plan(rank=0, world_size=1, window=8, seed=0, **changes) -> BatchPlan:
    settings = {"batch_seconds": 60.0, "seed": seed, **changes}
    return BatchPlan(SAMPLES, rank=rank, world_size=world_size, passes=Passes(STARTS, window, seed), **settings)


def numbers(batches) -> list[int]:
    return [number for batch in batches for number, _ in batch]


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 5), st.sampled_from([1, 3, 8, 40, 100]), st.integers(0, 6), st.integers(0, 3))
def test_ranks_share_an_epoch_equally_and_nothing_comes_twice(world_size, window, epoch, seed):
    shares = []
    for rank in range(world_size):
        one = plan(rank, world_size, window, seed)
        one.set_epoch(epoch)
        shares.append(list(one))
        assert len(one) == len(shares[-1])
    assert len({len(share) for share in shares}) == 1
    seen = numbers(batch for share in shares for batch in share)
    assert len(seen) == len(set(seen))
    # What is over is dropped: less than a batch a process, and what this epoch needed more than the first ones did.
    assert len(seen) > 0.9 * len(SAMPLES)


def test_shards_are_read_close_together_and_in_a_new_order_each_epoch():
    one, orders = plan(), []
    which = np.searchsorted(STARTS, np.arange(600), side="right") - 1
    for epoch in range(2):
        one.set_epoch(epoch)
        shards = [sorted({int(which[number]) for number, _ in batch}) for batch in one]
        orders.append(shards)
        windows = [set(np.unique(which[np.concatenate([np.arange(*s) for s in w])])) for w in one.passes.windows(epoch)]
        assert len(windows) == 5 and all(len(window) == 8 for window in windows)
        places = [next(i for i, window in enumerate(windows) if window.issuperset(batch)) for batch in shards]
        assert places == sorted(places)  # no batch mixes windows, and none comes back to an earlier one
    assert orders[0] != orders[1]


def test_one_window_is_mixed_as_without_windows():
    wide, plain = plan(window=40), BatchPlan(SAMPLES, batch_seconds=60.0, seed=0)
    for epoch in range(4):
        wide.set_epoch(epoch)
        plain.set_epoch(epoch)
        assert list(wide) == list(plain)


def test_order_of_small_corpora_is_what_it_was():
    """The first batch of an order that published results were made with."""
    samples = np.random.default_rng(5).integers(16_000, 160_000, 40)
    batches = plan_batches(samples, batch_seconds=16.0, max_seconds=5.0, seed=0)
    assert [batch.tolist() for batch in batches[:3]] == GOLDEN


@pytest.mark.parametrize("rank", [0, 1])
def test_resume_from_every_batch(rank):
    whole = list(plan(rank, 2))
    for begin in range(len(whole) + 1):
        one = plan(rank, 2)
        one.begin = begin
        assert list(one) == whole[begin:]
        assert list(one) == whole  # the next epoch begins at its beginning


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=30), st.integers(0, 60))
def test_stretching_splits_and_loses_nothing(sizes, wanted):
    edges = np.cumsum([0, *sizes])
    batches = [np.arange(a, b) for a, b in itertools.pairwise(edges)]
    more = stretch(batches, wanted)
    if wanted <= edges[-1]:
        assert len(more) == max(wanted, len(batches))
        assert np.concatenate(more).tolist() == list(range(edges[-1]))
    else:
        assert len(more) == wanted


def test_an_epoch_that_packs_into_fewer_batches_is_made_up_for_by_splits():
    found = 0
    for seed in range(5):
        one = plan(seed=seed)
        for epoch in range(12):
            one.set_epoch(epoch)
            packed = sum(len(batches) for _, batches, _ in one._windows(epoch))
            if packed < len(one):
                found += 1
                batches = list(one)
                assert len(batches) == len(one) and sorted(numbers(batches)) == list(range(600))
    assert found


def test_starts_among_those_that_are_long_enough():
    left = np.flatnonzero(SAMPLES > 100_000)
    starts = starts_among(STARTS, left)
    for shard in range(40):
        assert all(STARTS[shard] <= n < STARTS[shard + 1] for n in left[starts[shard] : starts[shard + 1]])
    assert starts[-1] == len(left)
