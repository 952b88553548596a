"""Buckets, gate and bias against a restatement of the released code's arithmetic, written without looking at ours."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from encoder_helpers import CONFIGS, make, noise, shake
from torch import Tensor, nn

from wavlm_lightning.encoder import WavLMConfig
from wavlm_lightning.encoder.attention import Attention
from wavlm_lightning.encoder.position_bias import RelativePositionTable, distance_buckets


def bucket(delta: int, n: int = 320, m: int = 800) -> int:
    """Bucket of key index minus query index, from the formula in the fact sheet (WavLM paper, equation 5)."""
    h, e, d = n // 2, n // 4, abs(delta)
    far = d if d < e else min(h - 1, e + math.floor(math.log(d / e) / math.log(m / e) * (h - e)))
    return far + (h if delta > 0 else 0)


def test_buckets_follow_the_formula():
    near = distance_buckets(320, 800)
    assert len(near) == 801
    assert near == [bucket(-distance) for distance in range(801)]
    assert near[:81] == list(range(81))
    assert near[800] == 159


@pytest.mark.parametrize(("n", "m"), [(320, 1280), (32, 128), (8, 100), (4, 2)])
def test_buckets_of_other_sizes(n: int, m: int):
    buckets = distance_buckets(n, m)
    assert buckets == sorted(buckets)
    assert buckets[-1] == n // 2 - 1
    expected = [bucket(-distance, n, m) for distance in range(m + 1)]
    # A floating-point floor may fall on the wrong side where the logarithm is a whole number; the integers may not.
    assert all(0 <= ours - theirs <= 1 for ours, theirs in zip(buckets, expected, strict=True))
    assert sum(ours != theirs for ours, theirs in zip(buckets, expected, strict=True)) <= 3


def test_table_entries():
    table = RelativePositionTable(WavLMConfig.tiny())
    frames = 900
    bias = table(frames)
    for i, j in [(0, 0), (0, 1), (1, 0), (500, 420), (500, 419), (0, 899), (899, 0), (10, 300)]:
        assert torch.equal(bias[:, i - j + frames - 1], table.weight[bucket(j - i)])


def slow_attention(layer: Attention, table: Tensor, x: Tensor, valid: list[int]) -> Tensor:
    """One query, one head, one row at a time."""
    batch, frames, dim = x.shape
    heads, size = layer.heads, dim // layer.heads
    grep, scale = layer.gru_rel_pos_linear, layer.gru_rel_pos_const.flatten()
    rows = []
    for b in range(batch):
        q, k, v = (
            projection(x[b]).view(frames, heads, size) for projection in (layer.q_proj, layer.k_proj, layer.v_proj)
        )
        outputs = []
        for i in range(frames):
            heads_out = []
            for h in range(heads):
                y = grep(x[b, i, h * size : (h + 1) * size])  # the hidden state, not the query
                reset, update = torch.sigmoid(y[:4].sum()), torch.sigmoid(y[4:].sum())
                gate = reset * (update * scale[h] - 1) + 2
                d = torch.stack([table[bucket(j - i), h] for j in range(valid[b])])
                logits = k[: valid[b], h] @ q[i, h] / math.sqrt(size) + gate * d
                heads_out.append(logits.softmax(0) @ v[: valid[b], h])
            outputs.append(torch.cat(heads_out))
        rows.append(layer.out_proj(torch.stack(outputs)))
    return torch.stack(rows)


def test_attention_follows_the_formula():
    torch.manual_seed(0)
    config = CONFIGS["base"]
    layer = Attention(config, has_table=True).eval()
    shake(layer)
    x = torch.randn(2, 9, config.dim)
    padding = torch.arange(9)[None] >= torch.tensor([9, 6])[:, None]
    table = 3 * layer.rel_attn_embed.weight
    by_offset = 3 * layer.rel_attn_embed(9)
    with torch.no_grad():
        expected = slow_attention(layer, table, x, [9, 6])
    for backend in ("sdpa", "recomputed"):
        result = layer(x, by_offset, padding, backend)
        assert torch.allclose(result[~padding], expected[~padding], atol=1e-6)


def test_gate_before_training():
    layer = Attention(CONFIGS["base"], has_table=False)
    torch.nn.init.zeros_(layer.gru_rel_pos_linear.weight)
    assert torch.allclose(layer.gate(torch.randn(2, 9, 64)), torch.tensor(1.75))


@pytest.mark.parametrize("kind", ["gated", "ungated", "none"])
def test_stack_follows_the_formula_with_every_position_bias(kind: str):
    """The whole path from table and padding to logits, gates replaced by what each kind puts in their place."""
    encoder = make("base", position_bias=kind)
    first = encoder.encoder.layers[0].attention
    x = torch.randn(2, 9, 64, generator=torch.Generator().manual_seed(0))
    padding = torch.arange(9)[None] >= torch.tensor([9, 6])[:, None]
    gated = Attention(CONFIGS["base"], has_table=True).eval()
    if kind == "gated":
        gated.load_state_dict(first.state_dict())
    else:
        gated.load_state_dict(first.state_dict(), strict=False)
        nn.init.zeros_(gated.gru_rel_pos_const)
        nn.init.zeros_(gated.gru_rel_pos_linear.weight)
        nn.init.constant_(gated.gru_rel_pos_linear.bias, 25.0)  # a = 1, s = 0: the gate is 1
    table = torch.zeros(320, 4) if kind == "none" else first.rel_attn_embed.weight
    for inputs, mask, valid in ((x, padding, [9, 6]), (x, None, [9, 9])):
        expected = slow_attention(gated, table, inputs, valid)
        seen = torch.arange(9)[None] < torch.tensor(valid)[:, None]
        for backend in ("sdpa", "recomputed"):
            result = first(inputs, encoder.encoder.table(9, inputs.dtype), mask, backend)
            assert torch.allclose(result[seen], expected[seen], atol=1e-6)


def test_no_position_bias_and_no_padding_needs_no_mask(monkeypatch: pytest.MonkeyPatch):
    encoder = make("hubert base")
    masks = []
    original = F.scaled_dot_product_attention

    def record(*arguments: Tensor, attn_mask: Tensor | None, dropout_p: float) -> Tensor:
        masks.append(attn_mask)
        return original(*arguments, attn_mask=attn_mask, dropout_p=dropout_p)

    monkeypatch.setattr(F, "scaled_dot_product_attention", record)
    encoder(noise(2, 8_000))
    assert masks == [None] * 3
    masks.clear()
    encoder(noise(2, 8_000), torch.tensor([8_000, 6_000]))
    assert [tuple(mask.shape) for mask in masks] == [(2, 1, 1, 24)] * 3  # keys alone, not queries x keys


@pytest.mark.parametrize("kind", ["base", "large", "ungated", "hubert base"])
def test_gradients_of_an_encoder_are_the_same_by_every_backend(kind: str):
    found = []
    for backend in ("sdpa", "recomputed"):
        encoder = make(kind)
        encoder.encoder.run_layers(recomputed=False, compiled=False, attention=backend)
        encoder(noise(2, 8_000), torch.tensor([8_000, 6_000])).hidden[-1].square().sum().backward()
        found.append({name: p.grad for name, p in encoder.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        assert (gradient - found[1][name]).abs().max() < 1e-4 * found[1][name].abs().max() + 1e-4, name
