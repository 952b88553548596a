"""Muon beside AdamW: what each trains, what an update does, what it costs, and one state for both."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from wavlm_lightning.encoder import WavLM, WavLMConfig
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.training.muon import Muon, MuonAndAdamW, matrices, newton_schulz_flops, shapes

SMALL = {"layers": 2, "conv_channels": [8, 8, 8, 8, 16, 16, 32], "dim": 32, "heads": 2, "ffn_dim": 64}


def both(parameters: list[torch.nn.Parameter], **how) -> MuonAndAdamW:
    """The first parameter for AdamW, the others for Muon."""
    settings = Muon(**{"learning_rate": 0.1, "weight_decay": 0.0, **how})
    return MuonAndAdamW(torch.optim.AdamW(parameters[:1], lr=0.01), parameters[1:], settings)


def parameters() -> list[torch.nn.Parameter]:
    torch.manual_seed(0)
    return [torch.nn.Parameter(torch.randn(*size)) for size in ((5,), (16, 24), (48, 16))]


def step(optimizer: torch.optim.Optimizer, number: int) -> None:
    generator = torch.Generator().manual_seed(number)
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.randn(parameter.shape, generator=generator)
    optimizer.step()


@pytest.mark.parametrize("scale", ["match_rms_adamw", "original"])
def test_an_update_has_the_singular_vectors_of_the_gradient_and_equal_values(scale):
    """Newton-Schulz stops near 1; the sizes are those of the two papers; the vector is AdamW's."""
    given, plain = parameters(), parameters()[0]
    before = [value.detach().clone() for value in given]
    optimizer, alone = both(given, scale=scale), torch.optim.AdamW([plain], lr=0.01)
    step(optimizer, 1)
    plain.grad = given[0].grad
    alone.step()
    assert torch.equal(given[0], plain)
    for parameter, old in zip(given[1:], before[1:], strict=True):
        rows, columns = parameter.shape
        factor = (
            0.2 * math.sqrt(max(rows, columns)) if scale == "match_rms_adamw" else math.sqrt(max(1, rows / columns))
        )
        change = (old - parameter).detach() / (0.1 * factor)
        left, values, right = torch.linalg.svd(parameter.grad, full_matrices=False)
        turned = left.T @ change @ right.T
        assert turned.diagonal().min() > 0.6 and turned.diagonal().max() < 1.3 and len(values) == min(rows, columns)
        assert (turned - turned.diagonal().diag()).abs().max() < 0.05


def test_both_go_on_from_one_state():
    given = parameters()
    optimizer = both(given, weight_decay=0.1)
    step(optimizer, 1)
    weights, state = copy.deepcopy(given), copy.deepcopy(optimizer.state_dict())
    step(optimizer, 2)
    again = both(weights, weight_decay=0.1)
    again.load_state_dict(state)
    for group in again.param_groups:  # as a schedule does
        group["lr"] *= 1.0
    step(again, 2)
    assert all(torch.equal(one, other) for one, other in zip(given, weights, strict=True))
    for group in again.param_groups:
        group["lr"] = 0.0
    step(again, 3)
    assert all(torch.equal(one, other) for one, other in zip(given, weights, strict=True))


def test_muon_has_the_matrices_of_attention_and_feed_forward_blocks():
    config = WavLMConfig.preset("tiny", **SMALL)
    encoder = WavLM(config)
    names = {id(value): name for name, value in encoder.named_parameters()}
    taken = matrices(encoder.encoder.layers)
    found = {names[id(weight)] for weight in taken}
    others = {name for name, value in encoder.named_parameters() if value.ndim == 2} - found
    assert [tuple(weight.shape) for weight in taken] == shapes(config)
    assert all(name.startswith("encoder.layers.") for name in found) and len(found) == 12
    assert {name.rpartition("layers.")[2][2:] for name in others if ".layers." in name} == {
        "attention.gru_rel_pos_linear.weight",
        "attention.rel_attn_embed.weight",
    }


def test_operations_are_those_that_torch_counts():
    config = WavLMConfig.preset("tiny", **SMALL)
    weights = [torch.nn.Parameter(torch.randn(size)) for size in shapes(config)]
    optimizer = torch.optim.Muon(weights, ns_steps=4)
    for weight in weights:
        weight.grad = torch.randn_like(weight)
    with FlopCounterMode(display=False) as counter:
        optimizer.step()
    assert newton_schulz_flops(config, 4) == counter.get_total_flops()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"learning_rate": 0.0}, r"model\.muon\.learning_rate 0: it must be above 0"),
        ({"weight_decay": -1.0}, r"model\.muon\.weight_decay -1"),
        ({"momentum": 1.0}, r"model\.muon\.momentum 1"),
        ({"newton_schulz_steps": 0}, r"model\.muon\.newton_schulz_steps 0: give 1 to 20"),
    ],
)
def test_what_makes_no_sense_is_refused(settings, message):
    with pytest.raises(UserError, match=message):
        Muon(**settings)
