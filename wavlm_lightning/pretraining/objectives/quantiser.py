"""The quantiser of wav2vec 2.0: a product codebook learned with the encoder, through straight-through Gumbel-softmax."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from wavlm_lightning.system.errors import UserError


@dataclass(frozen=True)
class GumbelTemperature:
    """Temperature of the Gumbel-softmax, falling geometrically to a floor.

    From 2, at the published decay, it meets 0.5 after 277,000 updates and 0.1 after 599,000.

    Source: wav2vec 2.0, arXiv 2006.11477, section 4.2.

    Args:
        start: at the first update.
        decay: factor an update.
        floor: least temperature: 0.5 for Base, 0.1 for Large.

    Raises:
        UserError: the temperature would not stay above 0, or would rise.
    """

    start: float = 2.0
    decay: float = 0.999995
    floor: float = 0.5

    def __post_init__(self) -> None:
        if not (0 < self.floor <= self.start and 0 < self.decay <= 1):
            raise UserError(
                f"gumbel: start {self.start}, decay {self.decay} and floor {self.floor} must satisfy "
                "0 < floor <= start and 0 < decay <= 1; published are 2.0, 0.999995 and 0.5"
            )

    def at(self, step: int) -> float:
        """The temperature after `step` updates."""
        return max(self.start * self.decay**step, self.floor)


@dataclass(frozen=True)
class Quantised:
    """What the quantiser made of some frames.

    Attributes:
        vectors: float32 `(frames, dim)`, one code vector a group, side by side.
        codes: the entries chosen, int64 `(frames, groups)`.
        probabilities: softmax of the quantiser's logits without noise or temperature, mean over the frames, float32
            `(groups, entries)`.
    """

    vectors: Tensor
    codes: Tensor
    probabilities: Tensor


class GumbelQuantiser(nn.Module):
    """Chooses one entry of each of several codebooks for a frame, and can be trained through the choice.

    All in fp32 whatever the run's precision: the logits of 512 channels spread over tens, where bf16 has steps of an
    eighth and would let entries tie.

    Source: wav2vec 2.0, arXiv 2006.11477, section 2 (quantization module) and equation 1; initial values as fairseq.

    Args:
        channels: of the features.
        dim: of the quantised vector, shared evenly by the groups.
        groups: codebooks.
        entries: of each codebook.

    Raises:
        UserError: `dim` cannot be shared evenly.
    """

    def __init__(self, channels: int, dim: int = 256, groups: int = 2, entries: int = 320) -> None:
        super().__init__()
        if dim % groups:
            raise UserError(
                f"the quantiser's vq_dim ({dim}) must be a multiple of its groups ({groups}); change either"
            )
        self.groups, self.entries = groups, entries
        self.project = nn.Linear(channels, groups * entries)
        nn.init.normal_(self.project.weight)
        nn.init.zeros_(self.project.bias)
        self.codevectors = nn.Parameter(torch.rand(1, groups * entries, dim // groups))

    def forward(self, features: Tensor, temperature: float, generator: torch.Generator | None) -> Quantised:
        """Quantise frames: a random draw in training, the likeliest entries in evaluation.

        Args:
            features: `(frames, channels)`.
            temperature: of the Gumbel-softmax; only the gradient feels it.
            generator: of the Gumbel noise, on the device of the features; untouched in evaluation.
        """
        with torch.autocast(features.device.type, enabled=False):
            logits = nn.functional.linear(features.float(), self.project.weight.float(), self.project.bias.float())
            logits = logits.unflatten(-1, (self.groups, self.entries))
            noisy = logits + gumbel_noise(logits, generator) if self.training else logits
            codes = noisy.argmax(-1)
            choice = nn.functional.one_hot(codes, self.entries).float()
            if self.training:
                soft = (noisy / temperature).softmax(-1)
                choice = choice + (soft - soft.detach())  # adds exactly 0, so that equal codes are equal vectors
            codebooks = self.codevectors.float().view(self.groups, self.entries, -1)
            vectors = torch.einsum("nge,ged->ngd", choice, codebooks).flatten(1)
            return Quantised(vectors, codes, logits.softmax(-1).mean(0))


def gumbel_noise(like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Standard Gumbel noise of the shape, type and device of `like`: minus the logarithm of exponential noise."""
    exponential = torch.empty_like(like).exponential_(generator=generator)
    return -exponential.clamp(min=torch.finfo(like.dtype).tiny).log()  # a draw of 0 would make the softmax NaN


def code_perplexity(probabilities: Tensor) -> Tensor:
    """How many codes are in use: exp of the entropy of each group, summed over the groups.

    Args:
        probabilities: `(groups, entries)`.

    Returns:
        A scalar between `groups` (collapse) and `groups * entries`.
    """
    # Not torch.special.entr, whose gradient is infinite where a probability has underflowed.
    logarithms = probabilities.clamp(min=torch.finfo(probabilities.dtype).tiny).log()
    return (-(probabilities * logarithms).sum(-1)).exp().sum()


def diversity_loss(probabilities: Tensor) -> Tensor:
    """Share of the codes that is not in use: `(G V - perplexity) / (G V)`, 0 for uniform use.

    wav2vec 2.0, arXiv 2006.11477, equation 4, prints the entropy itself; this is what fairseq computes.

    Args:
        probabilities: `(groups, entries)`.
    """
    return 1 - code_perplexity(probabilities) / probabilities.numel()
