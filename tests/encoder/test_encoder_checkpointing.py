"""How the layers run: recomputed in the backward pass, or compiled; never what they compute."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from encoder_helpers import make, noise
from torch import Tensor

from wavlm_lightning.encoder import WavLM

RANDOM: dict[str, Any] = {"dropout": 0.2, "attention_dropout": 0.2, "activation_dropout": 0.1, "dropout_input": 0.1}
MASK = torch.zeros(2, 24, dtype=torch.bool)
MASK[:, 5:15] = True


def loss(encoder: WavLM, dropped: list[bool] | None = None, samples: int = 8_000) -> Tensor:
    """Draws dropout (and LayerDrop) from the same seed each time; one row is padded."""
    torch.manual_seed(5)
    features, lengths = encoder.features(noise(2, samples), torch.tensor([samples, samples - 2_000]))
    projected, _ = encoder.project(features)
    mask = MASK[:, : projected.shape[1]]
    last = encoder.contextualise(projected, lengths, mask, keep=[encoder.config.layers], dropped=dropped).hidden
    return (last * torch.linspace(-1, 1, last.numel()).view_as(last)).sum()


def gradients(encoder: WavLM, value: Tensor) -> dict[str, Tensor | None]:
    encoder.zero_grad(set_to_none=True)
    value.backward()
    return {name: parameter.grad for name, parameter in encoder.named_parameters()}


@pytest.mark.parametrize("kind", ["base", "large", "ungated"])
@pytest.mark.parametrize("dropped", [[False] * 3, [False, True, False], [True, False, False]])
def test_recomputing_changes_no_bit(kind: str, dropped: list[bool]):
    """Dropout draws the same when a layer runs for the second time."""
    encoder = make(kind, **RANDOM).train()
    plain = loss(encoder, dropped)
    wanted = gradients(encoder, plain)
    encoder.encoder.run_layers(recomputed=True, compiled=False)
    again = loss(encoder, dropped)
    assert torch.equal(plain, again)
    for name, gradient in gradients(encoder, again).items():
        assert gradient is not None and torch.equal(gradient, wanted[name]), name


def test_recomputing_keeps_less():
    """Bytes that the backward pass will need, as the graph stores them."""
    encoder = make("base", **RANDOM).train()

    def kept() -> int:
        parameters = {parameter.data_ptr() for parameter in encoder.parameters()}
        storages: dict[int, int] = {}

        def count(tensor: Tensor) -> Tensor:
            if tensor.data_ptr() not in parameters:
                storages[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
            return tensor

        features, lengths = encoder.features(noise(2, 32_000))
        projected = encoder.project(features)[0].detach().requires_grad_()
        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            encoder.contextualise(projected, lengths)
        return sum(storages.values())

    plain = kept()
    encoder.encoder.run_layers(recomputed=True, compiled=False)
    assert kept() < plain / 2


def test_recomputing_runs_each_layer_twice_in_training_and_once_in_evaluation():
    encoder = make("base", **RANDOM).train()
    encoder.encoder.run_layers(recomputed=True, compiled=False)
    calls: list[int] = []
    for layer in encoder.encoder.layers:
        layer.attention.register_forward_hook(lambda *_: calls.append(1))
    loss(encoder).backward()
    assert len(calls) == 2 * 3
    calls.clear()
    with torch.no_grad():
        loss(encoder)
    assert len(calls) == 3


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@pytest.mark.long
def test_compiled_layers_compute_the_same(backend: str, monkeypatch: pytest.MonkeyPatch):
    """Two lengths go through the same code, and a dropped layer past it, recomputed, too; fused operators round differently.

    The quick backend traces and differentiates as the other does, which takes its time in the C++ compiler.
    """
    if backend == "inductor" and not torch.cuda.is_available() and not _has_compiler():
        pytest.skip("torch.compile needs a C++ compiler on the CPU")
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    still = {"dropout": 0.0, "attention_dropout": 0.0, "dropout_input": 0.0, "layers": 1}
    encoder, compiled = make("base", **still).train(), make("base", **still).train()
    names = list(compiled.state_dict())
    compiled.encoder.run_layers(recomputed=True, compiled=True)
    assert list(compiled.state_dict()) == names
    for samples, dropped in ((8_000, [False]), (6_000, [False]), (6_000, [True])):
        plain, fused = loss(encoder, dropped, samples), loss(compiled, dropped, samples)
        assert torch.allclose(plain, fused, rtol=1e-4, atol=1e-3)
        found, wanted = gradients(compiled, fused), gradients(encoder, plain)
        for name, gradient in wanted.items():
            assert torch.allclose(found[name], gradient, rtol=1e-3, atol=1e-4 * float(gradient.abs().max()) + 1e-5), (
                name
            )


def _has_compiler() -> bool:
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        return False
    return True
