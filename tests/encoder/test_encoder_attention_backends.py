"""Every backend against attention written out plainly: results, gradients, padding, block sizes, dropout."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from attention_helpers import KINDS, NAMES, check, gradients, inputs, padding_of, plain, run, valid_of
from encoder_helpers import make, noise

from wavlm_lightning.encoder.attention_backends import BACKENDS, attend, blocks, choose, recomputed
from wavlm_lightning.encoder.attention_backends.replayed_dropout import LaneDropout

SHAPES = [(1, 12, 33, 64), (3, 4, 17, 8), (2, 3, 1, 16)]  # Base's heads and their size; rows; one frame


def lengths_of(shape: tuple[int, ...], seed: int) -> list[int]:
    batch, _, frames, _ = shape
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(1, frames + 1, (batch,), generator=generator).tolist()


@pytest.fixture(params=["whole utterances", "heads", "queries"])
def block_size(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of several utterances, of one utterance's heads, and of a few queries of one head."""
    size = {"whole utterances": 2**20, "heads": 4 * 17 * 17 * 3, "queries": 4 * 40}[request.param]
    monkeypatch.setattr(blocks, "CACHE_BYTES", size)
    monkeypatch.setattr(blocks, "FEWEST_QUERIES", 1)


@pytest.mark.usefixtures("block_size")
@pytest.mark.parametrize("backend", ["sdpa", "recomputed"])
@pytest.mark.parametrize(("shape", "kind"), list(product(SHAPES, KINDS)))
@pytest.mark.parametrize("seed", [None, 0, 1])
def test_results_and_gradients(backend: str, shape: tuple[int, ...], kind: str, seed: int | None):
    x = inputs(shape, kind)
    padding = padding_of([shape[2]] * shape[0] if seed is None else lengths_of(shape, seed), shape[2])
    valid = valid_of(padding)
    wanted, found = plain(x, padding), run(backend, x, padding)
    check(found * valid, wanted * valid, 1e-5, "output")
    with torch.no_grad():
        check(run(backend, x, padding) * valid, wanted * valid, 1e-5, "output without gradients")
    expected = gradients(x, wanted, valid)
    for name, gradient in gradients(x, found, valid).items():
        check(gradient, expected[name], 1e-5, name)


@pytest.mark.parametrize("backend", ["sdpa", "recomputed"])
@pytest.mark.parametrize("kind", KINDS)
def test_bf16_errs_no_more_than_plain_bf16(backend: str, kind: str):
    shape = (3, 4, 65, 64)
    x = inputs(shape, kind)
    padding = padding_of([65, 40, 7], 65)
    valid = valid_of(padding)
    exact = plain(x, padding)
    half = {name: None if tensor is None else tensor.bfloat16() for name, tensor in x.items()}
    rough, found = plain(half, padding), run(backend, x, padding, torch.bfloat16)
    assert found.dtype == torch.bfloat16

    def error(output: torch.Tensor, name: str | None = None) -> float:
        if name is None:
            return float(((output - exact) * valid).norm())
        return float((gradients(x, output, valid)[name] - gradients(x, exact, valid)[name]).norm())

    assert error(found) <= 1.1 * error(rough)
    with torch.no_grad():
        assert error(run(backend, x, padding, torch.bfloat16)) <= 1.1 * error(rough)
    for name, tensor in x.items():
        if tensor is not None:
            assert error(found, name) <= 1.1 * error(rough, name), name


@pytest.mark.parametrize("kind", KINDS)
def test_fused_kernels_run_again(kind: str, monkeypatch: pytest.MonkeyPatch):
    """What `recomputed` does on a GPU runs on a CPU, too."""
    x, padding = inputs((3, 4, 17, 8), kind), padding_of([17, 9, 12], 17)
    monkeypatch.setattr(recomputed, "DEVICE_BYTES", 2 * 4 * 17 * 17 * 4)  # two utterances at a time
    query, key, value = (x[name].transpose(1, 2) for name in NAMES[:3])
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        found = recomputed.attend_again(query, key, value, x["table"], x["gate"], padding, 0.0)
    assert max(kept, default=0) < 17 * 17 * 4
    valid, wanted = valid_of(padding), plain(x, padding)
    check(found * valid, wanted * valid, 1e-5, "output")
    expected = gradients(x, wanted, valid)
    for name, gradient in gradients(x, found, valid).items():
        check(gradient, expected[name], 1e-5, name)


@pytest.mark.parametrize("kind", KINDS)
def test_recomputed_keeps_nothing_of_frames_by_frames(kind: str):
    x = inputs((2, 2, 200, 4), kind)
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        run("recomputed", x, None)
    assert kept and max(kept) <= 2 * 2 * 200 * 4


