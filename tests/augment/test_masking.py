"""Span masking against the figures of pretraining.md section 2.2, and its invariants."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wavlm_lightning.pretraining import SpanMasking
from wavlm_lightning.system.errors import UserError


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


def test_expected_shares_of_wavlm_and_wav2vec2():
    assert SpanMasking().expected_share() == pytest.approx(0.566, abs=0.001)
    assert SpanMasking(0.65).expected_share() == pytest.approx(0.489, abs=0.001)


@pytest.mark.parametrize(
    "masking",
    [
        SpanMasking(0.8, 5, equalise=False, lengths="uniform"),
        SpanMasking(0.8, 5, equalise=False, lengths="geometric"),
        SpanMasking(0.5, 10, equalise=False, spread=0.2),
        SpanMasking(0.55, 5, share=0.5),
        SpanMasking(0.8, 1, equalise=False, lengths="geometric"),
    ],
)
def test_the_expected_share_is_that_of_many_draws(masking):
    assert share(masking, [3000] * 50, 4) == pytest.approx(masking.expected_share(), abs=0.01)


def runs_of(mask: torch.Tensor) -> torch.Tensor:
    """The lengths of all runs of masked frames."""
    edges = torch.nn.functional.pad(mask.int(), (1, 1)).diff(dim=1)
    return torch.nonzero(edges == -1)[:, 1] - torch.nonzero(edges == 1)[:, 1]


@pytest.mark.parametrize(("lengths", "deviation", "longest"), [("uniform", 5.48, 19), ("geometric", 9.49, 120)])
def test_lengths_of_spans_have_their_distribution(lengths, deviation, longest):
    """One span an utterance: mean 10, the deviation that the distribution has."""
    masking = SpanMasking(0.0, 10, 1, equalise=False, lengths=lengths)
    runs = runs_of(masking(torch.full((3000,), 400), 400, torch.Generator().manual_seed(0))).double()
    whole = runs[runs < 10]  # hardly any was cut by the end of its utterance
    assert len(whole) / 3000 == pytest.approx(9 / 19 if lengths == "uniform" else 1 - 0.9**9, abs=0.04)
    assert runs.mean() == pytest.approx(10, rel=0.05) and runs.std() == pytest.approx(deviation, rel=0.07)
    assert runs.min() == 1 and runs.max() <= longest


def test_every_utterance_has_its_own_probability():
    rows = torch.full((400,), 2000)
    masking = SpanMasking(0.5, 10, equalise=False, spread=0.4)
    shares = masking(rows, 2000, torch.Generator().manual_seed(0)).float().mean(1)
    least, most = (SpanMasking(p).expected_share() for p in (0.1, 0.9))
    assert shares.min() == pytest.approx(least, abs=0.03) and shares.max() == pytest.approx(most, abs=0.06)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.integers(4, 300), min_size=1, max_size=6),
    st.integers(0, 2**31),
    st.sampled_from([0.05, 0.5, 0.9]),
    st.sampled_from(["fixed", "uniform", "geometric"]),
)
def test_a_share_is_exact_in_every_row(lengths, seed, share, kind):
    rows, masking = torch.tensor(lengths), SpanMasking(0.55, 5, lengths=kind, share=share)
    mask = masking(rows, max(lengths) + 2, torch.Generator().manual_seed(seed))
    assert mask.sum(1).tolist() == [max(1, int(torch.tensor(share) * length)) for length in lengths]
    assert not (mask & (torch.arange(max(lengths) + 2)[None] >= rows[:, None])).any()


def test_a_share_keeps_the_spans():
    """It adds or takes away single frames, no more than it must."""
    rows = torch.full((20,), 500)
    spans = SpanMasking(0.55, 5, equalise=False)(rows, 500, torch.Generator().manual_seed(3))
    exact = SpanMasking(0.55, 5, share=0.5)(rows, 500, torch.Generator().manual_seed(3))
    assert ((spans ^ exact).sum(1) == (spans.sum(1) - 250).abs()).all()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"span": 0}, "span 1 or more"),
        ({"probability": -0.1}, "must be 0 or more"),
        ({"share": 1.0}, "share must lie between 0 and 1, not 1"),
        ({"spread": 0.9, "equalise": False}, "spread must be from 0 to probability"),
        ({"spread": 0.1}, "set equalise: false"),
        ({"spread": 0.1, "equalise": False, "share": 0.5}, "share: null"),
    ],
)
def test_shapes_that_exclude_each_other_are_refused(values, said):
    with pytest.raises(UserError, match=said):
        SpanMasking(**values)


def test_same_generator_same_mask():
    draw = [SpanMasking()(torch.tensor([200, 150]), 200, torch.Generator().manual_seed(5)) for _ in range(2)]
    assert torch.equal(*draw)
