"""Powerset classes: against their definition, pyannote's published order, and a search over all orders of speakers."""

from itertools import combinations, permutations

import pytest
import torch

from wavlm_lightning.errors import UserError
from wavlm_lightning.tasks.components.powerset import Powerset, best_orders, most_talkative, ordered


def test_classes_are_those_that_pyannote_publishes():
    # Model card of pyannote/segmentation-3.0: non-speech, speakers 1, 2, 3, then 1 and 2, 1 and 3, 2 and 3.
    published = [[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [1, 0, 1], [0, 1, 1]]
    assert Powerset(3, 2).mapping.tolist() == published
    # Fact sheet 3.1: four speakers of whom two overlap are eleven classes (DiariZen).
    assert len(Powerset(4, 2)) == 11


@pytest.mark.parametrize(("speakers", "overlapping"), [(1, 1), (2, 1), (3, 2), (4, 2), (4, 3), (5, 5)])
def test_a_class_is_a_set_of_at_most_m_speakers(speakers, overlapping):
    powerset = Powerset(speakers, overlapping)
    everything = [set(some) for size in range(overlapping + 1) for some in combinations(range(speakers), size)]
    rows = [set(row.nonzero()[:, 0].tolist()) for row in powerset.mapping]
    assert rows == everything
    assert powerset.classes(powerset.mapping).tolist() == list(range(len(everything)))
    scores = torch.nn.functional.one_hot(torch.arange(len(everything))).float()
    assert powerset.activity(scores).equal(powerset.mapping)


def test_with_more_than_m_speakers_the_first_best_set_counts():
    powerset = Powerset(4, 2)
    everyone, three = torch.ones(1, 4), torch.tensor([[0.0, 1, 1, 1]])
    assert powerset.sets[powerset.classes(everyone)] == (0, 1)
    assert powerset.sets[powerset.classes(three)] == (1, 2)


def test_probabilities_of_speech_and_overlap_are_sums_over_classes():
    powerset = Powerset(3, 2)
    logs = torch.randn(2, 50, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    share = logs.exp()
    assert torch.allclose(powerset.speech(logs), 1 - share[..., 0])
    assert torch.allclose(powerset.overlap(logs), share[..., 4:].sum(-1))
    assert torch.allclose(powerset.per_speaker(logs)[..., 1], share[..., [2, 4, 6]].sum(-1))
    assert torch.allclose(powerset.talking(logs).sum(-1), torch.ones(2, 50, dtype=torch.float64))
    assert not Powerset(3, 1).overlap(torch.zeros(1, 4).log_softmax(-1)).any()


def test_the_best_order_differs_at_fewest_frames():
    drawn = torch.Generator().manual_seed(1)
    activity, reference = (torch.randint(0, 2, (6, 40, 4), generator=drawn).float() for _ in range(2))
    activity[0], reference[1], activity[2, :, 1:] = 0, 0, 0  # no speech, no reference, one speaker
    reference[3, :, 1] = reference[3, :, 0]  # a tie
    valid = torch.arange(40) < torch.tensor([40, 40, 40, 40, 25, 1])[:, None]
    orders = best_orders(activity, reference, valid)
    differs = ((activity != ordered(reference, orders)) & valid[:, :, None]).sum((1, 2))
    for row, found in enumerate(differs.tolist()):
        tried = [
            ((activity[row] != reference[row][:, list(order)]) & valid[row][:, None]).sum()
            for order in permutations(range(4))
        ]
        assert found == min(tried)
        assert sorted(orders[row].tolist()) == [0, 1, 2, 3]


def test_the_most_talkative_speakers_keep_their_order():
    activity = torch.tensor([[1, 0, 1, 0], [0, 0, 1, 1], [0, 1, 1, 1]])
    assert most_talkative(activity, 2).equal(activity[:, 2:])
    assert most_talkative(activity, 3).equal(activity[:, [0, 2, 3]])  # speakers 0 and 1 tie: the first stays
    assert most_talkative(activity[:, :1], 3).tolist() == [[1, 0, 0], [0, 0, 0], [0, 0, 0]]
    both = most_talkative(torch.stack([activity, activity.flip(1)]), 2)  # each recording has its own
    assert both[0].equal(activity[:, 2:]) and both[1].equal(activity.flip(1)[:, :2])
    assert most_talkative(torch.zeros(3, 0, dtype=torch.int64), 2).tolist() == [[0, 0]] * 3


def test_impossible_numbers_are_refused():
    with pytest.raises(UserError, match="3 speakers of whom 4 overlap"):
        Powerset(3, 4)
    with pytest.raises(UserError, match="0 speakers"):
        Powerset(0, 0)
