"""Batches and crops that grow: their sizes at every update, every utterance once a pass, the same on all ranks and on resume."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wavlm_lightning.data.loading.batching import BatchPlan
from wavlm_lightning.data.loading.growing import GrowingPlan, GrowingSizes, Growth
from wavlm_lightning.system.errors import UserError

SAMPLES = np.random.default_rng(0).integers(16_000, 90_000, 160)
SIZES = GrowingSizes(20.0, 2.5, Growth(8.0, 30, 5, steps=4), Growth(0.8, 50, steps=7))


def plan(samples=SAMPLES, sizes=SIZES, **changes) -> GrowingPlan:
    return GrowingPlan(samples, sizes, seed=1, **changes)


def run(made: GrowingPlan, epochs: int) -> list[list[tuple[int, ...]]]:
    """The batches of the first epochs."""
    batches = []
    for epoch in range(epochs):
        made.set_epoch(epoch)
        batches += list(made)
    return batches


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 20), st.integers(1, 60), st.integers(1, 30))
def test_a_growth_climbs_in_equal_steps_and_names_each_change(from_update, updates, steps):
    growth = Growth(1.0, from_update + updates, from_update, steps)
    values = [growth.at(update, 3.0) for update in range(100)]
    assert (
        values == sorted(values)
        and set(values[: from_update + 1]) == {1.0}
        and set(values[growth.to_update :]) == {3.0}
    )
    assert all(((value - 1.0) / 2.0 * steps) == pytest.approx(round((value - 1.0) / 2.0 * steps)) for value in values)
    for update, value in enumerate(values):
        later = [other for other in range(update + 1, 100) if values[other] != value]
        assert growth.next_change(update) == (later[0] if later else None) or value == 3.0


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 3), st.integers(1, 3), st.integers(0, 1000))
def test_sizes_are_those_of_the_update_and_ranks_share_the_stream(world_size, multiple, seed):
    samples = np.random.default_rng(seed).integers(8_000, 90_000, 120)
    ranks = [plan(samples, rank=rank, world_size=world_size, multiple=multiple) for rank in range(world_size)]
    assert len({len(each) for each in ranks}) == 1
    shares = [run(each, 4) for each in ranks]
    assert {len(share) for share in shares} == {4 * len(ranks[0])}
    updates_of_epoch = math.ceil(len(ranks[0]) / multiple)
    for place, batches in enumerate(zip(*shares, strict=True)):
        epoch, within = divmod(place, len(ranks[0]))
        update = epoch * updates_of_epoch + within // multiple
        if epoch * updates_of_epoch >= SIZES.grown:
            assert all(len(item) == 2 for batch in batches for item in batch)
            continue
        batch_seconds, max_seconds = SIZES.at(update)
        for batch in batches:
            crop = round(max_seconds * 16_000)
            assert {item[2] for item in batch} == {crop}
            heard = np.minimum(samples[[item[0] for item in batch]], crop)
            assert len(batch) * heard.max() <= batch_seconds * 16_000


def test_every_pass_hears_every_utterance_once():
    """Also where sizes change within it, and in windows of shards; a batch that is not full comes once a pass."""
    made = plan()
    for passes in (made.passes, type(made.passes)(np.arange(0, 161, 10), window=4, seed=1)):
        made.passes = passes
        windows = len(passes.windows(0))
        taken = itertools.takewhile(lambda batch: batch[1] < 3, made._stream())
        for number, batches in itertools.groupby(enumerate(taken), key=lambda each: each[1][1]):
            heard, poor = [], 0
            for index, (utterances, _, crop) in batches:
                heard += utterances.tolist()
                longest = np.minimum(SAMPLES[utterances], crop).max()
                poor += (len(utterances) + 1) * longest <= SIZES.at(index)[0] * 16_000 - 16_000
            assert sorted(heard) == list(range(160)), number
            assert poor <= 2 * windows


def test_it_goes_on_from_any_batch_of_any_epoch():
    whole = run(plan(), 6)
    epoch_of = len(plan())
    assert len({item[1] for batch in whole for item in batch if len(item) == 3}) > epoch_of  # a seed for each batch
    for epoch, begin in itertools.product(range(6), (0, 1, epoch_of - 1)):
        made = plan()
        made.set_epoch(epoch)
        made.begin = begin
        assert list(made) == whole[epoch * epoch_of + begin : (epoch + 1) * epoch_of]
        made.set_epoch(min(epoch + 1, 5))
        assert list(made) == whole[min(epoch + 1, 5) * epoch_of :][:epoch_of]


def test_a_second_reader_of_an_epoch_sees_the_same():
    """A loader that stops early, and one that begins again."""
    made = plan()
    whole = run(plan(), 2)
    first = iter(made)
    assert [next(first), next(first)] == whole[:2]
    assert list(made) == whole[: len(made)]
    made.set_epoch(1)
    assert list(made) == whole[len(made) :]


def test_epochs_after_the_growth_are_those_of_a_run_without():
    made = plan()
    plain = BatchPlan(SAMPLES, batch_seconds=20.0, max_seconds=2.5, seed=1)
    assert len(made) == len(plain)
    grown = -(-SIZES.grown // len(made))
    for each in (made, plain):
        each.set_epoch(grown)
    assert list(made) == list(plain)


def test_crops_alone_keep_the_audio_of_a_batch():
    long = SAMPLES + 24_000  # no shorter than a crop
    made = plan(long, sizes=GrowingSizes(20.0, 2.5, crop_growth=Growth(0.5, 40)))
    sizes = []
    for _, batches in itertools.groupby(itertools.islice(made._stream(), 60), key=lambda batch: batch[1]):
        a_pass = [(len(each), np.minimum(long[each], crop).sum() / 16_000) for each, _, crop in batches]
        assert sorted(seconds for _, seconds in a_pass)[1:] >= [17.5] * (len(a_pass) - 1)  # the last is what is left
        sizes += [size for size, _ in a_pass]
    assert max(sizes) == 40 and sizes[-5:] == [8] * 5


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ((20.0, 2.5, Growth(25.0, 10)), r"data.batch_growth.start must be below data.batch_seconds \(20 s\)"),
        ((20.0, 2.5, None, Growth(2.5, 10)), "data.crop_growth.start must be below data.max_seconds"),
        ((20.0, 2.5, None, Growth(0.01, 10)), "at least 0.025 s, not 0.01"),
        ((20.0, 2.5, None, Growth(1.0, 10, 10)), r"to_update \(10\) must be greater than from_update \(10\)"),
        ((20.0, 2.5, None, Growth(1.0, 10, steps=0)), "steps must be 1 or more"),
        ((20.0, 2.5, Growth(2.0, 10)), "at update 0 crops of 2.5 s do not fit batches of 2 s"),
    ],
)
def test_what_leads_nowhere_is_refused(settings, said):
    with pytest.raises(UserError, match=said):
        GrowingSizes(*settings)
