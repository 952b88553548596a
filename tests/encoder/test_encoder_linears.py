"""Products through oneDNN against PyTorch's own, and who may use them."""

from __future__ import annotations

import copy
import gc
import threading
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from encoder_helpers import distance
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from wavlm_lightning.encoder.cpu import linear_timing, linears
from wavlm_lightning.encoder.cpu import weight_cache as kept
from wavlm_lightning.encoder.cpu.weight_cache import forget

pytestmark = pytest.mark.skipif(
    not hasattr(torch.ops.mkldnn, "_linear_pointwise"), reason="PyTorch was built without oneDNN"
)


@pytest.fixture(autouse=True)
def as_usual(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(linears, "SMALLEST", 0)
    yield
    linears.use(None)


def layer(inputs: int, outputs: int) -> nn.Linear:
    torch.manual_seed(inputs)
    return nn.Linear(inputs, outputs)


def uses_onednn(x: torch.Tensor, module: nn.Linear) -> bool:
    return "_Product" in type(linears.product(x, module.weight, module.bias).grad_fn).__name__


@settings(max_examples=20, deadline=None)
@given(
    rows=st.lists(st.integers(1, 40), min_size=1, max_size=3),
    inputs=st.integers(1, 70),
    outputs=st.integers(1, 70),
    bias=st.booleans(),
    across=st.booleans(),
)
def test_values_and_gradients_are_those_of_linear(rows, inputs, outputs, bias, across):
    module = layer(inputs, outputs)
    x = torch.randn(*rows, inputs)
    if across and len(rows) > 1:  # not contiguous
        x = torch.randn(*rows[:-1], inputs, rows[-1]).transpose(-1, -2)
    x.requires_grad_()
    b = module.bias if bias else None
    linears.use("onednn")
    assert uses_onednn(x, module)
    ours = linears.product(x, module.weight, b)
    theirs = F.linear(x, module.weight, b)
    assert distance(ours, theirs) < 1e-5
    seeds = torch.randn_like(theirs)
    wanted = [x, module.weight] + ([module.bias] if bias else [])
    for mine, other in zip(
        torch.autograd.grad(ours, wanted, seeds), torch.autograd.grad(theirs, wanted, seeds), strict=True
    ):
        assert distance(mine, other) < 1e-5
    with torch.no_grad():
        assert linears.pack(module.weight)
        assert distance(linears.product(x, module.weight, b), theirs) < 1e-5
        torch.testing.assert_close(linears.gelu_product(x, module.weight, b), F.gelu(theirs), rtol=1e-5, atol=1e-5)


def test_only_the_gradients_that_are_asked_for_are_computed():
    module, x = layer(20, 30), torch.randn(5, 20)
    module.weight.requires_grad_(False)
    linears.use("onednn")
    linears.product(x, module.weight, module.bias).sum().backward()
    assert module.weight.grad is None
    assert torch.equal(module.bias.grad, torch.full((30,), 5.0))


def test_plain_is_the_default_and_bit_for_bit_that_of_torch(monkeypatch):
    monkeypatch.delenv("WAVLM_LINEARS", raising=False)
    module, x = layer(64, 48), torch.randn(7, 64, requires_grad=True)
    assert linears.in_use() == "plain"
    assert not uses_onednn(x, module)
    assert torch.equal(linears.product(x, module.weight, module.bias), module(x))


def test_each_product_goes_where_it_is_faster(monkeypatch):
    module, x = layer(64, 48), torch.randn(7, 64, requires_grad=True)
    called = []
    real = linears.onednn_product
    monkeypatch.setattr(linears, "onednn_product", lambda *a, **k: called.append(1) or real(*a, **k))
    for gains, products in (
        ((2.0, 2.0, 2.0, 2.0), 3),
        ((0.9, 2.0, 2.0, 0.9), 1),
        ((2.0, 2.0, 0.9, 2.0), 2),
        ((0.9, 2.0, 0.9, 0.9), 0),
    ):
        monkeypatch.setattr(linears, "onednn_gains", lambda gains=gains: linear_timing.Gains(*gains))
        linears.use("auto")
        called.clear()
        linears.product(x, module.weight, module.bias).sum().backward()
        assert len(called) == products


def test_the_timing_is_taken_once_and_leaves_the_threads_alone():
    before = torch.get_num_threads()
    found = []
    threads = [threading.Thread(target=lambda: found.append(linear_timing.onednn_gains())) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found[0] is found[1] is found[2]
    assert all(0.05 < gain < 50 for gain in vars(found[0]).values())
    assert torch.get_num_threads() == before


def test_a_build_without_these_operators_goes_on(monkeypatch):
    linear_timing._measure.cache_clear()
    monkeypatch.setattr(linear_timing, "onednn_product", lambda *a, **k: torch.ops.mkldnn.no_such_operator())
    assert max(vars(linear_timing.onednn_gains()).values()) == 0
    linear_timing._measure.cache_clear()


def test_who_stays_with_torch():
    module, x = layer(64, 48), torch.randn(7, 64, requires_grad=True)
    linears.use("onednn")
    assert uses_onednn(x, module)
    with torch.autocast("cpu", torch.bfloat16):
        assert not uses_onednn(x, module)
    assert not uses_onednn(x.double(), module.double())
    module.float()
    torch.use_deterministic_algorithms(True)
    try:
        assert not uses_onednn(x, module)
    finally:
        torch.use_deterministic_algorithms(False)
    meta = nn.Linear(64, 48, device="meta")
    assert linears.product(torch.empty(7, 64, device="meta"), meta.weight, meta.bias).shape == (7, 48)


def test_small_products_stay_with_torch(monkeypatch):
    monkeypatch.setattr(linears, "SMALLEST", 7 * 64 * 48 + 1)
    linears.use("onednn")
    assert not uses_onednn(torch.randn(7, 64, requires_grad=True), layer(64, 48))


def test_compiled_code_stays_with_torch():
    module = layer(64, 48)
    linears.use("onednn")
    run = torch.compile(lambda x: linears.product(x, module.weight, module.bias), backend="eager", fullgraph=True)
    x = torch.randn(7, 64)
    torch.testing.assert_close(run(x), module(x))


def test_a_packed_weight_is_forgotten_once_it_changes():
    module, x = layer(64, 48), torch.randn(7, 64)
    with torch.no_grad():
        for change in (
            lambda: module.weight.mul_(2),
            lambda: module.load_state_dict(layer(65, 48).state_dict() | {"weight": torch.ones(48, 64)}),
            lambda: setattr(module.weight, "data", torch.full((48, 64), 3.0)),
        ):
            assert linears.pack(module.weight)
            assert kept.kept("packed", (module.weight,)) is not None
            change()
            assert kept.kept("packed", (module.weight,)) is None
            torch.testing.assert_close(linears.product(x, module.weight, module.bias), module(x))


def test_what_is_kept_goes_with_the_weight_and_is_not_copied():
    module = layer(64, 48)
    assert linears.pack(module.weight)
    gc.collect()  # what earlier tests have left
    before = len(kept._kept)
    twin = copy.deepcopy(module)
    assert kept.kept("packed", (twin.weight,)) is None
    assert not linears.pack(module.weight.to(torch.bfloat16))
    del module
    gc.collect()
    assert len(kept._kept) == before - 1


def test_a_wanted_gradient_never_meets_what_is_kept():
    module = layer(64, 48)
    assert linears.pack(module.weight)
    assert kept.kept("packed", (module.weight,)) is None
    linears.product(torch.randn(7, 64), module.weight, module.bias).sum().backward()
    assert module.weight.grad is not None
    forget([module.weight])


@pytest.mark.parametrize("how", ["call", "environment"])
def test_an_unknown_choice_is_refused(how, monkeypatch):
    if how == "environment":
        monkeypatch.setenv("WAVLM_LINEARS", "fast")
    with pytest.raises(ValueError, match="fast"):
        linears.use("fast") if how == "call" else linears.in_use()


def test_the_environment_chooses(monkeypatch):
    monkeypatch.setenv("WAVLM_LINEARS", "onednn")
    assert uses_onednn(torch.randn(7, 64, requires_grad=True), layer(64, 48))
    linears.use("plain")
    assert linears.in_use() == "plain"
