"""An encoder prepared for inference is the same encoder."""

from __future__ import annotations

import copy

import pytest
import torch
from encoder_helpers import CONFIGS, distance, make, noise
from hypothesis import given, settings
from hypothesis import strategies as st

from wavlm_lightning.encoder.cpu import linears
from wavlm_lightning.encoder.cpu.inference_prep import norm_parameters
from wavlm_lightning.encoder.cpu.weight_cache import held, kept


@pytest.fixture(autouse=True)
def all_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linears, "SMALLEST", 0)


def is_packed(encoder) -> bool:
    with torch.no_grad():
        return kept("packed", (encoder.encoder.layers[0].attention.q_proj.weight,)) is not None


def is_prepared(encoder) -> bool:
    with torch.no_grad():
        return kept("weight norm", norm_parameters(encoder.encoder.pos_conv_embed.conv)) is not None


@pytest.mark.parametrize("kind", list(CONFIGS))
@settings(max_examples=4, deadline=None)
@given(lengths=st.lists(st.integers(400, 9_000), min_size=1, max_size=3))
def test_hidden_states_stay_the_same(kind: str, lengths: list[int]):
    plain = make(kind)
    waveforms, rows = noise(len(lengths), max(lengths), seed=sum(lengths)), torch.tensor(lengths)
    with torch.no_grad():
        expected = plain(waveforms, rows).hidden
        unpacked = copy.deepcopy(plain).prepare_for_inference(packed=False)
        assert torch.equal(unpacked(waveforms, rows).hidden, expected)
        packed = plain.prepare_for_inference(packed=True)
        assert is_packed(packed)
        assert distance(packed(waveforms, rows).hidden, expected) < 1e-5


def test_training_mode_undoes_it_and_eval_does_not():
    encoder = make("base").prepare_for_inference(packed=True)
    encoder.eval()
    assert is_prepared(encoder) and is_packed(encoder)
    encoder.train()
    encoder.eval()
    assert not is_prepared(encoder) and not is_packed(encoder)


def test_training_mode_refuses_it():
    with pytest.raises(ValueError, match=r"\.eval\(\)"):
        make("base").train().prepare_for_inference()


def test_a_second_call_serves_the_weights_as_they_are_now():
    encoder = make("tiny").prepare_for_inference(packed=True)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.mul_(1.1)
        assert not is_prepared(encoder) and not is_packed(encoder)
        fresh = copy.deepcopy(encoder)
        waveforms = noise(2, 8_000)
        expected = fresh(waveforms).hidden
        assert torch.equal(encoder(waveforms).hidden, expected)
        encoder.prepare_for_inference(packed=True)
        assert is_packed(encoder)
        assert distance(encoder(waveforms).hidden, expected) < 1e-5


def test_gradients_flow_through_a_prepared_encoder():
    encoder = make("base").prepare_for_inference(packed=True)
    plain = make("base")
    waveforms = noise(2, 8_000)
    for module in (encoder, plain):
        module(waveforms).hidden.sum().backward()
    for ours, theirs in zip(encoder.parameters(), plain.parameters(), strict=True):
        assert (ours.grad is None) == (theirs.grad is None)
        assert ours.grad is None or torch.equal(ours.grad, theirs.grad)


def test_checkpoints_and_copies_know_nothing_of_it():
    encoder = make("base")
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    encoder.prepare_for_inference(packed=True)
    after = encoder.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    twin, waveforms = copy.deepcopy(encoder), noise(1, 8_000)
    assert is_prepared(encoder) and not is_prepared(twin) and not is_packed(twin)
    with torch.no_grad():
        assert distance(twin(waveforms).hidden, encoder(waveforms).hidden) < 1e-5


def test_bf16_and_autocast_go_on_as_without():
    plain, waveforms = make("large"), noise(2, 8_000)
    prepared = copy.deepcopy(plain).prepare_for_inference(packed=True)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(prepared(waveforms).hidden, plain(waveforms).hidden)


def test_the_memory_of_the_copies_is_known():
    encoder = make("base")
    assert held(encoder.parameters()) == 0
    without = held(encoder.prepare_for_inference(packed=False).parameters())
    packed = held(encoder.prepare_for_inference(packed=True).parameters())
    linear = sum(weight.numel() * weight.element_size() for weight in encoder.encoder.linear_weights())
    assert without > 0 and packed == without + linear
    assert held(encoder.train().parameters()) == 0
