"""The transformer on visible frames alone: their distances in the whole row, their inputs, and what it may not see."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from attention_helpers import KINDS, NAMES, Inputs, check, gradients, inputs, padding_of, plain, valid_of
from encoder_helpers import make
from torch import Tensor

from wavlm_lightning.encoder.attention_backends import BACKENDS, attend, recomputed, sdpa
from wavlm_lightning.encoder.visible_frames import VisibleFrames

FRAMES = 23


def masks(counts: list[int], seed: int = 0) -> Tensor:
    """A mask of `FRAMES` frames for each number of masked frames."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.stack([torch.randperm(FRAMES, generator=generator) for _ in counts])
    return order < torch.tensor(counts)[:, None]


def test_gather_and_scatter_are_inverse():
    mask, lengths = masks([10, 3, 22]), torch.tensor([FRAMES, FRAMES - 4, FRAMES])
    visible = VisibleFrames.of(mask, lengths)
    x = torch.randn(3, FRAMES, 5)
    there = ~mask & (torch.arange(FRAMES)[None] < lengths[:, None])
    assert visible.lengths.tolist() == there.sum(1).tolist()
    for row in range(3):
        assert torch.equal(visible.gather(x)[row, : visible.lengths[row]], x[row, there[row]])
    assert torch.equal(visible.scatter(visible.gather(x)), x * there[:, :, None])


def test_a_row_without_visible_frames_keeps_one():
    visible = VisibleFrames.of(torch.ones(2, FRAMES, dtype=torch.bool), torch.tensor([FRAMES, FRAMES]))
    assert visible.places.tolist() == [[0], [0]] and visible.padding is None


def pairs_of(x: Inputs) -> Tensor:
    """The table of offsets as one of pairs."""
    none = torch.zeros(3, 17, dtype=torch.bool)
    return VisibleFrames.of(none, torch.full((3,), 17)).bias(x["table"])


def again(*given: Any) -> Tensor:
    """What `recomputed` does on a GPU."""
    return recomputed.attend_again(*given, 0.0)


@pytest.mark.parametrize("how", [sdpa.attend_whole, recomputed.attend_in_blocks, again])
@pytest.mark.parametrize("kind", KINDS[:2])
def test_backends_take_the_bias_of_pairs(how: Callable[..., Tensor], kind: str, monkeypatch: pytest.MonkeyPatch):
    """A table of pairs that says what a table of offsets says gives the same, and its gradient adds up to that."""
    monkeypatch.setattr(recomputed, "DEVICE_BYTES", 2 * 2 * 17 * 17 * 4)  # two utterances at a time
    x, padding = inputs((3, 2, 17, 8), kind), padding_of([17, 9, 12], 17)
    query, key, value = (x[name].transpose(1, 2) for name in NAMES[:3])
    found = how(query, key, value, pairs_of(x), x["gate"], padding, *[0.0] * (how is not again))
    valid, wanted = valid_of(padding), plain(x, padding)
    check(found * valid, wanted * valid, 1e-5, "output")
    expected = gradients(x, wanted, valid)
    for name, gradient in gradients(x, found, valid).items():
        check(gradient, expected[name], 1e-5, name)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", KINDS[:2])
def test_without_gradients(backend: str, kind: str):
    x, padding = inputs((3, 2, 17, 8), kind), padding_of([17, 9, 12], 17)
    query, key, value = (x[name].detach().transpose(1, 2) for name in NAMES[:3])
    with torch.no_grad():
        found = attend(backend, query, key, value, table=pairs_of(x), gate=x["gate"], padding=padding)
    check(found * valid_of(padding), plain(x, padding) * valid_of(padding), 1e-5, "output")


def on_all_frames(encoder, projected: Tensor, mask: Tensor) -> Tensor:
    """The same, computed on the whole row by hiding the masked frames from attention as keys, `(batch, frames, dim)`."""
    stack = encoder.encoder
    x = torch.where(mask[:, :, None], encoder.masked_spec_embed, projected)
    x = x + stack.pos_conv_embed(x)
    x = x if stack.pre_norm else stack.layer_norm(x)
    table = stack.table(FRAMES, x.dtype)
    for layer in stack.layers:
        x = layer(x, table, mask, "sdpa")
    return stack.layer_norm(x) if stack.pre_norm else x


@pytest.mark.parametrize("kind", ["base", "large", "hubert base", "ungated"])
def test_visible_frames_attend_by_their_distance_in_the_row(kind: str):
    """Values and gradients, for rows with different numbers of visible frames."""
    encoder = make(kind)
    mask, lengths = masks([10, 3, 15]), torch.full((3,), FRAMES)
    projected = torch.randn(3, FRAMES, encoder.config.dim, requires_grad=True)
    visible = VisibleFrames.of(mask, lengths)
    found = encoder.contextualise(projected, lengths, mask, keep=[encoder.config.layers], visible=visible)
    whole = visible.scatter(found.hidden[0])
    expected = on_all_frames(encoder, projected, mask).masked_fill(mask[:, :, None], 0.0)
    assert torch.equal(found.lengths, (~mask).sum(1))
    check(whole, expected, 1e-5, "hidden")
    weight = torch.randn(expected.shape)
    leaves = {"input": projected, "mask": encoder.masked_spec_embed, **dict(encoder.encoder.named_parameters())}

    def gradient(output: Tensor) -> tuple[Tensor | None, ...]:
        return torch.autograd.grad((output * weight).sum(), list(leaves.values()), allow_unused=True)

    for name, ours, theirs in zip(leaves, gradient(whole), gradient(expected), strict=True):
        assert (ours is None) == (theirs is None), name
        if ours is not None:
            check(ours, theirs, 2e-5, name)
        else:
            assert kind == "base" or "layer_norm" in name, name


def test_nothing_masked_is_the_plain_pass():
    encoder = make("base")
    projected, lengths = torch.randn(2, FRAMES, encoder.config.dim), torch.full((2,), FRAMES)
    none = torch.zeros(2, FRAMES, dtype=torch.bool)
    with torch.no_grad():
        plainly = encoder.contextualise(projected, lengths, none).hidden
        found = encoder.contextualise(projected, lengths, none, visible=VisibleFrames.of(none, lengths)).hidden
    check(found, plainly, 1e-6, "hidden")


def test_a_row_gives_the_same_alone():
    encoder, counts = make("large"), [10, 3, 23]
    mask, lengths = masks(counts), torch.full((3,), FRAMES)
    projected = torch.randn(3, FRAMES, encoder.config.dim)
    with torch.no_grad():
        whole = encoder.contextualise(projected, lengths, mask, visible=VisibleFrames.of(mask, lengths)).hidden
        for row, count in enumerate(counts):
            one = slice(row, row + 1)
            visible = VisibleFrames.of(mask[one], lengths[one])
            alone = encoder.contextualise(projected[one], lengths[one], mask[one], visible=visible).hidden
            check(whole[:, one, : max(FRAMES - count, 1)], alone, 1e-5, str(row))
