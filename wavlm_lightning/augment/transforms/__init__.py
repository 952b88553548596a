"""Waveform transforms of training data, composed as a list in YAML: noise, rooms, speed, gain, mixing, crops.

`base` explains the contract: a transform takes float32 `(samples,)` and a `Draw`, which holds all its randomness. Then
`levels` (ratios in dB, gain), `noise`, `rooms`, `talkers` (mixing of utterances), `durations` (speed, crops). No transform but
`ChangeGain` clips: waveforms are floats, and samples may exceed 1.

A YAML gives their names and arguments; none changes a waveform that it gets, and the same `Draw` gives the same result.
Utterances of 10 s cost, on one thread of a server's CPU, 0.02 ms per second of audio for recorded noise and other talkers,
0.06 for a change of speed by a tenth, 0.3 for generated noise, and 0.3 to 0.4 for rooms.
Tests: `tests/augment/test_transforms.py`.
"""

from wavlm_lightning.augment.transforms.base import (
    Draw,
    FromCorpus,
    NoiseReader,
    OneOf,
    WaveformTransform,
    transform_all,
    with_parts,
)
from wavlm_lightning.augment.transforms.durations import ChangeSpeed, RandomCrop
from wavlm_lightning.augment.transforms.levels import ChangeGain
from wavlm_lightning.augment.transforms.noise import AddNoise
from wavlm_lightning.augment.transforms.rooms import AddRoom
from wavlm_lightning.augment.transforms.talkers import MixUtterances

__all__ = [
    "AddNoise",
    "AddRoom",
    "ChangeGain",
    "ChangeSpeed",
    "Draw",
    "FromCorpus",
    "MixUtterances",
    "NoiseReader",
    "OneOf",
    "RandomCrop",
    "WaveformTransform",
    "transform_all",
    "with_parts",
]
