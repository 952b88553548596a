"""Sample utterances for k-means and extract their features in any number of processes.

The sample is drawn first, so it does not depend on the number of processes.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from wavlm_lightning.audio import SAMPLE_RATE
from wavlm_lightning.codebooks.audio_progress import HoursBar
from wavlm_lightning.codebooks.features import FeatureSource, features_of
from wavlm_lightning.codebooks.job_shards import JobShard, jobs_for_audio
from wavlm_lightning.codebooks.linear_map import LinearMap
from wavlm_lightning.data.corpus import Corpus, Split
from wavlm_lightning.data.shard_index import ShardIndex
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.files import write_bytes
from wavlm_lightning.system.worker_pool import in_order

# Audio per task: 18 MB of features of a Base model, which wait in memory and are kept on disk as one file.
GROUP_SECONDS = 120.0


@dataclass(frozen=True)
class UtteranceSample:
    """The utterances that k-means sees: those of the share whose features fit into memory."""

    corpus: Corpus
    split: Split
    source: FeatureSource
    wanted: int  # utterances in the share
    numbers: np.ndarray  # of the utterances that fit, in the order of the draw: int64 (utterances,)
    frames: np.ndarray  # of each of them, int64 (utterances,)
    map: LinearMap | None = None  # that the features go through before they are held

    @classmethod
    def make(
        cls,
        corpus: Corpus,
        source: FeatureSource,
        split: str,
        share: float,
        memory_gib: float,
        seed: int,
        dim: int | None = None,
    ) -> UtteranceSample:
        """Draw utterances at random until the share (rounded up) is reached or their features fill `memory_gib`.

        At least one utterance is drawn. `dim` is that of the features as they are held, if a map will change it.
        """
        utterances = corpus.split(split)
        wanted = math.ceil(share * len(utterances) - 1e-9)  # 0.1 * 30 is 3 in spite of rounding
        order = np.random.default_rng(seed).permutation(len(utterances))[:wanted]
        frames = source.frames(utterances.samples[order])
        size = np.cumsum(frames) * (source.describe()["dim"] if dim is None else dim) * np.dtype(np.float32).itemsize
        held = max(1, int(np.searchsorted(size, memory_gib * 2**30, side="right")))
        return cls(corpus, utterances, source, wanted, order[:held], frames[:held])

    @cached_property
    def groups(self) -> list[np.ndarray]:
        """Positions in `numbers`, in groups that are read together, in the order of the corpus."""
        order = np.argsort(self.numbers, kind="stable")
        begins = np.cumsum(self.split.samples[self.numbers[order]]) // int(GROUP_SECONDS * SAMPLE_RATE)
        return np.split(order, np.flatnonzero(np.diff(begins)) + 1)

    @cached_property
    def fingerprint(self) -> str:
        """Identifies this sample and its features; kept features of another sample are not used."""
        numbers = hashlib.sha256(np.ascontiguousarray(self.numbers, dtype="<i8").tobytes()).hexdigest()
        facts = [self.corpus.sha256, self.split.name, self.source.describe(), numbers, GROUP_SECONDS]
        facts += [] if self.map is None else [self.map.sha256]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]

    def features(self, jobs: int | None = 1, keep: Path | None = None) -> np.ndarray:
        """All features float32 `(frames, dim)`, in the order of the draw; `jobs=None` chooses by audio and machine.

        The folder `keep` holds the features of each group, which are reused after an interruption.
        """
        # Groups are written to their final rows, so no features are held in memory twice.
        frames = int(self.frames.sum())
        dim = self.source.describe()["dim"] if self.map is None else self.map.dim
        try:
            features = np.empty((frames, dim), np.float32)
        except (MemoryError, ValueError) as error:  # of a single utterance, or more than the budget was set to
            raise UserError(
                f"{self.corpus.directory}: {frames:,} frames of features do not fit into memory ({dim} numbers each); lower "
                "--memory-gib, or check the lengths with `wavlm data check`"
            ) from error
        starts = np.concatenate([[0], np.cumsum(self.frames)])
        for group, rows in self._read(range(len(self.groups)), jobs, keep):
            ends = np.cumsum(self.frames[group])
            for place, end in zip(group, ends, strict=True):
                features[starts[place] : starts[place + 1]] = rows[end - self.frames[place] : end]
        return features

    def extract(self, part: JobShard, keep: Path, jobs: int | None = 1) -> int:
        """Extract and keep the features of a part of the groups, for a later call of `features`; return the number."""
        return sum(1 for _ in self._read(part.deal(range(len(self.groups))), jobs, keep, wanted=False))

    def _read(
        self, numbers: range | list[int], jobs: int | None, keep: Path | None, wanted: bool = True
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        groups = [self.groups[number] for number in numbers]
        samples = [int(self.split.samples[self.numbers[group]].sum()) for group in groups]
        if keep is not None:
            keep = keep / self.fingerprint
            keep.mkdir(parents=True, exist_ok=True)
        tasks = [
            (self.numbers[group], self.frames[group], keep and keep / f"{number:06d}.safetensors")
            for number, group in zip(numbers, groups, strict=True)
        ]
        kind = self.source.describe()["kind"]
        jobs = min(jobs_for_audio(kind, sum(samples) / SAMPLE_RATE / 3600) if jobs is None else jobs, len(tasks))
        opened = partial(_open, self.corpus.directory, self.split.name, self.source.describe(), wanted, self.map)
        here = Extractor(self.split, self.source, wanted, self.map)
        with HoursBar(sum(samples), 0, "features") as bar:
            results = in_order(opened if jobs > 1 else lambda _: here, tasks, jobs)
            for group, length, rows in zip(groups, samples, results, strict=True):
                bar.add(length)
                yield group, rows


@dataclass(frozen=True)
class HeldFeatures:
    """Features that are in memory after a fit, for the labels of the same utterances: it takes the place of their source.

    Attributes:
        sample: whose features they are; of whole shards if all of the split was drawn and fits into memory.
        rows: float32 `(frames, dim)`, in the order of the draw, behind the map of the codebook.
    """

    sample: UtteranceSample
    rows: np.ndarray

    @cached_property
    def _places(self) -> dict[int, slice]:
        ends = np.cumsum(self.sample.frames)
        begins = ends - self.sample.frames
        return {int(n): slice(int(a), int(b)) for n, a, b in zip(self.sample.numbers, begins, ends, strict=True)}

    @cached_property
    def _first(self) -> dict[Path, int]:
        """Number of the first utterance of each shard."""
        split = self.sample.split
        return {shard.path: int(start) for shard, start in zip(split.shards, split.starts, strict=False)}

    def all_of(self, shard: ShardIndex) -> bool:
        """Whether the features of every utterance of a shard are there."""
        start = self._first.get(shard.path)
        return start is not None and all(start + place in self._places for place in range(shard.utterances))

    def of(self, shard: ShardIndex, place: int) -> np.ndarray:
        """Features of utterance `place` of a shard, float32 `(frames, dim)`."""
        return self.rows[self._places[self._first[shard.path] + place]]


class Extractor:
    """Extracts the features of a group of utterances; the worker of `UtteranceSample.features`.

    Features that are not `wanted` are only kept on disk: they need not travel between processes.
    """

    def __init__(self, split: Split, source: FeatureSource, wanted: bool, through: LinearMap | None = None) -> None:
        self.split, self.source, self.wanted, self.map = split, source, wanted, through

    def __call__(self, task: tuple[np.ndarray, np.ndarray, Path | None]) -> np.ndarray:
        """Features float32 `(frames, dim)` of a task: utterances, frames of each, file to keep the features in."""
        numbers, frames, kept = task
        if kept is not None and (features := _found(kept, int(frames.sum()))) is not None:
            return features if self.wanted else features[:0]
        rows = []
        for number, expected in zip(numbers, frames, strict=True):
            shard, place = self.split.locate(int(number))
            found = features_of(self.source, shard, place)
            rows.append(found if self.map is None else self.map(found))
            if len(rows[-1]) != expected:
                raise UserError(
                    f"{shard.path}: utterance {shard.keys[place]!r} differs in length from the index; prepare the corpus again"
                )
        features = np.concatenate(rows)
        if kept is not None:
            write_bytes(kept, save({"features": features}))
        return features if self.wanted else features[:0]


def _found(kept: Path, frames: int) -> np.ndarray | None:
    """Features that an earlier run kept; None if they are missing or incomplete (after a power failure)."""
    try:
        features = load_file(kept)["features"]
    except (FileNotFoundError, SafetensorError, KeyError):
        return None
    return features if features.ndim == 2 and len(features) == frames else None


def _open(
    corpus: Path, split: str, description: dict, wanted: bool, through: LinearMap | None, device: str | None
) -> Extractor:
    source = FeatureSource.from_description(description, device)
    return Extractor(Corpus.open(corpus).split(split), source, wanted, through)
