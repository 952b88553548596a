"""What a waveform transform is, and what it draws from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np


@dataclass(frozen=True)
class Draw:
    """The randomness of one use of a transform.

    Attributes:
        rng: the only source of random numbers.
        another: draws another utterance of the same split from `rng`, float32 `(samples,)`.
    """

    rng: np.random.Generator
    another: Callable[[], np.ndarray]


class WaveformTransform(ABC):
    """A random change of a waveform."""

    keeps_length: ClassVar[bool] = True

    @abstractmethod
    def __call__(self, waveform: np.ndarray, draw: Draw) -> np.ndarray:
        """The changed waveform, float32 `(samples,)`; the input stays as it is."""

    def longest(self, samples: int) -> int:
        return samples

    def labels(self, meta: dict[str, Any], draw: Draw) -> dict[str, Any]:
        return meta

    def inventories(self, inventories: dict[str, Any]) -> dict[str, Any]:
        return inventories
