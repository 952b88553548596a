"""LayerDrop: which layers are skipped, and what their parameters get."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from encoder_helpers import CONFIGS, make, noise
from torch import Tensor, nn

from wavlm_lightning.encoder import WavLM

STEADY: dict[str, Any] = {"dropout": 0.0, "attention_dropout": 0.0, "dropout_input": 0.0}
MASK = torch.zeros(2, 24, dtype=torch.bool)
MASK[:, 5:15] = True


def loss(encoder: WavLM, dropped: list[bool] | None) -> Tensor:
    features, lengths = encoder.features(noise(2, 8_000), torch.tensor([8_000, 6_000]))
    projected, _ = encoder.project(features)
    last = encoder.contextualise(projected, lengths, MASK, keep=[encoder.config.layers], dropped=dropped).hidden
    return (last * torch.linspace(-1, 1, last.numel()).view_as(last)).sum()


def gradients(encoder: WavLM) -> dict[str, Tensor | None]:
    return {name: parameter.grad for name, parameter in encoder.named_parameters()}


def without(encoder: WavLM, index: int) -> WavLM:
    """The same encoder with one layer taken out for good; the position table moves if layer 0 goes."""
    layers = encoder.config.layers
    order = [i for i in range(layers) if i != index]
    state = {name: tensor for name, tensor in encoder.state_dict().items() if ".layers." not in name}
    for new, old in enumerate(order):
        for name, tensor in encoder.encoder.layers[old].state_dict().items():
            state[f"encoder.layers.{new}.{name}"] = tensor
    table = encoder.encoder.layers[0].attention.state_dict().get("rel_attn_embed.weight")
    if table is not None:
        state["encoder.layers.0.attention.rel_attn_embed.weight"] = table
    shorter = make("base", **{**encoder.config.to_dict(), "layers": layers - 1})
    shorter.load_state_dict(state)
    return shorter


@pytest.mark.parametrize("kind", ["base", "large", "ungated", "hubert base"])
@pytest.mark.parametrize("index", [0, 1, 2])
def test_dropped_layer_is_as_if_absent(kind: str, index: int):
    encoder = make(kind)
    shorter = without(encoder, index)
    value = loss(encoder, [i == index for i in range(3)])
    expected = loss(shorter, [False, False])
    assert torch.equal(value, expected)
    value.backward()
    expected.backward()
    found, wanted = gradients(encoder), gradients(shorter)
    for name, gradient in found.items():
        assert gradient is not None, name
        match = re.match(r"encoder\.layers\.(\d+)\.(.+)", name)
        if match is None:
            assert torch.equal(gradient, wanted[name]), name
        elif "rel_attn_embed" in name:  # layer 0 only holds it: it belongs to all layers
            assert gradient.abs().max() > 0
            assert torch.equal(gradient, wanted[name])
        elif int(match[1]) == index:
            assert not gradient.any(), name
        else:
            new = int(match[1]) - (int(match[1]) > index)
            assert torch.equal(gradient, wanted[f"encoder.layers.{new}.{match[2]}"]), name


def test_dropping_every_layer_leaves_no_parameter_without_gradient():
    encoder = make("base")
    loss(encoder, [True] * 3).backward()
    for name, gradient in gradients(encoder).items():
        assert gradient is not None, name
        assert bool(gradient.any()) is not name.startswith("encoder.layers."), name


def test_frozen_parameters_of_a_dropped_layer_get_no_gradient():
    encoder = make("base")
    encoder.encoder.layers[1].attention.requires_grad_(False)
    loss(encoder, [False, True, False]).backward()
    assert all(p.grad is None for p in encoder.encoder.layers[1].attention.parameters())
    assert not encoder.encoder.layers[1].feed_forward.output_dense.weight.grad.any()


@pytest.mark.parametrize("layer_drop", [0.1, 0.5])
def test_drawn_share(layer_drop: float):
    encoder = make("base", **STEADY, layer_drop=layer_drop, layers=8).train()
    torch.manual_seed(1)
    repeated, passes = 0, 40
    for _ in range(passes):
        hidden = encoder(noise(1, 2_000)).hidden
        assert len(hidden) == 9
        repeated += sum(torch.equal(hidden[i], hidden[i + 1]) for i in range(8))
    mean, deviation = 8 * passes * layer_drop, (8 * passes * layer_drop * (1 - layer_drop)) ** 0.5
    assert abs(repeated - mean) < 3 * deviation


def test_drawn_layers_get_zeros_too():
    encoder = make("base", **STEADY, layer_drop=0.5, layers=8).train()
    torch.manual_seed(1)
    loss(encoder, None).backward()
    assert all(gradient is not None for gradient in gradients(encoder).values())
    idle = [not layer.layer_norm.weight.grad.any() for layer in encoder.encoder.layers]
    assert 0 < sum(idle) < 8


def test_nothing_is_dropped_in_evaluation_unless_asked():
    encoder = make("base", layer_drop=0.9)
    hidden = encoder(noise(1, 8_000)).hidden
    assert not any(torch.equal(hidden[i], hidden[i + 1]) for i in range(3))
    assert not torch.equal(loss(encoder, [True, False, False]), loss(encoder, None))


def test_given_layers_draw_nothing():
    drawn = []
    for encoder, dropped in ((make("base", layer_drop=0.9), [False] * 3), (make("base", layer_drop=0.0), None)):
        torch.manual_seed(3)
        loss(encoder.train(), dropped)  # the dropouts draw in both
        drawn.append(torch.get_rng_state())
    assert torch.equal(drawn[0], drawn[1])


class Loss(nn.Module):
    def __init__(self, encoder: WavLM):
        super().__init__()
        self.encoder = encoder

    def forward(self, dropped: list[bool]) -> Tensor:
        return loss(self.encoder, dropped)


def test_data_parallel_training_needs_no_search_for_unused_parameters(tmp_path: Path):
    distributed = torch.distributed
    if not distributed.is_available():
        pytest.skip("this torch has no torch.distributed")
    store = distributed.FileStore(str(tmp_path / "store"), 1)
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        module = nn.parallel.DistributedDataParallel(Loss(make("base")))
        for dropped in ([False] * 3, [True, False, True], [False, True, False]):
            module(dropped).backward()  # the reducer complains here if the step before left a gradient out
    finally:
        distributed.destroy_process_group()


def test_adam_goes_on_where_a_layer_is_dropped():
    encoder = make("base")
    weight = encoder.encoder.layers[1].feed_forward.output_dense.weight
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=0.01, betas=(0.9, 0.98), weight_decay=0.1)
    loss(encoder, [False] * 3).backward()
    optimizer.step()
    first, before = weight.grad.clone(), weight.detach().clone()
    optimizer.zero_grad()
    loss(encoder, [False, True, False]).backward()
    optimizer.step()
    momentum = 0.9 * 0.1 * first / (1 - 0.9**2)
    scale = (0.98 * 0.02 * first.square() / (1 - 0.98**2)).sqrt() + 1e-8
    assert torch.allclose(weight, before * (1 - 0.01 * 0.1) - 0.01 * momentum / scale, atol=1e-6)


def test_kinds_cover_every_position_bias():
    assert {config.position_bias for config in CONFIGS.values()} == {"gated", "ungated", "none"}
