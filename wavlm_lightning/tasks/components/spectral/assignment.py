"""Which answer is which source: the order with the least cost, as in permutation-invariant training (PIT)."""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

HIGHEST = 1e300  # of costs that are not finite


def best_assignment(costs: Tensor) -> tuple[Tensor, Tensor]:
    """The least mean cost over all orders of the answers, `(batch,)`, and that order, int64 `(batch, sources)`.

    Entry k of an order is the answer that belongs to source k. Gradients pass to the costs that were chosen
    (utterance-level PIT, Kolbæk et al., arXiv 1703.06284).

    Args:
        costs: `(batch, answers, sources)`, as many answers as sources; that of answer i for source k.
    """
    # A cost of NaN reaches the loss, so that the update is skipped; scipy would refuse to choose.
    known = np.nan_to_num(costs.detach().double().cpu().numpy(), nan=HIGHEST, posinf=HIGHEST, neginf=-HIGHEST)
    chosen = [linear_sum_assignment(table.T)[1] for table in known]
    orders = torch.from_numpy(np.stack(chosen)).to(costs.device)
    return costs.gather(1, orders[:, None]).mean((1, 2)), orders


def in_order(answers: Tensor, orders: Tensor) -> Tensor:
    """Answers `(batch, sources, ...)` in the order of the sources that `best_assignment` found."""
    return torch.stack([row[order] for row, order in zip(answers, orders, strict=True)])
