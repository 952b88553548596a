"""CTC prefix scores: how probable it is that what CTC hears begins with the labels of a hypothesis."""

from __future__ import annotations

import torch
from torch import Tensor

from wavlm_lightning.encoder import padding_mask

NEVER = -float("inf")


class PrefixScores:
    """Log-probabilities of all label sequences that begin with a hypothesis (Graves 2012, section 7.5; arXiv 1609.06773).

    Of each hypothesis it keeps, for every number of frames, the log-probability of its labels with the alignments that end in
    a blank, and with those that end in its last label, as `prefix_search` does frame by frame. Recursions over frames are
    cumulative sums, in double precision, for all hypotheses of a batch at once.

    Args:
        logits: of CTC, `(batch, frames, labels)`.
        lengths: valid frames, `(batch,)`.
        end: number of the end symbol, whose score is that of the hypothesis as the whole answer.
        blank: number of the blank.
    """

    def __init__(self, logits: Tensor, lengths: Tensor, end: int, blank: int = 0) -> None:
        # Apple's GPUs have no double precision.
        precise = torch.float32 if logits.device.type == "mps" else torch.float64
        found = logits.detach().to(precise).log_softmax(-1)
        self.lengths, self.end = lengths, end
        self.labels = found.transpose(1, 2)  # (batch, labels, frames)
        self.blanks = self.labels[:, blank].cumsum(1)[:, None]  # (batch, 1, frames): blanks alone up to here
        self.padding = padding_mask(lengths, found.shape[1])[:, None]
        start = self.blanks.new_zeros(len(found), 1, 1)
        # Of the hypotheses `(batch, hypotheses, 1 + frames)`, at first one without labels; place 0 is before the first frame.
        self.blanked = torch.cat([start, self.blanks], 2)
        self.ended = torch.full_like(self.blanked, NEVER)
        self.last = torch.full((len(found), 1), -1, device=logits.device)

    def _before(self, blanked: Tensor, ended: Tensor, last: Tensor, label: Tensor) -> Tensor:
        """Log-probability of a hypothesis before each frame in which another label begins, `(..., frames)`.

        A label that is the last once more needs a blank between.
        """
        both = torch.logaddexp(blanked, ended)
        return torch.where((label == last)[..., None], blanked, both)[..., :-1]

    def scores(self, candidates: Tensor) -> Tensor:
        """The score of each hypothesis with one more label, `(batch, hypotheses, candidates)` of the same shape."""
        before = self._before(
            self.blanked[:, :, None], self.ended[:, :, None], self.last[:, :, None], candidates
        )  # (batch, hypotheses, candidates, frames)
        rows = torch.arange(len(candidates), device=candidates.device)[:, None, None]
        begun = (before + self.labels[rows, candidates]).masked_fill(self.padding[:, None], NEVER).logsumexp(-1)
        at_end = self.lengths[:, None, None].expand(-1, self.blanked.shape[1], 1)
        whole = torch.logaddexp(self.blanked.gather(2, at_end), self.ended.gather(2, at_end))
        return torch.where(candidates == self.end, whole, begun)

    def advance(self, hypotheses: Tensor, labels: Tensor) -> None:
        """Go on with these `hypotheses`, each with one more of the `labels`, int64 `(batch, kept)`."""
        rows = torch.arange(len(labels), device=labels.device)[:, None]
        blanked, ended, last = self.blanked[rows, hypotheses], self.ended[rows, hypotheses], self.last[rows, hypotheses]
        before = self._before(blanked, ended, last, labels)
        held = self.labels[rows, labels].cumsum(2)  # the label alone up to each frame
        # The label begins at some frame and is held: the sum over where it begins.
        grown = held + (before - _shifted(held)).logcumsumexp(2)
        never = torch.full_like(grown[..., :1], NEVER)
        self.ended = torch.cat([never, grown], 2)
        # Blanks follow from some frame on.
        silent = self.blanks + (self.ended[..., :-1] - _shifted(self.blanks)).logcumsumexp(2)
        self.blanked = torch.cat([never, silent], 2)
        self.last = labels

    def keep(self, utterances: Tensor) -> None:
        """Go on with some utterances of the batch, by their rows."""
        self.lengths, self.labels, self.blanks = (
            self.lengths[utterances],
            self.labels[utterances],
            self.blanks[utterances],
        )
        self.padding, self.last = self.padding[utterances], self.last[utterances]
        self.blanked, self.ended = self.blanked[utterances], self.ended[utterances]


def _shifted(cumulated: Tensor) -> Tensor:
    """Cumulative sums up to the frame before."""
    return torch.cat([torch.zeros_like(cumulated[..., :1]), cumulated[..., :-1]], -1)
