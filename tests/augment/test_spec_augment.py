"""SpecAugment: warps as torch interpolates, masks as wide and where the protocol says."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from wavlm_lightning.augment.spec_augment import SpecAugment, time_warp


def interpolated(row: torch.Tensor, center: int, moved: int) -> torch.Tensor:
    """The two parts of `(frames, dim)`, each resized by torch's two-dimensional cubic interpolation."""
    if moved == 0:
        return row
    parts = [(row[:center], moved), (row[center:], len(row) - moved)]
    sizes = [(part[None, None], (size, row.shape[1])) for part, size in parts]
    return torch.cat([nn.functional.interpolate(p, s, mode="bicubic", align_corners=False)[0, 0] for p, s in sizes])


def test_warp_is_cubic_interpolation_of_both_parts():
    torch.manual_seed(0)
    lengths = torch.tensor([60, 11, 12, 37, 10, 1, 60])
    features = torch.randn(7, 60, 9)
    center, moved = SpecAugment().draw_warp(lengths)
    assert (moved != center).any()
    warped = time_warp(features, lengths, center, moved)
    for row, length in enumerate(lengths):
        wanted = interpolated(features[row, :length], int(center[row]), int(moved[row]))
        assert torch.allclose(warped[row, :length], wanted, atol=1e-5)
        assert not warped[row, length:].any()


def test_warp_of_a_point_that_stays_changes_nothing():
    features = torch.randn(2, 30, 4)
    lengths, point = torch.tensor([30, 22]), torch.tensor([7, 12])
    warped = time_warp(features, lengths, point, point)
    assert torch.equal(warped[0], features[0]) and torch.equal(warped[1, :22], features[1, :22])


def test_draws_of_the_warp_fill_their_ranges():
    torch.manual_seed(0)
    center, moved = SpecAugment(warp=5).draw_warp(torch.full((5000,), 23))
    assert torch.bincount(center).nonzero().flatten().tolist() == list(range(5, 18))
    assert torch.bincount(moved - center + 4).nonzero().flatten().tolist() == list(range(10))  # -4 to 5
    counts = torch.bincount(center)[5:]
    assert counts.min() > 300 and counts.max() < 470  # 5000 / 13 = 385, standard deviation 19
    center, moved = SpecAugment(warp=5).draw_warp(torch.tensor([10, 3]))
    assert not center.any() and not moved.any()


@pytest.mark.parametrize(("own", "last_start"), [(False, 60), (True, 90)])
def test_one_mask_is_narrow_enough_and_lies_within_the_room(own, last_start):
    """A hundred places, widths 0 to 40: starts go to 60 with the batch's widest mask, to 100 less its own width else."""
    torch.manual_seed(0)
    mask = SpecAugment.draw_masks(1, 41, 120, torch.full((20000,), 100), own)
    widths = mask.sum(1)
    assert widths.min() == 0 and widths.max() == 40
    assert widths.float().mean().item() == pytest.approx(20, abs=0.3)
    some = mask[widths > 0].int()
    starts = some.argmax(1)
    assert (some.diff(dim=1) != 0).sum(1).max() == 2  # one run
    assert not mask[:, 100:].any()
    narrow = starts[some.sum(1) <= 10]
    assert narrow.min() == 0 and (narrow.max() >= last_start if own else narrow.max() == last_start - 1)


def test_short_utterances_are_masked_less_unless_masks_lie_in_their_own_length():
    lengths = torch.tensor([400, 80])
    features = torch.ones(2, 400, 8)

    def share(own: bool) -> list[float]:
        torch.manual_seed(0)
        augment = SpecAugment(feature_masks=0, own_length=own)
        total = torch.zeros(2)
        for _ in range(300):
            masked = augment(features, lengths)[..., 0] == 0
            total += torch.stack([masked[0].float().mean(), masked[1, :80].float().mean()])
        return (total / 300).tolist()

    # Two masks of 19.5 frames on average: a tenth of 400 frames; of 80, as much by padded length, but 40 % by its own.
    padded, own = share(False), share(True)
    assert padded[0] == pytest.approx(0.095, abs=0.02) and padded[1] < 0.15
    assert own[0] == pytest.approx(0.095, abs=0.02) and own[1] == pytest.approx(0.42, abs=0.05)


def test_masks_take_whole_bands_and_whole_frames():
    torch.manual_seed(3)
    result = SpecAugment()(torch.rand(3, 200, 300) + 9, torch.tensor([200, 150, 90]))
    for row, length in zip(result, (200, 150, 90), strict=True):
        zero = row[:length] == 0
        bands, stretches = zero.all(0), zero.all(1)
        assert torch.equal(zero, bands[None] | stretches[:, None])
        assert 0 < bands.sum() <= 4 * 49 and stretches.sum() <= 2 * 39
        assert (bands.int().diff() != 0).sum() <= 8 and (stretches.int().diff() != 0).sum() <= 4
        assert not row[length:].any()


def test_the_seed_decides_and_evaluation_changes_nothing():
    augment = SpecAugment()
    features, lengths = torch.randn(2, 50, 60), torch.tensor([50, 31])

    def draw(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return augment(features, lengths)

    assert torch.equal(draw(1), draw(1)) and not torch.equal(draw(1), draw(2))
    assert augment.eval()(features, lengths) is features


def test_gradients_reach_what_is_not_masked():
    torch.manual_seed(0)
    features = torch.randn(2, 80, 120, requires_grad=True)
    result = SpecAugment()(features, torch.tensor([80, 40]))
    result.sum().backward()
    assert features.grad.isfinite().all()
    assert not features.grad[1, 40:].any()
    # Interpolation weights of an output frame sum to 1, so gradients add up to the frames and bands that are left.
    assert features.grad.sum().item() == pytest.approx((result != 0).sum().item(), rel=1e-4)
