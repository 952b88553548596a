"""Corpus BLEU from the counts of each utterance, so that utterances can be resampled and exchanged."""

from __future__ import annotations

import numpy as np

ORDERS = 4
COLUMNS = 2 * ORDERS + 2
"""Matches of n-grams of each order, n-grams of the answer of each order, tokens of the answer, tokens of the reference."""


def bleu_of(counts: np.ndarray) -> np.ndarray:
    """BLEU (Papineni et al. 2002) as a fraction, `(...)`, from summed counts `(..., COLUMNS)`.

    With the smoothing `exp` of mteval and sacrebleu: the k-th order without a match counts as half to the k-th of a match.
    """
    counts = np.asarray(counts, dtype=np.float64)
    matches, answered = counts[..., :ORDERS], counts[..., ORDERS : 2 * ORDERS]
    spoken, wanted = counts[..., -2], counts[..., -1]
    none = matches == 0
    halves = np.where(none, 0.5 ** np.cumsum(none, axis=-1), matches)
    precisions = halves / np.maximum(answered, 1)
    brevity = np.exp(np.minimum(0.0, 1 - wanted / np.maximum(spoken, 1)))
    found = brevity * np.exp(np.log(precisions).mean(-1))
    # Without any match, or with answers too short for an n-gram of four, there is no mean of logarithms.
    return np.where(none.all(-1) | (answered == 0).any(-1), 0.0, found)
