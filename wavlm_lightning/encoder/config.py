"""Configuration of an encoder: one frozen dataclass, the published presets, and the frames of a number of samples."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

SAMPLE_RATE = 16_000  # samples per second of every waveform the encoder reads

# Windows of the log-mel front-end in samples, their shift, and the lowest frequency of its filters in Hz
MEL_WINDOW, MEL_SHIFT, MEL_LOWEST = 400, 160, 20.0

PRESETS = (
    "tiny",
    "base",
    "base_plus",
    "large",
    "hubert_base",
    "hubert_large",
    "tiny_mel",
    "tiny_wide",
)  # class methods of `WavLMConfig`

# Bounds of sizes, far above published models: what is larger takes hours to build.
MOST, LARGEST = 100_000, {"layers": 1_000, "num_buckets": 2_000, "max_distance": 10_000}
Samples = TypeVar("Samples", int, Tensor)

CONV_FIELDS = ("conv_channels", "conv_kernels", "conv_strides")  # of convolutions over the waveform
MEL_FIELDS = ("mel_bins", "mel_channels", "mel_norm")  # of a log-mel front-end


def mel(frequency: float) -> float:
    """A frequency in Hz on the HTK mel scale."""
    return 1127.0 * math.log1p(frequency / 700.0)


@dataclass(frozen=True)
class WavLMConfig:
    """Sizes and options of one encoder, WavLM or a relative; the defaults are WavLM Base (arXiv 2110.13900, section V-A).

    Attributes:
        front_end: `waveform` learns convolutions over samples, as all published models do; `log_mel` computes log-mel frames
            on the same grid of 25 ms every 20 ms, see `log_mel.py`, and has no use for `conv_channels`, `conv_kernels` and
            `conv_strides`.
        mel_bins: mel filters of a log-mel front-end.
        mel_channels: output channels of its convolutions over mel frames: the last one joins two frames of 10 ms to one of
            20 ms, those before it see 3 frames of 10 ms; with none, the features are the two mel frames.
        mel_norm: what is subtracted from the log-mel frames of an utterance: its `level`, the mean over time and filters; the
            mean over time of each of the `bins`, which removes channel and part of the voice; or `none` of both.
        conv_channels: output channels of each convolution of the front-end.
        conv_kernels: kernel of each convolution, in samples of its own input.
        conv_strides: stride of each convolution; the hop between frames is their product.
        conv_norm: `group` normalises each channel over time after the first convolution only (Base); `layer`
            normalises the channels of each frame after every convolution (Large). With log-mel frames, `group` stands for no
            norm, as `mel_norm` replaces it.
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

    front_end: Literal["waveform", "log_mel"] = "waveform"
    mel_bins: int = 80
    mel_channels: tuple[int, ...] = ()
    mel_norm: Literal["level", "bins", "none"] = "level"
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
        for name in ("conv_channels", "conv_kernels", "conv_strides", "mel_channels"):
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
        self._check_front_end()
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

    def _check_front_end(self) -> None:
        if self.front_end not in ("waveform", "log_mel"):
            raise ValueError(f"front_end must be waveform or log_mel, not {self.front_end}")
        if self.mel_norm not in ("level", "bins", "none"):
            raise ValueError(f"mel_norm must be level, bins or none, not {self.mel_norm}")
        if self.front_end == "waveform":
            if changed := [name for name in MEL_FIELDS if getattr(self, name) != getattr(type(self), name)]:
                raise ValueError(f"{changed[0]} is for log-mel frames; set front_end: log_mel, or remove {changed[0]}")
            return
        if not 8 <= self.mel_bins <= 256:
            raise ValueError(f"mel_bins must lie between 8 and 256, not {self.mel_bins}")
        if self.mel_channels and min(self.mel_channels) < 1:
            raise ValueError(f"mel_channels must be 1 or more in every layer, not {self.mel_channels}")
        if not self.batch_invariant:
            raise ValueError(
                "batch_invariant: false is for parity with models whose convolutions read the waveform; remove it, or set "
                "front_end: waveform"
            )

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
        return 2 * MEL_SHIFT if self.front_end == "log_mel" else math.prod(self.conv_strides)

    @property
    def receptive_field(self) -> int:
        """Samples of a frame's window, which is the length of the shortest utterance (400).

        Convolutions over the waveform see these alone; a log-mel front-end sees some of the neighbouring samples as well.
        """
        if self.front_end == "log_mel":
            return MEL_WINDOW
        samples = 1
        for kernel, stride in zip(reversed(self.conv_kernels), reversed(self.conv_strides), strict=True):
            samples = (samples - 1) * stride + kernel
        return samples

    @property
    def feature_dim(self) -> int:
        """Channels of the front-end's output, which the projection reads."""
        if self.front_end == "waveform":
            return self.conv_channels[-1]
        return self.mel_channels[-1] if self.mel_channels else 2 * self.mel_bins

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
        kernels = zip(self.conv_kernels, self.conv_strides, strict=True)
        for kernel, stride in ((self.receptive_field, self.hop),) if self.front_end == "log_mel" else kernels:
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
    def tiny_mel(cls) -> WavLMConfig:
        """`tiny` with a log-mel front-end, which need not learn spectral analysis; as many parameters within 5 %."""
        return replace(cls.tiny(), front_end="log_mel", mel_channels=(128, 256), conv_bias=True)

    @classmethod
    def tiny_wide(cls) -> WavLMConfig:
        """`tiny_mel` with 2 layers of 256 in place of 4 of 192: as many parameters, faster, wider features for heads.

        Norms after the blocks, as in WavLM Base: hidden states of one size are easier for a linear head.
        """
        return replace(cls.tiny_mel(), layers=2, dim=256, ffn_dim=1024, pre_norm=False)

    @classmethod
    def preset(cls, name: str, **overrides: Any) -> WavLMConfig:
        """A preset by name, with some fields replaced.

        Args:
            name: `tiny`, `base`, `base_plus`, `large`, `hubert_base`, `hubert_large`, `tiny_mel` or `tiny_wide`.
            **overrides: fields of this class.

        Raises:
            ValueError: unknown preset or field.
        """
        if name not in PRESETS:
            raise ValueError(f"unknown preset {name}; choose one of {', '.join(PRESETS)}")
        return getattr(cls, name)().changed(overrides)

    def changed(self, overrides: Mapping[str, Any]) -> WavLMConfig:
        """A copy with some fields replaced.

        Raises:
            ValueError: a key is not a field, or one that the front-end has no use for.
        """
        unused = [name for name in CONV_FIELDS if name in overrides]
        if unused and overrides.get("front_end", self.front_end) == "log_mel":
            raise ValueError(
                f"{unused[0]} is for convolutions over the waveform, but front_end is log_mel; set mel_channels, or "
                "front_end: waveform"
            )
        changed = self.from_dict({**self.to_dict(), **overrides})
        unused = [name for name in ("conv_norm", "conv_bias") if name in overrides]
        if unused and changed.front_end == "log_mel" and not changed.mel_channels:
            raise ValueError(
                f"{unused[0]} is for convolutions, and log-mel frames without mel_channels have none; set mel_channels, or "
                f"remove {unused[0]}"
            )
        return changed
