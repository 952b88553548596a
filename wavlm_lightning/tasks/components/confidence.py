"""How sure a CTC recogniser is of a transcript: scores from its best path, by which pseudo-labels are chosen.

Length-normalised fusion score and its normalisation: Park et al. 2020 (arXiv 2005.09629, section 3). Means over tokens and over
frames without blanks, and the mean of the lowest frames: as icefall's CTC aligner scores transcripts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from wavlm_lightning.system.errors import UserError

SCORES = {
    "confidence": "mean posterior of the tokens, each the mean of its frames",
    "frames": "mean posterior of the frames without blanks",
    "low": "mean of the lowest posterior and of the quantiles .05, .10 and .20 of these frames, which one wrong word moves",
    "fusion": "log-probability of head and language model, over the tokens",
    "normalised": "the same, as deviation from what validation has at this length (Park et al. 2020)",
}
QUANTILES = (0.05, 0.1, 0.2)


class Scores(NamedTuple):
    """Scores of a transcript; higher is better."""

    tokens: int  # letters with word ends, or phones
    total: float  # natural logarithm: acoustic, and the weighted scores of a language model
    acoustic: float
    confidence: float
    frames: float
    low: float

    @property
    def fusion(self) -> float:
        return self.total / self.tokens


def path_scores(log_probabilities: Tensor, path: Sequence[int], total: float, acoustic: float) -> Scores | None:
    """Scores of the best path of an utterance; None if it holds blanks alone.

    Args:
        log_probabilities: natural, float32 `(frames, symbols)`.
        path: the symbol of each frame; 0 is the blank.
        total: log-probability of the path, and what a language model adds.
        acoustic: log-probability of the path.

    Example:
        >>> halves = torch.full((4, 2), 0.5).log()
        >>> path_scores(halves, [0, 1, 1, 0], -4.0, -2.8).confidence
        0.5
    """
    symbols = np.asarray(path)
    posteriors = log_probabilities[torch.arange(len(symbols)), torch.as_tensor(symbols)].double().exp().numpy()
    runs = [(symbol, len(list(run))) for symbol, run in groupby(symbols.tolist())]
    ends = np.cumsum([length for _, length in runs])
    tokens = [
        float(posteriors[end - length : end].mean())
        for (symbol, length), end in zip(runs, ends.tolist(), strict=True)
        if symbol
    ]
    if not tokens:
        return None
    heard = posteriors[symbols > 0]
    low = float(np.mean([heard.min(), *np.quantile(heard, QUANTILES)]))
    return Scores(len(tokens), total, acoustic, float(np.mean(tokens)), float(heard.mean()), low)


@dataclass(frozen=True)
class LengthNormalisation:
    """The total score S of a transcript of l tokens as (S - mu l - beta) / (sigma sqrt(l)).

    Attributes:
        mu: slope of S over the tokens of a validation split.
        beta: S without any token.
        sigma: standard deviation of (S - mu l - beta) / sqrt(l) there.
        utterances: of the split.
    """

    mu: float
    beta: float
    sigma: float
    utterances: int

    @classmethod
    def fit(cls, totals: Sequence[float], tokens: Sequence[int], where: str) -> LengthNormalisation:
        """Least squares over the transcripts of a split; `UserError` if they do not tell a line and a spread."""
        scores, lengths = np.asarray(totals, dtype=np.float64), np.asarray(tokens, dtype=np.float64)
        if len(np.unique(lengths)) < 2 or len(scores) < 3:
            raise UserError(
                f"{where}: its {len(scores)} transcripts are too few, or all as long, to normalise scores by length; choose "
                "another --score"
            )
        mu, beta = np.polyfit(lengths, scores, 1)
        spread = float(np.std((scores - mu * lengths - beta) / np.sqrt(lengths)))
        if not spread:
            raise UserError(f"{where}: all transcripts have one score for their length; choose another --score")
        return cls(float(mu), float(beta), spread, len(scores))

    def __call__(self, scores: Scores) -> float:
        return (scores.total - self.mu * scores.tokens - self.beta) / (self.sigma * scores.tokens**0.5)


def as_record(scores: Scores, normalisation: LengthNormalisation | None) -> dict[str, Any]:
    """The scores by the names of `SCORES`, JSON-like; without `normalised` if nothing was fitted."""
    found: dict[str, Any] = {name: getattr(scores, name) for name in SCORES if name != "normalised"}
    if normalisation is not None:
        found["normalised"] = normalisation(scores)
    return {name: round(value, 6) for name, value in found.items()}
