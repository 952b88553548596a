"""The encoder-decoder: padding changes nothing, losses by hand, beam search against every answer, one label at a time."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from wavlm_lightning.data.batch import Targets
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks.components.decoder.network import EncoderDecoder, NetworkSize
from wavlm_lightning.tasks.components.decoder.search import Decoding

END, PAD = 2, 1
TINY = NetworkSize(
    width=16, heads=2, inner=32, encoder_layers=1, decoder_layers=2, dropout=0.1, convolutions=1, channels=16
)
LENGTHS = torch.tensor([11, 8, 5])


def network(labels: int = 5, size: NetworkSize = TINY, ctc: bool = True) -> EncoderDecoder:
    """A network whose answers are not all alike."""
    torch.manual_seed(3)
    made = EncoderDecoder(6, labels, size, end=END, barred=(PAD,), ctc=ctc).eval()
    with torch.no_grad():
        made.decoder.classifier.weight.mul_(3)
        if made.ctc is not None:
            made.ctc.weight.mul_(3)
    return made


def features() -> torch.Tensor:
    return torch.randn(3, 11, 6, generator=torch.Generator().manual_seed(2))


def encoded(made: EncoderDecoder) -> tuple[torch.Tensor, torch.Tensor]:
    return made.encode(features(), LENGTHS), made.frames(LENGTHS)


def every_answer(made: EncoderDecoder, row: int, limit: int, decoding: Decoding) -> list[tuple[tuple[int, ...], float]]:
    """All answers of at most `limit` labels with their scores, by teacher forcing and PyTorch's CTC loss; the best first."""
    memory, frames = encoded(made)
    memory, frames = memory[row : row + 1, : frames[row]], frames[row : row + 1]
    found = []
    units = [n for n in range(made.decoder.classifier.out_features) if n not in (0, PAD, END)]
    for count in range(limit + 1):
        for labels in itertools.product(units, repeat=count):
            heard = torch.tensor([[END, *labels]])
            log_probabilities = made.decoder(heard, memory, frames).log_softmax(-1)[0]
            score = sum(float(log_probabilities[n, label]) for n, label in enumerate([*labels, END]))
            if decoding.ctc_weight:
                logits = made.ctc_logits(memory)
                assert logits is not None
                rows = logits.double().log_softmax(-1).transpose(0, 1)
                ctc = -float(
                    nn.functional.ctc_loss(
                        rows, torch.tensor([labels], dtype=torch.long), frames, torch.tensor([count]), reduction="sum"
                    )
                )
                score = (1 - decoding.ctc_weight) * score + decoding.ctc_weight * ctc
            found.append((labels, score / (count + 1) ** decoding.length_power))
    return sorted((answer for answer in found if answer[1] > -1e30), key=lambda answer: -answer[1])


@pytest.mark.parametrize(("ctc_weight", "length_power"), [(0.0, 0.0), (0.0, 1.0), (0.3, 0.0), (0.3, 0.5), (1.0, 0.0)])
@torch.no_grad()
def test_a_wide_beam_finds_what_trying_every_answer_finds(ctc_weight, length_power):
    made, limits = network(), torch.tensor([4, 3, 2])
    memory, frames = encoded(made)
    decoding = Decoding(beam=40, ctc_weight=ctc_weight, length_power=length_power)
    found = made.search(memory, frames, decoding, limits, nbest=40)
    for row, limit in enumerate(limits.tolist()):
        wanted = every_answer(made, row, limit, decoding)
        assert len(wanted) > 5
        assert [answer.labels for answer in found[row]] == [labels for labels, _ in wanted]
        assert [answer.score for answer in found[row]] == pytest.approx([score for _, score in wanted], rel=1e-5)
        assert [answer.cut for answer in found[row]] == [len(labels) == limit for labels, _ in wanted]


