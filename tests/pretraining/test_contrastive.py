"""Contrastive prediction against the paper's equations and against transformers."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from wavlm_lightning.encoder import WavLMConfig
from wavlm_lightning.pretraining.objectives import ContrastivePrediction, Prediction
from wavlm_lightning.pretraining.objectives.contrastive import (
    contrastive_logits,
    cross_entropy,
    draw_negatives,
    told_apart,
)
from wavlm_lightning.pretraining.objectives.quantiser import GumbelTemperature, diversity_loss
from wavlm_lightning.system.errors import UserError

CONFIG = WavLMConfig.tiny()
DIM, CHANNELS, LAYERS = CONFIG.dim, CONFIG.conv_channels[-1], CONFIG.layers


def masks(counts: list[int], width: int, seed: int = 0) -> torch.Tensor:
    """bool `(batch, width)` with that many true frames a row, in random places."""
    score = torch.rand(len(counts), width, generator=torch.Generator().manual_seed(seed))
    return score.argsort(1).argsort(1) < torch.tensor(counts)[:, None]


def given(mask: torch.Tensor, seed: int = 0, step: int = 0) -> Prediction:
    generator = torch.Generator().manual_seed(seed)
    batch, width = mask.shape
    normalised = torch.randn(batch, width, CHANNELS, generator=generator)
    return Prediction(
        hidden={i: torch.randn(batch, width, DIM, generator=generator) for i in range(LAYERS + 1)},
        features=normalised,
        normalised=normalised,
        projected=torch.randn(batch, width, DIM, generator=generator),
        mask=mask,
        padding=torch.zeros_like(mask),
        labels={},
        audio=torch.zeros(batch, width * CONFIG.hop),
        step=step,
        generator=generator,
    )


def anew(prediction: Prediction, seed: int = 1) -> Prediction:
    """The same with fresh randomness."""
    return replace(prediction, generator=torch.Generator().manual_seed(seed))


def built(**kwargs) -> ContrastivePrediction:
    torch.manual_seed(0)
    objective = ContrastivePrediction(**{"final_dim": 16, "entries": 8, **kwargs})
    objective.build(CONFIG, {})
    return objective


# Negatives.


@pytest.mark.parametrize("counts", [[20, 20, 20], [30, 2, 7, 19], [5, 1, 0, 3]])
def test_negatives_are_other_masked_frames_of_the_row(counts):
    mask = masks(counts, 40)
    rows = mask.nonzero()[:, 0]
    negatives = draw_negatives(mask, len(rows), 100, torch.Generator().manual_seed(0))
    assert negatives.shape == (sum(counts), 100)
    assert torch.equal(rows[negatives], rows[:, None].expand(-1, 100))
    alone = torch.tensor(counts)[rows] == 1
    itself = negatives == torch.arange(len(rows))[:, None]
    assert not itself[~alone].any() and itself[alone].all()


def test_negatives_are_uniform():
    mask = masks([6, 9], 12)
    negatives = draw_negatives(mask, 15, 30_000, torch.Generator().manual_seed(0))
    share = torch.stack([row.bincount(minlength=15) for row in negatives]) / 30_000
    expected = torch.zeros(15, 15)
    expected[:6, :6], expected[6:, 6:] = 1 / 5, 1 / 8
    torch.testing.assert_close(share, expected.fill_diagonal_(0), atol=0.012, rtol=0)


def test_negatives_depend_on_the_generator_alone():
    mask = masks([20, 20], 40)
    first = draw_negatives(mask, 40, 10, torch.Generator().manual_seed(3))
    torch.manual_seed(99)
    assert torch.equal(draw_negatives(mask, 40, 10, torch.Generator().manual_seed(3)), first)
    assert not torch.equal(draw_negatives(mask, 40, 10, torch.Generator().manual_seed(4)), first)


# The loss.


def test_loss_as_the_paper_states_it():
    """Equation 3 frame by frame, equation 4 as fairseq has it, with the negatives that the objective draws."""
    objective, prediction = built(negatives=9, entries=2).eval(), given(masks([11, 4], 20))
    quantised = objective.quantiser(prediction.normalised[prediction.mask], 1.0, None)
    negatives = draw_negatives(prediction.mask, 15, 9, torch.Generator().manual_seed(1))
    predicted = objective.project(prediction.hidden[LAYERS][prediction.mask])
    targets = objective.project_target(quantised.vectors)
    terms, left_out = [], 0
    for t in range(15):
        others = [n for n in negatives[t].tolist() if not torch.equal(quantised.codes[n], quantised.codes[t])]
        left_out += 9 - len(others)
        similarities = [nn.functional.cosine_similarity(predicted[t], targets[n], dim=0) / 0.1 for n in [t, *others]]
        terms.append(-torch.log(similarities[0].exp() / sum(s.exp() for s in similarities)))
    assert left_out  # the case occurs
    p = quantised.probabilities
    diversity = (4 - sum(torch.exp(-(p[g] * p[g].log()).sum()) for g in range(2))) / 4
    expected = torch.stack(terms).mean() + 0.1 * diversity
    assert objective(anew(prediction)).item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_frame_without_negatives_adds_nothing():
    objective = built(diversity_weight=0.0).eval()
    prediction = given(masks([10, 1], 20))
    without = replace(prediction, mask=prediction.mask & torch.tensor([[True], [False]]))
    assert objective(prediction).isfinite()
    total = objective(anew(prediction)) * 11
    # the negatives of the first row are drawn first, so they are the same ones
    torch.testing.assert_close(total, objective(anew(without)) * 10)


def test_loss_begins_near_the_log_of_the_candidates():
    torch.manual_seed(0)
    objective = ContrastivePrediction(diversity_weight=0.0)
    objective.build(CONFIG, {})
    assert objective(given(masks([200, 200], 400))).item() == pytest.approx(math.log(101), abs=0.5)


def test_it_reads_its_layer_only():
    objective, prediction = built(layer=1), given(masks([10, 10], 20))
    assert objective.layers(LAYERS) == (1,)
    alone = replace(prediction, hidden={1: prediction.hidden[1]})
    assert torch.equal(objective(anew(alone)), objective(anew(prediction)))
    other = replace(prediction, hidden={1: prediction.hidden[2]})
    assert not torch.equal(objective(anew(other)), objective(anew(prediction)))


def test_only_the_generator_decides_even_with_dropout():
    objective, prediction = built(dropout_features=0.5), given(masks([10, 10], 20))
    torch.manual_seed(1)
    first = objective(anew(prediction))
    torch.manual_seed(2)
    assert torch.equal(objective(anew(prediction)), first)
    assert not torch.equal(objective(anew(prediction, seed=7)), first)
    plain = built(dropout_features=0.0)
    assert not torch.equal(plain(anew(prediction)), first)
    assert torch.equal(plain.eval()(anew(prediction)), objective.eval()(anew(prediction)))


def test_dropout_scales_what_it_keeps_and_leaves_evaluation_alone():
    objective, prediction = built(dropout_features=0.3), given(masks([10, 10], 20))
    seen = []
    objective.quantiser.register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0]))
    objective(anew(prediction))
    objective.eval()(anew(prediction))
    features, (dropped, plain) = prediction.normalised[prediction.mask], seen
    assert (dropped == 0).float().mean().item() == pytest.approx(0.3, abs=0.03)
    torch.testing.assert_close(dropped, torch.where(dropped == 0, 0.0, features / 0.7))
    assert torch.equal(plain, features)


def test_logits_are_fp32_under_autocast():
    torch.manual_seed(0)
    predicted, targets, codes = torch.randn(30, 16), torch.randn(30, 16), torch.randint(5, (30, 2))
    negatives = draw_negatives(masks([30], 40), 30, 10, torch.Generator().manual_seed(0))
    plain = contrastive_logits(predicted, targets, codes, negatives, 0.1)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(contrastive_logits(predicted, targets, codes, negatives, 0.1), plain)
        assert built()(given(masks([10, 10], 20))).dtype == torch.float32


def test_training_predicts_and_keeps_the_codebook_in_use():
    """Targets that the layer holds: the loss falls far below chance, and the codes do not collapse."""
    objective = built(negatives=20, diversity_weight=0.5, dropout_features=0.0)
    prediction = given(masks([20, 20], 40))
    told = torch.randn(CHANNELS, DIM, generator=torch.Generator().manual_seed(0)) / CHANNELS**0.5
    prediction = replace(prediction, hidden={LAYERS: prediction.normalised @ told})
    optimizer = torch.optim.Adam(objective.parameters(), lr=1e-2)
    first = objective.scores(prediction)
    for step in range(150):
        optimizer.zero_grad()
        objective(anew(replace(prediction, step=step), seed=step)).backward()
        optimizer.step()
    last = objective.eval().scores(prediction)
    assert first["loss"] > 2.0 > 0.5 > last["loss"]
    assert first["masked_accuracy"] < 0.3 < 0.8 < last["masked_accuracy"]
    assert last["code_perplexity"] > 10  # of 16


@pytest.mark.parametrize(
    "wrong, said",
    [
        ({"negatives": 0}, "negatives must be 1 or more"),
        ({"final_dim": 15}, "multiple of its groups"),
        ({"layer": 99}, "99"),
    ],
)
def test_what_cannot_be_built_is_refused(wrong, said):
    with pytest.raises(UserError, match=said):
        built(**wrong)


# Scores.


def test_validation_scores_are_those_of_all_frames_together():
    objective = built().eval()
    batches = [given(masks([8, 8], 20, seed), seed) for seed in range(3)] + [given(masks([13, 13, 13], 20), 3)]
    for prediction in batches:
        objective.update_scores(anew(prediction))
    scores = objective.compute_scores()
    contrasts = [objective._contrast(anew(prediction)) for prediction in batches]
    logits, codes = torch.cat([c[0] for c in contrasts]), torch.cat([c[1].codes for c in contrasts])
    assert len(logits) == 87
    zeros = torch.zeros(87, dtype=torch.int64)
    assert scores["loss"].item() == pytest.approx(nn.functional.cross_entropy(logits, zeros).item(), rel=1e-5)
    assert scores["masked_accuracy"].item() == pytest.approx((logits.argmax(1) == 0).float().mean().item())
    usage = [codes[:, g].bincount(minlength=8) / 87 for g in range(2)]
    perplexity = sum(torch.special.entr(u).sum().exp().item() for u in usage)
    assert scores["code_perplexity"].item() == pytest.approx(perplexity, rel=1e-5)
    everything = torch.cat([p.normalised[p.mask] for p in batches])
    diversity = diversity_loss(objective.quantiser(everything, 1.0, None).probabilities)
    assert scores["diversity"].item() == pytest.approx(diversity.item(), rel=1e-5)
    objective.update_scores(anew(batches[0]))
    again = objective.compute_scores()  # of this batch alone: the sums began anew
    assert again["loss"].item() == pytest.approx(objective.scores(anew(batches[0]))["loss"].item(), rel=1e-5)


def test_scores_of_a_training_batch():
    objective = built(gumbel=GumbelTemperature(start=1.0, decay=0.9, floor=0.1), dropout_features=0.0)
    prediction = given(masks([10, 10], 20), step=3)
    scores = objective.scores(anew(prediction))
    assert scores["gumbel_temperature"].item() == pytest.approx(0.729)
    assert objective(anew(prediction)).item() == pytest.approx(
        (scores["loss"] + 0.1 * scores["diversity"]).item(), rel=1e-5
    )
    assert 2 <= scores["code_perplexity"] <= 16
    assert not any(score.requires_grad for score in scores.values())


def test_collapse_is_no_success():
    objective = built()
    with torch.no_grad():
        objective.quantiser.project.bias[[3, 8 + 5]] = 1e4
    scores = objective.scores(given(masks([10, 10], 20)))
    assert scores["masked_accuracy"] == 0 and scores["loss"] == 0
    assert scores["code_perplexity"].item() == pytest.approx(2.0)
    assert scores["diversity"].item() == pytest.approx(14 / 16)


def test_told_apart_and_cross_entropy_of_known_logits():
    logits = torch.tensor([[2.0, 1.0, -torch.inf], [1.0, 2.0, 0.0], [5.0, -torch.inf, -torch.inf]])
    assert told_apart(logits).tolist() == [True, False, False]
    expected = nn.functional.cross_entropy(logits, torch.zeros(3, dtype=torch.int64), reduction="none")
    torch.testing.assert_close(cross_entropy(logits), expected)
