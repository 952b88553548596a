"""What an objective is, and what it is given."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from wavlm_lightning.encoder import WavLMConfig
from wavlm_lightning.system.errors import UserError


@dataclass(frozen=True)
class Prediction:
    """One masked forward pass, and what it is held against.

    Attributes:
        hidden: by layer, the hidden states of the masked, mixed input that the objectives asked for, `(batch, frames,
            dim)`: 0 is the input of the first layer, `config.layers` the output of the encoder.
        features: raw output of the convolutions, `(batch, frames, channels)`.
        normalised: the same after the layer norm of the projection, `(batch, frames, channels)`.
        projected: input of the transformer before masking, `(batch, frames, dim)`.
        mask: bool `(batch, frames)`, true where frames were hidden.
        padding: bool `(batch, frames)`, true where a frame is padding.
        labels: by label set, codebook labels of the clean audio, int64 `(batch, frames)`.
        audio: the clean crops, float32 `(batch, samples)`.
        step: updates made before this one; for schedules.
        generator: randomness of the objectives (Gumbel noise, negatives), on the device of the tensors: a resumed run
            draws the same.
    """

    hidden: Mapping[int, Tensor]
    features: Tensor
    normalised: Tensor
    projected: Tensor
    mask: Tensor
    padding: Tensor
    labels: Mapping[str, Tensor]
    audio: Tensor
    step: int
    generator: torch.Generator | None

    @property
    def visible(self) -> Tensor:
        """bool `(batch, frames)`, true where frames are neither hidden nor padding."""
        return ~self.mask & ~self.padding


class Objective(nn.Module, ABC):
    """A term of the pre-training loss.

    The module multiplies the sum of all terms by the number of masked frames and divides by that number over all
    ranks and micro-steps, so `forward` returns a mean per masked frame.

    Attributes:
        name: under which the term is logged.
        weight: factor in the sum.
    """

    name: str
    weight: float = 1.0

    def layers(self, count: int) -> tuple[int, ...]:
        """The hidden states it reads of an encoder with `count` layers."""
        return ()

    @abstractmethod
    def build(self, encoder: WavLMConfig, label_sizes: Mapping[str, int]) -> None:
        """Make the parameters, once encoder and codebooks are known.

        Args:
            encoder: shape of the encoder.
            label_sizes: number of labels of each label set of the data, in their order; empty without labels.

        Raises:
            UserError: the encoder or the data lack what it needs.
        """

    @abstractmethod
    def forward(self, prediction: Prediction) -> Tensor:
        """The unweighted term, a float32 scalar."""

    @torch.no_grad()
    def scores(self, prediction: Prediction) -> dict[str, Tensor]:
        """Figures of a training batch for the log, float32 scalars; `loss` and `masked_accuracy` where they make sense."""
        return {}

    @torch.no_grad()
    def update_scores(self, prediction: Prediction) -> None:
        """Add a validation batch."""

    def compute_scores(self) -> dict[str, Tensor]:
        """Figures of all validation batches of all ranks since the last call, float32 scalars."""
        return {}


class LayerObjective(Objective):
    """An objective that reads one hidden state through a norm of its own, where the encoder has none there.

    In pre-norm encoders only the output of the last layer has been normalised; ILS-SSL gives every other supervised
    layer a layer norm (UniSpeech `ils_hubert.py`, `post_layer_norm`). The last layer keeps the encoder's, so that the
    objective on the last layer is the plain one bit for bit.

    Args:
        layer: which hidden state, from 1; None for the last.
    """

    def __init__(self, layer: int | None = None) -> None:
        super().__init__()
        if layer is not None and layer < 1:
            raise UserError(f"{type(self).__name__}: layer counts from 1, so it cannot be {layer}")
        self.layer = layer

    def layers(self, count: int) -> tuple[int, ...]:
        """Its one layer."""
        return (count if self.layer is None else self.layer,)

    def build_layer_norm(self, encoder: WavLMConfig) -> None:
        """Make the norm.

        Raises:
            UserError: the encoder has no such layer.
        """
        (self.index,) = self.layers(encoder.layers)
        if self.index > encoder.layers:
            raise UserError(f"{type(self).__name__}: layer {self.index}, but the encoder has {encoder.layers}")
        normed = not encoder.pre_norm or self.index == encoder.layers
        self.layer_norm = nn.Identity() if normed else nn.LayerNorm(encoder.dim, encoder.layer_norm_eps)

    def read(self, prediction: Prediction, where: Tensor) -> Tensor:
        """Its hidden state at the frames `where` (bool `(batch, frames)`), `(frames, dim)`."""
        return self.layer_norm(prediction.hidden[self.index][where])
