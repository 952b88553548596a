"""Features for codebooks: MFCC for the first HuBERT iteration, a layer of an encoder for the next ones."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wavlm_lightning.audio import SAMPLE_RATE, BadAudio, mfcc, with_deltas
from wavlm_lightning.data.shard_index import ShardIndex
from wavlm_lightning.encoder import WavLM
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.hardware import choose_device
from wavlm_lightning.system.reading import reason_of


class FeatureSource(ABC):
    """Frame-level features of one utterance."""

    rate: float  # frames per second

    @abstractmethod
    def __call__(self, waveform: np.ndarray) -> np.ndarray:
        """Features float32 `(frames, dim)` of a waveform `(samples,)`."""

    @abstractmethod
    def frames(self, samples: np.ndarray) -> np.ndarray:
        """Number of frames of waveforms of the given lengths, int64 of the same shape; needs no audio."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """A JSON-like description for the codebook; `from_description` builds the source from it."""

    @staticmethod
    def from_description(description: dict[str, Any], device: str | None = None) -> FeatureSource:
        """The source a codebook was fitted on, from its `describe`; a GPU is the default device if there is one.

        Raises:
            UserError: the kind is unknown, or the encoder on disk is not the one the codebook was fitted on.
        """
        if description["kind"] == "mfcc":
            return MfccFeatures(description["level_normalised"])
        if description["kind"] == "layer":
            precision = description.get("precision", "fp32")  # older descriptions have none
            source = LayerFeatures(description["encoder"], description["layer"], device, precision=precision)
            if source.sha256 != description["encoder_sha256"]:
                raise UserError(f"{source.path}: not the encoder this codebook was fitted on; fit the codebook again")
            return source
        raise UserError(f"unknown kind of codebook features {description['kind']!r}; update wavlm_lightning")


class MfccFeatures(FeatureSource):
    """39 cepstral features at 100 Hz, no mean removal (HuBERT, arXiv 2106.07447, section IV-A).

    Args:
        level_normalised: scale each utterance to the same root mean square first. The published labels do not. A
            front-end with group norm cannot see the level, so if gain varies, raw labels are partly unpredictable.
    """

    rate = 100.0

    def __init__(self, level_normalised: bool = False) -> None:
        self.level_normalised = level_normalised

    def __call__(self, waveform: np.ndarray) -> np.ndarray:
        """Features float32 `(frames, 39)`, frames = (samples - 400) // 160 + 1."""
        if not self.frames(np.array(len(waveform))):
            return np.zeros((0, 39), np.float32)
        audio = torch.from_numpy(waveform)
        if self.level_normalised:
            audio = audio * (0.1 / audio.square().mean().sqrt().clamp(min=1e-5))
        return with_deltas(mfcc(audio)).numpy()

    def frames(self, samples: np.ndarray) -> np.ndarray:
        return np.maximum((samples - 400) // 160 + 1, 0)

    def describe(self) -> dict[str, Any]:
        return {"kind": "mfcc", "dim": 39, "level_normalised": self.level_normalised}


class LayerFeatures(FeatureSource):
    """Output of one layer of an encoder, unmasked, in eval mode (HuBERT's second iteration).

    Args:
        encoder: a Hugging Face directory, a unilm `.pt` file or a `.ckpt` of a pre-training run.
        layer: 0 is the input of the first layer, N the output of layer N.
        device: of the encoder; a GPU by default if there is one.
        chunk_seconds: longer utterances are processed in pieces of this length, as in the reference (100 s).
        precision: `fp32`, or `bf16` for autocast, which is faster on GPUs and changes the labels of a few frames.

    Raises:
        UserError: the layer or precision does not exist.
    """

    def __init__(
        self,
        encoder: str | Path,
        layer: int,
        device: str | None = None,
        chunk_seconds: float = 100.0,
        precision: str = "fp32",
    ) -> None:
        from wavlm_lightning.upstreams.wavlm import load_encoder

        if precision not in ("fp32", "bf16"):
            raise UserError(f"precision of codebook features must be fp32 or bf16, not {precision!r}")
        self.path, self.layer, self.precision = Path(encoder), layer, precision
        self.device = choose_device(device)
        self.encoder: WavLM = load_encoder(self.path).eval().to(self.device)
        self.chunk = int(chunk_seconds * SAMPLE_RATE)
        self.rate = self.encoder.config.frame_rate
        if not 0 <= layer <= self.encoder.config.layers:
            raise UserError(f"{encoder}: it has layers 0 to {self.encoder.config.layers}, not {layer}")

    @cached_property
    def sha256(self) -> str:
        digest = hashlib.sha256()
        for name, value in sorted(self.encoder.state_dict().items()):
            digest.update(name.encode() + value.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    @torch.no_grad()
    def __call__(self, waveform: np.ndarray) -> np.ndarray:
        """Features float32 `(frames, dim)`."""
        parts = [torch.zeros(0, self.encoder.config.dim)]
        for piece in torch.from_numpy(waveform).split(self.chunk):
            if len(piece) >= self.encoder.config.receptive_field:
                with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
                    features, lengths = self.encoder.features(piece[None].to(self.device))
                    projected, _ = self.encoder.project(features)
                    # Layers above the requested one are not run.
                    hidden = self.encoder.contextualise(projected, lengths, keep=[self.layer]).hidden[0, 0]
                parts.append(hidden.float().cpu())
        return torch.cat(parts).numpy()

    def frames(self, samples: np.ndarray) -> np.ndarray:
        of = self.encoder.config.frames
        rest = of(torch.as_tensor(samples % self.chunk)).numpy()
        return samples // self.chunk * of(self.chunk) + rest

    def describe(self) -> dict[str, Any]:
        """Kind, encoder and layer; the precision only if it is not fp32, so that hashes of older codebooks stay valid."""
        described = {"kind": "layer", "dim": self.encoder.config.dim, "encoder": str(self.path)}
        described |= {"encoder_sha256": self.sha256, "layer": self.layer}
        return described if self.precision == "fp32" else described | {"precision": self.precision}


def features_of(source: FeatureSource, shard: ShardIndex, place: int) -> np.ndarray:
    """Features float32 `(frames, dim)` of utterance `place` of a shard; none if it has less than one frame.

    Raises:
        UserError: its audio is damaged, or the source cannot compute them; the message names shard and utterance.
    """
    try:
        return source(shard.waveform(place))
    except BadAudio as error:
        raise UserError(f"{error}; prepare the corpus again") from error
    except (ValueError, RuntimeError) as error:
        raise UserError(f"{shard.path}: utterance {shard.keys[place]!r}: {reason_of(error)}") from error
