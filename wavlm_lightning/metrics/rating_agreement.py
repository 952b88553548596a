"""Agreement of predicted and given quality ratings: MSE and three correlations, over utterances and over systems (MOS)."""

from __future__ import annotations

import numpy as np
import torch
from scipy import stats
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

MEASURES = ("mse", "lcc", "srcc", "ktau")
LEVELS = ("utterance", "system")
NO_ASSOCIATION = 0.0
"""What a correlation with a constant is here: it has no value, and such a predictor ranks nothing."""
_SPREAD = 1e-6  # below this share of their size, values differ by the rounding of float32 alone


def constant(values: np.ndarray) -> bool:
    """Whether `(n,)` finite values are one value, up to the rounding of float32."""
    return bool(np.ptp(values) <= _SPREAD * max(1.0, float(np.abs(values).max())))


def agreement(predicted: np.ndarray, rated: np.ndarray) -> dict[str, float]:
    """Mean square error, Pearson's r (`lcc`), Spearman's rho (`srcc`) and Kendall's tau-b (`ktau`), as scipy defines them.

    Args:
        predicted: `(n,)`, finite.
        rated: `(n,)`, finite.

    Returns:
        By the names of `MEASURES`. Where one side is constant, or has a single value, scipy's correlations are NaN; they are
        `NO_ASSOCIATION`, 0, here.

    Raises:
        ValueError: the two have different lengths, none at all, or values that are not finite.

    Example:
        >>> agreement(np.array([1.0, 2.0, 4.0]), np.array([1.5, 2.5, 3.0]))["srcc"]
        1.0
    """
    predicted, rated = np.asarray(predicted, np.float64), np.asarray(rated, np.float64)
    if predicted.shape != rated.shape or predicted.ndim != 1 or not len(rated):
        raise ValueError(f"predictions {predicted.shape} and ratings {rated.shape} do not go together")
    if not (np.isfinite(predicted).all() and np.isfinite(rated).all()):
        raise ValueError("a prediction or a rating is not finite")
    found = {"mse": float(np.mean((predicted - rated) ** 2))}
    if constant(predicted) or constant(rated):
        return found | dict.fromkeys(MEASURES[1:], NO_ASSOCIATION)
    return found | {
        "lcc": float(stats.pearsonr(predicted, rated).statistic),
        "srcc": float(stats.spearmanr(predicted, rated).statistic),
        "ktau": float(stats.kendalltau(predicted, rated).statistic),
    }


def system_means(values: np.ndarray, systems: np.ndarray) -> np.ndarray:
    """The mean of `(n,)` values of each system, in the order of the names or numbers `systems` `(n,)`: `(systems,)`."""
    _, place = np.unique(systems, return_inverse=True)
    return np.bincount(place, values) / np.bincount(place)


def levels(predicted: np.ndarray, rated: np.ndarray, systems: np.ndarray) -> dict[str, float]:
    """`agreement` over utterances and over the means of systems, by names such as `system_srcc`.

    Args:
        predicted: of each utterance, `(n,)`.
        rated: the mean of its ratings, `(n,)`.
        systems: its system, names or numbers `(n,)`.

    Raises:
        ValueError: see `agreement`.
    """
    over = {"utterance": agreement(predicted, rated)}
    over["system"] = agreement(system_means(predicted, systems), system_means(rated, systems))
    return {f"{level}_{name}": over[level][name] for level in LEVELS for name in MEASURES}


class RatingAgreement(Metric):
    """`levels` of the utterances of all processes.

    Example:
        >>> metric = RatingAgreement()
        >>> metric.update(torch.tensor([2.1, 3.9]), torch.tensor([2.0, 4.0]), torch.tensor([0, 1]))
        >>> metric.compute()["system_srcc"]
        tensor(1.)
    """

    full_state_update = False
    is_differentiable = False
    predicted: list[Tensor]
    rated: list[Tensor]
    systems: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        for name in ("predicted", "rated", "systems"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(self, predicted: Tensor, rated: Tensor, systems: Tensor) -> None:
        """Add predictions, ratings and int64 numbers of systems, `(batch,)` each."""
        self.predicted.append(predicted.float())
        self.rated.append(rated.float())
        self.systems.append(systems)

    def gathered(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Predictions, ratings and systems of all utterances, `(n,)` each; inside `compute` those of all processes."""
        parts = (self.predicted, self.rated, self.systems)
        predicted, rated, systems = (dim_zero_cat(part).cpu().numpy() for part in parts)
        return predicted, rated, systems

    def compute(self) -> dict[str, Tensor]:
        """The eight measures by name, float32 scalars. `ValueError` for a prediction that is not finite."""
        device = self.predicted[0].device if len(self.predicted) else None
        return {
            name: torch.tensor(value, dtype=torch.float32, device=device)
            for name, value in levels(*self.gathered()).items()
        }