@pytest.mark.usefixtures("block_size")
@pytest.mark.parametrize("kind", KINDS)
def test_dropout_drops_the_same_weights_in_both_passes(kind: str):
    """The factors are read off the output of unit values, then plain attention with them has the same gradients."""
    shape = batch, heads, frames, _ = 2, 3, 17, 17
    x = inputs(shape, kind)
    query, key = (x[name].transpose(1, 2) for name in NAMES[:2])
    padding = padding_of([17, 11], frames)

    def dropped(value: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(4)
        rest = {"table": x["table"], "gate": x["gate"], "padding": padding, "dropout": 0.3}
        return attend("recomputed", query, key, value, **rest)

    weights = plain({**x, "value": torch.eye(frames).expand(batch, heads, -1, -1).transpose(1, 2)}, padding)
    kept = dropped(torch.eye(frames).expand(batch, heads, -1, -1))
    valid = valid_of(padding)
    factors = torch.where(weights > 0, kept / weights, 0.0).detach() * valid
    scale = LaneDropout(0, round(0.3 * 65_536)).scale
    assert torch.allclose(factors[factors > 0.5], torch.tensor(scale), rtol=1e-3)
    assert 0.6 < (factors[0] > 0.5).float().mean() < 0.8
    found, wanted = dropped(x["value"].transpose(1, 2)), plain(x, padding, (factors > 0.5) * scale)
    check(found * valid, wanted * valid, 1e-5, "output")
    expected = gradients(x, wanted, valid)
    for name, gradient in gradients(x, found, valid).items():
        check(gradient, expected[name], 1e-5, name)


@pytest.mark.parametrize("probability", [0.1, 0.5])
def test_dropout_has_its_distribution(probability: float):
    """Uniform weights: each output is the share of the values that stayed, scaled to keep the mean."""
    frames = 256
    zeros = torch.zeros(2, 4, frames, 4)
    torch.manual_seed(0)
    ones = torch.ones(2, 4, frames, 4)
    first, second = (attend("recomputed", zeros, zeros, ones, dropout=probability)[..., 0] for _ in range(2))
    assert not torch.equal(first, second)
    deviation = math.sqrt(probability / (1 - probability) / frames)
    assert first.mean().item() == pytest.approx(1.0, abs=4 * deviation / math.sqrt(first.numel()))
    assert first.std().item() == pytest.approx(deviation, rel=0.1)


def test_dropout_follows_the_seed_and_nothing_else():
    x = inputs((2, 3, 9, 8), "gated")
    query, key, value = (x[name].transpose(1, 2) for name in NAMES[:3])
    torch.manual_seed(1)
    first = attend("recomputed", query, key, value, dropout=0.5)
    torch.manual_seed(1)
    assert torch.equal(first, attend("recomputed", query, key, value, dropout=0.5))
    before = torch.get_rng_state()
    attend("recomputed", query, key, value)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_blocks_of_long_recordings_are_bounded(dtype: torch.dtype):
    """An hour: never a row block above the limit, every query of every head once, whatever the padding."""
    for frames, lengths in ((180_000, [180_000, 7]), (15_000, [15_000, 9_000]), (700, [700, 3])):
        query = torch.empty(1, dtype=dtype).expand(len(lengths), 3, frames, 64)
        found = blocks.split(query, lengths)
        assert max(math.prod(block.shape) for block in found) * query.element_size() <= blocks.LARGEST_BYTES
        pairs = sum(math.prod(block.shape) for block in found)
        assert pairs >= 3 * sum(length**2 for length in lengths)
        queries = sum(math.prod(block.shape[:3]) for block in found)
        assert queries == sum(
            3 * (block.queries.stop - block.queries.start) for block in found if block.heads.start == 0
        )


def test_choice():
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    full, half = torch.float32, torch.bfloat16
    assert choose(cpu, full, True, 0.0) == choose(cuda, half, True, 0.0) == "recomputed"
    assert choose(cpu, full, False, 0.1) == "recomputed"
    assert choose(cpu, full, False, 0.0) == choose(cuda, half, False, 0.1) == "sdpa"
    with torch.no_grad():
        assert choose(cpu, full, True, 0.0) == choose(cuda, half, True, 0.0) == "sdpa"


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_encoder_runs_by_the_backend_it_is_told(backend: str, monkeypatch: pytest.MonkeyPatch):
    encoder = make("base")
    with torch.no_grad():
        expected = encoder(noise(2, 8_000), torch.tensor([8_000, 6_000])).hidden
        encoder.encoder.run_layers(recomputed=False, compiled=False, attention=backend)
        called: list[str] = []
        chosen = BACKENDS[backend]
        monkeypatch.setitem(BACKENDS, backend, lambda *arguments: called.append(backend) or chosen(*arguments))
        found = encoder(noise(2, 8_000), torch.tensor([8_000, 6_000])).hidden
    assert called == [backend] * 3
    assert torch.allclose(found, expected, atol=1e-5)


def test_unknown_backends_are_refused():
    with pytest.raises(ValueError, match="sdpa, recomputed, flex or None, not flash"):
        make("base").encoder.run_layers(recomputed=False, compiled=False, attention="flash")
