"""The learned codebook: what it chooses, what flows back, and how its use is measured."""

import pytest
import torch
from torch import nn

from wavlm_lightning.pretraining.objectives import quantiser as module
from wavlm_lightning.pretraining.objectives.quantiser import (
    GumbelQuantiser,
    GumbelTemperature,
    code_perplexity,
    diversity_loss,
    gumbel_noise,
)
from wavlm_lightning.system.errors import UserError


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def made(channels: int = 24, **kwargs) -> GumbelQuantiser:
    torch.manual_seed(0)
    return GumbelQuantiser(channels, **{"dim": 12, "entries": 7, **kwargs})


@pytest.mark.parametrize("floor, meets", [(0.5, 277_000), (0.1, 599_000)])
def test_temperature_falls_to_its_floor(floor, meets):
    schedule = GumbelTemperature(floor=floor)
    assert schedule.at(0) == 2.0
    assert schedule.at(1) == pytest.approx(2.0 * 0.999995)
    assert schedule.at(meets) > floor == schedule.at(meets + 1000)


@pytest.mark.parametrize("wrong", [{"floor": 0.0}, {"floor": 3.0}, {"decay": 1.5}, {"decay": 0.0}])
def test_temperature_that_rises_or_vanishes_is_refused(wrong):
    with pytest.raises(UserError, match="0 < floor <= start"):
        GumbelTemperature(**wrong)


def test_published_shape_and_initial_values():
    torch.manual_seed(0)
    quantiser = GumbelQuantiser(512)
    assert quantiser.project.weight.shape == (640, 512)
    assert quantiser.project.weight.std().item() == pytest.approx(1.0, abs=0.01)
    assert not quantiser.project.bias.any()
    assert quantiser.codevectors.shape == (1, 640, 128)
    assert 0 <= quantiser.codevectors.min() < 0.001 < 0.999 < quantiser.codevectors.max() < 1


def test_groups_must_share_the_vector():
    with pytest.raises(UserError, match=r"vq_dim \(10\) must be a multiple of its groups \(3\)"):
        GumbelQuantiser(8, dim=10, groups=3)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("groups", [1, 2, 3])
def test_vectors_are_the_chosen_entries_side_by_side(training, groups):
    quantiser = made(groups=groups).train(training)
    quantised = quantiser(torch.randn(50, 24), 2.0, seeded())
    codebooks = quantiser.codevectors[0].view(groups, 7, -1)
    for vector, codes in zip(quantised.vectors, quantised.codes, strict=True):
        assert torch.equal(vector, torch.cat([codebooks[g, code] for g, code in enumerate(codes)]))


def test_evaluation_chooses_the_likeliest_and_draws_nothing():
    quantiser, features, generator = made().eval(), torch.randn(50, 24), seeded()
    before = generator.get_state()
    quantised = quantiser(features, 2.0, generator)
    logits = quantiser.project(features).view(50, 2, 7)
    assert torch.equal(quantised.codes, logits.argmax(-1))
    assert torch.equal(generator.get_state(), before)
    torch.testing.assert_close(quantised.probabilities, logits.softmax(-1).mean(0))


def test_training_draws_each_entry_as_often_as_its_softmax_says():
    quantiser, features = made(groups=1), torch.randn(1, 24) * 0.2
    quantised = quantiser(features.expand(40_000, -1), 0.5, seeded())
    drawn = quantised.codes[:, 0].bincount(minlength=7) / 40_000
    torch.testing.assert_close(drawn, quantiser.project(features).softmax(-1)[0], atol=0.01, rtol=0)
    torch.testing.assert_close(quantised.probabilities, quantiser.project(features).softmax(-1))  # noise-free


def test_gradient_is_that_of_the_soft_choice(monkeypatch):
    quantiser, features, temperature = made(), torch.randn(30, 24), 0.7
    noise = gumbel_noise(torch.empty(30, 2, 7), seeded())
    monkeypatch.setattr(module, "gumbel_noise", lambda like, generator: noise)
    outside = torch.randn(30, 12)
    (quantiser(features, temperature, None).vectors * outside).sum().backward()
    got = quantiser.project.weight.grad.clone()
    quantiser.zero_grad()
    soft = ((quantiser.project(features).view(30, 2, 7) + noise) / temperature).softmax(-1)
    vectors = torch.cat([soft[:, g] @ quantiser.codevectors[0, 7 * g : 7 * g + 7] for g in range(2)], 1)
    (vectors * outside).sum().backward()
    torch.testing.assert_close(got, quantiser.project.weight.grad, atol=1e-6, rtol=1e-5)


def test_only_the_generator_decides():
    quantiser, features = made(), torch.randn(50, 24)
    torch.manual_seed(1)
    first = quantiser(features, 2.0, seeded(5)).codes
    torch.manual_seed(2)
    before = torch.get_rng_state()
    assert torch.equal(quantiser(features, 2.0, seeded(5)).codes, first)
    assert not torch.equal(quantiser(features, 2.0, seeded(6)).codes, first)
    assert torch.equal(torch.get_rng_state(), before)


def test_noise_is_gumbel_and_finite_even_where_the_draw_is_zero(monkeypatch):
    noise = gumbel_noise(torch.empty(200_000), seeded())
    assert noise.mean().item() == pytest.approx(0.5772, abs=0.01)
    assert noise.var().item() == pytest.approx(torch.pi**2 / 6, abs=0.03)
    monkeypatch.setattr(torch.Tensor, "exponential_", lambda self, *, generator: self.zero_())
    assert gumbel_noise(torch.empty(3), None).isfinite().all()


def test_the_choice_is_made_in_fp32_under_autocast():
    quantiser, features = made().eval(), torch.randn(400, 24)
    plain = quantiser(features, 2.0, None)
    with torch.autocast("cpu", torch.bfloat16):
        low = quantiser(features, 2.0, None)
        assert quantiser.project(features).dtype == torch.bfloat16  # what a plain layer would have done
    assert torch.equal(low.vectors, plain.vectors) and torch.equal(low.probabilities, plain.probabilities)


@pytest.mark.parametrize("groups, entries", [(1, 5), (2, 320)])
def test_diversity_is_0_for_uniform_use_and_nearly_1_for_collapse(groups, entries):
    total = groups * entries
    uniform = torch.full((groups, entries), 1 / entries)
    assert code_perplexity(uniform).item() == pytest.approx(total, rel=1e-5)
    assert diversity_loss(uniform).item() == pytest.approx(0.0, abs=1e-5)
    collapsed = nn.functional.one_hot(torch.zeros(groups, dtype=torch.int64), entries).float()
    assert code_perplexity(collapsed).item() == pytest.approx(groups)
    assert diversity_loss(collapsed).item() == pytest.approx((total - groups) / total)


def test_gradient_of_diversity_is_finite_where_a_probability_underflows():
    logits = torch.tensor([[0.0, 1.0, -300.0]], requires_grad=True)
    assert logits.softmax(-1)[0, 2] == 0
    diversity_loss(logits.softmax(-1)).backward()
    assert logits.grad.isfinite().all() and logits.grad.any()
