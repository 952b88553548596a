"""Aligned sequences: counts as by hand, lines that people read."""

from __future__ import annotations

import jiwer
import numpy as np

from wavlm_lightning.metrics.alignment import Edits, aligned, total


def test_counts_are_those_of_jiwer_and_sum_to_the_distance():
    rng = np.random.default_rng(0)
    pairs = [
        (list(rng.choice([*"abc"], rng.integers(1, 9))), list(rng.choice([*"abc"], rng.integers(0, 9))))
        for _ in range(60)
    ]
    found = total(aligned(*pair).edits for pair in pairs)
    whole = jiwer.process_words([" ".join(one) for one, _ in pairs], [" ".join(other) for _, other in pairs])
    assert found == (sum(len(one) for one, _ in pairs), whole.substitutions, whole.deletions, whole.insertions)
    assert found.errors == sum(found[1:]) > 0
    assert total([]) == Edits() and aligned([], ["a"]).edits == Edits(0, 0, 0, 1)


def test_confusions_and_lines():
    made = aligned(["THE", "CAT", "SAT", "ON", "MATS"], ["A", "CAT", "ON", "MATS", "IT"])
    assert made.edits == Edits(5, 1, 1, 1)
    assert made.confusions == {("THE", "A"): 1, ("SAT", ""): 1, ("", "IT"): 1}
    marks = "EVAL: S" + 7 * " " + "D" + 11 * " " + "I"
    assert made.lines() == ["REF:  THE CAT SAT ON MATS **", "HYP:  A   CAT *** ON MATS IT", marks]
    assert made.lines(width=12)[:2] == ["REF:  THE CAT SAT", "HYP:  A   CAT ***"]
    assert made.lines(width=12)[3:5] == ["REF:  ON MATS **", "HYP:  ON MATS IT"]
    assert aligned([], []).lines() == ["REF:", "HYP:", "EVAL:"]
