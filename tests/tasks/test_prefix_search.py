"""The most probable texts of CTC outputs without a language model, against all alignments of a few frames."""

from __future__ import annotations

import itertools
from collections import defaultdict

import numpy as np
import pytest
import torch

from wavlm_lightning.tasks import PhonemeRecognition
from wavlm_lightning.tasks.components.prefix_search import prefix_search
from wavlm_lightning.upstreams import Fbank


def by_all_alignments(log_probabilities: np.ndarray) -> dict[tuple[int, ...], float]:
    """Probability of each label sequence: every path is walked, and repeats and blanks (0) are removed."""
    frames, labels = log_probabilities.shape
    found: dict[tuple[int, ...], float] = defaultdict(float)
    for path in itertools.product(range(labels), repeat=frames):
        merged = tuple(label for label, _ in itertools.groupby(path) if label)
        found[merged] += float(np.exp(sum(log_probabilities[frame, label] for frame, label in enumerate(path))))
    return found


def outputs(frames: int, labels: int, seed: int) -> torch.Tensor:
    return torch.randn(frames, labels, generator=torch.Generator().manual_seed(seed)).mul(2).log_softmax(1)


@pytest.mark.parametrize("seed", range(4))
def test_sequences_and_probabilities_are_those_of_all_alignments(seed):
    rows = outputs(6, 3, seed).double().numpy()
    wanted = by_all_alignments(rows)
    found = dict(prefix_search(rows, beam=1000, threshold=np.inf))
    assert found.keys() == wanted.keys() and len(found) > 40
    assert {key: np.exp(score) for key, score in found.items()} == pytest.approx(wanted, rel=1e-9)
    scores = [score for _, score in prefix_search(rows, beam=1000, threshold=np.inf)]
    assert scores == sorted(scores, reverse=True)


def test_a_beam_finds_the_best_of_longer_outputs():
    """With a beam and a threshold a probability is a little too low, never too high, and the order is kept."""
    rows = outputs(9, 4, 7).double().numpy()
    wanted = sorted(by_all_alignments(rows).items(), key=lambda item: -item[1])[:5]
    found = prefix_search(rows, beam=50)[:5]
    assert [key for key, _ in found] == [key for key, _ in wanted]
    for (_, score), (_, probability) in zip(found, wanted, strict=True):
        assert 0.99 * probability < np.exp(score) <= probability * (1 + 1e-9)


def test_the_best_sequence_need_not_have_the_best_alignment():
    rows = np.log([[0.55, 0.45], [0.55, 0.45]])  # two blanks are the best path; "1" has three paths
    assert prefix_search(rows)[0][0] == (1,)
    assert np.exp(prefix_search(rows)[0][1]) == pytest.approx(1 - 0.55**2)


def test_a_label_that_is_impossible_is_never_found():
    with np.errstate(divide="ignore"):
        rows = np.log([[0.5, 0.5, 0.0], [0.5, 0.5, 0.0]])
    assert {key for key, _ in prefix_search(rows, threshold=np.inf)} == {(), (1,)}


def test_texts_of_a_head_add_up_and_padding_is_not_heard():
    """Label sequences of one text count as one, and its probability is that of them all."""
    task = PhonemeRecognition(Fbank(cmvn=False), 1e-3)
    task.build(["<pad>", "<eos>", "<unk>", "AA", "B"])
    logits = torch.randn(2, 5, 5, generator=torch.Generator().manual_seed(0)).mul(2)
    lengths = torch.tensor([5, 3])
    rows = task.best_texts(logits, lengths, 4)
    for row, output, frames in zip(rows, logits, (5, 3), strict=True):
        wanted: dict[str, float] = defaultdict(float)
        sequences = by_all_alignments(output[:frames].log_softmax(-1).double().numpy())
        for numbers, probability in sequences.items():
            wanted[task.spell(list(numbers))] += probability
        assert len(wanted) < len(sequences)
        best = sorted(wanted.items(), key=lambda item: -item[1])[:4]
        assert [each.text for each in row] == [text for text, _ in best]
        assert [np.exp(each.score) for each in row] == pytest.approx([value for _, value in best], rel=0.02)
    assert all("nbest" not in row for row in task.readable(logits, lengths))
    task.nbest = 4
    said = task.readable(logits, lengths)
    assert [row["phones"] for row in said] == task.decode(logits, lengths)
    assert [[each["phones"] for each in row["nbest"]] for row in said] == [[each.text for each in row] for row in rows]
