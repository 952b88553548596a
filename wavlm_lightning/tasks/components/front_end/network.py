"""The contract of an enhancement network, and the level at which it hears."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from wavlm_lightning.encoder import padding_mask

QUIETEST = 1e-5  # root mean square, of full scale, below which a waveform is not made louder for the network


class FrontEnd(nn.Module, ABC):
    """A network that removes noise: from waveforms to waveforms, sample by sample. A subclass has one method, `cleaned`.

    Attributes:
        random: whether its weights are random at the start, so that it removes nothing before it is trained.
    """

    random: bool = False

    @abstractmethod
    def cleaned(self, waveforms: Tensor, lengths: Tensor) -> Tensor:
        """Clean waveforms `(batch, samples)` of noisy ones of root mean square 1, which are zero behind `lengths` `(batch,)`.

        The answer for an utterance depends on neither padding nor other rows.
        """

    def forward(self, waveforms: Tensor, lengths: Tensor) -> Tensor:
        """Clean waveforms `(batch, samples)`, zeros in the padding; a change of the level changes that of the answer alike."""
        waveforms = waveforms.float()
        padded = padding_mask(lengths, waveforms.shape[1])
        waveforms = waveforms.masked_fill(padded, 0.0)
        level = (waveforms.square().sum(1) / lengths).sqrt().clamp(min=QUIETEST)[:, None]
        return (self.cleaned(waveforms / level, lengths).float() * level).masked_fill(padded, 0.0)