@pytest.mark.parametrize("ctc_weight", [0.0, 0.3])
@torch.no_grad()
def test_the_best_answer_is_found_before_the_search_stops(ctc_weight):
    """With one answer asked for, the search stops early, and has the best one."""
    made, limits = network(), torch.tensor([4, 4, 4])
    decoding = Decoding(beam=40, ctc_weight=ctc_weight)
    found = made.search(*encoded(made), decoding, limits)
    assert [[answer.labels for answer in row] for row in found] == [
        [every_answer(made, row, 4, decoding)[0][0]] for row in range(3)
    ]


@torch.no_grad()
def test_a_beam_of_one_is_the_greedy_search():
    made, limits = network(8), torch.tensor([9, 9, 3])
    memory, frames = encoded(made)
    found = made.search(memory, frames, Decoding(beam=1), limits)
    lengths = set()
    for row, limit in enumerate(limits.tolist()):
        labels: list[int] = []
        while len(labels) < limit:
            logits = made.decoder(
                torch.tensor([[END, *labels]]), memory[row : row + 1, : frames[row]], frames[row : row + 1]
            )
            logits[..., [0, PAD]] = -torch.inf
            if (best := int(logits[0, -1].argmax())) == END:
                break
            labels.append(best)
        assert found[row][0].labels == tuple(labels)
        lengths.add(len(labels))
    assert len(lengths) > 1


@torch.no_grad()
def test_a_batch_answers_as_its_rows_do_alone():
    made, limits = network(8), torch.tensor([9, 4, 6])
    memory, frames = encoded(made)
    decoding = Decoding(beam=3, ctc_weight=0.3)
    together = made.search(memory, frames, decoding, limits, nbest=2)
    for row in range(3):
        own = slice(row, row + 1)
        alone_memory = made.encode(features()[own, : LENGTHS[row]], LENGTHS[own])
        torch.testing.assert_close(memory[own, : frames[row]], alone_memory)
        (alone,) = made.search(alone_memory, frames[own], decoding, limits[own], nbest=2)
        assert [answer.labels for answer in together[row]] == [answer.labels for answer in alone]
        assert [answer.score for answer in together[row]] == pytest.approx([a.score for a in alone], rel=1e-5)


@torch.no_grad()
def test_few_candidates_always_let_an_answer_end():
    made, limits = network(12), torch.tensor([5, 5, 5])
    memory, frames = encoded(made)
    assert made.search(memory, frames, Decoding(3, 0.3, candidates=12), limits) == made.search(
        memory, frames, Decoding(3, 0.3), limits
    )
    assert made.search(memory, frames, Decoding(1, candidates=1), limits) == made.search(
        memory, frames, Decoding(1), limits
    )
    made.decoder.classifier.bias[END] = -50.0  # never among the best
    found = made.search(memory, frames, Decoding(3, candidates=2), limits)
    assert all(-100 < answer.score < -40 for (answer,) in found)


@torch.no_grad()
def test_no_frame_is_left_for_a_label_that_ctc_wants():
    """CTC alone answers with nothing where an answer must end at once."""
    made = network()
    memory, frames = encoded(made)
    (answer,), *_ = made.search(memory, frames, Decoding(2, 1.0), torch.tensor([0, 0, 0]))
    assert answer.labels == () and answer.cut


@torch.no_grad()
def test_a_network_that_has_diverged_is_not_believed():
    made = network()
    memory, frames = encoded(made)
    made.decoder.classifier.bias[3] = torch.nan
    with pytest.raises(UserError, match="diverged"):
        made.search(memory, frames, Decoding(2), torch.tensor([3, 3, 3]))


@torch.no_grad()
def test_one_label_at_a_time_gives_the_logits_of_all_at_once():
    made = network()
    memory, frames = encoded(made)
    labels = torch.tensor([[2, 3, 4, 3], [2, 4, 4, 4], [2, 3, 3, 4]])
    wanted = made.decoder(labels, memory, frames)
    state = made.decoder.start(memory, frames)
    for place in range(4):
        logits, state = made.decoder.step(labels[:, place : place + 1], state)
        torch.testing.assert_close(logits[:, 0], wanted[:, place])


