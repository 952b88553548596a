"""Transformer encoder and decoder with the norm before each part; the decoder also answers one label at a time."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from wavlm_lightning.encoder import padding_mask


class KeysValues(NamedTuple):
    """What an attention looks at, `(batch, heads, frames, width / heads)` each."""

    keys: Tensor
    values: Tensor


def positions(first: int, count: int, width: int, like: Tensor) -> Tensor:
    """Sinusoidal positions `(count, width)` from place `first` on, sines and then cosines (arXiv 1706.03762, section 3.5)."""
    half = (width + 1) // 2
    rates = torch.exp(torch.arange(half, device=like.device) * (-math.log(10_000.0) / max(half - 1, 1)))
    angles = torch.arange(first, first + count, device=like.device)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], 1)[:, :width].to(like.dtype)


class Attention(nn.Module):
    """Attention of several heads (arXiv 1706.03762, section 3.2), whose keys and values can be kept between calls."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.query, self.key, self.value, self.output = (nn.Linear(width, width) for _ in range(4))
        for projection in (self.query, self.key, self.value, self.output):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)

    def _divided(self, hidden: Tensor) -> Tensor:
        return hidden.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def keys_values(self, hidden: Tensor) -> KeysValues:
        """Of hidden states `(batch, frames, width)`."""
        return KeysValues(self._divided(self.key(hidden)), self._divided(self.value(hidden)))

    def forward(self, hidden: Tensor, seen: KeysValues, allowed: Tensor | None = None) -> Tensor:
        """What the queries `(batch, queries, width)` find; `allowed`: bool, such as `(batch, 1, queries, frames)`."""
        found = nn.functional.scaled_dot_product_attention(
            self._divided(self.query(hidden)), *seen, allowed, self.dropout if self.training else 0.0
        )
        return self.output(found.transpose(1, 2).flatten(2))


class FeedForward(nn.Sequential):
    """Two linear layers with a ReLU."""

    def __init__(self, width: int, inner: int, dropout: float) -> None:
        super().__init__(nn.Linear(width, inner), nn.ReLU(), nn.Dropout(dropout), nn.Linear(inner, width))
        for place in (0, 3):
            layer = self[place]
            assert isinstance(layer, nn.Linear)
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward layer, each behind a norm and with a residual."""

    def __init__(self, width: int, heads: int, inner: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm, self.inner_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads, dropout)
        self.inner = FeedForward(width, inner, dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden: Tensor, allowed: Tensor) -> Tensor:
        normed = self.attention_norm(hidden)
        hidden = hidden + self.dropout(self.attention(normed, self.attention.keys_values(normed), allowed))
        return hidden + self.dropout(self.inner(self.inner_norm(hidden)))


class TransformerEncoder(nn.Module):
    """Layers that see all frames of an utterance, and a norm at the end."""

    def __init__(self, width: int, heads: int, inner: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(EncoderLayer(width, heads, inner, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, hidden: Tensor, lengths: Tensor) -> Tensor:
        """Hidden states `(batch, frames, width)` from those of the same shape and valid frames `(batch,)`."""
        frames, width = hidden.shape[1:]
        hidden = self.dropout(math.sqrt(width) * hidden + positions(0, frames, width, hidden))
        allowed = ~padding_mask(lengths, frames)[:, None, None]
        for layer in self.layers:
            hidden = layer(hidden, allowed)
        return self.norm(hidden)


class DecoderLayer(nn.Module):
    """Self-attention over the labels so far, attention over the encoder's frames, feed-forward layer."""

    def __init__(self, width: int, heads: int, inner: int, dropout: float) -> None:
        super().__init__()
        self.self_norm, self.memory_norm, self.inner_norm = (nn.LayerNorm(width) for _ in range(3))
        self.self_attention = Attention(width, heads, dropout)
        self.memory_attention = Attention(width, heads, dropout)
        self.inner = FeedForward(width, inner, dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden: Tensor, memory: KeysValues, allowed: Tensor, causal: Tensor) -> Tensor:
        """All labels at once: `hidden` `(batch, labels, width)`; `causal` `(labels, labels)` says which see which."""
        normed = self.self_norm(hidden)
        found = self.self_attention(normed, self.self_attention.keys_values(normed), causal)
        return self._behind(hidden + self.dropout(found), memory, allowed)

    def step(
        self, hidden: Tensor, memory: KeysValues, allowed: Tensor, past: KeysValues | None
    ) -> tuple[Tensor, KeysValues]:
        """One label of each hypothesis: `hidden` `(batch, hypotheses, width)`, `past` with a row for each hypothesis."""
        batch, hypotheses, _ = hidden.shape
        normed = self.self_norm(hidden).flatten(0, 1)[:, None]
        seen = self.self_attention.keys_values(normed)
        if past is not None:
            seen = KeysValues(*(torch.cat(pair, 2) for pair in zip(past, seen, strict=True)))
        found = self.self_attention(normed, seen).view(batch, hypotheses, -1)
        # The hypotheses of an utterance look at the same frames, as the labels of one answer do.
        return self._behind(hidden + found, memory, allowed), seen

    def _behind(self, hidden: Tensor, memory: KeysValues, allowed: Tensor) -> Tensor:
        hidden = hidden + self.dropout(self.memory_attention(self.memory_norm(hidden), memory, allowed))
        return hidden + self.dropout(self.inner(self.inner_norm(hidden)))


