"""Boundaries against true times."""

from __future__ import annotations

from wavlm_lightning.metrics.segment_times import boundary_offsets

TRUE = [("SIL", 0.0, 0.2), ("A", 0.2, 0.5), ("B", 0.5, 0.8), ("SIL", 0.8, 0.9), ("A", 0.9, 1.2)]


def test_each_boundary_counts_once():
    assert boundary_offsets(TRUE, TRUE) == [0.0] * 4
    # The starts of A, B and A, and the end of B before the pause.
    found = [("A", 0.0, 0.45), ("B", 0.45, 0.86), ("A", 0.86, 1.2)]
    assert boundary_offsets(TRUE, found) == [0.2, 0.05, 0.06, 0.04]


def test_ends_of_the_audio_are_no_boundaries():
    assert boundary_offsets([("A", 0.0, 0.5), ("B", 0.5, 1.0)], [("A", 0.0, 0.4), ("B", 0.4, 1.0)]) == [0.1]
    assert boundary_offsets([("A", 0.0, 0.5), ("SIL", 0.5, 1.0)], [("A", 0.0, 1.0)]) == [0.5]


def test_other_phones_have_no_offsets():
    assert boundary_offsets(TRUE, TRUE[:3]) is None and boundary_offsets(TRUE, [("B", 0.0, 1.2)]) is None
    assert boundary_offsets([], []) == []
