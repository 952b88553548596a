"""Time of CTC over the masked regions of a batch of Base (87.5 s), beside frame cross-entropy and a call for each region.

OMP_NUM_THREADS=1 python experiments/objectives/ctc_speed.py
"""

import itertools
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from wavlm_lightning.augment.span_masking import SpanMasking
from wavlm_lightning.pretraining.objectives.masked_ctc import region_losses

FRAMES, ROWS, ROUNDS = 781, 6, 5


def one_by_one(logits: Tensor, labels: Tensor, first: Tensor, blank: int) -> Tensor:
    """The same loss by a call for each region."""
    log_probabilities, total = logits.log_softmax(1), logits.new_zeros(())
    bounds = [*first.nonzero()[:, 0].tolist(), len(labels)]
    for begin, end in itertools.pairwise(bounds):
        target = labels[begin:end].unique_consecutive()[None]
        lengths = torch.tensor([end - begin]), torch.tensor([target.shape[1]])
        frames = log_probabilities[begin:end, None]
        total = total + nn.functional.ctc_loss(frames, target, *lengths, blank=blank, reduction="sum")
    return total


def milliseconds(loss: Callable[[], Tensor]) -> float:
    """The shortest of some forward and backward passes."""
    taken = []
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        loss().backward()
        taken.append(time.perf_counter() - begin)
    return 1e3 * min(taken)


def main() -> None:
    """Print a row for each number of classes."""
    generator = torch.Generator().manual_seed(0)
    mask = SpanMasking(equalise=False)(torch.full((ROWS,), FRAMES), FRAMES, generator)
    first = (mask & ~nn.functional.pad(mask, (1, 0))[:, :-1])[mask]
    print(f"{int(mask.sum())} masked frames, {int(first.sum())} regions; milliseconds")
    print("| classes | cross-entropy | CTC, all regions at once | CTC, one by one |\n|---|---|---|---|")
    for classes in (105, 505):
        drawn = torch.randint(classes - 1, (ROWS, FRAMES // 4 + 1), generator=generator)
        labels = drawn.repeat_interleave(4, 1)[:, :FRAMES][mask]
        logits = torch.randn(len(labels), classes, generator=generator).requires_grad_()
        blank = classes - 1
        passes = (
            milliseconds(lambda: nn.functional.cross_entropy(logits, labels)),  # noqa: B023 - called at once
            milliseconds(lambda: region_losses(logits, labels, first, blank).sum()),  # noqa: B023
            milliseconds(lambda: one_by_one(logits, labels, first, blank)),  # noqa: B023
        )
        print(f"| {classes} | " + " | ".join(f"{each:.0f}" for each in passes) + " |")


if __name__ == "__main__":
    main()