class DecoderState(NamedTuple):
    """What the decoder remembers of the hypotheses of a search.

    Attributes:
        memory: of each layer, keys and values of the encoder's frames, one row an utterance.
        allowed: valid frames, bool `(batch, 1, 1, frames)`.
        past: of each layer, keys and values of the labels so far, `(batch * hypotheses, ...)`; none before the first label.
        labels: so far.
    """

    memory: tuple[KeysValues, ...]
    allowed: Tensor
    past: tuple[KeysValues, ...] | None = None
    labels: int = 0

    def chosen(self, rows: Tensor) -> DecoderState:
        """The state of other hypotheses, by their rows `(batch * hypotheses,)`."""
        assert self.past is not None
        return self._replace(past=tuple(KeysValues(keys[rows], values[rows]) for keys, values in self.past))

    def utterances(self, kept: Tensor, rows: Tensor) -> DecoderState:
        """The state of some utterances, and of the rows of their hypotheses."""
        memory = tuple(KeysValues(keys[kept], values[kept]) for keys, values in self.memory)
        return self._replace(memory=memory, allowed=self.allowed[kept]).chosen(rows)


class TransformerDecoder(nn.Module):
    """Embedding, layers that see the labels before and all frames, norm, a logit for every label.

    Args:
        labels: number of outputs; the embedding has as many.
        width: of the hidden states.
        heads: of each attention.
        inner: width of the feed-forward layers.
        layers: their number.
        dropout: behind the embedding and each part, in attention and feed-forward layers.
    """

    def __init__(self, labels: int, width: int, heads: int, inner: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.embedding = nn.Embedding(labels, width)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(DecoderLayer(width, heads, inner, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.classifier = nn.Linear(width, labels)
        nn.init.normal_(self.embedding.weight, std=width**-0.5)
        nn.init.normal_(self.classifier.weight, std=width**-0.5)
        nn.init.zeros_(self.classifier.bias)

    def _embedded(self, labels: Tensor, first: int, count: int) -> Tensor:
        hidden = self.embedding(labels)
        width = hidden.shape[-1]
        return self.dropout(math.sqrt(width) * hidden + positions(first, count, width, hidden))

    def forward(self, labels: Tensor, memory: Tensor, lengths: Tensor) -> Tensor:
        """Logits `(batch, labels, outputs)` of what follows each of the labels `(batch, labels)`.

        From the encoder's hidden states `(batch, frames, width)` and their valid frames `(batch,)`.
        """
        count = labels.shape[1]
        hidden = self._embedded(labels, 0, count)
        allowed = ~padding_mask(lengths, memory.shape[1])[:, None, None]
        causal = torch.ones(count, count, dtype=torch.bool, device=labels.device).tril()
        for layer in self.layers:
            hidden = layer(hidden, layer.memory_attention.keys_values(memory), allowed, causal)
        return self.classifier(self.norm(hidden))

    def start(self, memory: Tensor, lengths: Tensor) -> DecoderState:
        """The state before the first label."""
        seen = tuple(layer.memory_attention.keys_values(memory) for layer in self.layers)
        return DecoderState(seen, ~padding_mask(lengths, memory.shape[1])[:, None, None])

    def step(self, labels: Tensor, state: DecoderState) -> tuple[Tensor, DecoderState]:
        """Logits `(batch, hypotheses, outputs)` of what follows the last label of each hypothesis `(batch, hypotheses)`."""
        hidden, kept = self._embedded(labels, state.labels, 1), []
        for number, layer in enumerate(self.layers):
            past = None if state.past is None else state.past[number]
            hidden, seen = layer.step(hidden, state.memory[number], state.allowed, past)
            kept.append(seen)
        return self.classifier(self.norm(hidden)), state._replace(past=tuple(kept), labels=state.labels + 1)
