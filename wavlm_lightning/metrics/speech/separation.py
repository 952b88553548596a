"""Quality of separated speech: the measures of enhancement for each source, in the order that fits best."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from wavlm_lightning.metrics.enhancement import EnhancementMeasures, si_sdr

WORST = -1e6  # dB, of an answer that is not finite


class SeparationMeasures(EnhancementMeasures):
    """Means over sources and mixtures; the answers of a mixture are taken in the order with the highest mean SI-SDR.

    Args:
        names: as for `EnhancementMeasures`; the improvement is that over the mixture.

    Example:
        >>> metric = SeparationMeasures(["si_sdri"])
        >>> metric.update(torch.randn(16000, 2), sources, sources.sum(1))  # sources `(16000, 2)`
        >>> metric.compute()["si_sdri"]
        tensor(-35.2)
    """

    def __init__(self, names: Iterable[str]) -> None:
        super().__init__(names)
        self.of_sources: list[dict[str, list[float]]] = []  # `latest` of each source of the last mixture

    def update(self, estimate: Tensor, reference: Tensor, noisy: Tensor, oracle: Tensor | None = None) -> None:
        """Add a mixture: answers and sources `(samples, sources)`, the mixture `(samples,)`, and what an oracle answers.

        The oracle knows the order. `left_out/` counts sources.
        """
        each = self.of_sources = []
        for source, answer in enumerate(best_order(estimate, reference)):
            best = None if oracle is None else oracle[:, source]
            super().update(estimate[:, answer], reference[:, source], noisy, best)
            each.append(self.latest)
        self.latest = {name: [value for figures in each for value in figures[name]] for name in self.names}


def best_order(estimate: Tensor, reference: Tensor) -> list[int]:
    """For each source the answer that belongs to it, by the highest mean SI-SDR of all orders; `(samples, sources)` each."""
    table = torch.stack(
        [
            torch.stack([si_sdr(answer, source) for answer in estimate.float().unbind(1)])
            for source in reference.float().unbind(1)
        ]
    )
    # An answer of NaN fits no source.
    fits = np.nan_to_num(table.double().cpu().numpy(), nan=WORST, neginf=WORST)
    return linear_sum_assignment(fits, maximize=True)[1].tolist()
