"""Rooms: impulse responses of a corpus, or simulated by the image-source model of a box, and the reverberation they cause."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.signal import fftconvolve

from wavlm_lightning.augment.transforms.base import Draw, FromCorpus
from wavlm_lightning.augment.transforms.levels import at_ratio
from wavlm_lightning.encoder.config import SAMPLE_RATE
from wavlm_lightning.system.errors import UserError

TAPS = 4096  # of a simulated response: 256 ms
DISTANCE = (0.5, 1.5)
REFLECTION = (0.5, 0.82)
_SOUND = 343.0
_ORDER = 12


@dataclass(kw_only=True)
class AddRoom(FromCorpus):
    """Reverberation: the utterance as a microphone in a room hears it, at the power that it had.

    The direct sound (the strongest tap of a response) stays at its place, so that sample t still belongs to sample t, and
    what rings on after the end is cut. Samples may exceed 1.

    Args:
        probability: share of the utterances that are changed.
        corpus: a corpus of impulse responses (`wavlm prepare folder`); null simulates a room for each utterance.
        corpus_split: the split of that corpus.
        distance: range of the distance from the speaker to the microphone of a simulated room, in metres.
        reflection: range of the share of the pressure that the walls of a simulated room reflect.
    """

    distance: tuple[float, float] = DISTANCE
    reflection: tuple[float, float] = REFLECTION

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_range("distance", 0.1, 3.0)
        self._check_range("reflection", 0.0, 0.95)
        if self.corpus is not None and (tuple(self.distance), tuple(self.reflection)) != (DISTANCE, REFLECTION):
            raise UserError(
                "AddRoom: distance and reflection are those of simulated rooms; leave them out beside corpus"
            )

    def change(self, waveform: np.ndarray, draw: Draw) -> np.ndarray:
        """The utterance in a room, float32 `(samples,)`."""
        if self.corpus is None:
            response = random_response(draw.rng, self.distance, self.reflection)
        else:
            response = self._reader()(draw.rng)
            response = response[np.abs(response).argmax() :]
        heard = fftconvolve(waveform, response)[: len(waveform)].astype(np.float32, copy=False)
        return at_ratio(waveform, heard, 0.0)


def random_response(
    rng: np.random.Generator,
    distance: tuple[float, float] = DISTANCE,
    reflection: tuple[float, float] = REFLECTION,
) -> np.ndarray:
    """Impulse response, float32 `(4096,)`, of a room of 3 x 3 x 2.4 to 9 x 7 x 3.6 m with a speaker in any direction."""
    room = rng.uniform([3.0, 3.0, 2.4], [9.0, 7.0, 3.6])
    microphone = rng.uniform(0.25, 0.75, 3) * room
    direction = rng.standard_normal(3)
    source = microphone + rng.uniform(*distance) * direction / np.linalg.norm(direction)
    source = np.clip(source, 0.2, room - 0.2)
    return impulse_response(room, source, microphone, rng.uniform(*reflection))


def impulse_response(room: np.ndarray, source: np.ndarray, microphone: np.ndarray, reflection: float) -> np.ndarray:
    """Impulse response, float32 `(4096,)` at 16 kHz, between two points `(3,)` of a box-shaped room `(3,)`, in metres.

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
