"""Plans are complete, within their limits, equal on all ranks, and resume anywhere."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wavlm_lightning.data.loading.batching import BatchPlan, plan_batches
from wavlm_lightning.data.loading.shard_order import Passes
from wavlm_lightning.system.errors import UserError

lengths = st.lists(st.integers(400, 16_000 * 20), min_size=1, max_size=300).map(np.array)


@settings(max_examples=60, deadline=None)
@given(
    lengths, st.integers(0, 5), st.sampled_from([20.0, 40.0, 87.5]), st.sampled_from([None, 1, 3, 16]), st.booleans()
)
def test_every_utterance_once_and_within_the_limits(samples, epoch, seconds, size, shuffle):
    plan = plan_batches(samples, batch_seconds=seconds, batch_size=size, shuffle=shuffle, seed=1, epoch=epoch)
    assert sorted(np.concatenate(plan).tolist()) == list(range(len(samples)))
    for batch in plan:
        assert len(batch) * samples[batch].max() <= seconds * 16_000
        assert size is None or len(batch) <= size


@settings(max_examples=30, deadline=None)
@given(lengths, st.integers(1, 4))
def test_ranks_share_an_epoch(samples, world_size):
    shares = []
    for rank in range(world_size):
        try:
            plan = BatchPlan(samples, rank=rank, world_size=world_size, batch_size=2, seed=3)
        except UserError:
            assert len(samples) < 2 * world_size
            return
        shares.append([tuple(n for n, _ in batch) for batch in plan])
    assert len({len(share) for share in shares}) == 1
    seen = [n for share in shares for batch in share for n in batch]
    assert len(seen) == len(set(seen))
    assert len(samples) - len(seen) < 2 * world_size


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 5), st.sampled_from([4.0, 10.0, 1000.0]))
def test_evaluation_gives_everything_exactly_once_and_every_rank_equally_many_steps(utterances, world_size, seconds):
    samples = np.random.default_rng(0).integers(400, 50_000, utterances)
    if utterances < world_size:
        with pytest.raises(UserError, match="cannot be shared"):
            BatchPlan(samples, world_size=world_size, train=False, batch_seconds=seconds)
        return
    plans = [
        BatchPlan(samples, rank=rank, world_size=world_size, train=False, batch_seconds=seconds)
        for rank in range(world_size)
    ]
    assert len({len(plan) for plan in plans}) == 1 and len(plans[0]) > 0
    assert sorted(n for plan in plans for batch in plan for n, _ in batch) == list(range(utterances))


@settings(max_examples=200, deadline=None)
@given(st.integers(16_000 * 4, 16_000 * 180))
def test_a_batch_holds_the_longest_utterance_whose_seconds_it_was_given(samples):
    assert len(plan_batches(np.array([samples]), batch_seconds=samples / 16_000)) == 1


def test_weights_go_with_their_utterances_into_the_windows():
    samples, weights = np.full(90, 16_000), np.tile([1.0, 0.0, 3.0], 30)
    passes = Passes(np.arange(0, 91, 9), window=3)
    plan = BatchPlan(samples, batch_size=5, weights=weights, passes=passes)
    assert len(passes.windows(0)) == 4
    drawn = np.array([number for batch in plan for number, _ in batch])
    assert len(drawn) == 90 and (drawn % 3 != 1).all() and (drawn % 3 == 2).sum() > (drawn % 3 == 0).sum()


def test_recordings_that_are_heard_in_windows_stay_alone():
    samples = np.array([3, 190, 200, 210, 220]) * 16_000
    long = {"train": False, "max_seconds": 180.0, "batch_seconds": 180.0, "alone": samples > 180 * 16_000}

    def shares(chosen: slice, processes: int) -> list[list[int]]:
        settings = {**long, "alone": long["alone"][chosen]}
        plans = [BatchPlan(samples[chosen], rank=rank, world_size=processes, **settings) for rank in range(processes)]
        return [len(batch) for plan in plans for batch in plan]

    assert shares(slice(1, None), 2) == [1] * 4
    with pytest.raises(UserError, match=r"3 recordings, so long that each is heard alone .* evenly by 2 processes"):
        shares(slice(2, None), 2)
    with pytest.raises(UserError, match="5 recordings"):  # the short one would be merged with a long one
        shares(slice(0, None), 2)


def test_epochs_differ_and_repeat():
    samples = np.full(64, 16_000)
    plan = BatchPlan(samples, batch_size=8, seed=0)
    first = list(plan)
    plan.set_epoch(1)
    second = list(plan)
    plan.set_epoch(0)
    assert list(plan) == first
    assert [[n for n, _ in b] for b in first] != [[n for n, _ in b] for b in second]


@pytest.mark.parametrize("begin", range(8))
def test_resume_from_any_batch(begin):
    samples = np.random.default_rng(0).integers(16_000, 60_000, 64)
    plan = BatchPlan(samples, batch_size=8, seed=0)
    whole = list(plan)
    plan.begin = begin
    assert list(plan) == whole[begin:]
    assert list(plan) == whole  # the next epoch begins at its beginning
    assert len(plan) == len(whole)


def test_weights_balance_classes():
    samples = np.full(1000, 16_000)
    weights = np.where(np.arange(1000) < 900, 1 / 900, 1 / 100)
    plan = plan_batches(samples, batch_size=10, weights=weights, seed=0)
    drawn = np.concatenate(plan)
    assert 0.42 < (drawn >= 900).mean() < 0.58


def test_limits_are_asked_for_and_checked():
    with pytest.raises(UserError, match="batch_size"):
        plan_batches(np.array([16_000]))
    with pytest.raises(UserError, match=r"10\.0 s does not fit"):
        plan_batches(np.array([160_000]), batch_seconds=5.0)
    assert len(plan_batches(np.array([160_000]), batch_seconds=5.0, max_seconds=5.0)) == 1


def test_an_epoch_holds_whole_updates_if_it_can():
    samples = np.full(23, 16_000)
    for multiple, wanted in ((1, 12), (4, 12), (5, 10), (7, 7), (30, 12)):
        plan = BatchPlan(samples, batch_size=2, multiple=multiple, seed=1)
        assert len(plan) == len(list(plan)) == wanted


def test_draws_with_replacement_have_crops_of_their_own():
    plan = BatchPlan(np.full(4, 16_000), batch_size=2, weights=np.array([1.0, 0, 0, 0]), seed=1)
    items = [item for _ in range(2) for batch in plan for item in batch]
    assert {number for number, _ in items} == {0} and len({seed for _, seed in items[:4]}) == 4
    plan.set_epoch(1)
    assert not {seed for batch in plan for _, seed in batch} & {seed for _, seed in items}
