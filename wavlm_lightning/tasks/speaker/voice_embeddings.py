"""Embeddings of the speakers of a window, by a verification head of ours or by the mean of the upstream's features."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from wavlm_lightning.audio import SAMPLE_RATE
from wavlm_lightning.encoder import Layers
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks.speaker.speaker_verification import SpeakerVerification
from wavlm_lightning.tasks.trained_run import run_of_key

SHORTEST = 0.1  # seconds that a speaker must be alone for these frames to be heard instead of all of them


class Voices(NamedTuple):
    """The local speakers of the windows of a recording.

    Attributes:
        vectors: of length 1, float32 `(windows, speakers, dim)`; zeros of those who do not speak.
        clean: seconds for which each speaks alone, `(windows, speakers)`.
        active: who speaks at all, bool `(windows, speakers)`.
    """

    vectors: np.ndarray
    clean: np.ndarray
    active: np.ndarray


class VerificationEmbeddings:
    """The head of a verification run, which hears the frames where one speaker speaks alone.

    Not a module: the weights stay in their run.

    Args:
        run: folder of a run of `SpeakerVerification` or `EcapaVerification`.

    Raises:
        UserError: the folder holds no such head.
    """

    def __init__(self, run: str) -> None:
        where = f"model.embeddings {run}"
        task = run_of_key("model.embeddings", run)
        if not isinstance(task, SpeakerVerification):
            raise UserError(
                f"{where}: holds a head for {task.name}; give a run of SpeakerVerification or EcapaVerification"
            )
        task.requires_grad_(False)
        self.task = task.eval()
        self.factor = task.trained_level

    def fingerprint(self) -> str:
        """A hash of the head and its upstream, with which thresholds belong together."""
        digest = hashlib.sha256(f"{self.task.upstream.fingerprint()} {self.factor}".encode())
        for name, value in sorted(self.task.state_dict().items()):
            if not name.startswith("upstream."):
                digest.update(name.encode() + value.detach().cpu().contiguous().float().numpy().tobytes())
        return digest.hexdigest()[:16]

    def features(self, audio: Tensor, layers: Layers, upstream: str) -> Tensor:
        """The weighted sums of windows, `(windows, frames, dim)`.

        Args:
            audio: `(windows, samples)`.
            layers: of the diarization's upstream on them.
            upstream: its fingerprint: the same upstream hears a window once.
        """
        self.task.to(audio.device)
        if self.factor != 1 or upstream != self.task.upstream.fingerprint():
            lengths = torch.full((len(audio),), audio.shape[1], device=audio.device)
            layers = self.task.upstream(audio * self.factor, lengths)
        return self.task.weighted_sum(layers)

    def vectors(self, stretches: list[Tensor]) -> Tensor:
        """Embeddings of length 1, float32 `(stretches, dim)`, of features, each `(frames, dim)`."""
        lengths = torch.tensor([len(each) for each in stretches], device=stretches[0].device)
        return self.task.voices(self.task.outputs(pad_sequence(stretches, batch_first=True), lengths))

    @property
    def frame_rate(self) -> float:
        return self.task.upstream.frame_rate


def mean_vectors(stretches: list[Tensor]) -> Tensor:
    """Means of features `(frames, dim)`, of length 1, float32 `(stretches, dim)`."""
    return nn.functional.normalize(torch.stack([each.float().mean(0) for each in stretches]), dim=1)


def heard_frames(activity: np.ndarray, speaker: int, frame_rate: float, rate: float, frames: int) -> np.ndarray:
    """The frames of the embeddings' upstream that stand for a speaker of a window: alone if there are enough, or all.

    Args:
        activity: who speaks in the window, bool `(window frames, speakers)`.
        speaker: number of the speaker.
        frame_rate: of the activity, in frames per second.
        rate: of the embeddings' upstream.
        frames: of its window.

    Returns:
        int `(some,)`, one at least.
    """
    own = activity[:, speaker]
    alone = own & (activity.sum(1) == 1)
    if alone.sum() >= SHORTEST * frame_rate:
        own = alone
    # The middle of each frame of the embeddings' upstream, as a frame of the activity.
    middle = np.minimum(((np.arange(frames) + 0.5) * frame_rate / rate).astype(np.int64), len(own) - 1)
    places = np.flatnonzero(own[middle])
    if len(places):
        return places
    return np.minimum((np.flatnonzero(own)[:1] * rate / frame_rate).astype(np.int64), frames - 1)


def clean_seconds(activity: np.ndarray, hop: int) -> np.ndarray:
    """Seconds for which each speaks alone, `(windows, speakers)`, from who speaks, bool `(windows, frames, speakers)`."""
    return (activity & (activity.sum(2, keepdims=True) == 1)).sum(1) * hop / SAMPLE_RATE
