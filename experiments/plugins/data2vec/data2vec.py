"""data2vec with several masks of each crop: one pass of the teacher serves them all, the idea of data2vec 2.0."""

from dataclasses import replace

import torch
from torch import Tensor

from wavlm_lightning.pretraining import Data2Vec
from wavlm_lightning.pretraining.objectives import ObjectiveCost, PassCost, Prediction, View
from wavlm_lightning.system.errors import UserError


class ManyMasks(Data2Vec):
    """data2vec on the main pass and on further masks of the same crops (data2vec 2.0, arXiv 2212.07525, section 3.2).

    The convolutions and the teacher run once. Unlike in data2vec 2.0 the encoder sees whole crops, with the mask embedding.

    Args:
        masks: masks of each crop; published: 8.
        settings: arguments of `Data2Vec`.
    """

    def __init__(self, masks: int = 2, **settings) -> None:
        super().__init__(**settings)
        if masks < 1:
            raise UserError(f"ManyMasks: masks is {masks}; give 1 or more")
        self.masks = masks

    def views(self) -> tuple[View, ...]:
        # Mask 0 is that of the main pass. The loss reaches the encoder through these passes, too.
        self.further = tuple(View((self.last,), mask=number, gradients=True) for number in range(1, self.masks))
        return (*super().views(), *self.further)

    def cost(self, encoder, labels, frames, masked, compute_bytes) -> ObjectiveCost:
        one = super().cost(encoder, labels, frames, masked, compute_bytes)
        passes = (*one.passes, *(PassCost(gradients=True, masked=True) for _ in range(1, self.masks)))
        return replace(one, flops=self.masks * one.flops, kept=self.masks * one.kept, passes=passes)

    def errors(self, prediction: Prediction) -> tuple[Tensor, Tensor]:
        """Those of all masks, one after the other: `(masked,)` and `(masked, dim)`."""
        seen = [prediction, *(replace(prediction.views[view], views=prediction.views) for view in self.further)]
        errors, targets = zip(*(Data2Vec.errors(self, each) for each in seen), strict=True)
        return torch.cat(errors), torch.cat(targets)
