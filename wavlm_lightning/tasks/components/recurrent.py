"""The recurrent CTC head of ASR, OOD-ASR and SF: a projection and bidirectional LSTMs with a logit for every label."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence


class RecurrentHead(nn.Module):
    """Linear(dim, hidden), bidirectional LSTMs of `hidden` cells in each direction, Linear(2 hidden, labels).

    Each direction ends where its row ends, so padding changes nothing. Frames keep the upstream's rate.

    Source: s3prl `downstream/asr/model.py::RNNs`, with the values of `downstream/asr/config.yaml`.

    Args:
        dim: of the features.
        labels: number of outputs.
        hidden: width of the projection, and cells in each direction; 1024 in SUPERB.
        layers: stacked LSTMs; 2 in SUPERB.
        dropout: after each LSTM; 0.2 in SUPERB.
        tanh_layers: follow each LSTM by Linear(2 hidden, 2 hidden) and tanh, as SUPERB-SG's OOD-ASR does.

    Example:
        >>> RecurrentHead(768, 32)(torch.randn(2, 100, 768), torch.tensor([100, 60])).shape
        torch.Size([2, 100, 32])
    """

    def __init__(
        self,
        dim: int,
        labels: int,
        hidden: int = 1024,
        layers: int = 2,
        dropout: float = 0.2,
        tanh_layers: bool = False,
    ) -> None:
        super().__init__()
        self.projector = nn.Linear(dim, hidden)
        # One LSTM with several layers would omit the dropout after its last layer.
        self.recurrent = nn.ModuleList(
            nn.LSTM(hidden if layer == 0 else 2 * hidden, hidden, batch_first=True, bidirectional=True)
            for layer in range(layers)
        )
        self.dropout = nn.Dropout(dropout)
        width = 2 * hidden
        between = [
            nn.Sequential(nn.Linear(width, width), nn.Tanh()) if tanh_layers else nn.Identity() for _ in range(layers)
        ]
        self.between = nn.ModuleList(between)
        self.classifier = nn.Linear(2 * hidden, labels)

    def forward(self, features: Tensor, lengths: Tensor, scale: Tensor | None = None) -> Tensor:
        """Logits `(batch, frames, labels)`; behind the end of a row they are constant.

        From features `(batch, frames, dim)` and valid frames, int64 `(batch,)`, at least 1. `scale` `(batch, hidden)` multiplies
        the projected features of every frame, such as by the vector of a speaker.
        """
        hidden = self.projector(features)
        if scale is not None:
            hidden = hidden * scale[:, None]
        for recurrent, between in zip(self.recurrent, self.between, strict=True):
            hidden = between(self.dropout(run_both_ways(recurrent, hidden, lengths)))
        return self.classifier(hidden)


def run_both_ways(recurrent: nn.LSTM, features: Tensor, lengths: Tensor) -> Tensor:
    """A bidirectional LSTM of one layer by the faster of `run_reversed` (CPU) and `run_packed`, which see below."""
    run = run_reversed if features.device.type == "cpu" else run_packed
    return run(recurrent, features, lengths)


def run_packed(recurrent: nn.LSTM, features: Tensor, lengths: Tensor) -> Tensor:
    """A bidirectional `batch_first` LSTM of one layer over features `(batch, frames, dim)` with `lengths` valid frames.

    Returns `(batch, frames, 2 cells)`, zeros behind the end of a row.
    """
    packed = pack_padded_sequence(features, lengths.cpu(), batch_first=True, enforce_sorted=False)
    return pad_packed_sequence(recurrent(packed)[0], batch_first=True, total_length=features.shape[1])[0]


def run_reversed(recurrent: nn.LSTM, features: Tensor, lengths: Tensor) -> Tensor:
    """As `run_packed`, three to four times as fast on a CPU, whose fused kernel does not accept packed sequences.

    The forward direction never reads the padding; for the backward direction every row is reversed within its own length.
    """
    frames = torch.arange(features.shape[1], device=features.device)[None, :]
    inside = frames < lengths[:, None]
    mirror = torch.where(inside, lengths[:, None] - 1 - frames, frames)[:, :, None]
    forward = _one_direction(recurrent, features, "")
    turned = features.gather(1, mirror.expand_as(features))
    backward = _one_direction(recurrent, turned, "_reverse")
    backward = backward.gather(1, mirror.expand_as(backward))
    return torch.cat([forward, backward], dim=2) * inside[:, :, None]


def _one_direction(recurrent: nn.LSTM, features: Tensor, direction: str) -> Tensor:
    # `torch.lstm` is what nn.LSTM calls; the module itself cannot run one of its two directions.
    names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    weights = [getattr(recurrent, name + direction) for name in names]
    state = features.new_zeros(1, len(features), recurrent.hidden_size)
    # The arguments are: biases, layers, dropout, training, bidirectional, batch first.
    return torch.lstm(features, (state, state), weights, True, 1, 0.0, recurrent.training, False, True)[0]
