"""Unweighted accuracy: scikit-learn's balanced accuracy, joined over batches."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score

from wavlm_lightning.metrics.class_recall import UnweightedAccuracy


@pytest.mark.parametrize("classes", [4, 7])
def test_it_is_balanced_accuracy(classes):
    rng = np.random.default_rng(classes)
    targets = np.minimum(rng.geometric(0.5, 60) - 1, classes - 2)  # unequal classes, and one without an utterance
    guesses = np.where(rng.random(60) < 0.5, targets, rng.integers(0, classes, 60))
    metric = UnweightedAccuracy(classes)
    for begin in range(0, 60, 17):
        metric.update(*(torch.tensor(each[begin : begin + 17]) for each in (guesses, targets)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn warns of the class that only the guesses have
        assert metric.compute().item() == pytest.approx(balanced_accuracy_score(targets, guesses), abs=1e-6)
