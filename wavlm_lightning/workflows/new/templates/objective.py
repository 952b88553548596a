"""MyObjective: the loudness of masked frames; change it to what your encoder should learn."""

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric

from wavlm_lightning.pretraining.objectives import Objective, Prediction


class MyObjective(Objective):
    """Regression of the log energy of masked frames from the last hidden state.

    Args:
        weight: factor in the sum of objectives.
    """

    name = "my_objective"

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = weight

    def layers(self, count: int) -> tuple[int, ...]:  # the hidden states needed in `prediction.hidden`
        return (count,)

    def build(self, encoder, label_sizes) -> None:  # label_sizes: label set -> number of classes
        self.hop, self.last = encoder.hop, encoder.layers
        self.predict, self.losses = nn.Linear(encoder.dim, 1), MeanMetric()

    def forward(self, prediction: Prediction) -> Tensor:  # the mean over masked frames
        hidden, mask = prediction.hidden[self.last], prediction.mask
        windows = prediction.audio.unfold(1, self.hop, self.hop)[:, : hidden.shape[1]]
        loudness = (windows.square().mean(2) + 1e-6).log()
        loudness = (loudness - loudness.mean()) / loudness.std().clamp(min=1e-3)
        return (self.predict(hidden).float()[:, :, 0] - loudness)[mask].square().mean()

    # For a teacher or further passes of the batch see `attach`, `views` and `after_update` of `Objective`.

    @torch.no_grad()
    def scores(self, prediction: Prediction) -> dict[str, Tensor]:  # of a training batch, logged as train/...
        return {"loss": self(prediction)}

    @torch.no_grad()
    def update_scores(self, prediction: Prediction) -> None:  # a validation batch
        self.losses.update(self(prediction), weight=prediction.mask.sum())

    def compute_scores(self) -> dict[str, Tensor]:  # logged as valid/...; the best checkpoint has the lowest valid/loss
        loss = self.losses.compute()
        self.losses.reset()
        return {"loss": loss}
