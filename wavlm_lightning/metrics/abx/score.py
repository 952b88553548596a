"""The ABX error of some items: which triples are compared, on which distances, and how the errors are averaged."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from wavlm_lightning.metrics.abx.items import Item
from wavlm_lightning.metrics.intervals import Interval, bootstrap_interval

MOST_ITEMS = 10  # of a phone in one context by one speaker (Libri-Light)
MOST_SPEAKERS = 5  # of x for one a and b (Libri-Light)
MOST_CELLS = 1 << 23  # distances of frames in memory at a time and thread
Mode = Literal["within", "across"]
MODES: tuple[Mode, ...] = ("within", "across")
_Set = tuple[tuple[str, str], str, str]  # context, speaker, phone


@dataclass(frozen=True)
class AbxScore:
    """The ABX error of a task, as fractions; 0.5 is chance.

    Attributes:
        interval: the error, and its 95 % bootstrap interval over phone pairs; (a, b) and (b, a) are drawn together.
        pairs: errors of phone pairs (phone of a and x, phone of b).
        cells: number of cells.
    """

    interval: Interval
    pairs: dict[tuple[str, str], float]
    cells: int

    @property
    def error(self) -> float:
        return self.interval.value


@dataclass(frozen=True)
class _Block:
    """The cells that share their x: one phone in one context by one speaker."""

    x: np.ndarray  # numbers of items
    others: np.ndarray  # numbers of the items that are a or b in some cell
    cells: np.ndarray  # `(cells, 4)`, see `kernel.count_errors`
    pairs: np.ndarray  # number of the phone pair of each cell
    speakers: np.ndarray  # number of the speaker of a and b of each cell


class AbxTask:
    """The triples of some items: a and x of one phone, b of another, all three between the same two phones.

    Within speakers, all three are by one speaker; a and x are drawn from the same items, and none is compared with itself.
    Across speakers, a and b are by one speaker and x by another. More items of a phone, context and speaker than `most_items`
    are thinned out once, at random; so are the speakers of x for one phone pair, context and speaker of a and b.

    Errors are averaged over the triples of a cell, over the cells (contexts, and across speakers all speakers of x) of a speaker
    of a and b, over these speakers, and last over phone pairs, as in fastabx and Libri-Light.

    Args:
        items: what is compared.
        mode: `within` or `across` speakers.
        most_items: of a phone in one context by one speaker.
        most_speakers: of x for one a and b.
        seed: of the two draws.

    Raises:
        ValueError: no two items differ in the phone alone, or there are no two items of a phone to compare.
    """

    def __init__(
        self,
        items: Sequence[Item],
        mode: Mode = "within",
        most_items: int = MOST_ITEMS,
        most_speakers: int = MOST_SPEAKERS,
        seed: int = 0,
    ) -> None:
        self.mode, self.items = mode, len(items)
        rng = np.random.default_rng(seed)
        members: dict[_Set, list[int]] = defaultdict(list)
        for number, item in enumerate(items):
            members[(item.previous, item.next), item.speaker, item.phone].append(number)
        sets: dict[_Set, np.ndarray] = {}
        for key in sorted(members):
            found = np.array(members[key])
            sets[key] = np.sort(rng.choice(found, most_items, replace=False)) if len(found) > most_items else found
        self._pairs: dict[tuple[str, str], int] = {}
        self._speakers: dict[str, int] = {}
        by_x = self._within(sets) if mode == "within" else self._across(sets, most_speakers, rng)
        self._blocks = [self._block(sets, x, cells) for x, cells in by_x.items()]
        self.cells = sum(len(block.cells) for block in self._blocks)
        if not self.cells:
            raise ValueError(
                f"no triple {mode} speakers among {len(items)} items: it takes two items of a phone, and one of another phone "
                "between the same neighbours"
            )

    @staticmethod
    def _within(sets: dict[_Set, np.ndarray]) -> dict[_Set, list[tuple[_Set, _Set]]]:
        """The cells (a, b) of each x."""
        phones: dict[tuple[tuple[str, str], str], list[str]] = defaultdict(list)
        for context, speaker, phone in sets:
            phones[context, speaker].append(phone)
        by_x: dict[_Set, list[tuple[_Set, _Set]]] = {}
        for (context, speaker), some in phones.items():
            for phone in some:
                a = (context, speaker, phone)
                if len(some) > 1 and len(sets[a]) > 1:
                    by_x[a] = [(a, (context, speaker, other)) for other in some if other != phone]
        return by_x

    @staticmethod
    def _across(
        sets: dict[_Set, np.ndarray], most: int, rng: np.random.Generator
    ) -> dict[_Set, list[tuple[_Set, _Set]]]:
        phones: dict[tuple[tuple[str, str], str], list[str]] = defaultdict(list)
        speakers: dict[tuple[tuple[str, str], str], list[str]] = defaultdict(list)
        for context, speaker, phone in sets:
            phones[context, speaker].append(phone)
            speakers[context, phone].append(speaker)
        by_x: dict[_Set, list[tuple[_Set, _Set]]] = defaultdict(list)
        for (context, speaker), some in phones.items():
            for one, other in itertools.permutations(some, 2):
                others = [name for name in speakers[context, one] if name != speaker]
                if len(others) > most:
                    others = [others[place] for place in np.sort(rng.choice(len(others), most, replace=False))]
                for name in others:
                    by_x[context, name, one].append(((context, speaker, one), (context, speaker, other)))
        return dict(by_x)

    def _block(self, sets: dict[_Set, np.ndarray], x: _Set, cells: list[tuple[_Set, _Set]]) -> _Block:
        wanted = list(dict.fromkeys(key for cell in cells for key in cell))
        ends = np.cumsum([len(sets[key]) for key in wanted])
        places = {key: (int(end) - len(sets[key]), int(end)) for key, end in zip(wanted, ends, strict=True)}
        pairs = [self._pairs.setdefault((a[2], b[2]), len(self._pairs)) for a, b in cells]
        speakers = [self._speakers.setdefault(a[1], len(self._speakers)) for a, _ in cells]
        rows = np.array([[*places[a], *places[b]] for a, b in cells], dtype=np.int64)
        others = np.concatenate([sets[key] for key in wanted])
        return _Block(sets[x], others, rows, np.array(pairs), np.array(speakers))

    def features_error(
        self,
        features: np.ndarray,
        starts: np.ndarray,
        lengths: np.ndarray,
        threads: int = 1,
        done: Callable[[int], Any] = int,
    ) -> AbxScore:
        """The error of feature vectors, by the angle between frames (arccos of the cosine, over pi).

        A frame of zeros stands in the direction of equal values, as in fastabx.

        Args:
            features: float32 or float64 `(frames, dim)`, in whose precision angles are computed; it is not changed.
            starts: first frame of each item in `features`, int64 `(items,)`; items may share frames.
            lengths: frames of each item, at least 1, int64 `(items,)`.
            threads: that compute at the same time.
            done: called with the number of cells of each block that is finished.

        Raises:
            ValueError: an item without frames, or a value that is not finite.
        """
        directions = _directions(features)

        def compare(x: np.ndarray, others: np.ndarray) -> np.ndarray:
            products = directions[x] @ directions[others].T
            np.clip(products, -1, 1, out=products)
            np.arccos(products, out=products)
            return np.divide(products, np.pi, out=products)

        return self._error(starts, lengths, threads, done, compare=compare)

    def units_error(
        self,
        units: np.ndarray,
        starts: np.ndarray,
        lengths: np.ndarray,
        threads: int = 1,
        done: Callable[[int], Any] = int,
    ) -> AbxScore:
        """The error of units: the distance of two frames is 0 if their units are equal, else 1; see `features_error`.

        Args:
            units: whole numbers `(frames,)`.
        """
        return self._error(starts, lengths, threads, done, units=np.asarray(units, dtype=np.int64))

    def _error(
        self,
        starts: np.ndarray,
        lengths: np.ndarray,
        threads: int,
        done: Callable[[int], Any],
        compare: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None,
        units: np.ndarray | None = None,
    ) -> AbxScore:
        from threadpoolctl import threadpool_limits

        from wavlm_lightning.metrics.abx import kernel

        starts, lengths = np.asarray(starts, dtype=np.int64), np.asarray(lengths, dtype=np.int64)
        if len(starts) != self.items or len(lengths) != self.items or (lengths < 1).any():
            raise ValueError(f"ABX needs a start and a length of 1 frame or more for each of its {self.items} items")

        def score(block: _Block) -> np.ndarray:
            x, rows = _frames(starts, lengths, block.x)
            distances, errors = np.empty((len(block.x), len(block.others))), np.empty(len(block.cells))
            for begin, end in _pieces(lengths[block.others], max(MOST_CELLS // len(x), 1)):
                others, columns = _frames(starts, lengths, block.others[begin:end])
                costs = np.empty((np.diff(rows).max(), np.diff(columns).max()))
                found = distances[:, begin:end]
                if units is not None:
                    kernel.fill_unit_distances(units[x], units[others], rows, columns, costs, found)
                elif compare is not None:
                    kernel.fill_distances(compare(x, others), rows, columns, costs, found)
            kernel.count_errors(distances, block.cells, self.mode == "within", errors)
            done(len(errors))
            return errors

        # Each product is small: threads of BLAS would wait for each other.
        with threadpool_limits(1), ThreadPoolExecutor(threads) as pool:
            errors = np.concatenate(list(pool.map(score, self._blocks)))
        return self._averaged(errors)

    def _averaged(self, errors: np.ndarray) -> AbxScore:
        pairs = np.concatenate([block.pairs for block in self._blocks])
        speakers = np.concatenate([block.speakers for block in self._blocks])
        both, place = np.unique(pairs * len(self._speakers) + speakers, return_inverse=True)
        by_speaker = np.bincount(place, errors) / np.bincount(place)
        of_pair = both // len(self._speakers)
        counts = np.bincount(of_pair, minlength=len(self._pairs))
        by_pair = np.bincount(of_pair, by_speaker, minlength=len(self._pairs)) / counts
        groups = [tuple(sorted(pair)) for pair in self._pairs]
        interval = bootstrap_interval(by_pair.tolist(), [1.0] * len(by_pair), groups)
        found = {pair: float(by_pair[number]) for pair, number in self._pairs.items()}
        return AbxScore(interval, found, self.cells)


def _directions(features: np.ndarray) -> np.ndarray:
    """Frames of length 1; those of zeros point in the direction of equal values."""
    if not np.isfinite(features).all():
        raise ValueError("a feature that is not a finite number")
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    directions = features / np.where(lengths > 0, lengths, 1)
    directions[lengths[:, 0] == 0] = features.shape[1] ** -0.5
    return directions


def _frames(starts: np.ndarray, lengths: np.ndarray, items: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of all frames of some items, and where each item begins among them, with their number at the end."""
    ends = np.cumsum(lengths[items])
    begins = ends - lengths[items]
    frames = np.repeat(starts[items] - begins, lengths[items]) + np.arange(ends[-1])
    return frames, np.concatenate([begins, ends[-1:]])


def _pieces(lengths: np.ndarray, most: int) -> list[tuple[int, int]]:
    """Cut items into pieces of at most `most` frames, of one item at least."""
    pieces, begin, frames = [], 0, 0
    for place, length in enumerate(lengths.tolist()):
        if frames + length > most and place > begin:
            pieces.append((begin, place))
            begin, frames = place, 0
        frames += length
    return [*pieces, (begin, len(lengths))]
