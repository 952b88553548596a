"""Judges that nobody here has trained: how alike two voices are (Resemblyzer), how good speech sounds (DistillMOS)."""

from __future__ import annotations

import contextlib
import functools
import io
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch

from wavlm_lightning.system.errors import UserError, pip_install

RATE = 16_000
LEVEL = 10 ** (-30 / 20)  # root mean square
PACKAGES = {"similarity": "resemblyzer", "quality": "distillmos"}  # what is judged -> the package with the weights


def can_judge(what: str) -> bool:
    """Whether the package that judges `similarity` or `quality` is installed."""
    return find_spec(PACKAGES[what]) is not None


def install_judge() -> str:
    """The command that installs both."""
    return pip_install("judges")


def _require(what: str) -> None:
    if not can_judge(what):
        raise UserError(f"{what} needs {PACKAGES[what]}: {install_judge()}")


@functools.cache
def _voices() -> Any:
    _require("similarity")
    from resemblyzer import VoiceEncoder

    return VoiceEncoder("cpu", verbose=False)


@functools.cache
def _quality() -> Any:
    _require("quality")
    import distillmos

    with contextlib.redirect_stdout(io.StringIO()):  # it prints where its weights lie
        return distillmos.ConvTransformerSQAModel().eval()


def voice_vector(waveform: np.ndarray) -> np.ndarray | None:
    """Resemblyzer's vector of a voice, of length 1, `(256,)`; None where its detector hears no speech.

    The model (GE2E, 3 LSTMs) hears what webrtcvad leaves, at -30 dB; cosines of vectors are similarities.

    Args:
        waveform: float32 `(samples,)` at 16 kHz.

    Raises:
        UserError: resemblyzer is not installed.
    """
    encoder = _voices()
    from resemblyzer import preprocess_wav

    size = float(np.sqrt(np.mean(np.square(waveform, dtype=np.float64)))) if len(waveform) else 0.0
    if not size:
        return None
    # It raises quiet recordings to this level, and leaves loud ones as they are, which it hears otherwise.
    heard = preprocess_wav(np.asarray(waveform, np.float32) * np.float32(LEVEL / size), source_sr=RATE)
    return encoder.embed_utterance(heard) if len(heard) else None


def voice_of(recordings: list[np.ndarray]) -> np.ndarray | None:
    """The mean of the vectors of several recordings of a voice, of length 1; None without speech."""
    vectors = [vector for recording in recordings if (vector := voice_vector(recording)) is not None]
    if not vectors:
        return None
    mean = np.mean(vectors, 0)
    return mean / np.linalg.norm(mean)


@torch.no_grad()
def opinion(waveform: np.ndarray) -> float:
    """DistillMOS, an estimate of the mean opinion from 1 to 5, of `(samples,)` at 16 kHz.

    Raises:
        UserError: distillmos is not installed.
    """
    return float(_quality()(torch.from_numpy(np.asarray(waveform, np.float32))[None]))
