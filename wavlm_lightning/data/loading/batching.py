"""Plan batches: which utterances form which batch, a pure function of lengths, seed and epoch.

Because an epoch is planned before it begins, `len(loader)` is exact, every rank makes the same number of steps, the
order does not depend on the number of workers, and a run resumes at any batch by skipping the batches already seen.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
from torch.utils.data import Sampler

from wavlm_lightning.audio import SAMPLE_RATE
from wavlm_lightning.data.loading.shard_order import Passes, utterances_of
from wavlm_lightning.system.errors import UserError


def plan_batches(
    samples: np.ndarray,  # length of each utterance, int64 (utterances,)
    *,
    batch_seconds: float | None = None,  # most audio in a batch, including padding
    batch_size: int | None = None,  # most utterances in a batch
    max_seconds: float | None = None,  # utterances will be cropped to this length
    shuffle: bool = True,  # False keeps them sorted by length, for evaluation
    weights: np.ndarray | None = None,  # draw as many, with replacement, in proportion to these
    seed: int = 0,
    epoch: int = 0,
    pool_batches: int = 50,
    window: int | None = None,  # number of this window of the epoch, which gets its own random numbers
) -> list[np.ndarray]:
    """Group utterances of similar length into batches: for each an int64 array of utterance numbers.

    Shuffling sorts utterances by length within pools of about `pool_batches` batches, so that batches hold similar
    lengths and their order stays random. `UserError` without any limit, or if one utterance exceeds `batch_seconds`.
    """
    if batch_seconds is None and batch_size is None:
        raise UserError("data: give batch_size (utterances) or batch_seconds (seconds of audio), or both")
    lengths = samples if max_seconds is None else np.minimum(samples, round(max_seconds * SAMPLE_RATE))
    # Rounded, because the seconds of the longest utterance times the rate may be less than its samples.
    budget = np.inf if batch_seconds is None else round(batch_seconds * SAMPLE_RATE)
    most = np.iinfo(np.int64).max if batch_size is None else batch_size
    if len(lengths) and lengths.max() > budget:
        raise UserError(
            f"data: an utterance of {lengths.max() / SAMPLE_RATE:.1f} s does not fit batch_seconds={batch_seconds}; "
            "raise batch_seconds or crop with max_seconds"
        )
    rng = np.random.default_rng([seed, epoch] if window is None else [seed, epoch, window])
    numbers = np.arange(len(lengths))
    if weights is not None:
        numbers = rng.choice(numbers, size=len(numbers), p=weights / weights.sum())
    if not shuffle:
        return fill_batches(numbers[np.argsort(lengths[numbers], kind="stable")], lengths, budget, most)
    rng.shuffle(numbers)
    per_batch = min(most, max(1.0, budget / max(lengths.mean(), 1.0))) if len(lengths) else 1
    pool = int(per_batch) * pool_batches
    batches: list[np.ndarray] = []
    for begin in range(0, len(numbers), pool):
        part = numbers[begin : begin + pool]
        batches += fill_batches(part[np.argsort(lengths[part], kind="stable")], lengths, budget, most)
    return [batches[i] for i in rng.permutation(len(batches))]


def fill_batches(
    order: np.ndarray, lengths: np.ndarray, budget: float, most: int = np.iinfo(np.int64).max
) -> list[np.ndarray]:
    """Cut an order of ascending lengths into batches whose padded length stays within both limits.

    `order` holds utterance numbers, `lengths` the samples of each utterance, `budget` is in samples, `most` in utterances.
    """
    ascending = lengths[order].tolist()
    batches: list[np.ndarray] = []
    begin, size = 0, min(most, len(order))
    while begin < len(order):
        size = min(size, len(order) - begin)
        # Lengths ascend, so a batch never holds more utterances than the one before: no search, only steps down.
        while size > 1 and size * ascending[begin + size - 1] > budget:
            size -= 1
        batches.append(order[begin : begin + size])
        begin += size
    return batches


def stretch(batches: list[np.ndarray], wanted: int) -> list[np.ndarray]:
    """Split the largest batches in two until there are as many as wanted; the order stays.

    With fewer utterances than that, some batches come twice.
    """
    while 0 < len(batches) < wanted:
        missing = wanted - len(batches)
        sizes = np.array([len(batch) for batch in batches])
        halved = {int(n) for n in np.argsort(-sizes, kind="stable")[:missing] if sizes[n] > 1}
        if not halved:
            return batches + stretch(batches[:missing], missing)
        parts = (np.array_split(batch, 2) if n in halved else [batch] for n, batch in enumerate(batches))
        batches = [part for pair in parts for part in pair]
    return batches


def even_out(batches: list[np.ndarray], shares: int, alone: np.ndarray | None = None) -> list[np.ndarray]:
    """Split batches (ascending in length) until their number is a multiple of `shares`, one for each process.

    `alone` says of each utterance whether it must have a batch of its own. DDP exchanges buffers in every forward, in
    evaluation too: a rank that stops early leaves the others waiting.
    """
    if sum(map(len, batches)) < shares:
        raise UserError(f"data: {sum(map(len, batches))} utterances cannot be shared by {shares} processes; use fewer")
    batches = list(batches)
    while len(batches) % shares:
        largest = max(range(len(batches)), key=lambda i: len(batches[i]))
        if len(batches[largest]) == 1:  # nothing left to split: merge the two with the shortest utterances
            merged = np.concatenate(batches[:2])
            if alone is not None and alone[merged].any():
                raise UserError(
                    f"data: {len(batches)} recordings, so long that each is heard alone and in windows, cannot be shared evenly "
                    f"by {shares} processes; use one, or a number that divides theirs"
                )
            batches[:2] = [merged]
        else:
            batches[largest : largest + 1] = np.array_split(batches[largest], 2)
    return batches


class BatchPlan(Sampler[list[Any]]):
    """A batch sampler that gives each rank its share of `plan_batches`, and can begin in the middle of an epoch.

    A batch is a list of (utterance, seed of its crop) pairs; the seed is the epoch, unless utterances are drawn with
    replacement.

    In training every rank gets the same number of batches; the few left over are dropped, different ones each epoch. In
    evaluation every utterance goes to exactly one rank, and every rank gets the same number of batches. Batches are
    distributed, not shards, so ranks and workers may outnumber shards, but not batches: that raises `UserError`.

    An epoch of training is planned window by window while it runs (see `passes`). Every rank plans the whole epoch, so
    ranks need not communicate.
    """

    def __init__(
        self,
        samples: np.ndarray,  # length of each utterance, (utterances,)
        *,
        rank: int = 0,
        world_size: int = 1,
        train: bool = True,  # shuffled, equal shares; False for evaluation
        multiple: int = 1,  # batches per update, of which an epoch of training holds a multiple
        passes: Passes | None = None,  # order of an epoch; None for one window
        alone: np.ndarray | None = None,  # in evaluation: utterances that get a batch of their own, bool (utterances,)
        **plan: Any,  # the other arguments of `plan_batches`
    ) -> None:
        self.samples, self.rank, self.world_size, self.train, self.plan = samples, rank, world_size, train, plan
        self.passes, self.alone = passes or Passes(np.array([0, len(samples)])), alone
        self.epoch = 0
        self.begin = 0
        # The number of batches must be the same in all epochs, because the schedule uses `len(loader)`. An epoch with fewer
        # batches splits some in two, one with more drops some. Taking the minimum of three epochs makes splits rare; with
        # many windows epochs differ by less than a thousandth, and one is enough.
        if train:
            epochs = range(3 if len(self.passes.windows(0)) == 1 else 1)
            self.length = min(sum(len(batches) for _, batches, _ in self._windows(e)) for e in epochs) // world_size
        else:
            self.length = len(self._evaluated(0)) // world_size
        if train and self.length > multiple:
            # Otherwise Lightning would make a smaller update of the batches left at the end of an epoch.
            self.length -= self.length % multiple
        if train and self.length == 0:
            raise UserError(
                f"data: {len(samples)} utterances make fewer batches than the {world_size} processes; "
                "make batches smaller or use fewer processes"
            )

    def _windows(self, epoch: int) -> Iterator[tuple[np.ndarray, list[np.ndarray], bool]]:
        """For each window: its utterances, batches as positions among them, and whether it is the last window."""
        windows, plan = self.passes.windows(epoch), dict(self.plan)
        weights = plan.pop("weights", None)
        for place, stretches in enumerate(windows):
            numbers = utterances_of(stretches)
            window = place if len(windows) > 1 else None
            own = None if weights is None else weights[numbers]
            batches = plan_batches(self.samples[numbers], weights=own, epoch=epoch, window=window, **plan)
            yield numbers, batches, place == len(windows) - 1

    def _evaluated(self, epoch: int) -> list[np.ndarray]:
        batches = plan_batches(self.samples, shuffle=False, epoch=epoch, **self.plan)
        return even_out(batches, self.world_size, self.alone)

    def _trained(self) -> Iterator[tuple[int, np.ndarray]]:
        """(place in this rank's epoch, utterances) from `begin` on."""
        begin, self.begin = self.begin, 0
        first, total = 0, self.length * self.world_size  # of the batches of all ranks
        for numbers, batches, last in self._windows(self.epoch):
            if last:
                batches = stretch(batches, total - first)
            end = min(first + len(batches), total)
            for place in range(max(begin, -(-(first - self.rank) // self.world_size)), self.length):
                index = place * self.world_size + self.rank
                if index >= end:
                    break
                yield place, numbers[batches[index - first]]
            first += len(batches)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[list[Any]]:
        if not self.train:
            share = self._evaluated(self.epoch)[self.rank :: self.world_size][: self.length]
            places: Iterator[tuple[int, np.ndarray]] = itertools.islice(enumerate(share), self.begin, None)
            self.begin = 0
        else:
            places = self._trained()
        replaced = self.plan.get("weights") is not None or (self.train and self.passes.repeats)
        epoch = self.epoch if self.train else 0
        for place, batch in places:
            # An utterance drawn with replacement comes several times per epoch, and each time needs another crop.
            first = (place * self.world_size + self.rank + 1) << 48 if replaced else 0
            yield [(int(n), epoch + first + (row << 32 if first else 0)) for row, n in enumerate(batch)]
