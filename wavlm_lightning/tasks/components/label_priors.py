"""Label priors in the CTC loss: fewer blanks, so that labels last as long as their sounds (arXiv 2406.02560)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from wavlm_lightning.data.batch import Targets
from wavlm_lightning.encoder import padding_mask
from wavlm_lightning.system.errors import UserError

FLOOR = -12.0  # of a log-prior, as in the code of the paper's authors


class LabelPriors:
    """The mean posterior of each label over all training frames of the previous epoch; none in the first epoch of a run.

    Args:
        strength: factor of the log-priors that are subtracted from the log-probabilities inside the loss; 0 for plain CTC.
    """

    def __init__(self, strength: float) -> None:
        if not (math.isfinite(strength) and strength >= 0):
            raise UserError(f"model.label_priors: {strength}; give 0 for none, or a factor such as 0.35")
        self.strength = strength
        self.log: Tensor | None = None  # log-priors of this epoch, float64 `(labels,)`
        self._epoch, self._frames = 0, 0.0
        self._sum: Tensor | None = None  # of the posteriors of this epoch, float64 `(labels,)`

    def of_epoch(self, epoch: int) -> Tensor | None:
        """The log-priors, `(labels,)`, from what was added in the epoch before; None in the first."""
        if epoch != self._epoch and self._sum is not None:
            self.log = (self._sum / max(self._frames, 1.0)).log().clamp(min=FLOOR)
            self._sum, self._frames = None, 0.0
        self._epoch = epoch
        return self.log

    def add(self, total: Tensor, frames: float) -> None:
        """Add the sum of the posteriors `(labels,)` of so many frames of all processes."""
        self._sum = total if self._sum is None else self._sum + total.to(self._sum.device)
        self._frames += frames

    def state(self) -> dict[str, Any]:
        """For a checkpoint, from which a run goes on with the same priors."""
        rows = {name: None if row is None else row.tolist() for name, row in (("log", self.log), ("sum", self._sum))}
        return {"epoch": self._epoch, "frames": self._frames, **rows}

    def load(self, state: dict[str, Any]) -> None:
        """Take up what `state` has given."""
        self._epoch, self._frames = int(state["epoch"]), float(state["frames"])
        self.log, self._sum = (
            None if state[name] is None else torch.tensor(state[name], dtype=torch.float64) for name in ("log", "sum")
        )


def posterior_sums(log_probabilities: Tensor, lengths: Tensor) -> Tensor:
    """Sum of the posteriors of all valid frames, and their number behind it: float64 `(labels + 1,)`.

    Args:
        log_probabilities: `(batch, frames, labels)`.
        lengths: valid frames of each row, int64 `(batch,)`.
    """
    precise = torch.float32 if log_probabilities.device.type == "mps" else torch.float64  # which has no float64
    valid = ~padding_mask(lengths, log_probabilities.shape[1])
    total = (log_probabilities.detach().exp() * valid[..., None]).sum((0, 1), dtype=precise)
    return torch.cat([total, lengths.sum()[None].to(total)])


def ctc_loss_with_priors(
    log_probabilities: Tensor, priors: Tensor, lengths: Tensor, targets: Targets, feasible: Tensor, blank: int
) -> Tensor:
    """CTC loss of each utterance in nats, `(batch,)`, of log-probabilities less weighted log-priors; 0 for those without a path.

    The gradient of `torch.nn.functional.ctc_loss` holds only for rows that sum to one (pytorch#122243): it is exp(l) less the
    share of the paths, where l is its input. Here l does not sum to one, so exp(l) is taken off again.

    Args:
        log_probabilities: `(batch, frames, labels)`.
        priors: what is subtracted, `(labels,)`: the log-priors times their strength.
        lengths: valid frames of each row, int64 `(batch,)`.
        targets: labels of each row.
        feasible: rows with enough frames for their labels, bool `(batch,)`.
        blank: index of the blank.
    """
    scores = log_probabilities - priors.to(log_probabilities)
    losses = nn.functional.ctc_loss(
        scores.transpose(0, 1),
        targets.values,
        lengths,
        targets.lengths,
        blank=blank,
        reduction="none",
        zero_infinity=True,
    )
    counted = ~padding_mask(lengths, scores.shape[1]) & feasible[:, None]
    surplus = (scores.detach().exp() * scores * counted[..., None]).sum((1, 2))
    return losses - (surplus - surplus.detach())  # the value is that of CTC, the gradient is corrected
