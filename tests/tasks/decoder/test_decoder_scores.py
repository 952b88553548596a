"""CTC prefix scores against every path of a few frames, for batches of unequal lengths."""

from __future__ import annotations

import itertools
from collections import defaultdict

import numpy as np
import pytest
import torch

from wavlm_lightning.tasks.components.decoder.prefix_scores import PrefixScores
from wavlm_lightning.tasks.components.prefix_search import prefix_search

END, LABELS = 1, 4  # beside the blank, 0


def by_all_paths(logits: torch.Tensor) -> dict[tuple[int, ...], float]:
    """Probability of each label sequence: every path is walked, repeats are merged and blanks removed."""
    rows = logits.double().log_softmax(-1).numpy()
    found: dict[tuple[int, ...], float] = defaultdict(float)
    for path in itertools.product(range(rows.shape[1]), repeat=len(rows)):
        merged = tuple(label for label, _ in itertools.groupby(path) if label)
        found[merged] += float(np.exp(sum(row[label] for row, label in zip(rows, path, strict=True))))
    return found


@pytest.fixture(scope="module")
def batch():
    logits = torch.randn(3, 6, LABELS, generator=torch.Generator().manual_seed(5)) * 2
    lengths = torch.tensor([6, 4, 1])
    return logits, lengths, [by_all_paths(row[:n]) for row, n in zip(logits, lengths.tolist(), strict=True)]


def check(scores: PrefixScores, prefixes: list[list[tuple[int, ...]]], wanted: list[dict]) -> None:
    """The scores of all continuations of these hypotheses of each utterance."""
    candidates = torch.arange(LABELS).expand(len(prefixes), len(prefixes[0]), -1)
    found = scores.scores(candidates)
    for row, hypotheses in enumerate(prefixes):
        for number, prefix in enumerate(hypotheses):
            for label in range(1, LABELS):
                longer = (*prefix, label)
                if label == END:
                    probability = wanted[row].get(prefix, 0.0)
                else:
                    probability = sum(p for key, p in wanted[row].items() if key[: len(longer)] == longer)
                assert float(found[row, number, label].exp()) == pytest.approx(probability, rel=1e-9, abs=1e-300)


def test_scores_are_sums_over_all_paths_that_begin_so(batch):
    logits, lengths, wanted = batch
    scores = PrefixScores(logits, lengths, END)
    check(scores, [[()]] * 3, wanted)
    scores.advance(torch.zeros(3, 2, dtype=torch.long), torch.tensor([[2, 3], [3, 2], [2, 3]]))
    check(scores, [[(2,), (3,)], [(3,), (2,)], [(2,), (3,)]], wanted)
    # Both go on from the second hypothesis, with its own label once more and with another one.
    scores.advance(torch.ones(3, 2, dtype=torch.long), torch.tensor([[3, 2], [2, 3], [3, 2]]))
    check(scores, [[(3, 3), (3, 2)], [(2, 2), (2, 3)], [(3, 3), (3, 2)]], wanted)
    scores.keep(torch.tensor([1, 0]))
    check(scores, [[(2, 2), (2, 3)], [(3, 3), (3, 2)]], [wanted[1], wanted[0]])


def test_whole_answers_score_as_prefix_search_finds_them(batch):
    """The search over frames and the scores of labels agree about a complete sequence."""
    logits, lengths, _ = batch
    rows = logits[0].double().log_softmax(-1).numpy()
    known = dict(prefix_search(rows, beam=10_000, threshold=np.inf))
    scores = PrefixScores(logits[:1], lengths[:1], END)
    prefix: tuple[int, ...] = ()
    for label in (2, 2, 3):
        prefix = (*prefix, label)
        scores.advance(torch.zeros(1, 1, dtype=torch.long), torch.tensor([[label]]))
        whole = float(scores.scores(torch.tensor([[[END]]])))
        assert whole == pytest.approx(known[prefix], rel=1e-9)


def test_long_utterances_keep_their_precision():
    """Of 4000 frames, against the recursion frame by frame."""
    logits = torch.randn(1, 4000, LABELS, generator=torch.Generator().manual_seed(1)) * 10
    rows = logits[0].double().log_softmax(-1)
    scores = PrefixScores(logits, torch.tensor([4000]), END)
    scores.advance(torch.tensor([[0]]), torch.tensor([[2]]))
    scores.advance(torch.tensor([[0]]), torch.tensor([[2]]))
    blanked, ended = rows[:, 0].cumsum(0), torch.full((4000,), -torch.inf, dtype=torch.double)
    for last in (None, 2):
        before = blanked if last == 2 else torch.logaddexp(blanked, ended)
        before = torch.cat([torch.tensor([0.0 if last is None else -torch.inf]).double(), before[:-1]])
        new_blanked, new_ended = blanked.clone(), ended.clone()
        b = n = torch.tensor(-torch.inf, dtype=torch.double)
        for frame in range(4000):
            b, n = torch.logaddexp(b, n) + rows[frame, 0], torch.logaddexp(n, before[frame]) + rows[frame, 2]
            new_blanked[frame], new_ended[frame] = b, n
        blanked, ended = new_blanked, new_ended
    torch.testing.assert_close(scores.blanked[0, 0, 1:], blanked, rtol=1e-9, atol=0)
    torch.testing.assert_close(scores.ended[0, 0, 1:], ended, rtol=1e-9, atol=0)
