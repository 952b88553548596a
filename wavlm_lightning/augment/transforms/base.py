"""The contract of waveform transforms: what they get, what they draw from, and what the data module asks of them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Any, ClassVar, Protocol

import numpy as np

from wavlm_lightning.system.errors import UserError

Meta = dict[str, Any]


class NoiseReader(Protocol):
    """Reads audio that a transform adds or convolves with, such as noise or impulse responses of a corpus."""

    def __call__(self, rng: np.random.Generator, samples: int | None = None) -> np.ndarray:
        """A random stretch of a random utterance, float32 `(at most samples,)`, or a whole one if `samples` is None."""


@dataclass(frozen=True)
class Draw:
    """All that a transform may draw from, for one utterance.

    Attributes:
        rng: seeded by the run's seed, the utterance, and its place in the run, so a resumed run draws the same.
        another: gives another utterance of the same split, float32 `(samples,)`, drawn by the same `rng`.
    """

    rng: np.random.Generator
    another: Callable[[], np.ndarray]


@dataclass(kw_only=True)
class WaveformTransform(ABC):
    """A random change of a waveform. A subclass is a dataclass of its settings and has one method, `change`.

    Attributes:
        probability: share of the utterances that are changed.
        keeps_length: sample t of the result belongs to sample t of the input, so frame labels and clean references hold.
        keeps_content: nothing that was said is lost, so transcripts hold. A transform that crops does not keep it.
        keeps_talkers: nobody else is heard, so that a target that lists all who speak (diarization) holds.

    Example:
        >>> @dataclass(kw_only=True)
        ... class Halve(WaveformTransform):
        ...     def change(self, waveform, draw):
        ...         return waveform / 2
        >>> Halve()(np.ones(2, "f4"), Draw(np.random.default_rng(0), lambda: np.ones(2, "f4"))).tolist()
        [0.5, 0.5]
    """

    keeps_length: ClassVar[bool] = True
    keeps_content: ClassVar[bool] = True
    keeps_talkers: ClassVar[bool] = True

    probability: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1:
            raise UserError(f"{self._name}.probability must lie between 0 and 1, not {self.probability:g}")

    @abstractmethod
    def change(self, waveform: np.ndarray, draw: Draw) -> np.ndarray:
        """The changed waveform, float32 `(samples,)`, a new array; whether to change is drawn before."""

    def __call__(self, waveform: np.ndarray, draw: Draw) -> np.ndarray:
        """Change a waveform with the transform's probability.

        Args:
            waveform: float32 `(samples,)`, 16 kHz; never written to.
            draw: the only source of randomness.

        Returns:
            float32 `(samples,)`; another number of samples if not `keeps_length`.
        """
        return self.apply(waveform, {}, draw)[0]

    def apply(self, waveform: np.ndarray, meta: Meta, draw: Draw) -> tuple[np.ndarray, Meta]:
        """`__call__` for a waveform and its metadata, where the change makes other metadata true (see `ChangeSpeed`)."""
        # Drawn even if the answer is certain: another probability must not move what later transforms draw.
        if draw.rng.random() >= self.probability:
            return waveform, meta
        changed = self.change(waveform, draw)
        if self.keeps_length and len(changed) != len(waveform):
            raise UserError(
                f"{self._name}: {len(waveform):,} samples became {len(changed):,}, but its class says keeps_length; set "
                "keeps_length = False in the class, or return as many samples"
            )
        return changed, meta

    def longest(self, samples: int) -> int:
        """The most samples that the result for a waveform of so many samples can have; batches are planned with it."""
        if not self.keeps_length:
            raise UserError(
                f"{self._name}: its class says keeps_length = False, so it must have a method `longest` that returns the most "
                "samples it makes of so many"
            )
        return samples

    def inventories(self, inventories: dict[str, Any]) -> dict[str, Any]:
        """The label sets of training, with classes that the transform adds to those of the corpus."""
        return inventories

    def reads(self) -> tuple[str, str] | None:
        """The corpus folder and the split that the transform reads from, if any; see `FromCorpus`."""
        return None

    def open(self, read: NoiseReader) -> None:
        """Give the transform the reader of what it `reads`, before the first use."""
        self._read = read

    def parts(self) -> tuple[WaveformTransform, ...]:
        """Transforms inside this one."""
        return ()

    def describe(self) -> list[Any]:
        """Name and settings that are not the default, for JSON: what a resumed run must have in common.

        Defaults are left out, so that runs from before an option existed can be resumed.
        """
        settings = {item.name: getattr(self, item.name) for item in fields(self)}
        defaults = {
            item.name: item.default_factory() if item.default_factory is not MISSING else item.default
            for item in fields(self)
        }
        return [self._name, {name: _plain(value) for name, value in settings.items() if value != defaults[name]}]

    @property
    def _name(self) -> str:
        return type(self).__name__

    def _check_range(self, name: str, least: float = -math.inf, most: float = math.inf) -> None:
        """Refuse settings that are not (lowest, highest) within bounds."""
        low, high = getattr(self, name)
        if not least <= low <= high <= most or math.isinf(low) or math.isinf(high):
            bounds = f" from {least:g} to {most:g}" if most < math.inf else f" of at least {least:g}"
            raise UserError(
                f"{self._name}.{name}: [{low:g}, {high:g}] is not a range{bounds if least > -math.inf else ''}; give the "
                "lowest and the highest value"
            )


@dataclass(kw_only=True)
class FromCorpus(WaveformTransform):
    """A transform that may read from a corpus, such as one of noise.

    Args:
        probability: share of the utterances that are changed.
        corpus: a corpus folder or its URL; null for none.
        corpus_split: the split of that corpus.
    """

    corpus: str | None = None
    corpus_split: str = "train"

    def reads(self) -> tuple[str, str] | None:
        return None if self.corpus is None else (self.corpus, self.corpus_split)

    def describe(self) -> list[Any]:
        """As for every transform, but whether there is a corpus and not where: `open_transforms` adds its hash."""
        name, settings = super().describe()
        return [name, {**settings, "corpus": True} if self.corpus is not None else settings]

    def _reader(self) -> NoiseReader:
        read: NoiseReader | None = getattr(self, "_read", None)
        if read is None:
            raise UserError(
                f"{self._name}: its corpus {self.corpus} is not open; call `wavlm_lightning.data.noise.open_transforms`"
            )
        return read


@dataclass(kw_only=True)
class OneOf(WaveformTransform):
    """One of several transforms, drawn for each utterance, as in recipes that add either noise or a room.

    Args:
        transforms: to choose from; their own probabilities apply as well.
        weights: how often each is chosen, in any unit; null for equally often.
    """

    transforms: list[WaveformTransform]
    weights: list[float] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.transforms:
            raise UserError("OneOf.transforms is empty; list at least one transform")
        weights = self.weights
        if weights is not None and (len(weights) != len(self.transforms) or min(weights) < 0 or not sum(weights) > 0):
            raise UserError(
                f"OneOf.weights: {weights} are not {len(self.transforms)} numbers of at least 0 with one above 0, one for "
                "each transform"
            )
        # Of the class in general, but here it depends on what is inside.
        self.keeps_length = all(each.keeps_length for each in self.transforms)  # type: ignore[misc]
        self.keeps_content = all(each.keeps_content for each in self.transforms)  # type: ignore[misc]
        self.keeps_talkers = all(each.keeps_talkers for each in self.transforms)  # type: ignore[misc]

    def apply(self, waveform: np.ndarray, meta: Meta, draw: Draw) -> tuple[np.ndarray, Meta]:
        if draw.rng.random() >= self.probability:
            return waveform, meta
        return self._chosen(draw).apply(waveform, meta, draw)

    def change(self, waveform: np.ndarray, draw: Draw) -> np.ndarray:
        return self._chosen(draw)(waveform, draw)

    def longest(self, samples: int) -> int:
        return max(samples, *(each.longest(samples) for each in self.transforms))

    def _chosen(self, draw: Draw) -> WaveformTransform:
        shares = None if self.weights is None else np.asarray(self.weights) / sum(self.weights)
        return self.transforms[int(draw.rng.choice(len(self.transforms), p=shares))]

    def inventories(self, inventories: dict[str, Any]) -> dict[str, Any]:
        for each in self.transforms:
            inventories = each.inventories(inventories)
        return inventories

    def parts(self) -> tuple[WaveformTransform, ...]:
        return tuple(self.transforms)


def transform_all(
    transforms: Sequence[WaveformTransform], waveform: np.ndarray, meta: Meta, draw: Draw
) -> tuple[np.ndarray, Meta]:
    """Apply transforms in their order to a waveform, float32 `(samples,)`, and its metadata."""
    for transform in transforms:
        waveform, meta = transform.apply(waveform, meta, draw)
    return waveform, meta


def with_parts(transforms: Sequence[WaveformTransform]) -> Iterator[WaveformTransform]:
    """The transforms and all that are inside of them, such as those of `OneOf`."""
    for transform in transforms:
        yield transform
        yield from with_parts(transform.parts())


def _plain(value: Any) -> Any:
    if isinstance(value, WaveformTransform):
        return value.describe()
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value
