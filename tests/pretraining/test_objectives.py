"""Losses against independent statements of them."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from wavlm_lightning.data.batch import SoftLabels
from wavlm_lightning.encoder import WavLMConfig
from wavlm_lightning.pretraining import FeaturePenalty, LogMelRegression, MaskedPrediction
from wavlm_lightning.pretraining.objectives import Prediction
from wavlm_lightning.pretraining.objectives.masked_prediction import PredictionScores, perplexity
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.training.optimizers import learning_rate_factor


def prediction(seed: int = 0, labels: int = 17) -> Prediction:
    generator = torch.Generator().manual_seed(seed)
    audio = torch.randn(3, 8000, generator=generator) * 0.1
    frames = (8000 - 400) // 320 + 1
    features = torch.randn(3, frames, 256, generator=generator)
    return Prediction(
        hidden={layer: torch.randn(3, frames, 192, generator=generator) for layer in (4, 2)},
        features=features,
        normalised=nn.functional.layer_norm(features, (256,)),
        projected=torch.randn(3, frames, 192, generator=generator),
        mask=torch.rand(3, frames, generator=generator) < 0.5,
        padding=torch.zeros(3, frames, dtype=torch.bool),
        labels={
            "first": torch.randint(labels, (3, frames), generator=generator),
            "second": torch.randint(7, (3, frames), generator=generator),
        },
        audio=audio,
        step=0,
        generator=None,
    )


def built(objective, labels: int = 17, **encoder):
    torch.manual_seed(0)
    objective.build(WavLMConfig.preset("tiny", **encoder), {"first": labels, "second": 7})
    return objective


@pytest.mark.parametrize("unmasked_weight", [0.0, 0.7])
def test_masked_prediction_as_fairseq_states_it(unmasked_weight):
    """One positive against all codewords, those equal to the positive left out, target 0."""
    objective = built(MaskedPrediction(final_dim=64, unmasked_weight=unmasked_weight))
    given = prediction()

    def reference(where):
        projected = objective.project(given.hidden[4][where])
        positive = objective.codewords[given.labels["first"][where]]
        candidates = torch.cat([positive[None], objective.codewords[:, None].expand(-1, len(positive), -1)])
        logits = nn.functional.cosine_similarity(projected[None], candidates, dim=-1) / 0.1
        same = (candidates[1:] == positive[None]).all(-1)
        logits[1:][same] = -torch.inf
        return nn.functional.cross_entropy(logits.T, torch.zeros(len(positive), dtype=torch.int64))

    expected = reference(given.mask) + unmasked_weight * reference(~given.mask)
    assert objective(given).item() == pytest.approx(expected.item(), rel=1e-5)


def with_soft(given: Prediction, hard: bool = False) -> Prediction:
    """Three soft labels a frame in the set `first`, the hard one first; with `hard` it has all the weight."""
    generator = torch.Generator().manual_seed(1)
    labels = given.labels["first"]
    classes = torch.stack([labels, (labels + 1) % 17, (labels + 5) % 17], -1)
    weights = torch.rand(classes.shape, generator=generator).softmax(-1)
    weights = torch.tensor([1.0, 0.0, 0.0]).expand_as(weights) if hard else weights
    return replace(given, soft_labels={"first": SoftLabels(classes, weights)})


@pytest.mark.parametrize("unmasked_weight", [0.0, 0.7])
def test_soft_labels_are_torchs_cross_entropy_with_probabilities(unmasked_weight):
    objective = built(MaskedPrediction(final_dim=64, unmasked_weight=unmasked_weight, soft=True))
    given = with_soft(prediction())
    targets = torch.zeros(*given.mask.shape, 21)
    targets.scatter_(2, given.soft_labels["first"].classes, given.soft_labels["first"].weights)

    def reference(where):
        return nn.functional.cross_entropy(objective.logits(given.hidden[4][where]), targets[where])

    expected = reference(given.mask) + unmasked_weight * reference(~given.mask)
    assert objective(given).item() == pytest.approx(expected.item(), rel=1e-6)
    weights = [objective.codewords, objective.project.weight]
    pairs = zip(torch.autograd.grad(objective(given), weights), torch.autograd.grad(expected, weights), strict=True)
    assert all(torch.allclose(ours, theirs, atol=1e-6) for ours, theirs in pairs)
    entropy = torch.special.entr(targets[given.mask]).sum(1).mean()
    objective.update_scores(given)
    for scores in (objective.scores(given), objective.compute_scores()):
        assert scores["loss"].item() == pytest.approx(reference(given.mask).item(), rel=1e-6)
        assert scores["target_entropy"].item() == pytest.approx(entropy.item(), rel=1e-6)


def test_soft_labels_of_one_class_are_hard_labels():
    hard, soft = built(MaskedPrediction(unmasked_weight=0.5)), built(MaskedPrediction(unmasked_weight=0.5, soft=True))
    given = with_soft(prediction(), hard=True)
    assert soft(given).item() == pytest.approx(hard(given).item(), rel=1e-6)
    assert hard(given).item() == hard(prediction()).item() and "target_entropy" not in hard.scores(given)
    books = {"first": {"size": 17, "sha256": "", "rate": 50.0}}
    hard.check_labels(books)
    soft.check_labels({"first": {**books["first"], "soft": {"labels": 3, "temperature": 1.0}}})
    with pytest.raises(
        UserError, match="wants soft labels, and the label set 'first' has none; make one with `wavlm codebook"
    ):
        soft.check_labels(books)


def test_a_label_set_and_a_layer_of_its_choice():
    """The second label set at layer 2 of a pre-norm encoder: read through a norm of its own."""
    objective = built(MaskedPrediction(layer=2, labels="second"))
    given = prediction()
    assert objective.layers(4) == (2,) and objective.codewords.shape == (11, 256)
    hidden = nn.functional.layer_norm(given.hidden[2][given.mask], (192,))
    expected = nn.functional.cross_entropy(objective.logits(hidden), given.labels["second"][given.mask])
    assert objective(given).item() == pytest.approx(expected.item(), rel=1e-6)


def test_only_layers_without_a_norm_get_one():
    assert isinstance(built(MaskedPrediction(layer=2)).layer_norm, nn.LayerNorm)
    assert isinstance(built(MaskedPrediction(layer=2), pre_norm=False).layer_norm, nn.Identity)
    assert isinstance(built(MaskedPrediction()).layer_norm, nn.Identity)


def test_supervising_the_top_alone_is_the_plain_loss_bit_for_bit():
    plain, supervised = built(MaskedPrediction()), built(MaskedPrediction(layer=4))
    given = prediction()
    assert plain(given).item() == supervised(given).item()
    assert list(plain.state_dict()) == list(supervised.state_dict())


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        (lambda: built(MaskedPrediction(layer=5)), "layer 5, but the encoder has 4"),
        (lambda: MaskedPrediction(layer=0), "layers are counted from 1"),
        (lambda: built(MaskedPrediction(labels="third")), "wants labels 'third', but data.labels names first, second"),
        (lambda: MaskedPrediction().build(WavLMConfig.tiny(), {}), "data.labels names none"),
        (lambda: MaskedPrediction(similarity="dot"), "similarity is cosine or logits, not 'dot'"),
        (lambda: MaskedPrediction(temperature=0.0), r"temperature must be above 0 \(published: 0.1\), not 0"),
    ],
)
def test_what_an_objective_lacks_is_said(objective, message):
    with pytest.raises(UserError, match=message):
        objective()


def test_loss_begins_at_the_log_of_the_codewords():
    objective = built(MaskedPrediction(), labels=500)
    given = prediction(labels=500)
    assert objective.codewords.shape == (504, 256)
    assert objective(given).item() == pytest.approx(torch.tensor(504.0).log().item(), abs=0.5)


@pytest.mark.parametrize("unmasked_weight", [0.0, 0.7])
def test_plain_logits_are_one_linear_layer_over_the_temperature(unmasked_weight):
    objective = built(MaskedPrediction(similarity="logits", temperature=0.5, unmasked_weight=unmasked_weight))
    given = prediction()
    assert objective(given).item() == pytest.approx((1 + unmasked_weight) * math.log(21), rel=1e-6)  # begins at zero
    assert set(objective.state_dict()) == {"classify.weight", "classify.bias"}
    with torch.no_grad():
        nn.init.normal_(objective.classify.weight)
        nn.init.normal_(objective.classify.bias)

    def reference(where):
        logits = given.hidden[4][where] @ objective.classify.weight.T + objective.classify.bias
        return nn.functional.cross_entropy(2.0 * logits, given.labels["first"][where])

    expected = reference(given.mask) + unmasked_weight * reference(~given.mask)
    assert objective(given).item() == pytest.approx(expected.item(), rel=1e-6)
    with torch.autocast("cpu", torch.bfloat16):
        assert objective(given).item() == pytest.approx(expected.item(), rel=1e-6)


def test_feature_penalty():
    given = prediction()
    assert FeaturePenalty().weight == 10.0
    assert FeaturePenalty()(given).item() == pytest.approx(given.features.square().mean().item(), rel=1e-6)


def test_log_mel_regression_ignores_the_level_and_can_be_solved():
    objective = built(LogMelRegression())
    given = prediction()
    louder = Prediction(**{**given.__dict__, "audio": given.audio * 3.0})
    assert objective(given).item() == pytest.approx(objective(louder).item(), rel=1e-4)
    optimizer = torch.optim.Adam(objective.parameters(), lr=1e-2)
    first = objective(given).item()
    for _ in range(300):
        optimizer.zero_grad()
        loss = objective(given)
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.3 * first  # 72 frames and 192 dimensions: a line through everything


@pytest.mark.parametrize("decay", ["linear", "cosine"])
def test_schedule(decay):
    rates = [learning_rate_factor(step, 1000, 0.08, decay) for step in range(1001)]
    assert rates[0] == 0 and rates[80] == pytest.approx(1.0) and rates[1000] == pytest.approx(0.0, abs=1e-9)
    assert rates[40] == pytest.approx(0.5)
    assert rates[540] == pytest.approx(0.5)
    assert all(a > b for a, b in itertools.pairwise(rates[80:]))


def test_scores_add_up_over_batches():
    torch.manual_seed(0)
    logits, labels = torch.randn(300, 11), torch.randint(7, (300,))
    metric = PredictionScores(11)
    for part in torch.arange(300).split(77):
        metric.update(logits[part], labels[part])
    scores = metric.compute()
    assert scores["loss"].item() == pytest.approx(nn.functional.cross_entropy(logits, labels).item(), rel=1e-5)
    assert scores["accuracy"].item() == pytest.approx((logits.argmax(1) == labels).float().mean().item())
    assert scores["majority_accuracy"].item() == pytest.approx(labels.bincount().max().item() / 300)
    assert scores["target_perplexity"].item() == pytest.approx(perplexity(labels.bincount() / 300).item(), rel=1e-5)
    assert scores["perplexity"].item() == pytest.approx(perplexity(logits.softmax(1).mean(0)).item(), rel=1e-4)


def test_perplexity_of_known_distributions():
    assert perplexity(torch.full((8,), 1 / 8)).item() == pytest.approx(8.0)
    assert perplexity(torch.tensor([1.0, 0.0])).item() == pytest.approx(1.0)
