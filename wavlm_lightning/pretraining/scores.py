"""Metrics of masked prediction: loss, accuracy, perplexities, majority baseline, summed over batches and ranks."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric


class PredictionScores(Metric):
    """Scores over masked frames, or over unmasked ones, of `classes` codewords."""

    full_state_update = False

    def __init__(self, classes: int) -> None:
        super().__init__()
        for name, shape in (("loss", ()), ("correct", ()), ("predicted", (classes,)), ("targets", (classes,))):
            self.add_state(name, torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Add frames: logits, float32 `(frames, classes)`, and labels, int64 `(frames,)`."""
        log_probabilities = logits.log_softmax(1)
        self.loss += torch.nn.functional.nll_loss(log_probabilities, labels, reduction="sum").double()
        self.correct += (logits.argmax(1) == labels).sum()
        self.predicted += log_probabilities.exp().sum(0)
        self.targets += torch.bincount(labels, minlength=len(self.targets))

    def compute(self) -> dict[str, Tensor]:
        """Loss (nats), accuracy, perplexity of the mean prediction and of the targets, accuracy of the majority class."""
        frames = self.targets.sum().clamp(min=1)
        return {
            "loss": (self.loss / frames).float(),
            "accuracy": (self.correct / frames).float(),
            "perplexity": perplexity(self.predicted / frames),
            "target_perplexity": perplexity(self.targets / frames),
            "majority_accuracy": (self.targets.max() / frames).float(),
        }


def perplexity(probabilities: Tensor) -> Tensor:
    """exp of the entropy of a distribution `(classes,)`: the effective number of classes."""
    return torch.special.entr(probabilities).sum().exp().float()
