"""Effective rank against numpy's singular values, over batches and at its ends."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from wavlm_lightning.metrics import EffectiveRank


def by_singular_values(frames: np.ndarray) -> float:
    """The definition, from the matrix itself."""
    values = np.linalg.svd(frames - frames.mean(0), compute_uv=False)
    shares = values / values.sum()
    shares = shares[shares > 0]
    return float(np.exp(-(shares * np.log(shares)).sum()))


def measure(*batches: torch.Tensor) -> float:
    rank = EffectiveRank(batches[0].shape[1])
    for batch in batches:
        rank.update(batch)
    return float(rank.compute())


@pytest.mark.parametrize("seed", range(4))
def test_agrees_with_singular_values_over_batches(seed):
    """Frames of unlike scales, off centre, fewer or more than dimensions, in batches of unlike sizes."""
    rng = np.random.default_rng(seed)
    count, dim = int(rng.integers(8, 200)), int(rng.integers(2, 60))
    frames = rng.normal(size=(count, dim)) * rng.exponential(size=dim) + 5 * rng.normal(size=dim)
    frames = frames.astype(np.float32)
    batches = [torch.from_numpy(part) for part in np.array_split(frames, int(rng.integers(1, 6)))]
    assert measure(*batches) == pytest.approx(by_singular_values(frames.astype(np.float64)), rel=1e-5)


def test_half_precision_frames_are_summed_exactly():
    frames = torch.randn(300, 16, generator=torch.Generator().manual_seed(0)).bfloat16()
    assert measure(frames) == pytest.approx(by_singular_values(frames.double().numpy()), rel=1e-6)


def test_a_line_has_rank_one_and_a_plane_at_most_two():
    steps = torch.linspace(-1, 1, 50)[:, None]
    line = steps * torch.randn(1, 20, generator=torch.Generator().manual_seed(0)) + 3
    assert measure(line) == pytest.approx(1.0, abs=1e-3)
    plane = torch.zeros(50, 20)
    plane[:, 4], plane[:, 7] = torch.sin(steps[:, 0] * 3.14159265), torch.cos(steps[:, 0] * 3.14159265)
    assert 1.9 < measure(plane) <= 2.0


def test_frames_that_are_all_the_same_have_rank_zero():
    """Rounding must not be taken for variation, or total collapse would look like full rank."""
    constant = torch.randn(1, 64, generator=torch.Generator().manual_seed(0)) * 10
    assert measure(constant.expand(1000, 64)) == 0
    rounded = constant + 1e-7 * constant * torch.randn(1000, 64, generator=torch.Generator().manual_seed(1))
    assert measure(rounded) == 0


def test_reset_forgets():
    rank = EffectiveRank(8)
    rank.update(torch.randn(100, 8))
    rank.reset()
    frames = torch.randn(40, 8)
    rank.update(frames)
    assert float(rank.compute()) == pytest.approx(by_singular_values(frames.double().numpy()), rel=1e-5)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_frames_that_are_no_numbers_have_no_rank(value):
    frames = torch.randn(50, 4)
    frames[3, 2] = value
    rank = EffectiveRank(4)
    rank.update(frames)
    assert rank.compute() == 0
