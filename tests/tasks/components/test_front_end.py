"""Front-ends: padding and level change nothing, gradients pass the frozen encoder, its weights stay."""

from __future__ import annotations

import copy

import pytest
import torch

from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks.components.front_end import ConvTasNet, EnhancedUpstream
from wavlm_lightning.tasks.components.front_end.conv_tasnet import GlobalNorm
from wavlm_lightning.upstreams import WavLMUpstream
from wavlm_lightning.upstreams.fine_tuning import FineTuning

SHAPE = {"layers": 2, "conv_channels": [8, 8, 8, 8, 16, 16, 32], "dim": 32, "heads": 2, "ffn_dim": 64}


def network(**sizes):
    return ConvTasNet(**{"filters": 16, "bottleneck": 8, "hidden": 12, "layers": 3, "stacks": 1, **sizes})


def encoder(**settings):
    return WavLMUpstream("random:tiny", overrides=SHAPE, **settings)


def waveforms(*lengths: int) -> tuple[torch.Tensor, torch.Tensor]:
    drawn = torch.randn(len(lengths), max(lengths), generator=torch.Generator().manual_seed(0))
    there = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return 0.1 * drawn * there, torch.tensor(lengths)


@torch.no_grad()
@pytest.mark.parametrize(("kernel", "stride"), [(40, 20), (16, 16), (31, 8)])
def test_an_answer_depends_on_neither_padding_nor_level(kernel, stride):
    net = network(kernel=kernel, stride=stride)
    audio, lengths = waveforms(3001, 1000, 7)
    answer = net(audio, lengths)
    assert answer.shape == audio.shape and not answer[1, 1000:].any() and answer[:, :7].abs().min() > 0
    for row, length in enumerate(lengths.tolist()):
        alone = net(audio[row : row + 1, :length], lengths[row : row + 1])
        assert torch.allclose(alone[0], answer[row, :length], atol=1e-6)
    assert torch.allclose(net(5 * audio, lengths), 5 * answer, atol=1e-6)
    assert not net(torch.zeros(1, 500), torch.tensor([500])).any()
    # What is behind the end is not heard, whatever it is.
    assert torch.equal(net(audio + (torch.arange(3001) >= lengths[:, None]), lengths), answer)


def test_global_norm_is_group_norm_with_one_group():
    hidden = torch.randn(2, 6, 50, generator=torch.Generator().manual_seed(1))
    valid = torch.ones(2, 1, 50, dtype=torch.bool)
    assert torch.allclose(GlobalNorm(6)(hidden, valid), torch.nn.GroupNorm(1, 6, eps=1e-8)(hidden), atol=1e-5)


def test_initial_weights_depend_on_the_seed_alone():
    torch.manual_seed(3)
    one, other = network(), network(seed=1)
    torch.manual_seed(4)
    assert torch.equal(one.analysis.weight, network().analysis.weight)
    assert not torch.equal(one.analysis.weight, other.analysis.weight)


@pytest.mark.parametrize("fixed", [False, True])
def test_gradients_reach_the_front_end_and_the_encoder_stays(fixed):
    upstream = EnhancedUpstream(encoder(differentiable=True), network(), fixed=fixed)
    before = copy.deepcopy(upstream.state_dict())
    upstream.train()
    assert upstream.front_end.training != fixed and not upstream.encoder.training
    weights = torch.nn.Parameter(torch.ones(upstream.num_layers, 1, 1, 1))
    groups = upstream.parameter_groups(1e-2, weight_decay=0.1)
    named = {id(parameter) for group in groups for parameter in group["params"]}
    assert named == (set() if fixed else {id(parameter) for parameter in upstream.front_end.parameters()})
    optimizer = torch.optim.AdamW([*groups, {"params": [weights]}], lr=1e-2)
    (upstream(*waveforms(4000, 3000)).hidden * weights).square().mean().backward()
    assert all((parameter.grad is None) == fixed for parameter in upstream.front_end.parameters())
    assert all(parameter.grad is None for parameter in upstream.encoder.parameters())
    optimizer.step()
    moved = {name for name, value in upstream.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == (set() if fixed else {name for name in before if name.startswith("front_end.")})


@torch.no_grad()
def test_the_encoder_hears_what_the_front_end_makes():
    inner, net = encoder(differentiable=True), network()
    upstream, (audio, lengths) = EnhancedUpstream(inner, net), waveforms(4000, 3000)
    found = upstream(audio, lengths, keep=[-1]).hidden[-1]
    assert torch.allclose(found, inner(net(audio, lengths), lengths).hidden[-1], atol=1e-5)
    assert not torch.allclose(found, inner(audio, lengths).hidden[-1], atol=1e-3)
    assert upstream.source_fingerprint() == inner.fingerprint() != upstream.fingerprint()
    assert upstream.describe()["sha256"] == inner.fingerprint()


def test_what_could_not_train_is_refused():
    with pytest.raises(UserError, match=r"model\.upstream\.differentiable: true"):
        EnhancedUpstream(encoder(), network())
    with pytest.raises(UserError, match=r"from_update: while the encoder waits"):
        EnhancedUpstream(encoder(frozen=False, fine_tuning=FineTuning(from_update=3)), network())
    with pytest.raises(UserError, match=r"stride 50: give 1 to kernel"):
        network(stride=50)
