"""How near copy-synthesis comes to the recording, beside Griffin-Lim."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

from wavlm_lightning.audio import griffin_lim, synthesis_mel
from wavlm_lightning.metrics.enhancement import LEFT_OUT, figure, is_installed
from wavlm_lightning.tasks.components.vocoder.losses import mel_distance

DECIBELS = 20 / math.log(10)  # in a natural logarithm of an amplitude
GRIFFIN_LIM = "griffin_lim/"  # prefix of the measures of Griffin-Lim on the recording's own mel


def mel_error(heard: Tensor, wanted: Tensor, hop: int) -> Tensor:
    """Mean absolute difference of log-mel amplitudes in dB, of two waveforms `(samples,)`."""
    length = torch.tensor([len(wanted)], device=wanted.device)
    return DECIBELS * mel_distance(heard.float()[None], wanted.float()[None], length, hop)[0]


class CopySynthesisMeasures(Metric):
    """Means over utterances, each heard alone: `mel` (see `mel_error`), `stoi` and `pesq`.

    Args:
        names: some of these; those whose package is not installed must be left out.
        hop: samples between the frames of the mel spectrogram.
        compare: measure Griffin-Lim on the mel of the recording as well.
    """

    full_state_update = False
    is_differentiable = False
    sums: Tensor
    counts: Tensor

    def __init__(self, names: Sequence[str], hop: int, compare: bool = False) -> None:
        super().__init__()
        self.names, self.hop, self.compare = list(names), hop, compare
        rows = 1 + compare
        self.add_state("sums", torch.zeros(rows, len(self.names), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("counts", torch.zeros(rows, len(self.names), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("utterances", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, heard: Tensor, wanted: Tensor) -> None:
        """Add an utterance: what the vocoder makes of it, and the recording, `(samples,)` both."""
        answers = [heard.float()]
        if self.compare:
            answers.append(griffin_lim(synthesis_mel(wanted[None], self.hop), self.hop, len(wanted))[0])
        for row, answer in enumerate(answers):
            for column, name in enumerate(self.names):
                value = mel_error(answer, wanted, self.hop) if name == "mel" else figure(name, answer, wanted.float())
                if value is not None:
                    self.sums[row, column] += value.to(self.sums.device)
                    self.counts[row, column] += 1
        self.utterances += 1

    def compute(self) -> dict[str, Tensor]:
        """By name; with `griffin_lim/` before it those of Griffin-Lim, with `left_out/` how many utterances have no figure."""
        means = (self.sums / self.counts).float()
        values = {name: means[0, column] for column, name in enumerate(self.names)}
        if self.compare:
            values |= {f"{GRIFFIN_LIM}{name}": means[1, column] for column, name in enumerate(self.names)}
        missing = self.utterances - self.counts[0]
        return values | {f"{LEFT_OUT}{self.names[n]}": missing[n] for n in missing.nonzero()[:, 0].tolist()}


def measurable(names: Sequence[str]) -> list[str]:
    """Those of `mel`, `stoi` and `pesq` whose package is installed."""
    return [name for name in names if name == "mel" or is_installed(name)]
