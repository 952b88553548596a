"""Unweighted accuracy: the mean recall of the classes, so that a rare class counts as much as a frequent one (IEMOCAP)."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torchmetrics.classification import MulticlassConfusionMatrix


class UnweightedAccuracy(MulticlassConfusionMatrix):
    """The mean over classes of the share of their utterances that is right, a fraction (UA, balanced accuracy).

    Accuracy over all utterances is called weighted accuracy (WA) beside it. Classes without an utterance are left out of the
    mean, also where one was predicted. `update` takes predictions and targets, int64 `(batch,)`.
    """

    higher_is_better = True

    def compute(self) -> Any:
        """The mean, a scalar; NaN before the first utterance."""
        counts: Tensor = super().compute().double()  # of (target, prediction)
        total = counts.sum(1)
        return (counts.diagonal()[total > 0] / total[total > 0]).mean().float()
