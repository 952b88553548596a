"""The conversion network of SUPERB-SG: a recurrent encoder, and a decoder that hears its previous log-mel frame."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wavlm_lightning.audio import MEL_BINS
from wavlm_lightning.encoder import padding_mask
from wavlm_lightning.tasks.components.ecapa import batch_norm
from wavlm_lightning.tasks.components.recurrent import run_both_ways

PRENET = 256
DROPOUT = 0.5  # of convolutions and prenet
CELL_DROPOUT = 0.2
KERNEL = 5


class AnyToOneNetwork(nn.Module):
    """Features to log-mel frames of one voice, frame by frame.

    Linear(dim, hidden), three convolutions over 5 frames with batch norm, a bidirectional LSTM of `hidden` cells in each
    direction; for each frame two LSTMs of `2 * hidden` cells, each followed by a linear layer and tanh, read the encoder's frame
    and the previous answer, which passes a prenet of two layers of 256 (SUPERB-SG, s3prl's `a2o-vc-vcc2020`; Tacotron 2's encoder
    and prenet). With the 768 features of a Base encoder and `hidden` 512 it has 28.6 million parameters.

    Args:
        dim: of the features.
        hidden: 512 in SUPERB-SG.
        noisy: the prenet drops half of its values also when the answer is generated, as in SUPERB-SG; the same ones in every
            recording, so that an answer is always the same.
    """

    def __init__(self, dim: int, hidden: int = 512, noisy: bool = True) -> None:
        super().__init__()
        self.noisy, cells = noisy, 2 * hidden
        self.projector = nn.Linear(dim, hidden)
        self.convolutions = nn.ModuleList(
            nn.Conv1d(hidden, hidden, KERNEL, padding=KERNEL // 2, bias=False) for _ in range(3)
        )
        self.norms = nn.ModuleList(nn.BatchNorm1d(hidden) for _ in range(3))
        self.dropout = nn.Dropout(DROPOUT)
        self.recurrent = nn.LSTM(hidden, hidden, batch_first=True, bidirectional=True)
        self.prenet = nn.ModuleList([nn.Linear(MEL_BINS, PRENET), nn.Linear(PRENET, PRENET)])
        self.cells = nn.ModuleList(
            [nn.LSTM(PRENET + cells, cells, batch_first=True), nn.LSTM(cells, cells, batch_first=True)]
        )
        self.cell_dropout = nn.Dropout(CELL_DROPOUT)
        self.projections = nn.ModuleList(nn.Linear(cells, cells) for _ in range(2))
        self.frame = nn.Linear(cells, MEL_BINS)

    def encoded(self, features: Tensor, lengths: Tensor) -> Tensor:
        """`(batch, frames, 2 * hidden)` of features `(batch, frames, dim)` and valid frames `(batch,)`."""
        there = ~padding_mask(lengths, features.shape[1])[:, None]
        hidden = self.projector(features).transpose(1, 2)
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            hidden = self.dropout(batch_norm(norm, convolution(hidden * there), there).relu())
        return run_both_ways(self.recurrent, hidden.transpose(1, 2).contiguous(), lengths)

    def forward(self, features: Tensor, lengths: Tensor, wanted: Tensor) -> Tensor:
        """Scaled log-mel frames, `(batch, frames, 80)`, each after the true previous one (teacher forcing).

        Args:
            features: `(batch, frames, dim)`.
            lengths: valid frames, int64 `(batch,)`.
            wanted: the true scaled frames, `(batch, frames, 80)`.
        """
        hidden = nn.functional.pad(wanted, (0, 0, 1, 0))[:, :-1]
        for layer in self.prenet:
            hidden = nn.functional.dropout(layer(hidden).relu(), DROPOUT, self.training)
        hidden = torch.cat([hidden, self.encoded(features, lengths)], 2)
        for cells, projection in zip(self.cells, self.projections, strict=True):
            hidden = projection(self.cell_dropout(cells(hidden)[0])).tanh()
        return self.frame(hidden)

    @torch.no_grad()
    def generated(self, features: Tensor, lengths: Tensor) -> Tensor:
        """The same in eval mode, each frame after the previous answer; frames behind the end of a row mean nothing."""
        encoded = self.encoded(features, lengths)
        batch, frames, _ = encoded.shape
        masks = self._masks(frames).to(encoded)
        states: list[tuple[Tensor, Tensor] | None] = [None, None]
        answer, answers = encoded.new_zeros(batch, 1, MEL_BINS), []
        for frame in range(frames):
            hidden = answer
            for layer, mask in zip(self.prenet, masks[frame], strict=True):
                hidden = layer(hidden).relu() * mask
            hidden = torch.cat([hidden, encoded[:, frame : frame + 1]], 2)
            for number, (cells, projection) in enumerate(zip(self.cells, self.projections, strict=True)):
                hidden, states[number] = cells(hidden, states[number])
                hidden = projection(hidden).tanh()
            answer = self.frame(hidden)
            answers.append(answer)
        return torch.cat(answers, 1)

    def _masks(self, frames: int) -> Tensor:
        """What the prenet's values are multiplied by, `(frames, 2, 256)`; the first frames' do not depend on `frames`."""
        if not self.noisy:
            return torch.ones(frames, 2, PRENET)
        generator = torch.Generator().manual_seed(0)
        return (torch.rand(frames, 2, PRENET, generator=generator) >= DROPOUT) / (1 - DROPOUT)
