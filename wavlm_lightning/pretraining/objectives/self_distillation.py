"""What data2vec and DinoSR share: targets are the top layers of a teacher that hears the whole crop and follows the encoder."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from wavlm_lightning.encoder import WavLM, WavLMConfig
from wavlm_lightning.pretraining.objectives.base import Objective, PassCost, Prediction, View
from wavlm_lightning.pretraining.objectives.teacher import Teacher
from wavlm_lightning.system.errors import UserError


class SelfDistillation(Objective):
    """An objective on the masked frames whose targets come from a moving average of the encoder, without labels.

    Source: data2vec, arXiv 2202.03555, section 3; DinoSR, arXiv 2305.10005, takes the same teacher.

    Args:
        top: number of layers of the teacher that give targets, the last ones; published: 8 of 12.
        decay: the teacher's share of its own weights at the first update; published: 0.999.
        final_decay: that share from update `decay_updates` on, with a straight line in between; published: 0.9999.
        decay_updates: published: 30,000.
        weight: factor in the sum of objectives.
        clean_targets: the teacher hears the clean crops; false for the mixed ones that the encoder hears.

    Raises:
        UserError: the decays do not rise from 0 or more to below 1, or `top` or `decay_updates` is below 1.
    """

    def __init__(
        self,
        top: int = 8,
        decay: float = 0.999,
        final_decay: float = 0.9999,
        decay_updates: int = 30_000,
        weight: float = 1.0,
        clean_targets: bool = False,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        if not 0 <= decay <= final_decay < 1:
            raise UserError(f"{name}: decay {decay} and final_decay {final_decay} must rise from 0 or more to below 1")
        if top < 1 or decay_updates < 1:
            raise UserError(f"{name}: top is {top} and decay_updates {decay_updates}; both must be 1 or more")
        self.top, self.decay, self.final_decay, self.decay_updates = top, decay, final_decay, decay_updates
        self.weight, self.clean_targets = weight, clean_targets

    def layers(self, count: int) -> tuple[int, ...]:
        return (count,)

    def top_layers(self, count: int) -> tuple[int, ...]:
        """The layers of a teacher of `count` layers that give targets, ascending."""
        return tuple(range(count - self.top + 1, count + 1))

    def build(self, encoder: WavLMConfig, label_sizes: Mapping[str, int]) -> None:
        """Check `top`; subclasses add their heads."""
        if self.top > encoder.layers:
            raise UserError(
                f"{type(self).__name__}: top is {self.top}, but the encoder has {encoder.layers} layers; set 1 to that"
            )
        self.last = encoder.layers

    def attach(self, encoder: WavLM) -> None:
        self.teacher = Teacher(encoder)

    def views(self) -> tuple[View, ...]:
        self.view = View(self.top_layers(self.last), teacher=self.teacher, clean=self.clean_targets)
        return (self.view,)

    @torch.no_grad()
    def after_update(self, encoder: WavLM, step: int) -> None:
        done = min(1.0, step / self.decay_updates)
        self.teacher.follow(encoder, self.decay + done * (self.final_decay - self.decay))

    def teacher_pass(self, encoder: WavLMConfig, more: int = 0) -> tuple[PassCost, ...]:
        """The cost of the teacher's pass, for `cost`; `more` numbers are kept beside its weights."""
        parameters = Teacher.parameters_of(encoder) + more
        return (PassCost(convolutions=self.clean_targets, teacher_parameters=parameters),)

    @torch.no_grad()
    def teacher_states(self, prediction: Prediction) -> Tensor:
        """The teacher's top layers, each channel with zero mean and unit variance over the crop, padding left out.

        Returns:
            float32 `(top, batch, frames, dim)`.
        """
        states = torch.stack([prediction.views[self.view].hidden[layer] for layer in self.view.layers]).float()
        there = ~prediction.padding[None, :, :, None]  # hidden states of padding are 0
        count = there.sum(2, keepdim=True)
        mean = states.sum(2, keepdim=True) / count
        deviation = (((states - mean) * there).square().sum(2, keepdim=True) / count + 1e-5).sqrt()
        return (states - mean) / deviation
