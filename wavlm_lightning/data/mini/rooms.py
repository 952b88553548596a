"""Simulated rooms: impulse responses by the image-source model of a box."""

from functools import lru_cache

import numpy as np

from wavlm_lightning.data.mini.seeding import generator
from wavlm_lightning.data.mini.speech import SAMPLE_RATE

TAPS = 4096
_SOUND = 343.0
_ORDER = 12
_POOL = 24


def impulse_response(room: np.ndarray, source: np.ndarray, microphone: np.ndarray, reflection: float) -> np.ndarray:
    """Impulse response, float32 (4096,) at 16 kHz, between two points (3,) of a box-shaped room (3,), in metres.

    The direct sound is at sample 0, which keeps the alignment of a waveform; the energy is 1, which keeps its level.
    `reflection` is the share of the pressure that every wall reflects, 0 to below 1.
    """
    order = np.arange(-_ORDER, _ORDER + 1)
    images = [
        np.where(order % 2 == 0, order * room[i] + source[i], (order + 1) * room[i] - source[i]) for i in range(3)
    ]
    squares = [(images[i] - microphone[i]) ** 2 for i in range(3)]
    distance = np.sqrt(squares[0][:, None, None] + squares[1][None, :, None] + squares[2][None, None, :])
    bounces = np.abs(order)[:, None, None] + np.abs(order)[None, :, None] + np.abs(order)[None, None, :]
    direct = np.linalg.norm(source - microphone)
    delay = np.round((distance - direct) / _SOUND * SAMPLE_RATE).astype(np.int64)
    heard = (delay < TAPS) & (bounces <= _ORDER)
    response = np.bincount(delay[heard], weights=reflection ** bounces[heard] / distance[heard], minlength=TAPS)
    return (response / np.linalg.norm(response)).astype(np.float32)


@lru_cache(maxsize=64)
def pool(seed: int, name: str) -> np.ndarray:
    """The rooms of one split as float32 (rooms, 4096); another name gives other rooms."""
    responses = []
    for number in range(_POOL):
        rng = generator(seed, "rooms", name, number)
        room = rng.uniform([3.0, 3.0, 2.4], [9.0, 7.0, 3.6])
        microphone = rng.uniform(0.25, 0.75, 3) * room
        # A speaker at a desk or across a table: 0.5 to 1.5 m away, in any direction.
        direction = rng.standard_normal(3)
        source = microphone + rng.uniform(0.5, 1.5) * direction / np.linalg.norm(direction)
        source = np.clip(source, 0.2, room - 0.2)
        responses.append(impulse_response(room, source, microphone, rng.uniform(0.5, 0.82)))
    return np.stack(responses)
