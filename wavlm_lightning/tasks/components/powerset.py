"""Powerset classes: who speaks at a frame as one of several sets of speakers, and the order of speakers that fits best.

One class a frame instead of one decision a speaker, so that overlap is a class of its own and no threshold is needed (Plaquet
and Bredin, Interspeech 2023; pyannote's `segmentation-3.0` publishes the order of its seven classes).
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from wavlm_lightning.system.errors import UserError


class Powerset(nn.Module):
    """The sets of at most `overlapping` of `speakers` speakers, as classes of a frame.

    Class 0 is silence, then come the single speakers, then pairs and so on, each in lexicographic order: with three speakers
    of whom two overlap {}, {0}, {1}, {2}, {0, 1}, {0, 2}, {1, 2}. The table moves with the module that holds it and is in no
    checkpoint.

    Args:
        speakers: most speakers of a stretch.
        overlapping: most speakers of a frame.

    Raises:
        UserError: fewer than one speaker, or `overlapping` beyond 1 to `speakers`.

    Example:
        >>> Powerset(3, 2).sets
        ((), (0,), (1,), (2,), (0, 1), (0, 2), (1, 2))
    """

    mapping: Tensor

    def __init__(self, speakers: int, overlapping: int) -> None:
        super().__init__()
        if not 1 <= overlapping <= speakers:
            raise UserError(
                f"{speakers} speakers of whom {overlapping} overlap: the second number must be between 1 and the first"
            )
        self.speakers, self.overlapping = speakers, overlapping
        self.sets = tuple(chosen for size in range(overlapping + 1) for chosen in combinations(range(speakers), size))
        mapping = torch.zeros(len(self.sets), speakers)
        for row, chosen in enumerate(self.sets):
            mapping[row, list(chosen)] = 1
        self.register_buffer("mapping", mapping, persistent=False)

    def __len__(self) -> int:
        """Number of classes."""
        return len(self.sets)

    def classes(self, activity: Tensor) -> Tensor:
        """The class of each frame, int64 `(..., frames)`, from activities of 0 and 1 `(..., frames, speakers)`.

        Where more than `overlapping` speak, it is the first class with most of them, so that the speakers of the highest
        columns are lost, as in pyannote.
        """
        # A class that holds all who speak and others comes later than the one without the others; `argmax` takes the first.
        return (activity.to(self.mapping) @ self.mapping.T).argmax(-1)

    def activity(self, scores: Tensor) -> Tensor:
        """Who speaks by the best class, float32 0 and 1 `(..., frames, speakers)`; scores `(..., frames, classes)`."""
        return self.mapping[scores.argmax(-1)]

    def talking(self, log_probabilities: Tensor) -> Tensor:
        """The probability of each number of speakers, `(..., frames, overlapping + 1)`; 1 minus the first is that of speech.

        Args:
            log_probabilities: `(..., frames, classes)`, log-softmax of the scores.
        """
        sizes = nn.functional.one_hot(self.mapping.sum(1).long(), self.overlapping + 1)
        return _product(log_probabilities.exp(), sizes)

    def speech(self, log_probabilities: Tensor) -> Tensor:
        """The probability that anybody speaks, `(..., frames)`."""
        return 1 - self.talking(log_probabilities)[..., 0]

    def overlap(self, log_probabilities: Tensor) -> Tensor:
        """The probability that two or more speak, `(..., frames)`."""
        return self.talking(log_probabilities)[..., 2:].sum(-1)

    def per_speaker(self, log_probabilities: Tensor) -> Tensor:
        """The probability that each speaker speaks, `(..., frames, speakers)`: the sum over the classes that hold the speaker."""
        return _product(log_probabilities.exp(), self.mapping)


def _product(one: Tensor, other: Tensor) -> Tensor:
    """The matrix product in fp32, also under autocast: probabilities would be rounded to ties, and counts to even numbers."""
    with torch.autocast(one.device.type, enabled=False):
        one = one.to(torch.promote_types(one.dtype, torch.float32))
        return one @ other.to(one)


def best_orders(activity: Tensor, reference: Tensor, valid: Tensor) -> Tensor:
    """The column of the reference for each column of the activity so that most decisions agree, int64 `(batch, speakers)`.

    The Hungarian algorithm finds it in each recording; among equals it takes the one that SciPy's `linear_sum_assignment` does.

    Args:
        activity: 0 and 1, `(batch, frames, speakers)`.
        reference: 0 and 1, of the same shape.
        valid: frames that count, bool `(batch, frames)`.
    """
    mine, theirs = (each.float() * valid[:, :, None] for each in (activity, reference))
    # The frames at which the activity of x and y differs are x + y - 2 x y.
    costs = mine.sum(1)[:, :, None] + theirs.sum(1)[:, None] - 2 * _product(mine.transpose(1, 2), theirs)
    orders = [linear_sum_assignment(each)[1] for each in costs.detach().cpu().numpy()]
    return torch.as_tensor(np.array(orders), device=activity.device).reshape(len(activity), activity.shape[2])


def ordered(reference: Tensor, orders: Tensor) -> Tensor:
    """The reference `(batch, frames, speakers)` with its columns in the orders `(batch, speakers)` of `best_orders`."""
    return reference.gather(2, orders[:, None].expand(-1, reference.shape[1], -1))


def most_talkative(activity: Tensor, speakers: int) -> Tensor:
    """The columns of those who speak longest, `(..., frames, speakers)`, in their old order; silence where there are fewer.

    Args:
        activity: 0 and 1, `(..., frames, all speakers)`.
        speakers: number of columns of the result.
    """
    ranked = torch.argsort(activity.sum(-2), dim=-1, descending=True, stable=True)
    kept = ranked[..., :speakers].sort(-1).values
    found = activity.gather(-1, kept[..., None, :].expand(*activity.shape[:-1], kept.shape[-1]))
    return nn.functional.pad(found, (0, speakers - found.shape[-1]))
