"""What a codebook clusters: cepstra for the first iteration, a layer of an encoder for the next."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wavlm_lightning.audio import SAMPLE_RATE, mfcc, with_deltas
from wavlm_lightning.encoder import WavLM
from wavlm_lightning.errors import UserError


class FeatureSource(ABC):
    """Frame-level features of one utterance.

    Attributes:
        rate: frames per second.
    """

    rate: float

    @abstractmethod
    def __call__(self, waveform: np.ndarray) -> np.ndarray:
        """Features float32 `(frames, dim)` of a waveform `(samples,)`."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """What the codebook's JSON says of its features; `from_description` reads it back."""

    @staticmethod
    def from_description(description: dict[str, Any]) -> FeatureSource:
        """The source a codebook was fitted on.

        Raises:
            UserError: unknown kind, or the encoder on disk is not the one the codebook was fitted on.
        """
        if description["kind"] == "mfcc":
            return MfccFeatures(description["level_normalised"])
        if description["kind"] == "layer":
            source = LayerFeatures(description["encoder"], description["layer"])
            if source.sha256 != description["encoder_sha256"]:
                raise UserError(
                    f"{description['encoder']}: not the encoder this codebook was fitted on; fit the codebook again"
                )
            return source
        raise UserError(f"unknown kind of codebook features {description['kind']!r}; update wavlm_lightning")


class MfccFeatures(FeatureSource):
    """39 cepstral features at 100 Hz, no mean removal (HuBERT, arXiv 2106.07447, section IV-A).

    Args:
        level_normalised: scale each utterance to the same root mean square first. The published labels do not; a
            front-end with group norm cannot see the level, so with gain variation a part of raw labels is
            unpredictable.
    """

    rate = 100.0

    def __init__(self, level_normalised: bool = False) -> None:
        self.level_normalised = level_normalised

    def __call__(self, waveform: np.ndarray) -> np.ndarray:
        """Features float32 `(frames, 39)`, frames = (samples - 400) // 160 + 1."""
        audio = torch.from_numpy(waveform)
        if self.level_normalised:
            audio = audio * (0.1 / audio.square().mean().sqrt().clamp(min=1e-5))
        return with_deltas(mfcc(audio)).numpy()

    def describe(self) -> dict[str, Any]:
        """Kind and key."""
        return {"kind": "mfcc", "dim": 39, "level_normalised": self.level_normalised}


class LayerFeatures(FeatureSource):
    """Output of one layer of an encoder, unmasked, in eval mode (HuBERT's second iteration).

    Args:
        encoder: a Hugging Face directory, a unilm `.pt` file or a `.ckpt` of a pre-training run.
        layer: 0 is the input of the first layer, N the output of layer N.
        device: where to run; a GPU if there is one.
        chunk_seconds: longer utterances are processed in pieces of this length, as the reference does (100 s).
    """

    def __init__(
        self, encoder: str | Path, layer: int, device: str | None = None, chunk_seconds: float = 100.0
    ) -> None:
        from wavlm_lightning.upstreams.wavlm import load_encoder

        self.path, self.layer = Path(encoder), layer
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.encoder: WavLM = load_encoder(self.path).eval().to(self.device)
        self.chunk = int(chunk_seconds * SAMPLE_RATE)
        self.rate = self.encoder.config.frame_rate
        if not 0 <= layer <= self.encoder.config.layers:
            raise UserError(f"{encoder}: it has layers 0 to {self.encoder.config.layers}, not {layer}")

    @property
    def sha256(self) -> str:
        """Hash of the encoder's weights."""
        digest = hashlib.sha256()
        for name, value in sorted(self.encoder.state_dict().items()):
            digest.update(name.encode() + value.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    @torch.no_grad()
    def __call__(self, waveform: np.ndarray) -> np.ndarray:
        """Features float32 `(frames, dim)`."""
        parts = []
        for piece in torch.from_numpy(waveform).split(self.chunk):
            if len(piece) >= self.encoder.config.receptive_field:
                features, lengths = self.encoder.features(piece[None].to(self.device))
                projected, _ = self.encoder.project(features)
                # Layers above the one that is asked for are not run.
                parts.append(self.encoder.contextualise(projected, lengths, keep=[self.layer]).hidden[0, 0])
        return torch.cat(parts).float().cpu().numpy()

    def describe(self) -> dict[str, Any]:
        """Kind, encoder and layer."""
        return {
            "kind": "layer",
            "dim": self.encoder.config.dim,
            "encoder": str(self.path),
            "encoder_sha256": self.sha256,
            "layer": self.layer,
        }
