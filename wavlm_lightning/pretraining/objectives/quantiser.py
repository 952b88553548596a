"""The quantiser of wav2vec 2.0: a product codebook trained with a straight-through Gumbel-softmax."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from wavlm_lightning.system.errors import UserError


@dataclass(frozen=True)
class GumbelTemperature:
    """Temperature of the Gumbel-softmax, which falls geometrically to a floor.

    From 2, at the published decay, it reaches 0.5 after 277,000 updates and 0.1 after 599,000.

    Source: wav2vec 2.0, arXiv 2006.11477, section 4.2.

    Args:
        start: temperature of the first update.
        decay: factor per update.
        floor: lowest temperature: 0.5 for Base, 0.1 for Large.

    Raises:
        UserError: the temperature would rise or reach 0.
    """

    start: float = 2.0
    decay: float = 0.999995
    floor: float = 0.5

    def __post_init__(self) -> None:
        if not (0 < self.floor <= self.start and 0 < self.decay <= 1):
            raise UserError(
                f"gumbel: start {self.start}, decay {self.decay} and floor {self.floor} must satisfy "
                "0 < floor <= start and 0 < decay <= 1; the published values are 2.0, 0.999995 and 0.5"
            )

    def at(self, step: int) -> float:
        """The temperature after `step` updates."""
        return max(self.start * self.decay**step, self.floor)


@dataclass(frozen=True)
class Quantised:
    """Quantised frames."""

    vectors: Tensor  # float32 (frames, dim), the chosen code vectors of all groups side by side
    codes: Tensor  # chosen entries, int64 (frames, groups)
    # Softmax of the logits without noise and temperature, averaged over the frames, float32 (groups, entries).
    probabilities: Tensor


class GumbelQuantiser(nn.Module):
    """Chooses one entry of each codebook for every frame; gradients pass through the choice.

    It computes in fp32 at any precision of the run: the logits of 512 channels reach tens, where bf16 has steps of 1/8,
    so that entries would tie. `dim`, the width of the quantised vector, is divided evenly among the groups.

    Source: wav2vec 2.0, arXiv 2006.11477, section 2 (quantization module) and equation 1; initial values as fairseq.
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
        """Quantise `(frames, channels)`: a random draw in training, the likeliest entries in evaluation.

        The temperature affects only the gradient. The generator, on the device of the features, gives the Gumbel noise.
        """
        with torch.autocast(features.device.type, enabled=False):
            logits = nn.functional.linear(features.float(), self.project.weight.float(), self.project.bias.float())
            logits = logits.unflatten(-1, (self.groups, self.entries))
            noisy = logits + gumbel_noise(logits, generator) if self.training else logits
            codes = noisy.argmax(-1)
            choice = nn.functional.one_hot(codes, self.entries).float()
            if self.training:
                soft = (noisy / temperature).softmax(-1)
                choice = choice + (soft - soft.detach())  # adds exactly 0, so that equal codes give equal vectors
            codebooks = self.codevectors.float().view(self.groups, self.entries, -1)
            vectors = torch.einsum("nge,ged->ngd", choice, codebooks).flatten(1)
            return Quantised(vectors, codes, logits.softmax(-1).mean(0))


def gumbel_noise(like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Standard Gumbel noise with the shape, dtype and device of `like`: minus the logarithm of exponential noise."""
    exponential = torch.empty_like(like).exponential_(generator=generator)
    return -exponential.clamp(min=torch.finfo(like.dtype).tiny).log()  # a draw of 0 would make the softmax NaN


def code_perplexity(probabilities: Tensor) -> Tensor:
    """Effective number of codes in use: the sum over groups of exp(entropy), from `(groups, entries)`."""
    # torch.special.entr would have an infinite gradient where a probability has underflowed.
    logarithms = probabilities.clamp(min=torch.finfo(probabilities.dtype).tiny).log()
    return (-(probabilities * logarithms).sum(-1)).exp().sum()


def diversity_loss(probabilities: Tensor) -> Tensor:
    """Share of unused codes: `(G V - perplexity) / (G V)`, from probabilities `(groups, entries)`; 0 for uniform use.

    wav2vec 2.0, arXiv 2006.11477, equation 4, prints the entropy itself; this is the formula of fairseq.
    """
    return 1 - code_perplexity(probabilities) / probabilities.numel()
