"""torchmetrics' word and character error rates are jiwer's, and where they are not: what ASR, PR and SF rest on."""

from __future__ import annotations

import math
import random

import jiwer
import pytest
from torchmetrics.text import CharErrorRate, WordErrorRate


def texts(rng, count, empty):
    """Random words of a small alphabet, so that many of them match; every sixth text is empty if allowed."""
    words = ["A", "AN", "ANT", "TAN", "NAT", "O'NEILL"]
    return [
        "" if empty and rng.random() < 1 / 6 else " ".join(rng.choices(words, k=rng.randint(1, 12)))
        for _ in range(count)
    ]


def corpus_rate(metric, hypotheses, references):
    """Over batches of five: sums of edits over sums of lengths, not a mean of rates."""
    for start in range(0, len(references), 5):
        metric.update(hypotheses[start : start + 5], references[start : start + 5])
    return float(metric.compute())


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize(("metric", "theirs"), [(WordErrorRate, jiwer.wer), (CharErrorRate, jiwer.cer)])
def test_equal_over_a_corpus_with_empty_texts(seed, metric, theirs):
    rng = random.Random(seed)
    references, hypotheses = texts(rng, 40, empty=True), texts(rng, 40, empty=True)
    assert "" in references
    assert "" in hypotheses
    expected = theirs(references, hypotheses)
    assert corpus_rate(metric(), hypotheses, references) == pytest.approx(expected, rel=1e-6)


def test_empty_hypothesis_misses_every_token():
    """s3prl's split at spaces makes one empty token of it: a substitution for one of the deletions, the same rate."""
    assert corpus_rate(WordErrorRate(), [""], ["A B C"]) == 1 == jiwer.wer("A B C", "")
    assert corpus_rate(CharErrorRate(), [""], ["ABC"]) == 1 == jiwer.cer("ABC", "")


def test_where_they_differ():
    """A corpus whose references are all empty has no rate in torchmetrics; outer spaces are characters to it."""
    assert jiwer.wer("", "") == 0
    assert math.isnan(corpus_rate(WordErrorRate(), [""], [""]))
    assert math.isinf(corpus_rate(WordErrorRate(), ["A"], [""]))
    assert jiwer.cer("A", " A") == 0
    assert corpus_rate(CharErrorRate(), [" A"], ["A"]) == 1
    assert corpus_rate(WordErrorRate(), [" A  B "], ["A B"]) == 0 == jiwer.wer("A B", " A  B ")
