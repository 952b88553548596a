"""Products that must stay in fp32 under autocast, in which Lightning runs the steps of `bf16-mixed` and `16-mixed`.

Autocast rounds the operands of every matrix product, also those that `.float()` has just made.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from wavlm_lightning.audio import griffin_lim, synthesis_mel
from wavlm_lightning.encoder import Layers
from wavlm_lightning.tasks.components.conversion.units import FrameUnits
from wavlm_lightning.tasks.components.powerset import Powerset
from wavlm_lightning.tasks.components.vocoder.neighbours import nearest_frames
from wavlm_lightning.tasks.components.xvector import AdditiveMarginSoftmax
from wavlm_lightning.tasks.generation.mask_estimation import _negative_si_sdr
from wavlm_lightning.tasks.search.subsequence_dtw import directions, frame_distances
from wavlm_lightning.tasks.speaker.speaker_diarization import best_permutation
from wavlm_lightning.upstreams import Fbank


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def alike(*shape: int, seed: int = 0) -> Tensor:
    """Frames with a common part, as those of an encoder have: their cosines are about 0.9."""
    return draw(shape[-1], seed=9) + 0.3 * draw(*shape, seed=seed)


def si_sdr_loss() -> Tensor:
    """25 dB, where signal and error differ by a factor of 300."""
    sources = draw(8, 2, 32_000)
    answers = sources + 10 ** (-25 / 20) * draw(8, 2, 32_000, seed=1)
    table = _negative_si_sdr(answers, sources, torch.full((8,), 32_000))
    return table.diagonal(dim1=1, dim2=2)


def permutation_loss() -> Tensor:
    labels = (draw(2, 3000, 2) > 0).float()
    return best_permutation(8 * (2 * labels - 1), labels, torch.tensor([3000, 3000]))[0]


def am_softmax() -> Tensor:
    torch.manual_seed(0)
    return AdditiveMarginSoftmax(64, 10)(alike(16, 64), torch.arange(16) % 10)


def class_sums() -> Tensor:
    powerset, scores = Powerset(3, 2), (4 * draw(1, 500, 7)).log_softmax(2)
    return torch.cat([powerset.per_speaker(scores), powerset.talking(scores)], 2)


def units() -> Tensor:
    found = FrameUnits(0, 50, Fbank(cmvn=False))
    found.means.copy_(alike(50, found.means.shape[1]))
    return found(Layers(alike(1, 2, 300, found.means.shape[1], seed=1), torch.tensor([300, 300]), 100.0))


CASES: dict[str, Callable[[], Tensor]] = {
    "SI-SDR loss": si_sdr_loss,
    "nearest frames": lambda: nearest_frames(alike(200, 64), alike(500, 64, seed=1), 4),
    "distances of frames": lambda: frame_distances(
        directions(alike(1, 20, 64), "cosine_exp"), directions(alike(1, 50, 64, seed=1), "cosine_exp"), "cosine_exp"
    ),
    "additive margin softmax": am_softmax,
    "loss of the best permutation": permutation_loss,
    "sums over powerset classes": class_sums,
    "units of frames": units,
    "Griffin-Lim": lambda: griffin_lim(synthesis_mel(0.1 * draw(1, 8000)), samples=8000, iterations=1),
}


@torch.no_grad()
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_figures_do_not_depend_on_autocast(case: Callable[[], Tensor]) -> None:
    expected = case()
    with torch.autocast("cpu", torch.bfloat16):
        found = case()
    assert found.dtype == expected.dtype and torch.allclose(found, expected, rtol=1e-4, atol=1e-6)
