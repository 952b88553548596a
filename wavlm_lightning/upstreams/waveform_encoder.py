"""Base of upstreams with a wav2vec 2.0 architecture from other libraries, independent of padding."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from wavlm_lightning.audio import SAMPLE_RATE
from wavlm_lightning.encoder import Layers, padding_mask
from wavlm_lightning.encoder.frontend import normalize_waveforms
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.upstreams.base import Upstream
from wavlm_lightning.upstreams.fine_tuning import skip_layer


class WaveformEncoder(Upstream):
    """Convolutions over the waveform, then a transformer (wav2vec 2.0, arXiv 2006.11477, section 2).

    Each row of a batch gets the output it would get alone. In models with group norm, which averages over time, the
    convolutions run row by row; the transformer runs on the padded batch and attends to valid frames only. Waveforms are
    normalised as in fairseq and s3prl, over the unpadded utterance and with 1e-5 added to the variance; the 1e-7 of
    Hugging Face's feature extractor differs only near silence.

    A subclass sets `label`, `dim` and `num_layers`, calls `describe_convolutions` and `freeze`, and implements
    `convolve` and `transform`, which runs the transformer inside `fine_tuned_blocks`.

    Attributes:
        normalize: whether waveforms get zero mean and unit variance first.
    """

    normalize: bool
    convolutions: Sequence[tuple[int, int]]

    def describe_convolutions(self, convolutions: Sequence[tuple[int, int]], front_end: nn.Module) -> None:
        """Set the frame rate, and whether rows must be convolved one by one; each layer has (kernel, stride)."""
        self.convolutions = tuple(convolutions)
        self.frame_rate = SAMPLE_RATE / math.prod(stride for _, stride in convolutions)
        self.shortest = 1
        for kernel, stride in reversed(self.convolutions):
            self.shortest = (self.shortest - 1) * stride + kernel
        self.averages_over_time = any(isinstance(module, nn.GroupNorm) for module in front_end.modules())
        self._compiled: dict[int, Callable[..., Any]] = {}

    @abstractmethod
    def convolve(self, waveforms: Tensor) -> Tensor:
        """Waveforms `(batch, samples)`, all valid, to `(batch, frames, channels)`."""

    @abstractmethod
    def transform(self, features: Tensor, padding: Tensor) -> list[Tensor]:
        """Convolved features `(batch, frames, channels)` to the hidden states, each `(batch, frames, dim)`.

        These are the input of every block, then the encoder's output (after the final norm, if there is one). Values where
        `padding` `(batch, frames)` is true are arbitrary. s3prl's `upstream/hubert/expert.py` hooks the same places.
        """

    @contextmanager
    def fine_tuned_blocks(self) -> Iterator[None]:
        """While this lasts, the transformer layers are skipped, recomputed and compiled as `fine_tuning` says, in training."""
        if not self.training or self.fine_tuning is None:
            yield
            return
        blocks = self.blocks()
        dropped = self.dropped_layers() or [False] * len(blocks)
        # Each layer is still called, also a skipped one: FSDP2 gathers its weights in this call. An attribute of the instance
        # hides the `forward` of its class.
        for number, block in enumerate(blocks):
            skipped = dropped[number] and not _holds_position_bias(block)
            block.__dict__["forward"] = partial(_skip, block) if skipped else partial(self._run, number, block)
        try:
            yield
        finally:
            for block in blocks:
                del block.__dict__["forward"]

    def _run(self, number: int, block: nn.Module, x: Tensor, **others: Any) -> Any:
        run: Callable[..., Any] = type(block).forward.__get__(block)
        if self.fine_tuning is not None and self.fine_tuning.compile:
            if number not in self._compiled:
                self._compiled[number] = torch.compile(run, dynamic=True)
            run = self._compiled[number]
        if self.fine_tuning is not None and self.fine_tuning.activation_checkpointing and torch.is_grad_enabled():
            return checkpoint(run, x, use_reentrant=False, **others)
        return run(x, **others)

    def frames(self, lengths: Tensor) -> Tensor:
        for kernel, stride in self.convolutions:
            lengths = (lengths - kernel) // stride + 1
        return lengths

    def layers(self, waveforms: Tensor, lengths: Tensor) -> Layers:
        """All hidden states, `(layers + 1, batch, frames, dim)`, zero where a frame is padding."""
        samples = lengths.tolist()
        if min(samples) < self.shortest:
            raise UserError(
                f"an utterance of {min(samples)} samples is shorter than the {self.shortest} that {self.label} needs "
                "for one frame"
            )
        lengths = lengths.to(waveforms.device)
        waveforms = waveforms[:, : max(samples)]
        if self.normalize:
            silent = waveforms.masked_fill(padding_mask(lengths, waveforms.shape[1]), 0.0)
            waveforms = normalize_waveforms(silent, lengths)
        waveforms = waveforms.to(next(self.parameters()).dtype)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self._convolutions_need_gradients(waveforms)):
            if self.averages_over_time and min(samples) < max(samples):
                rows = [self.convolve(row[None, :length])[0] for row, length in zip(waveforms, samples, strict=True)]
                features = nn.utils.rnn.pad_sequence(rows, batch_first=True)
            else:
                # These convolutions do not pad and have no norm over time, so no valid frame sees the padding of its row.
                features = self.convolve(waveforms)
        frames = self.frames(lengths)
        padding = padding_mask(frames, features.shape[1])
        hidden = torch.stack(self.transform(features, padding))
        return Layers(hidden.masked_fill(padding[None, :, :, None], 0.0), frames, self.frame_rate)

    def _convolutions_need_gradients(self, waveforms: Tensor) -> bool:
        # transformers' convolutions in training mode ask for the gradient of their input even if they are frozen.
        front_end = self.waveform_convolutions()
        return waveforms.requires_grad or front_end is None or any(p.requires_grad for p in front_end.parameters())


def _skip(block: nn.Module, x: Tensor, **others: Any) -> Any:
    """What a layer returns that LayerDrop skips: its input, and the position bias for the next layers if it takes one."""
    bias = others.get("position_bias")
    x = skip_layer(x, bias, block.parameters())
    return (x, bias) if "position_bias" in others else x


def _holds_position_bias(block: nn.Module) -> bool:
    """Whether a layer makes the position biases of a WavLM for all layers; LayerDrop never skips it, as in transformers."""
    return getattr(getattr(block, "attention", None), "rel_attn_embed", None) is not None
