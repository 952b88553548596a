"""The base classes of pre-training objectives, and the masked forward pass that objectives receive."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from wavlm_lightning.data.batch import SoftLabels
from wavlm_lightning.encoder import WavLM, WavLMConfig
from wavlm_lightning.pretraining.objectives.teacher import Teacher
from wavlm_lightning.system.errors import UserError


@dataclass(frozen=True)
class View:
    """A further pass over each batch, which an objective asks for beside the masked pass.

    Views that differ in `layers` alone are one pass, also if several objectives ask for them.

    Attributes:
        layers: the hidden states that it reads, 0 to `config.layers`.
        mask: None leaves all frames visible; 0 is the mask of the main pass, 1, 2, ... are further draws of
            `model.masking`.
        teacher: the encoder that runs, without gradients and dropouts; None for the encoder of the run, in its mode and
            with the LayerDrop of the main pass.
        gradients: whether the loss reaches the encoder of the run through this pass.
        clean: hear the clean crops; false for the mixed ones that the main pass hears.
    """

    layers: tuple[int, ...]
    mask: int | None = None
    teacher: Teacher | None = None
    gradients: bool = False
    clean: bool = False

    def __post_init__(self) -> None:
        if self.teacher is not None and self.gradients:
            raise UserError("objectives: a view through a teacher has no gradients; leave out one of the two")


@dataclass(frozen=True)
class Prediction:
    """One masked forward pass of the encoder with its targets.

    Attributes:
        hidden: layer -> hidden states of the masked, mixed input, `(batch, frames, dim)`, for the layers that the
            objectives ask for: 0 is the input of the first layer, `config.layers` the output of the encoder.
        features: raw output of the convolutions, `(batch, frames, channels)`.
        normalised: `features` after the layer norm of the projection, `(batch, frames, channels)`.
        projected: input of the transformer before masking, `(batch, frames, dim)`.
        mask: bool `(batch, frames)`, true where frames are masked.
        padding: bool `(batch, frames)`, true where a frame is padding.
        labels: label set -> codebook labels of the clean audio, int64 `(batch, frames)`.
        audio: the clean crops, float32 `(batch, samples)`.
        step: number of updates before this one; for schedules.
        generator: source of the objectives' randomness (Gumbel noise, negatives), on the device of the tensors. A
            resumed run draws the same values.
        soft_labels: label set -> several labels a frame and their weights, `(batch, frames, soft labels)`; only the sets
            that have some.
        views: the further passes that the objectives asked for; those of a view are `hidden`, `features`, `normalised`,
            `projected` and `mask` of its own pass, and the rest is as here.
        crops: with several masked copies of each crop (`model.copies`), where `batch` counts copies, the same pass with one row
            a crop and without hidden states, for objectives that are `per_crop`; None where the rows are the crops.
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
    views: Mapping[View, Prediction] = field(default_factory=dict)
    soft_labels: Mapping[str, SoftLabels] = field(default_factory=dict)
    crops: Prediction | None = None

    @property
    def visible(self) -> Tensor:
        """bool `(batch, frames)`, true where frames are neither masked nor padding."""
        return ~self.mask & ~self.padding


@dataclass(frozen=True)
class PassCost:
    """A further pass of the batch through the encoder or a teacher, see `View`."""

    gradients: bool = False
    convolutions: bool = False  # whether they run again; false for crops and convolutions of the main pass
    teacher_parameters: int = 0  # see `Teacher.parameters_of`
    masked: bool = False  # whether it has a mask, so that it runs for every masked copy (`model.copies`)


@dataclass(frozen=True)
class ObjectiveCost:
    """The cost of an objective in one micro-step."""

    parameters: int = 0  # that are trained
    flops: float = 0.0  # operations of its forward pass
    kept: float = 0.0  # bytes of the activations that it keeps for the backward pass
    passes: tuple[PassCost, ...] = ()  # its views


