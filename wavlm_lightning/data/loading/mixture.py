"""Mix several corpora in given shares of the audio: which utterances of each corpus an epoch takes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from wavlm_lightning.data.loading.shard_order import WINDOW, Passes
from wavlm_lightning.system.errors import UserError


@dataclass
class Source:
    """One corpus of a mixture.

    Attributes:
        path: a corpus folder, or several as in `data/part-{000..003}`, or a URL.
        weight: its share of the audio-seconds that are trained on (after cropping), relative to the other sources'.
            The folders of one pattern are one source. If no source has a weight, each utterance comes once an epoch.
    """

    path: str
    weight: float | None = None


def sources_of(corpus: str | Sequence[str | Source], option: str = "data.corpus") -> list[Source]:
    """The option `data.corpus`, or another one, as a list of sources; `UserError` if it is empty or its weights do not fit."""
    given = [corpus] if isinstance(corpus, str) else list(corpus)
    sources = [each if isinstance(each, Source) else Source(str(each)) for each in given]
    if not sources:
        raise UserError(f"{option}: is empty; give a folder or a list of folders")
    weights = [source.weight for source in sources if source.weight is not None]
    if weights and len(weights) < len(sources):
        without = next(source.path for source in sources if source.weight is None)
        raise UserError(f"{option}: {without} has no weight, but others have; give a weight to every corpus or to none")
    for source in sources:
        if source.weight is not None and not 0 < source.weight < np.inf:
            raise UserError(f"{option}: the weight {source.weight} of {source.path} must be positive")
    return sources


def folders_of(pattern: str) -> list[str]:
    """The folders of a pattern with `{first..last}`, or of a plain path.

    Example:
        >>> folders_of("data/part-{08..11}")
        ['data/part-08', 'data/part-09', 'data/part-10', 'data/part-11']
    """
    if "{" not in pattern and "}" not in pattern:
        return [pattern]
    from braceexpand import braceexpand

    try:
        folders = list(braceexpand(pattern))
    except ValueError as error:
        raise UserError(f"data.corpus: {pattern}: {error}; write a range as in part-{{000..003}}") from error
    if len(folders) < 2:
        raise UserError(f"data.corpus: {pattern}: the braces do not hold a range; write one as in part-{{000..003}}")
    return folders


class Mixture(Passes):
    """Epochs of a mixture: as many seconds as all sources hold together, each source with its share.

    Each source is cycled, in a new order of its shards each time, and an epoch continues where the last one stopped. So
    no utterance comes a second time before all of its source came once, however small the share is, and the order
    depends on (seed, epoch) alone.
    """

    repeats = True

    def __init__(
        self,
        starts: np.ndarray,  # first utterance of each shard, and the total, int64 (shards + 1,)
        lengths: np.ndarray,  # after cropping, (utterances,)
        bounds: Sequence[int],  # first shard of each source, and the total, (sources + 1,)
        weights: Sequence[float],
        window: int = WINDOW,  # shards per shuffle window
        seed: int = 0,
    ) -> None:
        super().__init__(starts, window, seed)
        self.bounds = list(bounds)
        self.draws: list[int] = []  # utterances per epoch of each source
        for number, (weight, (first, end)) in enumerate(zip(weights, itertools.pairwise(self.bounds), strict=True)):
            part = lengths[self.starts[first] : self.starts[end]]
            if not len(part):
                raise UserError(f"data.corpus: source {number + 1} of the mixture has no utterance that is long enough")
            share = weight / sum(weights)
            self.draws.append(max(1, round(share * float(lengths.sum()) / float(part.mean()))))

    def stretches(self, epoch: int) -> np.ndarray:
        """(first, one past the last) utterance of each stretch, none longer than a shard, int64 `(stretches, 2)`."""
        return np.array([pair for source in range(len(self.draws)) for pair in self._of(source, epoch)], dtype=np.int64)

    def _of(self, source: int, epoch: int) -> Iterator[tuple[int, int]]:
        """Stretches of one source: places epoch * draws to (epoch + 1) * draws of its endless sequence."""
        shards = np.arange(self.bounds[source], self.bounds[source + 1])
        held = int(self.starts[shards[-1] + 1] - self.starts[shards[0]])
        place, end = epoch * self.draws[source], (epoch + 1) * self.draws[source]
        while place < end:
            turn, skip = divmod(place, held)
            order = np.random.default_rng([self.seed, source, turn]).permutation(shards)
            for first, last in zip(self.starts[order].tolist(), self.starts[order + 1].tolist(), strict=True):
                stop = min(last, first + skip + end - place)
                if first + skip < stop:
                    yield first + skip, stop
                    place += stop - first - skip
                skip = max(0, skip - (last - first))
                if place == end:
                    return
