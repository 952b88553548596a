"""Which utterances go into which batch: a pure function of lengths, seed and epoch.

Because an epoch is planned before it begins, `len(loader)` is exact, every rank makes the same number of steps, the
order does not depend on the number of workers, and a run resumes at any batch by dropping the ones already seen.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from torch.utils.data import Sampler

from wavlm_lightning.audio import SAMPLE_RATE
from wavlm_lightning.errors import UserError


def plan_batches(
    samples: np.ndarray,
    *,
    batch_seconds: float | None = None,
    batch_size: int | None = None,
    max_seconds: float | None = None,
    shuffle: bool = True,
    weights: np.ndarray | None = None,
    seed: int = 0,
    epoch: int = 0,
    pool_batches: int = 50,
) -> list[np.ndarray]:
    """Group utterances of like length into batches.

    Args:
        samples: length of each utterance in samples, int64 `(utterances,)`.
        batch_seconds: audio a batch may hold, padding counted; None for no such limit.
        batch_size: utterances a batch may hold; None for no such limit.
        max_seconds: utterances will be cropped to this, so they count as no longer.
        shuffle: draw the order anew from (seed, epoch); False keeps them sorted by length, for evaluation.
        weights: draw as many utterances with replacement in proportion to these, `(utterances,)`; None takes each once.
        seed: of the whole run.
        epoch: number of the pass.
        pool_batches: with shuffling, lengths are sorted within pools of about this many batches, so batches hold
            like lengths and the order stays random.

    Returns:
        One int64 array of utterance numbers a batch.

    Raises:
        UserError: neither limit is given, or one utterance alone is longer than a batch may be.
    """
    if batch_seconds is None and batch_size is None:
        raise UserError("data: give batch_size (utterances) or batch_seconds (seconds of audio), or both")
    lengths = samples if max_seconds is None else np.minimum(samples, round(max_seconds * SAMPLE_RATE))
    budget = np.inf if batch_seconds is None else batch_seconds * SAMPLE_RATE
    most = np.iinfo(np.int64).max if batch_size is None else batch_size
    if len(lengths) and lengths.max() > budget:
        raise UserError(
            f"data: an utterance of {lengths.max() / SAMPLE_RATE:.1f} s does not fit batch_seconds={batch_seconds}; "
            "raise batch_seconds or crop with max_seconds"
        )
    rng = np.random.default_rng([seed, epoch])
    numbers = np.arange(len(lengths))
    if weights is not None:
        numbers = rng.choice(numbers, size=len(numbers), p=weights / weights.sum())
    if not shuffle:
        return _fill(numbers[np.argsort(lengths[numbers], kind="stable")], lengths, budget, most)
    rng.shuffle(numbers)
    per_batch = min(most, max(1.0, budget / max(lengths.mean(), 1.0))) if len(lengths) else 1
    pool = int(per_batch) * pool_batches
    batches: list[np.ndarray] = []
    for begin in range(0, len(numbers), pool):
        part = numbers[begin : begin + pool]
        batches += _fill(part[np.argsort(lengths[part], kind="stable")], lengths, budget, most)
    return [batches[i] for i in rng.permutation(len(batches))]


def _fill(order: np.ndarray, lengths: np.ndarray, budget: float, most: int) -> list[np.ndarray]:
    """Cut an order of ascending lengths into batches whose padded length stays within both limits."""
    batches: list[np.ndarray] = []
    begin = 0
    for end in range(len(order)):
        if end - begin >= most or (end - begin + 1) * lengths[order[end]] > budget:
            batches.append(order[begin:end])
            begin = end
    if begin < len(order):
        batches.append(order[begin:])
    return batches


def even_out(batches: list[np.ndarray], shares: int) -> list[np.ndarray]:
    """Split batches until their number is a multiple of `shares`, so that every rank makes equally many steps.

    DDP exchanges buffers in every forward, in evaluation too: a rank that stops early leaves the others waiting.

    Args:
        batches: ascending in length, int64 `(utterances,)` each.
        shares: processes.

    Raises:
        UserError: there are fewer utterances than processes.
    """
    if sum(map(len, batches)) < shares:
        raise UserError(f"data: {sum(map(len, batches))} utterances cannot be shared by {shares} processes; use fewer")
    batches = list(batches)
    while len(batches) % shares:
        largest = max(range(len(batches)), key=lambda i: len(batches[i]))
        if len(batches[largest]) == 1:  # nothing left to split: the shortest two go together
            batches[:2] = [np.concatenate(batches[:2])]
        else:
            batches[largest : largest + 1] = np.array_split(batches[largest], 2)
    return batches


class BatchPlan(Sampler[list[Any]]):
    """A batch sampler that hands each rank its share of `plan_batches`, and can begin in the middle.

    A batch is a list of (utterance, seed of its crop) pairs; the seed is the epoch, unless utterances are drawn with
    replacement.

    Training gives every rank equally many batches (the few that are over are dropped, others each epoch);
    evaluation gives every utterance to exactly one rank, and every rank equally many batches.

    Args:
        samples: length of each utterance in samples, `(utterances,)`.
        rank: this process.
        world_size: processes.
        train: shuffle, and equal shares.
        multiple: of batches in an epoch of training, as far as there are enough: those of an update.
        plan: the other arguments of `plan_batches`.
    """

    def __init__(
        self,
        samples: np.ndarray,
        *,
        rank: int = 0,
        world_size: int = 1,
        train: bool = True,
        multiple: int = 1,
        **plan: Any,
    ) -> None:
        self.samples, self.rank, self.world_size, self.train, self.plan = samples, rank, world_size, train, plan
        self.epoch = 0
        self.begin = 0
        # The number of batches must not change with the epoch, or `len(loader)` would lie to the schedule.
        self.length = min(len(self._share(e)) for e in range(3)) if train else len(self._share(0))
        if train and self.length > multiple:
            # Lightning makes an update of whatever is left at the end of an epoch.
            self.length -= self.length % multiple
        if train and self.length == 0:
            raise UserError(
                f"data: {len(samples)} utterances make fewer batches than the {world_size} processes; "
                "make batches smaller or use fewer processes"
            )

    def _share(self, epoch: int) -> list[np.ndarray]:
        batches = plan_batches(self.samples, shuffle=self.train, epoch=epoch, **self.plan)
        if self.train:
            batches = batches[: len(batches) // self.world_size * self.world_size]
        else:
            batches = even_out(batches, self.world_size)
        return batches[self.rank :: self.world_size]

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order comes next."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[list[Any]]:
        share = self._share(self.epoch)
        while self.train and len(share) < self.length:  # rare: this epoch's order packs into fewer batches
            share = share + share[: self.length - len(share)]
        begin, self.begin = self.begin, 0
        epoch = self.epoch if self.train else 0
        for place, batch in enumerate(share[begin : self.length], start=begin):
            # Drawn with replacement, an utterance comes several times an epoch: each time it must be cropped anew.
            first = (place * self.world_size + self.rank + 1) << 48 if self.plan.get("weights") is not None else 0
            yield [(int(n), epoch + first + (row << 32 if first else 0)) for row, n in enumerate(batch)]
