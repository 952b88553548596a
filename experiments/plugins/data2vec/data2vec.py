"""data2vec for speech: masked frames predict what a slowly moving copy of the encoder makes of the whole utterance."""

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric

from wavlm_lightning.pretraining.flops import linear_flops
from wavlm_lightning.pretraining.objectives import Objective, ObjectiveCost, PassCost, Prediction, Teacher, View
from wavlm_lightning.system.errors import UserError


class Data2Vec(Objective):
    """Regression of the mean of the teacher's top layers on masked frames (Baevski et al. 2022, arXiv 2202.03555).

    Targets are hidden states of whole layers, not of their feed-forward blocks before the residual sum.

    Args:
        top: number of layers whose outputs are averaged; published: 8 of 12.
        decay: the teacher's share of its own weights at the first update; published: 0.999.
        final_decay: that share from update `decay_updates` on, with a straight line in between; published: 0.9999.
        decay_updates: published: 30,000.
        weight: factor in the sum of objectives.
    """

    name = "data2vec"

    def __init__(
        self,
        top: int = 8,
        decay: float = 0.999,
        final_decay: float = 0.9999,
        decay_updates: int = 30_000,
        weight: float = 1.0,
    ) -> None:
        super().__init__()
        if not 0 <= decay <= final_decay < 1:
            raise UserError(
                f"Data2Vec: decay {decay} and final_decay {final_decay} must rise from 0 or more to below 1"
            )
        self.top, self.decay, self.final_decay, self.decay_updates = top, decay, final_decay, decay_updates
        self.weight = weight

    def layers(self, count: int) -> tuple[int, ...]:
        return (count,)

    def build(self, encoder, label_sizes) -> None:
        if not 1 <= self.top <= encoder.layers:
            raise UserError(f"Data2Vec: top is {self.top}, but the encoder has {encoder.layers} layers; set 1 to that")
        self.last = encoder.layers
        self.predict = nn.Linear(encoder.dim, encoder.dim)
        self.losses, self.spreads = MeanMetric(), MeanMetric()

    def attach(self, encoder) -> None:
        self.teacher = Teacher(encoder)

    def views(self) -> tuple[View, ...]:
        # The teacher hears what the encoder hears, without a mask.
        self.view = View(tuple(range(self.last - self.top + 1, self.last + 1)), teacher=self.teacher)
        return (self.view,)

    def after_update(self, encoder, step: int) -> None:
        done = min(1.0, step / self.decay_updates)
        self.teacher.follow(encoder, self.decay + done * (self.final_decay - self.decay))

    def cost(self, encoder, labels, frames, masked, compute_bytes) -> ObjectiveCost:
        return ObjectiveCost(
            parameters=(encoder.dim + 1) * encoder.dim,
            flops=linear_flops(masked, encoder.dim, encoder.dim),
            kept=masked * encoder.dim * (2 * compute_bytes + 4),
            passes=(PassCost(teacher_parameters=Teacher.parameters_of(encoder)),),
        )

    @torch.no_grad()
    def targets(self, prediction: Prediction) -> Tensor:
        """Mean of the top layers, each channel with zero mean and unit variance over the utterance, `(masked, dim)`."""
        states = torch.stack([prediction.views[self.view].hidden[layer] for layer in self.view.layers]).float()
        there = ~prediction.padding[None, :, :, None]  # hidden states of padding are 0
        count = there.sum(2, keepdim=True)
        mean = states.sum(2, keepdim=True) / count
        deviation = (((states - mean) * there).square().sum(2, keepdim=True) / count + 1e-5).sqrt()
        return ((states - mean) / deviation).mean(0)[prediction.mask]

    def errors(self, prediction: Prediction) -> tuple[Tensor, Tensor]:
        """Squared error of each masked frame over its channels `(masked,)`, and the targets `(masked, dim)`."""
        targets = self.targets(prediction)
        predicted = self.predict(prediction.hidden[self.last][prediction.mask]).float()
        return (predicted - targets).square().mean(1), targets

    def forward(self, prediction: Prediction) -> Tensor:
        return self.errors(prediction)[0].mean()

    @torch.no_grad()
    def scores(self, prediction: Prediction) -> dict[str, Tensor]:
        # A collapse shows here: all frames of all utterances have one target, which has no deviation over frames.
        errors, targets = self.errors(prediction)
        return {"loss": errors.mean(), "target_deviation": targets.std(0).mean()}

    @torch.no_grad()
    def update_scores(self, prediction: Prediction) -> None:
        errors, targets = self.errors(prediction)
        self.losses.update(errors)
        self.spreads.update(targets.std(0))

    def compute_scores(self) -> dict[str, Tensor]:
        found = {"loss": self.losses.compute(), "target_deviation": self.spreads.compute()}
        self.losses.reset(), self.spreads.reset()
        return found
