"""Features for codebooks: MFCC or log-mel with its context for the first HuBERT iteration, layers of an encoder for the next."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from wavlm_lightning.audio import SAMPLE_RATE, BadAudio, log_mel, mfcc, with_deltas
from wavlm_lightning.data.shard_index import ShardIndex
from wavlm_lightning.encoder import WavLM
from wavlm_lightning.encoder.frontend import normalize_waveforms
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.hardware import choose_device
from wavlm_lightning.system.reading import reason_of


class FeatureSource(ABC):
    """Frame-level features of one utterance."""

    rate: float  # frames per second

    @abstractmethod
    def __call__(self, waveform: np.ndarray) -> np.ndarray:
        """Features float32 `(frames, dim)` of a waveform `(samples,)`."""

    def of(self, shard: ShardIndex, place: int) -> np.ndarray:
        """Features of utterance `place` of a shard."""
        return self(shard.waveform(place))

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
            return MfccFeatures(description["level_normalised"], description.get("rate", 100.0))
        if description["kind"] == "context":
            names = ("rate", "context_ms", "mels", "mean_removed")
            return ContextFeatures(**{name: description[name] for name in names})
        if description["kind"] in ("layer", "layers"):
            precision = description.get("precision", "fp32")  # older descriptions have none
            encoder = description["encoder"]
            options = {"precision": precision, "mean_removed": description.get("mean_removed", False)}
            source = (
                LayerFeatures(encoder, description["layer"], device, **options)
                if description["kind"] == "layer"
                else LayerStack(encoder, description["layers"], device, **options)
            )
            if source.sha256 != description["encoder_sha256"]:
                raise UserError(f"{source.path}: not the encoder this codebook was fitted on; fit the codebook again")
            return source
        raise UserError(f"unknown kind of codebook features {description['kind']!r}; update wavlm_lightning")


def _every(rate: float) -> int:
    """Every how many frames of 10 ms there is a label; a UserError says if the rate is not 50 or 100 Hz."""
    if rate not in (50.0, 100.0):
        raise UserError(f"--rate {rate:g}: MFCC and log-mel make labels at 100 or, every second frame, at 50 Hz")
    return round(100 / rate)


class MfccFeatures(FeatureSource):
    """39 cepstral features at 100 Hz, no mean removal (HuBERT, arXiv 2106.07447, section IV-A).

    Args:
        level_normalised: scale each utterance to the same root mean square first. The published labels do not. A
            front-end with group norm cannot see the level, so if gain varies, raw labels are partly unpredictable.
        rate: 100 Hz; 50 takes every second frame, which are those of the encoder.
    """

    def __init__(self, level_normalised: bool = False, rate: float = 100.0) -> None:
        self.level_normalised, self.rate, self.every = level_normalised, float(rate), _every(rate)

    def __call__(self, waveform: np.ndarray) -> np.ndarray:
        """Features float32 `(frames, 39)`, frames = (samples - 400) // 160 + 1 at 100 Hz."""
        if not self.frames(np.array(len(waveform))):
            return np.zeros((0, 39), np.float32)
        audio = torch.from_numpy(waveform)
        if self.level_normalised:
            audio = audio * (0.1 / audio.square().mean().sqrt().clamp(min=1e-5))
        return with_deltas(mfcc(audio)).numpy()[:: self.every]

    def frames(self, samples: np.ndarray) -> np.ndarray:
        return np.maximum((samples - 400) // (160 * self.every) + 1, 0)

    def describe(self) -> dict[str, Any]:
        """Kind and settings; the rate only if it is not 100 Hz, so that hashes of older codebooks stay valid."""
        described: dict[str, Any] = {"kind": "mfcc", "dim": 39, "level_normalised": self.level_normalised}
        return described if self.rate == 100.0 else described | {"rate": self.rate}


class ContextFeatures(FeatureSource):
    """Log-mel frames stacked with those around them, less the utterance's mean; a codebook of them begins with a PCA.

    Removing the mean takes level and channel away, and much of the voice with them. Against phones these features have a higher
    PNMI than MFCC, see `experiments/codebooks`.

    Args:
        rate: labels a second, 50 or 100.
        context_ms: on each side, in steps of 10 ms; 0 for the frame alone. Edges are replicated.
        mels: filters.
        mean_removed: subtract the mean over the utterance from each filter.
    """

    def __init__(self, rate: float = 50.0, context_ms: int = 30, mels: int = 40, mean_removed: bool = True) -> None:
        if context_ms < 0 or context_ms % 10:
            raise UserError(f"--context-ms {context_ms}: frames are 10 ms apart; give 0, 10, 20 and so on")
        self.rate, self.every, self.context_ms = float(rate), _every(rate), context_ms
        self.mels, self.mean_removed = mels, mean_removed

    def __call__(self, waveform: np.ndarray) -> np.ndarray:
        """Features float32 `(frames, mels * (2 * context_ms / 10 + 1))`, frames = (samples - 400) // 320 + 1 at 50 Hz."""
        count = max((len(waveform) - 400) // 160 + 1, 0)
        if not count:
            return np.zeros((0, self.describe()["dim"]), np.float32)
        audio = torch.from_numpy(waveform)
        pieces = []
        for first in range(0, count, 6000):  # a minute at a time: the windows of an hour would take 1 GB
            last = min(first + 6000, count) - 1
            pieces.append(log_mel(audio[None, first * 160 : last * 160 + 400], self.mels, hop=160)[0])
        mel = torch.cat(pieces)
        if self.mean_removed:
            mel = mel - mel.mean(0)
        around = self.context_ms // 10
        padded = torch.cat([mel[:1].expand(around, -1), mel, mel[-1:].expand(around, -1)])
        return padded.unfold(0, 2 * around + 1, self.every).flatten(1).numpy()

    def frames(self, samples: np.ndarray) -> np.ndarray:
        return np.maximum((samples - 400) // (160 * self.every) + 1, 0)

    def describe(self) -> dict[str, Any]:
        described = {"kind": "context", "dim": self.mels * (self.context_ms // 10 * 2 + 1), "rate": self.rate}
        return described | {"context_ms": self.context_ms, "mels": self.mels, "mean_removed": self.mean_removed}


class LayerFeatures(FeatureSource):
    """Output of one layer of an encoder, unmasked, in eval mode (HuBERT's second iteration).

    Args:
        encoder: a Hugging Face directory, a unilm `.pt` file, the folder or a `.ckpt` of a pre-training run, or those of a
            run that fine-tuned its encoder (CTC clustering), whose trained encoder is read.
        layer: 0 is the input of the first layer, N the output of layer N.
        device: of the encoder; a GPU by default if there is one.
        chunk_seconds: longer utterances are processed in pieces of this length (100 s in the reference), each with the samples
            that its last frame reaches beyond it. Without them, as in the reference, a frame is lost at each seam, and later
            labels come 20 ms early.
        precision: `fp32`, or `bf16` for autocast, which is faster on GPUs and changes the labels of a few frames.
        mean_removed: subtract the mean over the utterance, which takes much of the voice away (van Niekerk et al., arXiv
            2108.00917, section 3, for CPC); not published for HuBERT.

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
        mean_removed: bool = False,
    ) -> None:
        from wavlm_lightning.upstreams.wavlm import load_encoder

        if precision not in ("fp32", "bf16"):
            raise UserError(f"precision of codebook features must be fp32 or bf16, not {precision!r}")
        self.path, self.precision, self.mean_removed = Path(encoder), precision, mean_removed
        self.device = choose_device(device)
        self.encoder: WavLM = load_encoder(self.path).eval().to(self.device)
        self.chunk = int(chunk_seconds * SAMPLE_RATE) // self.encoder.config.hop * self.encoder.config.hop
        self.rate = self.encoder.config.frame_rate
        self.layer = self._checked(layer)

    def _checked(self, layer: int) -> int:
        if not 0 <= layer <= self.encoder.config.layers:
            raise UserError(f"{self.path}: it has layers 0 to {self.encoder.config.layers}, not {layer}")
        return layer

    @property
    def kept(self) -> list[int]:
        """The layers whose outputs the features are made of."""
        return [self.layer]

    @cached_property
    def sha256(self) -> str:
        digest = hashlib.sha256()
        for name, value in sorted(self.encoder.state_dict().items()):
            digest.update(name.encode() + value.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    @torch.no_grad()
    def __call__(self, waveform: np.ndarray) -> np.ndarray:
        """Features float32 `(frames, dim)`."""
        parts = [torch.zeros(0, len(self.kept) * self.encoder.config.dim)]
        config, audio = self.encoder.config, torch.from_numpy(waveform)
        if config.normalize_waveform and len(audio):  # the whole recording, as HuBERT's script does, and not each piece
            audio = normalize_waveforms(audio[None], torch.tensor([len(audio)]))[0]
        for begin in range(0, len(audio), self.chunk):
            # The last frame of a piece reaches beyond the first sample of the next one.
            piece = audio[begin : begin + self.chunk + config.receptive_field - config.hop]
            if len(piece) >= config.receptive_field:
                with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
                    features, lengths = self.encoder.features(piece[None].to(self.device), normalise=False)
                    projected, _ = self.encoder.project(features)
                    # Layers above the requested one are not run.
                    hidden = self.encoder.contextualise(projected, lengths, keep=self.kept).hidden[:, 0]
                parts.append(hidden.transpose(0, 1).flatten(1).float().cpu())
        features = torch.cat(parts)
        if self.mean_removed and len(features):
            features = features - features.mean(0)
        return features.numpy()

    def frames(self, samples: np.ndarray) -> np.ndarray:
        return self.encoder.config.frames(torch.as_tensor(samples)).numpy()

    def describe(self) -> dict[str, Any]:
        """Kind, encoder and layer; what is not the default, so that hashes of older codebooks stay valid."""
        described = {"kind": "layer", "dim": self.encoder.config.dim, "encoder": str(self.path)}
        described |= {"encoder_sha256": self.sha256, "layer": self.layer}
        described |= {} if self.precision == "fp32" else {"precision": self.precision}
        return described | {"mean_removed": True} if self.mean_removed else described


class LayerStack(LayerFeatures):
    """Several layers of an encoder from one pass, side by side: float32 `(frames, layers * dim)`.

    Args:
        encoder: see `LayerFeatures`, as the other arguments.
        layers: ascending numbers of layers; None for all.
        mean_removed: see `LayerFeatures`.
    """

    def __init__(
        self,
        encoder: str | Path,
        layers: Sequence[int] | None = None,
        device: str | None = None,
        chunk_seconds: float = 100.0,
        precision: str = "fp32",
        mean_removed: bool = False,
    ) -> None:
        super().__init__(encoder, 0, device, chunk_seconds, precision, mean_removed)
        numbers = range(self.encoder.config.layers + 1) if layers is None else layers
        self.layers = [self._checked(layer) for layer in numbers]

    @property
    def kept(self) -> list[int]:
        return self.layers

    def columns(self, layer: int) -> slice:
        """The columns of the features that one of the layers fills."""
        dim, place = self.encoder.config.dim, self.layers.index(layer)
        return slice(place * dim, (place + 1) * dim)

    def describe(self) -> dict[str, Any]:
        described = super().describe()
        del described["layer"]
        dim = len(self.layers) * self.encoder.config.dim
        return described | {"kind": "layers", "dim": dim, "layers": self.layers}


class OfUtterances(Protocol):
    """What `features_of` asks: a source of features, or what holds those of some utterances."""

    def of(self, shard: ShardIndex, place: int) -> np.ndarray: ...


def features_of(source: OfUtterances, shard: ShardIndex, place: int) -> np.ndarray:
    """Features float32 `(frames, dim)` of utterance `place` of a shard; none if it has less than one frame.

    Raises:
        UserError: its audio is damaged, or the source cannot compute them; the message names shard and utterance.
    """
    try:
        return source.of(shard, place)
    except BadAudio as error:
        raise UserError(f"{error}; prepare the corpus again") from error
    except (ValueError, RuntimeError) as error:
        raise UserError(f"{shard.path}: utterance {shard.keys[place]!r}: {reason_of(error)}") from error
