"""The metric of a data set against its parts."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from wavlm_lightning.metrics import (
    SETTINGS,
    DiarizationErrorRate,
    DiarizationErrors,
    diarization_errors,
    frames_to_segments,
)


@pytest.fixture(scope="module")
def recordings():
    """Noisy scores of 25 recordings and their turns, which do not sit on the grid of frames."""
    rng = np.random.default_rng(0)
    made = []
    for _ in range(25):
        frames = int(rng.integers(20, 300))
        logits = rng.normal(-1, 1, (frames, 2))
        turns = []
        for speaker in range(2):
            for start in rng.uniform(0, frames / 50, rng.integers(0, 3)):
                end = min(frames / 50, start + rng.uniform(0.3, 2))
                turns.append([f"voice{speaker}", float(start), float(end)])
                logits[round(start * 50) : round(end * 50), speaker] += 2.5
        made.append((torch.tensor(logits, dtype=torch.float32).sigmoid(), turns))
    return made


def test_ten_settings():
    assert len(set(SETTINGS)) == 10
    assert {setting.median_filter for setting in SETTINGS} == {1, 11}


def test_equals_its_parts(recordings):
    metric = DiarizationErrorRate(frame_rate=50)
    sums = [DiarizationErrors()] * len(SETTINGS)
    for scores, turns in recordings:
        metric.update(scores, turns)
        for number, (threshold, width) in enumerate(SETTINGS):
            segments = frames_to_segments(scores.numpy(), 50, threshold, width)
            sums[number] += diarization_errors(turns, segments)
    rates = metric.compute()
    assert rates.tolist() == pytest.approx([total.rate for total in sums], abs=1e-5)
    assert len(set(rates.tolist())) == len(SETTINGS)  # the settings are not all one
    assert metric.details()[3].missed == pytest.approx(sums[3].missed, abs=1e-4)


def test_order_and_ranks_do_not_matter(recordings):
    whole, first, second = (DiarizationErrorRate(50, collar=0.1) for _ in range(3))
    for recording in recordings:
        whole.update(*recording)
    for number, recording in enumerate(reversed(recordings)):
        (first if number % 3 else second).update(*recording)
    first.merge_state(second)  # sums the states, as ranks do
    assert torch.equal(first.errors, whole.errors)
    first.reset()
    assert first.errors.sum() == 0


def test_own_settings_and_silence():
    metric = DiarizationErrorRate(10, settings=[(0.5, 1), (0.5, 3)])
    metric.update(torch.zeros(30, 2), [])
    assert metric.compute().tolist() == [0, 0]  # nothing said, nothing wrong
    metric.update(torch.ones(30, 2, dtype=torch.bfloat16), [])
    assert metric.compute().tolist() == [1, 1]
    metric.update(torch.tensor([[1.0, 0.0]] * 100), [("anna", 0.0, 10.0)])
    assert metric.compute().tolist() == pytest.approx([0.6, 0.6])  # 6 s of false alarms over 10 s of speech
