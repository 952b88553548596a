"""What scores of verification take from the training speakers: their mean, a cohort for AS-norm, a calibration by quality."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np

from wavlm_lightning.metrics.calibration import (
    Calibration,
    Cohort,
    adaptive_norm,
    cohort_statistics,
    fit_calibration,
    quality_inputs,
)

SHORT = 6.0  # seconds up to which an utterance counts as short (wespeaker)
COSINE, NORMALISED, CALIBRATED = "", "_as_norm", "_qmf"  # what follows the name of a metric


@dataclass(frozen=True)
class Background:
    """What is known of voices that are in no trial.

    Attributes:
        mean: of the embeddings of training utterances, `(dim,)`, which is taken off every embedding; zeros to take off none.
        cohort: the mean embedding of each training speaker, `(speakers, dim)`, `mean` taken off.
        top: the nearest of the cohort that AS-norm takes; 0 for no AS-norm.
        calibration: of scores and qualities; None for none.
    """

    mean: np.ndarray
    cohort: np.ndarray
    top: int
    calibration: Calibration | None = None

    def scores(
        self, embeddings: np.ndarray, seconds: np.ndarray, pairs: np.ndarray, own: np.ndarray | None = None
    ) -> dict[str, np.ndarray]:
        """Scores of trials, each `(trials,)`: the cosine, with AS-norm, with QMF, those that there are.

        Args:
            embeddings: of the utterances, `(utterances, dim)`, of any length.
            seconds: their durations, `(utterances,)`.
            pairs: numbers of both utterances of each trial, int `(trials, 2)`.
            own: the voice of each utterance in the cohort, see `cohort_statistics`.

        Raises:
            ValueError: embeddings that are not finite, a cohort of fewer than two voices, or one that cannot scale.
        """
        inputs = self._inputs(embeddings, seconds, pairs, own)
        found = {COSINE: inputs.cosines}
        if inputs.normalised is not None:
            found[NORMALISED] = inputs.normalised
        if self.calibration is not None:
            found[CALIBRATED] = self.calibration(inputs.qualities())
        return found

    def calibrated(
        self, embeddings: np.ndarray, seconds: np.ndarray, own: np.ndarray, trials: int, seed: int
    ) -> Background:
        """With a calibration of about `trials` trials among training utterances, whose voices in the cohort are `own`.

        Raises:
            ValueError: as `scores`, or no two speakers, one of them with two utterances.
        """
        pairs, same = draw_training_trials(own, seconds, trials, seed)
        inputs = self._inputs(embeddings, seconds, pairs, own)
        return Background(self.mean, self.cohort, self.top, fit_calibration(inputs.qualities(), same))

    def _inputs(
        self, embeddings: np.ndarray, seconds: np.ndarray, pairs: np.ndarray, own: np.ndarray | None
    ) -> _Inputs:
        rows = np.asarray(embeddings, dtype=np.float64)
        if not np.isfinite(rows).all():
            raise ValueError("embeddings that are not finite")
        centred = rows - self.mean
        unit = centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)
        cosines = (unit[pairs[:, 0]] * unit[pairs[:, 1]]).sum(1)
        if not self.top:
            return _Inputs(cosines, None, np.empty(0), np.empty(0), np.empty(0))
        cohort = cohort_statistics(unit, self.cohort, self.top, own)
        sides = [Cohort(cohort.mean[side], cohort.deviation[side]) for side in pairs.T]
        normalised = adaptive_norm(cosines, *sides)
        norms = np.linalg.norm(rows, axis=1)
        return _Inputs(cosines, normalised, seconds[pairs], norms[pairs], cohort.mean[pairs])


@dataclass(frozen=True)
class _Inputs:
    """Of trials: both scores, and of both sides the seconds, lengths of embeddings and cohort means, `(trials, 2)`."""

    cosines: np.ndarray
    normalised: np.ndarray | None
    seconds: np.ndarray
    norms: np.ndarray
    means: np.ndarray

    def qualities(self) -> np.ndarray:
        if self.normalised is None:
            raise ValueError("a calibration needs AS-norm")
        return quality_inputs(self.normalised, self.seconds, self.norms, self.means)


def background(embeddings: np.ndarray, speakers: np.ndarray, top: int, subtract_mean: bool) -> Background:
    """The mean and the cohort of training utterances.

    Args:
        embeddings: `(utterances, dim)`.
        speakers: number of the speaker of each, from 0 without gaps, int `(utterances,)`.
        top: of the cohort, for AS-norm; 0 for none.
        subtract_mean: take the mean embedding off.
    """
    rows = np.asarray(embeddings, dtype=np.float64)
    mean = rows.mean(0) if subtract_mean else np.zeros(rows.shape[1])
    counts = np.bincount(speakers)
    sums = np.zeros((len(counts), rows.shape[1]))
    np.add.at(sums, speakers, rows)
    return Background(mean, sums / counts[:, None] - mean, top)


def draw_training_trials(
    speakers: np.ndarray, seconds: np.ndarray, trials: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Trials among training utterances, half of one speaker: a third each of two short, a short and a long, two long ones.

    Utterances of up to 6 s are short. A kind that the utterances cannot give leaves its share to the others. A file never
    meets itself; wespeaker's lists, drawn with replacement, let it.

    Args:
        speakers: number of the speaker of each utterance, int `(utterances,)`.
        seconds: duration of each, `(utterances,)`.
        trials: how many to draw.
        seed: of the draws.

    Returns:
        Numbers of the utterances, int64 `(trials, 2)`, and whether both are of one speaker, bool `(trials,)`.

    Raises:
        ValueError: no two speakers, one of them with two utterances.
    """
    rng = np.random.default_rng(seed)
    pools = {
        long: {
            int(speaker): np.flatnonzero((speakers == speaker) & ((seconds > SHORT) == long))
            for speaker in np.unique(speakers)
        }
        for long in (False, True)
    }
    kinds = [_Kind.of(pools[first], pools[second], first == second) for first, second in LENGTHS]
    possible = [kind for kind in kinds if kind is not None]
    if not possible:
        raise ValueError("a calibration needs two training speakers, and two utterances of one")
    pairs, same = [], []
    for number in range(trials):
        kind = possible[number // 2 % len(possible)]
        pairs.append(kind.target(rng) if number % 2 == 0 else kind.impostor(rng))
        same.append(number % 2 == 0)
    return np.array(pairs, dtype=np.int64), np.array(same)


LENGTHS = ((False, False), (False, True), (True, True))  # whether the two sides are long


@dataclass(frozen=True)
class _Kind:
    """Trials of one mixture of lengths: the utterances of each speaker on both sides, and who can be drawn."""

    first: dict[int, np.ndarray]
    second: dict[int, np.ndarray]
    targets: list[int]
    firsts: list[int]
    seconds: list[int]

    @classmethod
    def of(cls, first: dict[int, np.ndarray], second: dict[int, np.ndarray], alike: bool) -> _Kind | None:
        firsts = [speaker for speaker, part in first.items() if len(part)]
        seconds = [speaker for speaker, part in second.items() if len(part)]
        targets = [speaker for speaker in firsts if len(second[speaker]) > int(alike)]
        differ = any(one != other for one, other in product(firsts[:2], seconds[:2]))
        return cls(first, second, targets, firsts, seconds) if targets and differ else None

    def target(self, rng: np.random.Generator) -> tuple[int, int]:
        speaker = self.targets[rng.integers(len(self.targets))]
        while True:
            one, other = rng.choice(self.first[speaker]), rng.choice(self.second[speaker])
            if one != other:
                return int(one), int(other)

    def impostor(self, rng: np.random.Generator) -> tuple[int, int]:
        while True:
            one, other = self.firsts[rng.integers(len(self.firsts))], self.seconds[rng.integers(len(self.seconds))]
            if one != other:
                return int(rng.choice(self.first[one])), int(rng.choice(self.second[other]))
