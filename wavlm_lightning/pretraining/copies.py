"""Masked copies of every crop: several masks for one pass of the front-end, and an encoder that runs on visible frames alone.

Source: data2vec 2.0 (arXiv 2212.07525, section 3), whose encoder never sees a masked frame and whose light decoder of
convolutions fills them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

import torch
from torch import Tensor, nn

from wavlm_lightning.augment.span_masking import SpanMasking
from wavlm_lightning.data.batch import SoftLabels
from wavlm_lightning.encoder import WavLMConfig, padding_mask
from wavlm_lightning.encoder.visible_frames import VisibleFrames
from wavlm_lightning.pretraining.flops import StepFlops, linear_flops
from wavlm_lightning.pretraining.objectives import ObjectiveCost, Prediction
from wavlm_lightning.system.errors import UserError


@dataclass(frozen=True)
class DecoderSizes:
    """Sizes of the decoder that fills masked frames, see `ConvolutionalDecoder`.

    Attributes:
        layers: number of convolutions; data2vec 2.0 has 4.
        dim: their channels; None for the width of the encoder. data2vec 2.0 has 384 for encoders of 768 and 1,024.
        kernel: frames that each of them sees, an odd number; data2vec 2.0 has 7. With fewer layers or a smaller kernel the middle
            of a long span is out of reach of all visible frames, and is filled from the mask alone.
        groups: groups of each convolution; data2vec 2.0 has 16.
    """

    layers: int = 4
    dim: int | None = None
    kernel: int = 7
    groups: int = 16

    def __post_init__(self) -> None:
        for name in ("layers", "dim", "kernel", "groups"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"copies.decoder.{name} must be 1 or more, not {value}")
        if self.kernel % 2 == 0:
            raise UserError(
                f"copies.decoder.kernel must be odd, so that a frame sees as far ahead as back, not {self.kernel}"
            )


@dataclass(frozen=True)
class MaskedCopies:
    """Several masked copies of each crop, the key `model.copies`.

    The front-end runs once a crop, and all copies hear the same mixture; each copy has a mask of its own. Scores and losses are
    means over the masked frames of all copies. At inference there are neither copies nor masks.

    Args:
        copies: how many. Each copy costs a pass of the transformer; data2vec 2.0 has 8 for Base and 12 for Large.
        visible_only: run the transformer on the visible frames alone, with attention by their places in the crop, and fill the
            masked ones by a decoder; objectives read the encoder at visible frames and the decoder at masked ones. False runs it
            on all frames with the mask embedding, as without copies.
        decoder: sizes of the decoder; one for each hidden state that objectives read. Ignored unless `visible_only`.

    Raises:
        UserError: a size is out of range.

    Example:
        >>> MaskedCopies(copies=4).rows(torch.zeros(2, 49)).shape
        torch.Size([8, 49])
    """

    copies: int = 1
    visible_only: bool = True
    decoder: DecoderSizes = field(default_factory=DecoderSizes)

    def __post_init__(self) -> None:
        if self.copies < 1:
            raise UserError(f"copies.copies must be 1 or more, not {self.copies}")

    def rows(self, x: Tensor) -> Tensor:
        """One row for each copy, `(copies * crops, ...)`: the crops `(crops, ...)` as often as there are copies."""
        return x if self.copies == 1 else x.repeat(self.copies, *[1] * (x.dim() - 1))

    def masks(self, masking: SpanMasking, lengths: Tensor, frames: int, generator: torch.Generator | None) -> Tensor:
        """A mask for each copy, bool `(copies * crops, frames)`, from `masking` with `lengths` valid frames, int64 `(crops,)`.

        With `visible_only` and `masking.equalise` all rows of several copies get the mean number of masked frames. Thinned to the
        fewest of all copies, eight copies of eight crops would lose a third of their masks. One copy is masked as without copies.
        """
        if self.copies == 1:
            return masking(lengths, frames, generator)
        balanced = self.visible_only and masking.equalise
        drawn = replace(masking, equalise=False) if balanced else masking
        mask = torch.cat([drawn(lengths, frames, generator) for _ in range(self.copies)])
        return _balanced(mask, self.rows(lengths), generator) if balanced else mask

    def prediction(self, crops: Prediction, hidden: Mapping[int, Tensor], mask: Tensor, padding: Tensor) -> Prediction:
        """What objectives read of all copies.

        Args:
            crops: the pass with one row a crop, without hidden states.
            hidden: layer -> hidden states of all copies, `(copies * crops, frames, dim)`.
            mask: bool `(copies * crops, frames)`, like `padding`.
            padding: see `mask`.
        """
        if self.copies == 1:
            return replace(crops, hidden=hidden)
        return replace(
            crops,
            hidden=hidden,
            features=self.rows(crops.features),
            normalised=self.rows(crops.normalised),
            projected=self.rows(crops.projected),
            mask=mask,
            padding=padding,
            labels={name: self.rows(labels) for name, labels in crops.labels.items()},
            soft_labels={
                name: SoftLabels(self.rows(soft.classes), self.rows(soft.weights))
                for name, soft in crops.soft_labels.items()
            },
            audio=self.rows(crops.audio),
            crops=crops,
        )

    def decoders(self, config: WavLMConfig, layers: Sequence[int]) -> Decoders:
        """Fresh decoders of the hidden states `layers` of an encoder.

        Raises:
            UserError: width and groups do not fit together.
        """
        return Decoders({layer: ConvolutionalDecoder(config, layer, self.decoder) for layer in layers})

    def masked_share(self, masking: SpanMasking, crops: float, frames: int) -> float:
        """Share of the frames that is masked on average in batches of `crops` crops of `frames` frames, for `flops`."""
        if self.copies == 1 and self.visible_only and masking.equalise and masking.share is None:
            return _thinned_share(masking, max(round(crops), 1), frames)
        return masking.expected_share()

    def flops(self, step: StepFlops, share: float) -> StepFlops:
        """The operations of the encoder in a step with copies, from those of a step without them.

        Args:
            step: `encoder_flops` of the crops.
            share: of the frames that is masked, see `masked_share`.
        """
        visible = 1.0 - share if self.visible_only else 1.0
        return replace(
            step,
            positional=self.copies * step.positional,
            linears=self.copies * visible * step.linears,
            # Every visible frame attends to the visible ones.
            attention=self.copies * visible**2 * step.attention,
        )

    def decoder_cost(self, config: WavLMConfig, frames: float, layers: int, compute_bytes: int) -> ObjectiveCost:
        """The cost of the decoders in a micro-step; nothing unless `visible_only`.

        Args:
            config: of the encoder.
            frames: of the crops, each counted once.
            layers: number of hidden states that objectives read.
            compute_bytes: bytes of a number in matrix products.
        """
        if not self.visible_only:
            return ObjectiveCost()
        sizes, rows = self.decoder, self.copies * frames
        with torch.device("meta"):
            decoder = ConvolutionalDecoder(config, config.layers, sizes)
        flops = linear_flops(rows, decoder.project.in_features, config.dim)
        kept = rows * decoder.project.in_features * compute_bytes
        for each in decoder.convolutions:
            flops += linear_flops(rows, each.in_channels // sizes.groups * sizes.kernel, each.out_channels)
            # Inputs of the convolution, of the layer norm and of GELU.
            kept += rows * compute_bytes * (each.in_channels + 2 * each.out_channels)
        parameters = sum(parameter.numel() for parameter in decoder.parameters())
        return ObjectiveCost(layers * parameters, layers * flops, layers * kept)


def _balanced(mask: Tensor, lengths: Tensor, generator: torch.Generator | None) -> Tensor:
    """All rows with the mean number of masked frames: surplus ones are shown, and missing ones taken, frame by frame at random.

    Source: data2vec 2.0's code, `require_same_masks`.
    """
    wanted = torch.minimum(mask.sum(1).float().mean().round().long(), lengths - 1)
    score = torch.rand(mask.shape, device=mask.device, generator=generator) + mask
    score = score.masked_fill(padding_mask(lengths, mask.shape[1]), -1.0)
    return score.argsort(1, descending=True).argsort(1) < wanted[:, None]


@lru_cache(maxsize=4096)  # batches of a run have a few sizes
def _thinned_share(masking: SpanMasking, rows: int, frames: int) -> float:
    """Share of masked frames of rows that are thinned to the fewest, by drawing: it has no closed form."""
    generator, lengths = torch.Generator().manual_seed(0), torch.full((rows,), frames)
    masks = [masking(lengths, frames, generator) for _ in range(32)]
    return float(torch.stack(masks).float().mean())


class ConvolutionalDecoder(nn.Module):
    """Fills the masked frames of a hidden state from the visible frames around them.

    Each masked frame begins as a learned vector; blocks of grouped convolution, layer norm and GELU with residual
    connections follow, then a linear layer back to the width of the encoder.

    Source: data2vec 2.0, arXiv 2212.07525, section 3.2 and table 8.

    Args:
        config: of the encoder.
        layer: index of the hidden state.
        sizes: of the decoder.

    Raises:
        UserError: the groups do not divide the widths.
    """

    def __init__(self, config: WavLMConfig, layer: int, sizes: DecoderSizes) -> None:
        super().__init__()
        dim = sizes.dim or config.dim
        if config.dim % sizes.groups or dim % sizes.groups:
            raise UserError(
                f"copies.decoder.groups ({sizes.groups}) must divide the width of the encoder ({config.dim}) and "
                f"copies.decoder.dim ({dim})"
            )
        normed = not config.pre_norm or layer == config.layers
        self.layer_norm = nn.Identity() if normed else nn.LayerNorm(config.dim, config.layer_norm_eps)
        self.mask_embedding = nn.Parameter(torch.empty(config.dim).normal_(std=0.02))
        self.convolutions, self.norms = nn.ModuleList(), nn.ModuleList()
        for inputs in [config.dim, *[dim] * (sizes.layers - 1)]:
            self.convolutions.append(
                nn.Conv1d(inputs, dim, sizes.kernel, padding=sizes.kernel // 2, groups=sizes.groups)
            )
            self.norms.append(nn.LayerNorm(dim, config.layer_norm_eps))
        self.project = nn.Linear(dim, config.dim)

    def forward(self, hidden: Tensor, visible: VisibleFrames, mask: Tensor, padding: Tensor | None) -> Tensor:
        """The hidden state at all frames.

        Args:
            hidden: of the visible frames, `(rows, most, dim)`.
            visible: where they lie.
            mask: bool `(rows, frames)`, true where a frame is masked.
            padding: bool `(rows, frames)`, true where a frame is padding; None if none is.

        Returns:
            `(rows, frames, dim)`: `hidden` itself where a frame is visible, the decoder's output where it is masked, and zeros
            where it is padding.
        """
        own = visible.scatter(hidden)
        x = visible.scatter(self.layer_norm(hidden))
        x = torch.where(mask[:, :, None], self.mask_embedding.to(x.dtype), x)
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            after = nn.functional.gelu(norm(convolution(x.transpose(1, 2)).transpose(1, 2)))
            if padding is not None:  # or the next convolution would mix it into valid frames
                after = after.masked_fill(padding[:, :, None], 0.0)
            x = x + after if after.shape == x.shape else after
        return torch.where(mask[:, :, None], self.project(x).to(own.dtype), own)


class Decoders(nn.ModuleDict):
    """A decoder for each hidden state that objectives read, by its index."""

    def __init__(self, decoders: dict[int, ConvolutionalDecoder]) -> None:
        super().__init__({str(layer): decoder for layer, decoder in decoders.items()})

    def fill(
        self, hidden: dict[int, Tensor], visible: VisibleFrames, mask: Tensor, padding: Tensor | None
    ) -> dict[int, Tensor]:
        """The hidden states at all frames, `(rows, frames, dim)`, from those of the visible ones; see `ConvolutionalDecoder`."""
        return {layer: self[str(layer)](states, visible, mask, padding) for layer, states in hidden.items()}
