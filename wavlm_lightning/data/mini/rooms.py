"""Simulated rooms of the synthetic corpora: one pool of impulse responses for each split."""

from functools import lru_cache

import numpy as np

from wavlm_lightning.augment.transforms.rooms import TAPS, impulse_response, random_response
from wavlm_lightning.data.mini.seeding import generator

__all__ = ["TAPS", "impulse_response", "pool"]

_POOL = 24


@lru_cache(maxsize=64)
def pool(seed: int, name: str) -> np.ndarray:
    """The rooms of one split as float32 (rooms, 4096); another name gives other rooms."""
    # A speaker at a desk or across a table: 0.5 to 1.5 m away, in any direction.
    numbers = range(_POOL)
    rooms = [random_response(generator(seed, "rooms", name, n), (0.5, 1.5), (0.5, 0.82)) for n in numbers]
    return np.stack(rooms)
