"""Attention written out plainly, and what the tests of its backends share."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from wavlm_lightning.encoder.attention_backends import attend

KINDS = ["gated", "ungated", "none"]
NAMES = ["query", "key", "value", "table", "gate"]
Inputs = dict[str, Tensor | None]


def inputs(shape: tuple[int, ...], kind: str, seed: int = 0) -> Inputs:
    generator = torch.Generator().manual_seed(seed)
    batch, heads, frames, size = shape

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).requires_grad_()

    made: Inputs = {name: draw(batch, frames, heads, size) for name in NAMES[:3]}
    made["table"] = draw(heads, 2 * frames - 1) if kind != "none" else None
    made["gate"] = draw(batch, heads, frames) if kind == "gated" else None
    return made


def padding_of(lengths: list[int], frames: int) -> Tensor | None:
    return None if min(lengths) == frames else torch.arange(frames)[None] >= torch.tensor(lengths)[:, None]


def plain(x: Inputs, padding: Tensor | None, factors: Tensor | float = 1.0) -> Tensor:
    """The equation, with a gather by offset."""
    query, key, value = (x[name].transpose(1, 2) for name in NAMES[:3])
    frames, size = query.shape[2:]
    logits = query @ key.mT / math.sqrt(size)
    if x["table"] is not None:
        index = torch.arange(frames)[:, None] - torch.arange(frames) + frames - 1
        bias = x["table"][:, index]
        logits = logits + (bias if x["gate"] is None else x["gate"][..., None] * bias)
    if padding is not None:
        logits = logits.masked_fill(padding[:, None, None, :], -math.inf)
    return (logits.softmax(-1) * factors) @ value


def run(backend: str, x: Inputs, padding: Tensor | None, dtype: torch.dtype = torch.float32) -> Tensor:
    cast = {name: None if tensor is None else tensor.to(dtype) for name, tensor in x.items()}
    query, key, value = (cast[name].transpose(1, 2) for name in NAMES[:3])
    return attend(backend, query, key, value, table=cast["table"], gate=cast["gate"], padding=padding)


def gradients(x: Inputs, output: Tensor, valid: Tensor) -> dict[str, Tensor]:
    """Of a loss on the frames that are no padding."""
    weight = torch.randn(output.shape, generator=torch.Generator().manual_seed(9)) * valid
    leaves = {name: tensor for name, tensor in x.items() if tensor is not None}
    found = torch.autograd.grad((output.float() * weight).sum(), list(leaves.values()), retain_graph=True)
    return dict(zip(leaves, found, strict=True))


def valid_of(padding: Tensor | None) -> Tensor:
    return torch.ones(1, 1, 1, 1) if padding is None else (~padding)[:, None, :, None].float()


def check(found: Tensor, wanted: Tensor, tolerance: float, name: str) -> None:
    assert found.shape == wanted.shape
    difference = (found - wanted).detach().abs().max()
    assert difference <= tolerance * max(1.0, float(wanted.detach().abs().max())), name
