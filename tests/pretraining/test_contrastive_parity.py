"""The contrastive objective against transformers' Wav2Vec2ForPreTraining: losses and gradients, same weights, same noise."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from test_contrastive import CHANNELS, DIM, LAYERS, anew, built, given, masks
from torch import nn

from wavlm_lightning.pretraining.objectives import ContrastivePrediction, Prediction
from wavlm_lightning.pretraining.objectives import quantiser as quantiser_module
from wavlm_lightning.pretraining.objectives.contrastive import draw_negatives
from wavlm_lightning.pretraining.objectives.quantiser import GumbelTemperature


def peer(objective: ContrastivePrediction, prediction: Prediction, temperature: float):
    """transformers' model with the same heads, whose encoder hands out the hidden states and features of `prediction`.

    Returns:
        The model, and the leaves it reads: hidden states and features.
    """
    from transformers import Wav2Vec2Config, Wav2Vec2ForPreTraining

    config = Wav2Vec2Config(
        hidden_size=DIM,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        conv_dim=(16, CHANNELS),
        conv_kernel=(10, 3),
        conv_stride=(5, 2),
        num_feat_extract_layers=2,
        num_codevector_groups=objective.groups,
        num_codevectors_per_group=objective.entries,
        codevector_dim=objective.vq_dim,
        proj_codevector_dim=objective.final_dim,
        feat_quantizer_dropout=0.0,
        diversity_loss_weight=objective.diversity_weight,
        contrastive_logits_temperature=objective.temperature,
    )
    model = Wav2Vec2ForPreTraining(config)
    for theirs, ours in shared(model, objective):
        theirs.data.copy_(ours.data)
    model.set_gumbel_temperature(temperature)
    hidden = prediction.hidden[LAYERS].clone().requires_grad_()
    features = prediction.normalised.clone().requires_grad_()
    outputs = SimpleNamespace(last_hidden_state=hidden, extract_features=features, hidden_states=None, attentions=None)
    model.wav2vec2.forward = lambda *args, **kwargs: outputs
    return model, hidden, features


def shared(model, objective: ContrastivePrediction) -> list[tuple[nn.Parameter, nn.Parameter]]:
    """Parameters of transformers' model and ours that are the same."""
    return [
        (model.quantizer.codevectors, objective.quantiser.codevectors),
        *zip(model.quantizer.weight_proj.parameters(), objective.quantiser.project.parameters(), strict=True),
        *zip(model.project_hid.parameters(), objective.project.parameters(), strict=True),
        *zip(model.project_q.parameters(), objective.project_target.parameters(), strict=True),
    ]


def positions(mask: torch.Tensor, negatives: torch.Tensor) -> torch.Tensor:
    """Our negatives as transformers counts them: over all frames of the flattened batch, `(batch, width, negatives)`."""
    places = mask.flatten().nonzero()[:, 0]
    theirs = torch.zeros(*mask.shape, negatives.shape[1], dtype=torch.int64)
    theirs[mask] = places[negatives]
    return theirs


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "groups, entries, counts, width, negatives",
    [
        (2, 320, [15, 15, 15, 15], 31, 100),
        (1, 40, [9, 9], 25, 10),
        (2, 3, [12, 12, 12], 20, 30),  # many negatives with the codes of the positive
        (1, 4, [10], 17, 5),
        (2, 20, [2, 17, 6], 23, 12),  # counts that differ
    ],
)
def test_parity_with_transformers(monkeypatch, training, groups, entries, counts, width, negatives):
    step, schedule = 5, GumbelTemperature(start=1.5, decay=0.9, floor=0.2)
    objective = built(
        groups=groups,
        entries=entries,
        negatives=negatives,
        vq_dim=24,
        gumbel=schedule,
        dropout_features=0.0,
        diversity_weight=0.3,
    )
    with torch.no_grad():
        objective.quantiser.project.weight.mul_(0.1)  # undecided frames, so that gradients pass the softmax
    prediction = anew(given(masks(counts, width), seed=width, step=step))
    mask, frames = prediction.mask, sum(counts)
    model, their_hidden, their_features = peer(objective, prediction, schedule.at(step))
    model.train(training)
    objective.train(training)

    noise = quantiser_module.gumbel_noise(torch.empty(len(counts), width, groups, entries), prediction.generator)
    monkeypatch.setattr(quantiser_module, "gumbel_noise", lambda like, generator: noise[mask])
    gumbel_softmax = nn.functional.gumbel_softmax

    def fixed(logits, tau, hard):
        """torch's own with our noise, and with values that are exactly 0 and 1, as rounding to fp16 makes them."""
        drawn = (-noise).exp().reshape(logits.shape)
        with monkeypatch.context() as patch:
            patch.setattr(torch.Tensor, "exponential_", lambda self: self.copy_(drawn))
            choice = gumbel_softmax(logits, tau=tau, hard=hard)
        return choice.detach().round() + (choice - choice.detach())

    monkeypatch.setattr(nn.functional, "gumbel_softmax", fixed)

    drawn = draw_negatives(mask, frames, negatives, torch.Generator().manual_seed(8))
    theirs = model(torch.zeros(len(counts), 1), mask_time_indices=mask, sampled_negative_indices=positions(mask, drawn))
    hidden = prediction.hidden[LAYERS].clone().requires_grad_()
    features = prediction.normalised.clone().requires_grad_()
    ours = replace(prediction, hidden={LAYERS: hidden}, normalised=features)

    def again() -> Prediction:
        return replace(ours, generator=torch.Generator().manual_seed(8))

    loss, scores = objective(again()), objective.scores(again())
    close = {"atol": 1e-5, "rtol": 1e-5}
    # Theirs are sums over masked frames, the diversity term times their number: ours are means, for the module multiplies.
    torch.testing.assert_close(scores["loss"] * frames, theirs.contrastive_loss, **close)
    if training:
        torch.testing.assert_close(scores["diversity"] * frames, theirs.diversity_loss, **close)
        torch.testing.assert_close(loss * frames, theirs.loss, **close)
        loss.backward()
        (theirs.loss / frames).backward()
    else:  # in evaluation theirs measures diversity on hard codes, which we report as the perplexity
        torch.testing.assert_close(scores["code_perplexity"], theirs.codevector_perplexity, **close)
        objective.diversity_weight = 0.0
        objective(again()).backward()
        (theirs.contrastive_loss / frames).backward()
    pairs = [(t.grad, o.grad) for t, o in shared(model, objective)]
    pairs += [(their_hidden.grad, hidden.grad), (their_features.grad, features.grad)]
    compared = 0
    for their_gradient, our_gradient in pairs:
        if their_gradient is None:  # the quantiser's projection in evaluation: a hard choice hands nothing back
            assert not training and (our_gradient is None or not our_gradient.any())
            continue
        torch.testing.assert_close(our_gradient, their_gradient, **close)
        compared += bool(their_gradient.any())
    assert compared >= (9 if training else 6) - 1  # a bias of targets that all cosines share may have no gradient
