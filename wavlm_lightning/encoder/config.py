"""Configuration of an encoder: one frozen dataclass, the published presets, and the frames of a number of samples."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

SAMPLE_RATE = 16_000  # samples per second of every waveform the encoder reads

PRESETS = ("tiny", "base", "base_plus", "large", "hubert_base", "hubert_large")  # class methods of `WavLMConfig`

# Bounds of sizes, far above published models: what is larger takes hours to build.
MOST, LARGEST = 100_000, {"layers": 1_000, "num_buckets": 2_000, "max_distance": 10_000}
Samples = TypeVar("Samples", int, Tensor)


@dataclass(frozen=True)
class WavLMConfig:
    """Sizes and options of one encoder, WavLM or a relative; the defaults are WavLM Base (arXiv 2110.13900, section V-A).

    Attributes:
        conv_channels: output channels of each convolution of the front-end.
        conv_kernels: kernel of each convolution, in samples of its own input.
        conv_strides: stride of each convolution; the hop between frames is their product.
        conv_norm: `group` normalises each channel over time after the first convolution only (Base); `layer`
            normalises the channels of each frame after every convolution (Large).
        conv_bias: whether the convolutions have a bias (no published WavLM has).
        normalize_waveform: normalise each utterance to zero mean and unit variance first (Large).
        dim: width of the transformer.
        ffn_dim: width of the hidden layer of each feed-forward block.
        layers: number of transformer layers.
        heads: attention heads of each layer; the paper's table prints 8 for Base, the checkpoints have 12.
        pre_norm: layer norm before attention and feed-forward (Large, tiny) instead of after (Base).
        pos_conv_kernel: kernel of the convolutional positional embedding, in frames.
        pos_conv_groups: groups of that convolution.
        position_bias: what attention adds for the offset of key and query: `gated` is WavLM's bucketed bias times a
            gate (section III-B), `ungated` the same without gate (ILS-SSL, arXiv 2112.08778), `none` leaves positions
            to the convolution (wav2vec 2.0, HuBERT).
        num_buckets: relative-position buckets; half of them for keys after the query.
        max_distance: offset in frames from which all offsets share a bucket.
        dropout: dropout on the transformer's input and on the output of attention and feed-forward.
        attention_dropout: dropout on the attention weights.
        activation_dropout: dropout after the activation of the feed-forward block.
        dropout_input: dropout on the projected convolution features, before masking.
        layer_drop: probability that a layer is skipped in a training step.
        feature_grad_mult: factor on the gradient that enters the convolutions; 0 freezes them.
        batch_invariant: take group norm statistics over the valid samples of each row, so that padding changes
            nothing; false includes the padding, as other implementations do (for parity only).
        layer_norm_eps: epsilon of the layer norms of the projection and the transformer.

    Raises:
        ValueError: a field is out of range, or two fields contradict each other; the message names both.

    Example:
        >>> WavLMConfig.preset("large", layer_drop=0.0).frames(16_000)
        49
    """

    conv_channels: tuple[int, ...] = (512,) * 7
    conv_kernels: tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)
    conv_strides: tuple[int, ...] = (5, 2, 2, 2, 2, 2, 2)
    conv_norm: Literal["group", "layer"] = "group"
    conv_bias: bool = False
    normalize_waveform: bool = False
    dim: int = 768
    ffn_dim: int = 3072
    layers: int = 12
    heads: int = 12
    pre_norm: bool = False
    pos_conv_kernel: int = 128
    pos_conv_groups: int = 16
    position_bias: Literal["gated", "ungated", "none"] = "gated"
    num_buckets: int = 320
    max_distance: int = 800
    dropout: float = 0.1
    attention_dropout: float = 0.1
    activation_dropout: float = 0.0
    dropout_input: float = 0.1
    layer_drop: float = 0.05
    feature_grad_mult: float = 0.1
    batch_invariant: bool = True
    layer_norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        for name in ("conv_channels", "conv_kernels", "conv_strides"):
            if isinstance(getattr(self, name), list):  # YAML and JSON give lists
                object.__setattr__(self, name, tuple(getattr(self, name)))
        for entry in fields(self):
            self._check_number(entry.name, getattr(self, entry.name))
        if not len(self.conv_channels) == len(self.conv_kernels) == len(self.conv_strides):
            raise ValueError(
                f"conv_channels, conv_kernels and conv_strides must have one entry per layer, "
                f"not {len(self.conv_channels)}, {len(self.conv_kernels)} and {len(self.conv_strides)}"
            )
        if not self.conv_channels:
            raise ValueError("conv_channels and conv_kernels are empty; the front-end needs at least one convolution")
        for name in ("conv_channels", "conv_kernels", "conv_strides"):
            if min(getattr(self, name)) < 1:
                raise ValueError(f"{name} must be 1 or more in every layer, not {getattr(self, name)}")
        if self.conv_norm not in ("group", "layer"):
            raise ValueError(f"conv_norm must be group or layer, not {self.conv_norm}")
        if self.position_bias not in ("gated", "ungated", "none"):
            raise ValueError(f"position_bias must be gated, ungated or none, not {self.position_bias}")
        for name in ("dim", "ffn_dim", "layers", "heads", "pos_conv_kernel", "pos_conv_groups"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more, not {getattr(self, name)}")
        if self.dim % self.heads:
            raise ValueError(f"dim ({self.dim}) must be a multiple of heads ({self.heads})")
        if self.dim % self.pos_conv_groups:
            raise ValueError(f"dim ({self.dim}) must be a multiple of pos_conv_groups ({self.pos_conv_groups})")
        if self.num_buckets < 4 or self.num_buckets % 4:
            raise ValueError(f"num_buckets ({self.num_buckets}) must be a positive multiple of 4")
        if self.max_distance <= self.num_buckets // 4:
            raise ValueError(
                f"max_distance ({self.max_distance}) must exceed a quarter of num_buckets ({self.num_buckets}), "
                "the offsets that have their own bucket"
            )
        for name in ("dropout", "attention_dropout", "activation_dropout", "dropout_input", "layer_drop"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 0 and below 1, not {getattr(self, name)}")
        if not 0 <= self.feature_grad_mult <= 1:
            raise ValueError(f"feature_grad_mult must lie between 0 and 1, not {self.feature_grad_mult}")

    def _check_number(self, name: str, value: Any) -> None:
        """Settings in a stranger's file may be of any type, and as large as to take hours."""
        wanted = type(getattr(type(self), name))
        if wanted is tuple:
            if not (isinstance(value, tuple) and all(type(entry) is int and entry <= MOST for entry in value)):
                raise ValueError(f"{name} must be whole numbers up to {MOST}, not {value!r:.80}")
        elif wanted is int and (type(value) is not int or value > LARGEST.get(name, MOST)):
            raise ValueError(f"{name} must be a whole number up to {LARGEST.get(name, MOST)}, not {value!r:.80}")
        elif wanted is float and (type(value) not in (int, float) or not math.isfinite(value)):
            raise ValueError(f"{name} must be a number, not {value!r:.80}")
        elif wanted in (bool, str) and type(value) is not wanted:
            raise ValueError(f"{name} must be {'true or false' if wanted is bool else 'a word'}, not {value!r:.80}")

    @property
    def hop(self) -> int:
        """Samples between two frames (320 for every published model)."""
        return math.prod(self.conv_strides)

    @property
    def receptive_field(self) -> int:
        """Samples that one frame sees, which is the length of the shortest utterance (400)."""
        samples = 1
        for kernel, stride in zip(reversed(self.conv_kernels), reversed(self.conv_strides), strict=True):
            samples = (samples - 1) * stride + kernel
        return samples

    @property
    def frame_rate(self) -> float:
        """Frames per second (50.0)."""
        return SAMPLE_RATE / self.hop

    def frames(self, samples: Samples) -> Samples:
        """Number of frames that the front-end makes of a number of samples.

        Args:
            samples: an integer, or an integer tensor of any shape.

        Returns:
            Frames, of the same type and shape; 0 where the utterance is too short.
        """
        for kernel, stride in zip(self.conv_kernels, self.conv_strides, strict=True):
            samples = (samples - kernel) // stride + 1
        return samples.clamp(min=0) if isinstance(samples, torch.Tensor) else max(samples, 0)

    def to_dict(self) -> dict[str, Any]:
        """All fields, with tuples as lists, so that JSON and YAML keep them."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> WavLMConfig:
        """The reverse of `to_dict`; fields left out have the values of Base.

        Raises:
            ValueError: a key is not a field.
        """
        unknown = sorted(map(str, set(values) - {field.name for field in fields(cls)}))
        if unknown:
            raise ValueError(f"WavLMConfig has no field {', '.join(f'{name!s:.80}' for name in unknown)}")
        return cls(**values)

    @classmethod
    def base(cls) -> WavLMConfig:
        """WavLM Base: 94.4 M parameters."""
        return cls()

    @classmethod
    def base_plus(cls) -> WavLMConfig:
        """WavLM Base+: the network of Base, trained on 94,000 hours instead of 960."""
        return cls()

    @classmethod
    def large(cls) -> WavLMConfig:
        """WavLM Large: 315.5 M parameters, norms before the blocks, waveforms normalised."""
        return cls(
            conv_norm="layer",
            normalize_waveform=True,
            dim=1024,
            ffn_dim=4096,
            layers=24,
            heads=16,
            pre_norm=True,
            feature_grad_mult=1.0,
        )

    @classmethod
    def hubert_base(cls) -> WavLMConfig:
        """HuBERT Base (arXiv 2106.07447) and wav2vec 2.0 Base: WavLM Base without position bias, 94.4 M parameters."""
        return replace(cls.base(), position_bias="none")

    @classmethod
    def hubert_large(cls) -> WavLMConfig:
        """HuBERT Large: WavLM Large without position bias and without any dropout, 315.4 M parameters."""
        return replace(
            cls.large(), position_bias="none", dropout=0.0, attention_dropout=0.0, dropout_input=0.0, layer_drop=0.0
        )

    @classmethod
    def tiny(cls) -> WavLMConfig:
        """About 2 M parameters: small enough to pre-train on two CPU cores in minutes.

        Not a published size. Pre-norm and full gradients into the convolutions because it trains for minutes, not weeks;
        no dropout because it is the slowest operator on a CPU and training for minutes does not overfit.
        """
        return cls(
            conv_channels=(32, 32, 64, 64, 128, 128, 256),
            dim=192,
            ffn_dim=768,
            layers=4,
            heads=4,
            pre_norm=True,
            pos_conv_kernel=32,
            dropout=0.0,
            attention_dropout=0.0,
            activation_dropout=0.0,
            dropout_input=0.0,
            layer_drop=0.0,
            feature_grad_mult=1.0,
        )

    @classmethod
    def preset(cls, name: str, **overrides: Any) -> WavLMConfig:
        """A preset by name, with some fields replaced.

        Args:
            name: `tiny`, `base`, `base_plus`, `large`, `hubert_base` or `hubert_large`.
            **overrides: fields of this class.

        Raises:
            ValueError: unknown preset or field.
        """
        if name not in PRESETS:
            raise ValueError(f"unknown preset {name}; choose one of {', '.join(PRESETS)}")
        return cls.from_dict({**getattr(cls, name)().to_dict(), **overrides})
