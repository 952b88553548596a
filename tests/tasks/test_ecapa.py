"""ECAPA-TDNN and the angular margin: published sizes, padding, and an independent computation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from wavlm_lightning.tasks.components.ecapa import EcapaTdnn
from wavlm_lightning.tasks.components.margins import AngularMarginSoftmax


@pytest.mark.parametrize(
    ("dim", "options", "parameters"),
    [
        # UniSpeech's, without the weights of 13 or 25 layers that its published counts include.
        (768, {"embedding": 256, "global_context": False, "unit_variance": True}, 7_755_469 - 13),
        (1024, {"embedding": 256, "global_context": False, "unit_variance": True}, 8_410_841 - 25),
        (80, {}, 6_190_720),  # wespeaker's on 80 filters, "6.19 M"
    ],
)
def test_the_published_sizes(dim, options, parameters):
    assert sum(parameter.numel() for parameter in EcapaTdnn(dim, **options).parameters()) == parameters


@pytest.mark.parametrize("unit_variance", [False, True])
@pytest.mark.parametrize("global_context", [False, True])
def test_an_utterance_alone_and_in_a_batch(global_context, unit_variance):
    torch.manual_seed(0)
    network = EcapaTdnn(12, 16, 8, global_context, unit_variance).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    lengths = torch.tensor([40, 17, 1, 33])
    features = torch.randn(4, 40, 12) + 3
    together = network(features, lengths)
    for row, length in enumerate(lengths.tolist()):
        alone = network(features[row : row + 1, :length], torch.tensor([length]))
        assert torch.allclose(together[row], alone[0], atol=1e-5), length


def test_training_with_padding_has_the_statistics_of_the_valid_frames():
    torch.manual_seed(0)
    network = EcapaTdnn(6, 8, 4)
    features, lengths = torch.randn(3, 20, 6), torch.tensor([20, 12, 5])
    network(features, lengths)
    seen = network.first.norm.running_mean.clone()
    other = EcapaTdnn(6, 8, 4)
    other.load_state_dict(network.state_dict())
    other.first.norm.reset_running_stats()
    features[1, 12:], features[2, 5:] = 1e3, -1e3  # padding
    other(features, lengths)
    assert torch.allclose(seen, other.first.norm.running_mean, atol=1e-6)
    loss = other(features, lengths).square().sum()
    loss.backward()
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in other.parameters())


def test_attentive_pooling_by_hand():
    """Mean and deviation under the attention, in double precision and one channel at a time."""
    torch.manual_seed(1)
    pooling = EcapaTdnn(6, 8, 4).pooling
    hidden = torch.randn(1, 24, 9)
    found = pooling(hidden, torch.ones(1, 1, 9, dtype=torch.bool), torch.tensor([9]))[0]
    frames = hidden[0].double().numpy()
    context = np.concatenate([frames, np.repeat(frames.mean(1, keepdims=True), 9, 1)])
    context = np.concatenate([context, np.repeat(frames.std(1, ddof=1, keepdims=True), 9, 1)])
    first, second = (
        (conv.weight[:, :, 0].detach().double().numpy(), conv.bias.detach().double().numpy())
        for conv in (pooling.hidden, pooling.scores)
    )
    scores = second[0] @ np.tanh(first[0] @ context + first[1][:, None]) + second[1][:, None]
    for channel in range(24):
        weights = np.exp(scores[channel]) / np.exp(scores[channel]).sum()
        mean = weights @ frames[channel]
        assert found[channel].item() == pytest.approx(mean, abs=1e-5)
        deviation = math.sqrt(max(weights @ frames[channel] ** 2 - mean**2, 1e-7))
        assert found[24 + channel].item() == pytest.approx(deviation, abs=1e-4)


def by_angles(embeddings, weight, classes, targets, scale, margin, hardest, penalty):
    """The loss through arccos, in double precision, a row at a time."""
    vectors = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    centres = weight / np.linalg.norm(weight, axis=1, keepdims=True)
    losses = []
    for row, target in zip(vectors, targets, strict=True):
        cosines = (centres @ row).reshape(-1, classes).max(0)
        logits = cosines.copy()
        wrong = [n for n in np.argsort(-cosines) if n != target]
        for n in wrong[:hardest]:
            logits[n] = np.cos(np.arccos(cosines[n]) - penalty * margin / 0.2)
        angle = np.arccos(cosines[target])
        turned = np.cos(angle + margin) if angle + margin < np.pi else cosines[target] - (1 + np.cos(np.pi - margin))
        logits[target] = turned
        losses.append(np.log(np.exp(scale * (logits - logits[target])).sum()))
    return np.mean(losses)


@pytest.mark.parametrize(("centres", "hardest"), [(1, 0), (3, 0), (1, 5), (3, 5)])
@pytest.mark.parametrize("margin", [0.0, 0.2, 0.5])
def test_the_margin_by_angles(centres, hardest, margin):
    torch.manual_seed(0)
    objective = AngularMarginSoftmax(5, 11, 30.0, margin, centres, hardest).double()
    embeddings, targets = torch.randn(64, 5, dtype=torch.float64), torch.randint(0, 11, (64,))
    embeddings[0] = -objective.weight[targets[0]].detach()  # an angle near pi
    wanted = by_angles(
        embeddings.numpy(), objective.weight.detach().numpy(), 11, targets.numpy(), 30.0, margin, hardest, 0.06
    )
    assert objective(embeddings, targets).item() == pytest.approx(wanted, rel=1e-5)


def test_gradients_stay_finite_where_the_angle_is_zero_or_pi():
    objective = AngularMarginSoftmax(4, 3, margin=0.2, hardest=2)
    embeddings = torch.cat([objective.weight, -objective.weight]).detach().requires_grad_()
    objective(embeddings, torch.tensor([0, 1, 2, 0, 1, 2])).backward()
    assert embeddings.grad.isfinite().all() and objective.weight.grad.isfinite().all()


def test_synchronised_statistics_are_not_left_to_the_other_processes(monkeypatch):
    """They wait for a process with a single utterance; without others it is normalised as in evaluation."""
    network = EcapaTdnn(12, 16, 8)
    pooled = torch.randn(1, network.norm.num_features)
    assert torch.isfinite(network._normed(pooled)).all()
    network.norm = nn.SyncBatchNorm.convert_sync_batchnorm(network.norm)
    assert torch.isfinite(network._normed(pooled)).all()
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    with pytest.raises(
        ValueError, match="SyncBatchNorm expected input tensor to be on"
    ):  # it was asked, and needs a GPU
        network._normed(pooled)