def test_losses_are_those_of_each_utterance_alone():
    made = network()
    memory, frames = encoded(made)
    rows = [[3, 4, 3], [4], []]
    targets = Targets.pad([torch.tensor(row, dtype=torch.long) for row in rows])
    found = made.losses(memory, frames, targets)
    assert found.ctc is not None
    for row, labels in enumerate(rows):
        logits = made.decoder(
            torch.tensor([[END, *labels]]), memory[row : row + 1, : frames[row]], frames[row : row + 1]
        )
        log_probabilities = logits[0].log_softmax(-1)
        wanted = -sum(
            0.9 * log_probabilities[n, label] + 0.1 * log_probabilities[n].mean()
            for n, label in enumerate([*labels, END])
        )
        torch.testing.assert_close(found.attention[row], wanted)
        ctc = nn.functional.ctc_loss(
            made.ctc(memory[row, : frames[row]]).log_softmax(-1),
            torch.tensor(labels, dtype=torch.long),
            frames[row],
            torch.tensor(len(labels)),
            reduction="sum",
        )
        torch.testing.assert_close(found.ctc[row], ctc)
    (made.losses(memory, frames, targets).attention.sum() + found.ctc.sum()).backward()
    assert all(parameter.grad is not None for parameter in made.parameters())


@pytest.mark.parametrize(("convolutions", "wanted"), [(0, [11, 8, 5]), (1, [6, 4, 3]), (2, [3, 2, 2])])
def test_frames_after_the_convolutions(convolutions, wanted):
    size = NetworkSize(16, 2, 32, 1, 1, 0.0, convolutions, 16, projection=4)
    made = EncoderDecoder(6, 5, size, end=END).eval()
    memory = made.encode(features(), LENGTHS)
    assert made.frames(LENGTHS).tolist() == wanted and memory.shape == (3, wanted[0], 16)


def test_it_has_the_parameters_of_superb():
    """s3prl's speech translation on 768 dimensions: 28.63 million, embedding and outputs apart."""
    made = EncoderDecoder(768, 32, NetworkSize(), end=END)
    labels = 32 * 512 * 2 + 32
    assert sum(parameter.numel() for parameter in made.parameters()) - labels == 28_626_944


def test_it_learns_answers_and_says_them():
    torch.manual_seed(0)
    made = EncoderDecoder(6, 8, TINY, end=END, barred=(PAD,), ctc=True, smoothing=0.0).train()
    rows = [torch.tensor([3, 4, 5, 6]), torch.tensor([7, 3]), torch.tensor([5, 5])]
    optimizer = torch.optim.Adam(made.parameters(), 5e-3)
    for _ in range(80):
        optimizer.zero_grad()
        memory, frames = encoded(made)
        losses = made.losses(memory, frames, Targets.pad(rows))
        assert losses.ctc is not None
        (losses.attention + losses.ctc).mean().backward()
        optimizer.step()
    made.eval()
    for weight in (0.0, 0.5, 1.0):
        found = made.search(*encoded(made), Decoding(4, weight), torch.tensor([9, 9, 9]))
        assert [answer.labels for (answer,) in found] == [tuple(row.tolist()) for row in rows]


@pytest.mark.parametrize(
    ("made", "sentence"),
    [
        (lambda: NetworkSize(width=10, heads=4).check(), "do not divide"),
        (lambda: NetworkSize(decoder_layers=0).check(), "network.decoder_layers: 0"),
        (lambda: NetworkSize(convolutions=-1).check(), "from 0 on"),
        (lambda: NetworkSize(channels=15).check(), "odd"),
        (lambda: NetworkSize(dropout=1.0).check(), "network.dropout: 1.0"),
        (lambda: Decoding(beam=0).check(), "decoding.beam: 0"),
        (lambda: Decoding(ctc_weight=1.5).check(), "decoding.ctc_weight: 1.5"),
        (lambda: Decoding(length_power=-1).check(), "decoding.length_power"),
        (
            lambda: network(ctc=False).search(*encoded(network()), Decoding(ctc_weight=0.3), torch.tensor([1, 1, 1])),
            "trained without CTC",
        ),
    ],
)
def test_values_without_a_meaning_are_refused(made, sentence):
    with pytest.raises(UserError, match=sentence):
        made()
