"""Utterance mixing (WavLM): a segment of another utterance, or of noise, is added to some utterances of a batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from wavlm_lightning.system.errors import UserError


@dataclass(frozen=True)
class UtteranceMixing:
    """Utterance and noise mixing (WavLM, arXiv 2110.13900, section III-B, algorithm 1).

    Each row is a primary with probability `probability`. Its secondary is another row, or with probability
    `noise_probability` a noise clip. A segment of at most half the crop is taken from a random place of the secondary
    and added at a random place of the primary, scaled to a ratio of energies over the *full* waveforms. Labels stay
    those of the clean primary. Secondaries are read from the clean batch (the authors' code reads rows that may
    already be mixed; the paper's algorithm does not).

    Args:
        probability: share of rows that are mixed.
        noise_probability: share of the mixed rows whose secondary is noise: 0 for WavLM Base, 0.1 for Base+ and Large.
        speech_ratio: range of the energy ratio of primary to secondary in dB, for speech.
        noise_ratio: the same for noise.
        longest: the longest segment as a share of the crop; at most one half keeps the primary identifiable.
        allow_self: whether a row may be its own secondary, as in the authors' code.

    Example:
        >>> UtteranceMixing()(torch.randn(8, 40000)).shape
        torch.Size([8, 40000])
    """

    probability: float = 0.2
    noise_probability: float = 0.0
    speech_ratio: tuple[float, float] = (-5.0, 5.0)
    noise_ratio: tuple[float, float] = (-5.0, 20.0)
    longest: float = 0.5
    allow_self: bool = True

    # What `MoveValue` may move: read in every step. Noise needs a corpus, which is opened when the run begins.
    moves: ClassVar[tuple[str, ...]] = ("probability", "longest")

    def __post_init__(self) -> None:
        if not (0 <= self.probability <= 1 and 0 <= self.noise_probability <= 1):
            raise UserError(
                f"mixing: probability and noise_probability must lie between 0 and 1, not {self.probability:g} and "
                f"{self.noise_probability:g}"
            )
        if not 0 < self.longest <= 0.5:
            raise UserError(
                f"mixing: longest must be above 0 and at most 0.5, not {self.longest:g}; with more than half of the crop the "
                "secondary could dominate"
            )

    def __call__(
        self,
        audio: Tensor,
        noise: Tensor | None = None,
        noise_lengths: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Mix a batch of crops.

        Args:
            audio: clean crops of one length, float32 `(batch, samples)`.
            noise: noise clips, float32 `(clips, samples)`, zeros after their end; None or no rows: speech only.
            noise_lengths: samples of each clip, int64 `(clips,)`.
            generator: random generator on the device of `audio`; None for the global one.

        Returns:
            float32 `(batch, samples)`, a new tensor.
        """
        batch, samples = audio.shape
        device = audio.device

        def uniform(low: float = 0.0, high: float = 1.0) -> Tensor:
            return low + (high - low) * torch.rand(batch, device=device, generator=generator)

        # All numbers are drawn for all rows, used or not: no branch on data, so no wait for the GPU.
        primary = uniform() < self.probability
        pick, is_noise = uniform(), uniform() < self.noise_probability
        speech_db, noise_db = uniform(*self.speech_ratio), uniform(*self.noise_ratio)
        length_draw, primary_draw, secondary_draw = uniform(), uniform(), uniform()
        if self.allow_self:
            partner = (pick * batch).long().clamp(max=batch - 1)
        else:
            shift = 1 + (pick * (batch - 1)).long().clamp(max=max(batch - 2, 0))
            partner = (torch.arange(batch, device=device) + shift) % batch
            primary = primary & (partner != torch.arange(batch, device=device))
        secondary = audio[partner]
        secondary_length = torch.full((batch,), samples, device=device)
        if noise is not None and noise_lengths is not None and len(noise):
            clip = (pick * len(noise)).long().clamp(max=len(noise) - 1)
            secondary = torch.where(is_noise[:, None], noise[clip], secondary)
            secondary_length = torch.where(is_noise, noise_lengths[clip], secondary_length)
            ratio = torch.where(is_noise, noise_db, speech_db)
        else:
            ratio = speech_db
        # The length is uniform on {0, ..., longest * samples}, capped by the length of the clip.
        length = (length_draw * (int(samples * self.longest) + 1)).long().minimum(secondary_length)
        begin = (primary_draw * (samples - length + 1)).long()
        secondary_begin = (secondary_draw * (secondary_length - length + 1)).long()
        energy = audio.square().mean(1)
        secondary_energy = secondary.square().sum(1) / secondary_length.clamp(min=1)
        audible = primary & (secondary_energy > 0)
        scale = (energy / (10 ** (ratio / 10) * secondary_energy.clamp(min=1e-20))).sqrt() * audible
        offset = torch.arange(samples, device=device)[None] - begin[:, None]
        inside = (offset >= 0) & (offset < length[:, None])
        source = (secondary_begin[:, None] + offset).clamp(0, samples - 1)
        return audio + scale[:, None] * inside * secondary.gather(1, source)
