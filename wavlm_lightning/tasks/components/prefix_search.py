"""The most probable label sequences of CTC outputs without a language model, by prefix beam search."""

from __future__ import annotations

import math

import numpy as np

BEAM = 50  # label sequences kept at each frame, or more if more answers are asked for
THRESHOLD = 12.0  # nats below the best label of a frame at which a label does not continue a sequence
NEVER = -float("inf")

Labels = tuple[int, ...]


def prefix_search(
    log_probabilities: np.ndarray, beam: int = BEAM, threshold: float = THRESHOLD, blank: int = 0
) -> list[tuple[Labels, float]]:
    """Label sequences and their log-probabilities, the most probable first (Graves 2012, section 7.5.3; Hannun et al. 2014).

    The probability of a sequence is the sum over all its alignments that the beam has kept: exact if the beam holds all
    sequences and the threshold is infinite, else a little too low. The best sequence may differ from that of greedy
    decoding, which is the one with the best single alignment.

    Args:
        log_probabilities: of each frame, natural logarithms `(frames, labels)`.
        beam: sequences kept at each frame.
        threshold: nats below the best label of a frame at which a label is left out there.
        blank: index of the CTC blank.

    Example:
        >>> prefix_search(np.log([[0.4, 0.6], [0.6, 0.4]]))[0]  # "1": 0.6 x 0.6 + 0.6 x 0.4 + 0.4 x 0.4
        ((1,), -0.2744...)
    """
    # Log-probability of each sequence with the alignments that end in a blank, and with those that end in its last label.
    kept: dict[Labels, tuple[float, float]] = {(): (0.0, NEVER)}
    for frame in np.asarray(log_probabilities, dtype=np.float64):
        chosen = np.flatnonzero(frame >= frame.max() - threshold)
        labels = [(int(label), float(frame[label])) for label in chosen if label != blank]
        silent = float(frame[blank])
        found: dict[Labels, tuple[float, float]] = {}
        for sequence, (blanked, ended) in kept.items():
            both = _sum(blanked, ended)
            old = found.get(sequence, (NEVER, NEVER))
            found[sequence] = _sum(old[0], both + silent), old[1]
            for label, value in labels:
                same = bool(sequence) and sequence[-1] == label
                if same:  # the label goes on, without a blank between
                    old = found[sequence]
                    found[sequence] = old[0], _sum(old[1], ended + value)
                longer = (*sequence, label)
                old = found.get(longer, (NEVER, NEVER))
                found[longer] = old[0], _sum(old[1], (blanked if same else both) + value)
        best = sorted(found.items(), key=lambda item: -_sum(*item[1]))[:beam]
        kept = {sequence: parts for sequence, parts in best if _sum(*parts) > NEVER}
    ranked = [(sequence, _sum(*parts)) for sequence, parts in kept.items()]
    return sorted(ranked, key=lambda item: -item[1])


def _sum(one: float, other: float) -> float:
    """log(exp(one) + exp(other))."""
    low, high = (one, other) if one < other else (other, one)
    return high if low == NEVER else high + math.log1p(math.exp(low - high))
