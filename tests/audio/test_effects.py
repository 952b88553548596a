"""SoX's gain and silence: against a plain sample-by-sample reading of its manual, and against numbers of SoX itself."""

import math
from collections import deque

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wavlm_lightning.audio import gain, trim_silence

RATE, WINDOW, LEAST = 16_000, 320, 1_600


def sample_by_sample(waveform, threshold=0.001):
    """The effect as a state machine, one sample at a time, which is how a sound editor would write it."""
    kept, held = [], []
    recent = deque([0.0] * WINDOW, maxlen=WINDOW)
    in_sound = False
    for sample in waveform.astype(np.float64):
        recent.append(sample * sample)
        loud = (math.fsum(recent) / WINDOW) ** 0.5 > threshold
        if not in_sound:  # gather a long enough beginning
            held = [*held, sample] if loud else []
            if len(held) == LEAST:
                kept.extend(held)
                held, in_sound = [], True
        elif loud:
            kept.extend([*held, sample])
            held = []
        else:
            held.append(sample)
            if len(held) == LEAST:
                held, in_sound = [], False
                recent.extend([0.0] * WINDOW)
    return np.array(kept + (held if in_sound else []), dtype=np.float32)


def speech_like(seed, stretches=12):
    """Noise in stretches of 1 to 6,000 samples, some silent, some loud, some around the threshold."""
    rng = np.random.default_rng(seed)
    parts = []
    for _ in range(stretches):
        samples = int(rng.choice([rng.integers(1, 400), rng.integers(300, 2_500), rng.integers(1_000, 6_000)]))
        level = rng.choice([0.0, 10 ** rng.uniform(-4.0, -0.5), 10 ** rng.uniform(-2.95, -2.7)])
        parts.append(level * rng.uniform(-1.7, 1.7, samples))
    return np.round(np.clip(np.concatenate(parts), -1, 1) * 32_767).astype("f4") / 32_768


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 8))
def test_trimming_is_the_state_machine(seed, stretches):
    waveform = speech_like(seed, stretches)
    np.testing.assert_array_equal(trim_silence(waveform), sample_by_sample(waveform))


# For `speech_like(seed, 30)`: samples in, samples out, and the sum and the centre of mass of what comes out, by
# `sox -D in.wav -b 32 -e floating-point out.wav gain -3.0 silence 1 0.1 0.1% -1 0.1 0.1%` of SoX 14.4.2.
GOLDEN = [
    (0, 50910, 26507, 2046.245969, 16583.2120),
    (1, 52536, 30746, 93.958125, 18500.8695),
    (2, 55087, 17184, 51.149444, 6511.5703),
    (3, 43531, 15297, 338.587771, 12410.4163),
    (4, 52183, 21729, 409.354905, 1791.0770),
    (5, 42209, 22251, 177.530983, 4635.1095),
]


@pytest.mark.parametrize(("seed", "before", "after", "total", "centre"), GOLDEN)
def test_sox_keeps_these_samples(seed, before, after, total, centre):
    waveform = speech_like(seed, 30)
    kept = np.abs(trim_silence(gain(waveform, -3.0)).astype(np.float64))
    assert (len(waveform), len(kept)) == (before, after)
    assert kept.sum() == pytest.approx(total, rel=1e-6)
    assert np.average(np.arange(len(kept)), weights=kept) == pytest.approx(centre, rel=1e-6)


def test_pauses_and_clicks():
    tone = np.full(3_200, 0.1, "f4")
    pause, breath = np.zeros(4_800, "f4"), np.zeros(1_000, "f4")
    click = np.full(200, 0.5, "f4")
    assert len(trim_silence(np.concatenate([pause, tone, pause]))) == pytest.approx(3_200 + WINDOW, abs=2)
    short_pause = np.concatenate([tone, breath, tone])
    np.testing.assert_array_equal(trim_silence(short_pause), short_pause)
    assert len(trim_silence(np.concatenate([pause, click, pause]))) == 0
    # A pause shorter than 0.1 s stays at the end too.
    np.testing.assert_array_equal(trim_silence(np.concatenate([tone, breath])), np.concatenate([tone, breath]))


@pytest.mark.parametrize("samples", [0, 1, 319, 320, 1_599])
def test_nothing_short_is_kept(samples):
    kept = trim_silence(np.full(samples, 0.5, "f4"))
    assert kept.shape == (0,) and kept.dtype == np.float32


def test_exactly_the_least_is_kept():
    assert len(trim_silence(np.full(1_600, 0.5, "f4"))) == 1_600
    assert len(trim_silence(np.full(800, 0.5, "f4"), sample_rate=8_000)) == 800


def test_the_window_bounds_the_shortest_stretch():
    with pytest.raises(ValueError, match="at least"):
        trim_silence(np.zeros(100, "f4"), min_seconds=0.01)


def test_gain_scales_and_clips():
    waveform = np.array([0.5, -0.9, 0.0], "f4")
    np.testing.assert_allclose(gain(waveform, -3.0), waveform * 0.70794578, rtol=1e-6)
    np.testing.assert_allclose(gain(waveform, 6.0), [0.99763115, -1.0, 0.0], rtol=1e-6)
    assert gain(waveform, -3.0).dtype == np.float32
