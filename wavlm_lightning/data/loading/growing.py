"""Batches and crops that grow over the updates: how long they are at each update, and the stream of batches of these sizes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from wavlm_lightning.audio import SAMPLE_RATE, SHORTEST
from wavlm_lightning.data.loading.batching import BatchPlan, fill_batches
from wavlm_lightning.data.loading.shard_order import utterances_of
from wavlm_lightning.system.errors import UserError

GROWING = 1 << 31  # keeps random numbers of the stream apart from those of epochs
POOL_BATCHES = 50  # batches whose utterances are sorted by length together, at most
TYPICAL = 10_000  # utterances whose mean length says how many a pool needs


@dataclass(frozen=True)
class Growth:
    """Seconds that grow in equal steps: `start` up to update `from_update`, the full value from update `to_update` on.

    They depend on the number of the update alone, whatever the number of workers and processes, so that a resumed run goes on
    exactly.

    Args:
        start: seconds of the first updates.
        to_update: the first update with the full value.
        from_update: update after which the value grows.
        steps: in how many equal steps.

    Example:
        >>> growth = Growth(start=1.0, to_update=1000, steps=10)
        >>> [growth.at(update, full=2.0) for update in (0, 99, 100, 1000)]
        [1.0, 1.0, 1.1, 2.0]
    """

    start: float
    to_update: int
    from_update: int = 0
    steps: int = 20

    def check(self, key: str, full_key: str, full: float) -> None:
        """Refuse, in a sentence about `key`, what does not lead up to the value `full` of `full_key`."""
        if not 0 <= self.from_update < self.to_update:
            raise UserError(
                f"{key}: to_update ({self.to_update}) must be greater than from_update ({self.from_update}), which is 0 or more"
            )
        if self.steps < 1:
            raise UserError(f"{key}.steps must be 1 or more, not {self.steps}")
        if not SHORTEST / SAMPLE_RATE <= self.start < full:
            raise UserError(
                f"{key}.start must be below {full_key} ({full:g} s) and at least {SHORTEST / SAMPLE_RATE:g} s, "
                f"not {self.start:g}"
            )

    def at(self, update: int, full: float) -> float:
        """The value of the update after `update` others."""
        done = min(self.steps, max(0, self.steps * (update - self.from_update) // (self.to_update - self.from_update)))
        return full if done == self.steps else self.start + (full - self.start) * done / self.steps

    def next_change(self, update: int) -> int | None:
        """The first later update with another value; None once the full value is reached."""
        if update >= self.to_update:
            return None
        updates = self.to_update - self.from_update
        done = max(0, self.steps * (update - self.from_update) // updates)
        return self.from_update + math.ceil((done + 1) * updates / self.steps)


@dataclass(frozen=True)
class GrowingSizes:
    """Audio of a batch and longest crop over the updates, in seconds; each grows, or has its full value from the start.

    Raises:
        UserError: a growth does not lead up to its full value, or a crop would not fit into a batch.
    """

    batch_seconds: float
    max_seconds: float
    batch_growth: Growth | None = None
    crop_growth: Growth | None = None

    def __post_init__(self) -> None:
        if self.batch_growth:
            self.batch_growth.check("data.batch_growth", "data.batch_seconds", self.batch_seconds)
        if self.crop_growth:
            self.crop_growth.check("data.crop_growth", "data.max_seconds", self.max_seconds)
        for update, _, batch_seconds, max_seconds in self.stretches(self.grown):
            if max_seconds > batch_seconds:
                raise UserError(
                    f"data: at update {update} crops of {max_seconds:.4g} s do not fit batches of {batch_seconds:.4g} s; raise "
                    "data.batch_growth.start, or let crops grow later"
                )

    @property
    def grown(self) -> int:
        """The first update from which on nothing grows any more."""
        return max((growth.to_update for growth in (self.batch_growth, self.crop_growth) if growth), default=0)

    def at(self, update: int) -> tuple[float, float]:
        """Audio of a batch and longest crop, in seconds, of the update after `update` others."""
        batch_seconds, max_seconds = self.batch_seconds, self.max_seconds
        return (
            self.batch_growth.at(update, batch_seconds) if self.batch_growth else batch_seconds,
            self.crop_growth.at(update, max_seconds) if self.crop_growth else max_seconds,
        )

    def next_change(self, update: int) -> int | None:
        """The first later update with other sizes; None once nothing grows any more."""
        changes = [growth.next_change(update) for growth in (self.batch_growth, self.crop_growth) if growth]
        return min((change for change in changes if change is not None), default=None)

    def stretches(self, updates: int) -> Iterator[tuple[int, int, float, float]]:
        """The stretches of equal sizes in a run: first update, number of updates, audio of a batch, longest crop."""
        update = 0
        while update < updates:
            change = self.next_change(update)
            end = updates if change is None else min(change, updates)
            yield update, end - update, *self.at(update)
            update = end

    def layout(self) -> list[Any]:
        """The growths as JSON."""
        return [
            [growth.start, growth.to_update, growth.from_update, growth.steps] if growth else None
            for growth in (self.batch_growth, self.crop_growth)
        ]


class GrowingPlan(BatchPlan):
    """A plan of training batches whose sizes are those of their update; an item is (utterance, seed, longest crop in samples).

    While something grows, batches are one stream over passes through the corpus, of which every pass hears every utterance
    once. An epoch of the trainer takes as many batches of it as one has at full size, so that `len` is that of every epoch.
    Epochs that begin later are those of `BatchPlan`.

    `taken` is the number of batches that the trainer takes of an epoch (`trainer.limit_train_batches`).
    """

    def __init__(self, samples: np.ndarray, sizes: GrowingSizes, *, multiple: int = 1, **plan: Any) -> None:
        super().__init__(
            samples, multiple=multiple, batch_seconds=sizes.batch_seconds, max_seconds=sizes.max_seconds, **plan
        )
        self.sizes, self.multiple, self.taken = sizes, multiple, self.length
        self._open: tuple[int, Iterator[tuple[np.ndarray, int, int]]] | None = None  # a stream and its next batch

    @property
    def updates(self) -> int:
        """Updates of an epoch."""
        return -(-self.taken // self.multiple)

    def _update_of(self, index: int) -> int:
        """The update of a batch of the stream, counted over all ranks."""
        epoch, place = divmod(index // self.world_size, self.taken)
        return epoch * self.updates + place // self.multiple

    def _first_of(self, update: int) -> int:
        """The first batch of an update."""
        epoch, place = divmod(update, self.updates)
        return (epoch * self.taken + place * self.multiple) * self.world_size

    def _stream(self) -> Iterator[tuple[np.ndarray, int, int]]:
        """The batches of all ranks from the first update on: utterances, number of the pass, longest crop in samples."""
        index, cropped, lengths = 0, 0, self.samples
        for number in itertools.count():
            for window, stretches in enumerate(self.passes.windows(number)):
                rng = np.random.default_rng([self.plan["seed"], number, window, GROWING])
                waiting = utterances_of(stretches)
                rng.shuffle(waiting)
                kept, begin = waiting[:0], 0  # utterances that have not been heard: those put back, those not yet taken
                while len(kept) or begin < len(waiting):
                    update = self._update_of(index)
                    change = self.sizes.next_change(update)
                    wanted = POOL_BATCHES if change is None else min(POOL_BATCHES, self._first_of(change) - index)
                    batch_seconds, max_seconds = self.sizes.at(update)
                    budget, crop = batch_seconds * SAMPLE_RATE, round(max_seconds * SAMPLE_RATE)
                    if crop != cropped:
                        cropped, lengths = crop, np.minimum(self.samples, crop)
                    mean = (
                        max(1.0, float(lengths[waiting[begin : begin + TYPICAL]].mean()))
                        if begin < len(waiting)
                        else crop
                    )
                    end = begin + max(0, math.ceil(wanted * max(1.0, budget / mean)) - len(kept))
                    pool = np.concatenate([kept, waiting[begin:end]])
                    begin = end
                    batches = fill_batches(pool[np.argsort(lengths[pool], kind="stable")], lengths, budget)
                    # A batch that has room for one more waits for utterances of the next pool, if there are any.
                    last = batches[-1]
                    roomy = (len(last) + 1) * lengths[last[-1]] <= budget
                    put_back = [batches.pop()] if roomy and len(batches) > 1 and begin < len(waiting) else []
                    order = rng.permutation(len(batches))
                    put_back = [batches[place] for place in order[wanted:]] + put_back
                    kept = np.concatenate([waiting[:0], *put_back])
                    for place in order[:wanted]:
                        yield batches[place], number, crop
                    index += min(wanted, len(batches))

    def __iter__(self) -> Iterator[list[Any]]:
        if self.epoch * self.updates >= self.sizes.grown:
            yield from super().__iter__()
            return
        begin, self.begin = self.begin, 0
        epoch = self.epoch * self.taken
        at, stream = self._open or (0, self._stream())
        self._open = None
        if at > (epoch + begin) * self.world_size:
            at, stream = 0, self._stream()
        for place in range(begin, self.length):
            index = (epoch + place) * self.world_size + self.rank
            utterances, number, crop = next(itertools.islice(stream, index - at, None))
            at = index + 1
            if place == self.length - 1:
                self._open = at, stream  # the next epoch goes on from here
            seed = ((index + 1) << 48) + GROWING + number
            yield [(int(each), seed, crop) for each in utterances]
