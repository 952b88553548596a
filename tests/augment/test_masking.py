"""Span masking against the figures of pretraining.md section 2.2, and its invariants."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wavlm_lightning.pretraining import SpanMasking


def share(masking: SpanMasking, lengths: list[int], draws: int) -> float:
    generator = torch.Generator().manual_seed(0)
    rows = torch.tensor(lengths)
    frames = int(rows.max())
    return sum(masking(rows, frames, generator).float().sum().item() / rows.sum().item() for _ in range(draws)) / draws


@pytest.mark.parametrize(
    ("masking", "lengths", "expected"),
    [
        (SpanMasking(0.8), [780], 0.566),  # a lone utterance of 15.6 s; fairseq's own sampler, run beside it: 0.5656
        (SpanMasking(0.8), [50_000], 1 - 0.92**10),
        (SpanMasking(0.8), [780] * 6, 0.534),  # every row thinned to the smallest count of the batch; fairseq: 0.5343
        (SpanMasking(0.8), [124] * 8, 0.479),  # the tiny recipe's crops; fairseq: 0.4791
        (SpanMasking(0.65), [780], 0.490),  # wav2vec 2.0; fairseq: 0.4897
    ],
)
def test_masked_share(masking, lengths, expected):
    draws = 30 if max(lengths) > 10_000 else 600
    assert share(masking, lengths, draws) == pytest.approx(expected, abs=0.004)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(1, 400), min_size=1, max_size=8), st.integers(0, 2**31), st.sampled_from([0.1, 0.65, 0.8]))
def test_invariants(lengths, seed, probability):
    rows = torch.tensor(lengths)
    mask = SpanMasking(probability)(rows, max(lengths) + 3, torch.Generator().manual_seed(seed))
    beyond = torch.arange(max(lengths) + 3)[None] >= rows[:, None]
    assert not (mask & beyond).any()
    counts = mask.sum(1)
    assert (counts == counts[0]).all()
    assert (counts > 0).all()


def test_spans_have_their_length():
    mask = SpanMasking(0.3, span=10, equalise=False)(torch.tensor([500] * 20), 500, torch.Generator().manual_seed(1))
    for row in mask.int():
        edges = torch.nn.functional.pad(row, (1, 1)).diff()
        runs = torch.nonzero(edges == -1) - torch.nonzero(edges == 1)
        assert runs.min() >= 10  # overlaps make longer runs, nothing makes shorter ones


def test_starts_are_uniform():
    masking, generator = SpanMasking(0.1, span=10, minimum=1, equalise=False), torch.Generator().manual_seed(0)
    seen = torch.zeros(100)
    for _ in range(300):
        seen += masking(torch.full((20,), 100), 100, generator).sum(0)
    middle = seen[15:85]
    assert (middle.max() - middle.min()) / middle.mean() < 0.25
    assert seen[99] == 0  # starts end at T - span - 1, so the last frame is never masked


def test_same_generator_same_mask():
    draw = [SpanMasking()(torch.tensor([200, 150]), 200, torch.Generator().manual_seed(5)) for _ in range(2)]
    assert torch.equal(*draw)