class Objective(nn.Module, ABC):
    """A term of the pre-training loss.

    `forward` returns a mean per masked frame: `WavLMPretraining` multiplies the sum of all terms by the number of
    masked frames, and divides it by their number over all ranks and micro-steps.

    Attributes:
        name: name of the term in the log.
        weight: factor in the sum.
        per_crop: reads neither masks nor hidden states, so that masked copies of a crop need it once (`Prediction.crops`).
    """

    name: str
    weight: float = 1.0
    per_crop: bool = False

    @property
    def summed_codebooks(self) -> int | None:
        """Codebooks whose perplexities add up in its `code_perplexity`; None if it logs none."""
        return None

    def layers(self, count: int) -> tuple[int, ...]:
        """Indices of the hidden states that it reads, for an encoder of `count` layers."""
        return ()

    @abstractmethod
    def build(self, encoder: WavLMConfig, label_sizes: Mapping[str, int]) -> None:
        """Create the parameters once encoder and codebooks are known.

        Args:
            encoder: shape of the encoder.
            label_sizes: label set of the data -> number of labels, in the order of the data; empty without labels.

        Raises:
            UserError: the encoder or the data lack something that the objective needs.
        """

    def check_labels(self, codebooks: Mapping[str, Mapping[str, Any]]) -> None:
        """Called once after `build`, with what the label sets of the data are beside their sizes.

        Args:
            codebooks: label set -> `size`, `sha256`, `rate`, and `soft` (`labels`, `temperature`) where it has soft labels.

        Raises:
            UserError: they lack something that the objective needs.
        """

    def attach(self, encoder: WavLM) -> None:
        """Called once after `build`, with the encoder as it is before the first update: the place to make a `Teacher`.

        A resumed run reads the teacher from the checkpoint afterwards. The encoder itself is not to be kept: its
        parameters would be counted as the objective's.
        """

    def views(self) -> Sequence[View]:
        """The further passes that `forward` will find in `prediction.views`; asked for once, after `attach`."""
        return ()

    @torch.no_grad()
    def after_update(self, encoder: WavLM, step: int) -> None:
        """Called after each update of the weights, not after one that was skipped because of its gradient.

        Args:
            encoder: the updated encoder; sharded under fsdp2, where `Teacher.follow` works on the shards.
            step: updates made so far, this one and skipped ones included; for schedules.
        """

    def label_set_of(self, names: Sequence[str]) -> str | None:
        """Which of the label sets of `data.labels` it predicts; None if none."""
        return None

    def cost(
        self, encoder: WavLMConfig, labels: int, frames: float, masked: float, compute_bytes: int
    ) -> ObjectiveCost | None:
        """The cost of a micro-step, for `wavlm plan`; the objective need not be built.

        Args:
            encoder: shape of the encoder.
            labels: number of labels of the codebook; 0 without a codebook.
            frames: frames of the micro-step.
            masked: how many of them are masked.
            compute_bytes: bytes of a number in matrix products: 4 in fp32, 2 in mixed precision.

        Returns:
            None if the cost is unknown; the plan then names the objective as not counted.
        """
        return None

    @abstractmethod
    def forward(self, prediction: Prediction) -> Tensor:
        """The unweighted term, a float32 scalar."""

    @torch.no_grad()
    def scores(self, prediction: Prediction) -> dict[str, Tensor]:
        """Figures of a training batch for the log, float32 scalars; `loss` and `masked_accuracy` where they apply."""
        return {}

    @torch.no_grad()
    def update_scores(self, prediction: Prediction) -> None:
        """Add a validation batch."""

    def compute_scores(self) -> dict[str, Tensor]:
        """Figures of all validation batches since the last call, over all ranks, float32 scalars."""
        return {}


class LayerObjective(Objective):
    """An objective on one hidden state, with its own layer norm where the encoder has none.

    Pre-norm encoders normalise only the output of the last layer; ILS-SSL gives every other supervised layer a layer
    norm (UniSpeech `ils_hubert.py`, `post_layer_norm`). The last layer keeps the encoder's norm, so the objective on
    the last layer equals the plain one bit for bit.

    Args:
        layer: index of the hidden state, from 1; None for the last.
    """

    def __init__(self, layer: int | None = None) -> None:
        super().__init__()
        if layer is not None and layer < 1:
            raise UserError(f"{type(self).__name__}: layers are counted from 1; {layer} is not a layer")
        self.layer = layer

    def layers(self, count: int) -> tuple[int, ...]:
        return (count if self.layer is None else self.layer,)

    def build_layer_norm(self, encoder: WavLMConfig) -> None:
        """Create the layer norm; refuses a layer that the encoder does not have."""
        (self.index,) = self.layers(encoder.layers)
        if self.index > encoder.layers:
            raise UserError(f"{type(self).__name__}: layer {self.index}, but the encoder has {encoder.layers}")
        normed = not encoder.pre_norm or self.index == encoder.layers
        self.layer_norm = nn.Identity() if normed else nn.LayerNorm(encoder.dim, encoder.layer_norm_eps)

    def layer_norm_parameters(self, encoder: WavLMConfig) -> int:
        """Number of parameters of the layer norm that `build_layer_norm` creates."""
        (index,) = self.layers(encoder.layers)
        return 2 * encoder.dim if encoder.pre_norm and index != encoder.layers else 0

    def read(self, prediction: Prediction, where: Tensor) -> Tensor:
        """The hidden state at the frames where `where`, bool `(batch, frames)`, is true: `(true frames, dim)`."""
        return self.layer_norm(prediction.hidden[self.index][where])
