"""Stitching of windows: against a count by frames, and gaps and short turns by hand."""

from __future__ import annotations

import numpy as np
import pytest

from wavlm_lightning.metrics.detection import smoothed
from wavlm_lightning.tasks.components.stitching import speaker_count, stitch, window_starts


@pytest.mark.parametrize(("frames", "starts"), [(7, [0]), (10, [0]), (11, [0, 1]), (16, [0, 4, 6]), (18, [0, 4, 8])])
def test_windows_cover_every_frame(frames, starts):
    found = window_starts(frames, 10, 4)
    assert found.tolist() == starts
    covered = np.zeros(frames, dtype=bool)
    for start in starts:
        covered[start : start + 10] = True
    assert covered.all() and starts[-1] + 10 <= max(frames, 10)


def test_counts_and_people_frame_by_frame():
    rng = np.random.default_rng(0)
    starts = window_starts(40, 10, 3)
    activity = rng.random((len(starts), 10, 3)) < 0.4
    clusters = np.array([rng.permutation(4)[:3] for _ in starts])
    clusters[rng.random(clusters.shape) < 0.2] = -1
    count = speaker_count(activity, starts, 40)
    found = stitch(activity, clusters, starts, count)
    for frame in range(40):
        heard = [(row, frame - start) for row, start in enumerate(starts) if 0 <= frame - start < 10]
        assert count[frame] == round(np.mean([activity[row, place].sum() for row, place in heard]))
        votes = np.zeros(4, dtype=int)
        for row, place in heard:
            for speaker in np.flatnonzero(activity[row, place]):
                if clusters[row, speaker] >= 0:
                    votes[clusters[row, speaker]] += 1
        chosen = [who for who in sorted(range(4), key=lambda who: (-votes[who], who))[: count[frame]] if votes[who]]
        assert np.flatnonzero(found[frame]).tolist() == sorted(chosen)


def test_nobody_speaks():
    silent = np.zeros((2, 10, 3), dtype=bool)
    starts = window_starts(14, 10, 4)
    count = speaker_count(silent, starts, 14)
    assert not count.any() and stitch(silent, np.full((2, 3), -1), starts, count).shape == (14, 0)
    assert smoothed(np.zeros((14, 0), dtype=bool), 3, 3).shape == (14, 0)


def test_gaps_are_filled_before_short_turns_are_dropped():
    active = np.array([[int(letter) for letter in "0110110001001110000"]], dtype=bool).T

    def made(gap, shortest):
        return "".join(str(int(each)) for each in smoothed(active, gap, shortest)[:, 0])

    assert made(0, 0) == made(1, 1) == "0110110001001110000"
    assert made(2, 0) == "0111110001001110000"  # the silence before the first turn is no gap
    assert made(0, 2) == "0110110000001110000"
    assert made(3, 4) == "0111110001111110000"
    assert made(9, 0) == "0111111111111110000"
    assert made(0, 9) == "0" * 19
