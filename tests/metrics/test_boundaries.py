"""Boundary measures against brute force and scipy's matching."""

import itertools
import math

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import maximum_bipartite_matching

from wavlm_lightning.metrics.boundaries import boundary_scores, matched, segment_boundaries, unit_boundaries


def near(one, other, tolerance=0.02):
    return np.abs(one[:, None] - other[None]) <= tolerance + 1e-9


@pytest.mark.parametrize("seed", range(20))
def test_matching_as_scipy(seed):
    rng = np.random.default_rng(seed)
    one, other = (np.sort(rng.integers(0, 300, rng.integers(1, 60))) / 200 for _ in range(2))
    pairs = maximum_bipartite_matching(csr_matrix(near(one, other)), perm_type="column")
    assert matched(one, other) == (pairs >= 0).sum()


def test_matching_as_brute_force():
    rng = np.random.default_rng(0)
    for _ in range(50):
        one, other = (np.sort(rng.integers(0, 14, rng.integers(1, 6))) / 100 for _ in range(2))
        few, many = sorted((one, other), key=len)
        best = max(
            sum(abs(a - b) <= 0.02 + 1e-9 for a, b in zip(few, order, strict=True))
            for order in itertools.permutations(many, len(few))
        )
        assert matched(one, other) == best


def test_scores_by_hand():
    """Four true boundaries, five found, three of them right: one of two near 0.5 s cannot count twice."""
    found = boundary_scores(
        [np.array([0.2, 0.5]), np.array([0.1, 0.3])], [np.array([0.22, 0.49, 0.51]), np.array([0.1, 0.4])]
    )
    assert (found.precision, found.recall) == (3 / 5, 3 / 4)
    assert found.f1.value == pytest.approx(2 * 0.6 * 0.75 / 1.35)
    assert found.over_segmentation == pytest.approx(0.25)
    r1, r2 = math.hypot(1 - 0.75, 0.25), (0.75 - 1 - 0.25) / math.sqrt(2)
    assert found.r_value == pytest.approx(1 - (abs(r1) + abs(r2)) / 2, abs=1e-9)
    perfect = boundary_scores([np.array([0.2, 0.5])], [np.array([0.2, 0.5])])
    assert (perfect.f1.value, perfect.r_value) == (1, 1)
    none = boundary_scores([np.array([0.2, 0.5])], [np.array([])])
    assert (none.precision, none.recall, none.f1.value, none.over_segmentation) == (0, 0, 0, -1)


def test_a_boundary_in_every_frame_does_not_raise_the_r_value():
    truth = np.arange(1, 20) * 0.1
    everywhere, right = unit_boundaries(np.arange(100), 50), boundary_scores([truth], [truth + 0.015])
    found = boundary_scores([truth], [everywhere])
    assert found.recall == 1 and found.r_value < 0 < right.r_value


def test_where_boundaries_are():
    assert unit_boundaries(np.array([3, 3, 4, 4, 3], dtype=np.uint16), 50) == pytest.approx([0.0425, 0.0825])
    assert unit_boundaries(np.array([3, 3, 4]), 100) == pytest.approx([0.0275])
    with_gap = [("D", 0, 0.1), ("D", 0.1, 0.2), ("T", 0.3, 0.4)]
    assert segment_boundaries(with_gap).tolist() == segment_boundaries(with_gap, 0.42).tolist() == [0.1, 0.2, 0.3]
    # Whether an aligner writes the silence at both ends makes no difference.
    inner, whole = [("D", 0.1, 0.2)], [("SIL", 0, 0.1), ("D", 0.1, 0.2), ("SIL", 0.2, 0.5)]
    assert segment_boundaries(inner, 0.5).tolist() == segment_boundaries(whole, 0.5).tolist() == [0.1, 0.2]
    with pytest.raises(ValueError, match="no boundary"):
        boundary_scores([np.array([])], [np.array([0.1])])
