"""Speaker segmentation: who speaks at each frame of a window of some seconds, as powerset classes (pyannote, DiariZen)."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from wavlm_lightning.audio import SAMPLE_RATE
from wavlm_lightning.data.batch import Targets
from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.encoder import Layers, padding_mask
from wavlm_lightning.metrics.diarization import DiarizationErrors
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.progress import progress_bar
from wavlm_lightning.tasks.base import Protocol, Task
from wavlm_lightning.tasks.components.powerset import Powerset, best_orders, most_talkative, ordered
from wavlm_lightning.tasks.components.recurrent import run_both_ways
from wavlm_lightning.tasks.components.reference_turns import checked_turns, cropped, nearest_frame
from wavlm_lightning.tasks.components.stitching import window_starts
from wavlm_lightning.tasks.windows import QUIET_SECONDS
from wavlm_lightning.training.fsdp import FSDP2
from wavlm_lightning.upstreams import Upstream

MOST_SPEAKERS = 62  # of a recording: a target holds one bit for each in an int64
UNHEARD = 0.05  # seconds at the end of a window that may have no frame, by which windows must overlap
AT_ONCE = 8  # windows in one forward pass of an evaluation


class SegmentationNetwork(nn.Module):
    """Bidirectional LSTMs, two linear layers with leaky ReLU, and one logit for each class.

    It is the body of pyannote's PyanNet and SSeRiouSS on the weighted sum of the layers.

    Args:
        dim: of the features.
        classes: of the powerset.
        hidden: cells of an LSTM in each direction, and width of the linear layers; 128 in both models.
        layers: LSTMs; 4 in both models.
        dropout: between LSTMs.
    """

    def __init__(self, dim: int, classes: int, hidden: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.recurrent = nn.ModuleList(
            nn.LSTM(dim if layer == 0 else 2 * hidden, hidden, batch_first=True, bidirectional=True)
            for layer in range(layers)
        )
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Sequential(
            nn.Linear(2 * hidden, hidden), nn.LeakyReLU(), nn.Linear(hidden, hidden), nn.LeakyReLU()
        )
        self.classifier = nn.Linear(hidden, classes)

    def forward(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Logits `(batch, frames, classes)` from features `(batch, frames, dim)` and valid frames `(batch,)`."""
        hidden = features
        for number, recurrent in enumerate(self.recurrent):
            hidden = run_both_ways(recurrent, hidden if number == 0 else self.dropout(hidden), lengths)
        return self.classifier(self.linear(hidden))


class HeardWindow(NamedTuple):
    """Some windows of a recording."""

    first: int  # number of the first one
    audio: Tensor  # `(windows, samples)`
    layers: Layers  # of the upstream
    logits: Tensor  # `(windows, frames, classes)`


class SpeakerSegmentation(Task):
    """What a task on windows of a recording needs: the network, its loss, and the windows themselves.

    Trained on random stretches of recordings (`data.max_seconds`, the length of a window). Of a stretch with more than
    `speakers` speakers those who talk longest are learned. The loss is the cross-entropy of the classes, for the order of
    speakers that differs at fewest frames from the best class of each frame.

    A frame belongs to a turn if its middle does. Targets are int64 `(frames,)`, a bit for each speaker of the recording.

    Args:
        upstream: where features come from.
        learning_rate: of Adam.
        hidden: width of the network.
        layers: LSTMs.
        dropout: between LSTMs.
        speakers: most speakers of a window, K.
        overlapping: most speakers of a frame, m.
        window: seconds.
        step: seconds from one window to the next in an evaluation; a tenth of the window in pyannote.
        protocol: `fixed`; there is no other.
        settings: see `Task`: normalize, seed, schedule, start_from.
    """

    answer, every_talker = "frames", True
    # Features of whole recordings are of no use: windows pass through the upstream.
    cache_level = None

    def __init__(
        self,
        upstream: Upstream,
        learning_rate: float = 1e-3,
        hidden: int = 128,
        layers: int = 4,
        dropout: float = 0.0,
        speakers: int = 4,
        overlapping: int = 2,
        window: float = 10.0,
        step: float = 1.0,
        protocol: Protocol = "fixed",
        **settings: Any,
    ) -> None:
        if protocol != "fixed":
            raise UserError(f"{self.name}: it is no task of SUPERB; leave model.protocol out")
        super().__init__(upstream, learning_rate, protocol=protocol, **settings)
        if not 0 < step <= window - UNHEARD:
            raise UserError(
                f"{self.name}: model.step {step:g} must be above 0 and at most {window - UNHEARD:g}: windows of {window:g} s "
                "must overlap, because the encoder has no frame at the very end of one"
            )
        self.hidden, self.layers, self.dropout = hidden, layers, dropout
        self.speakers, self.overlapping = speakers, overlapping
        self.window, self.step = window, step
        self.powerset = Powerset(speakers, overlapping)
        self.hop = round(SAMPLE_RATE / upstream.frame_rate)

    def check_strategy(self, name: str) -> None:
        """As every module; fsdp2 is refused, since processes hear different numbers of windows."""
        super().check_strategy(name)
        if isinstance(self.trainer.strategy, FSDP2):
            raise UserError(
                f"{name}: with trainer.strategy fsdp2 processes would wait for each other, as recordings have different "
                "numbers of windows; use ddp"
            )

    def read_labels(self, corpus: Corpus) -> list[str]:
        """The sets of speakers of a window, such as "1+3"; which person a number stands for differs between windows."""
        return ["+".join(str(speaker + 1) for speaker in chosen) for chosen in self.powerset.sets]

    def read_target(self, meta: dict[str, Any]) -> Tensor:
        """Who speaks at each frame up to the end of the last turn, int64 `(frames,)`: bit s for speaker s, by name."""
        turns = checked_turns(meta, self.name)
        names = sorted({speaker for speaker, _, _ in turns})
        if len(names) > MOST_SPEAKERS:
            raise UserError(
                f"{self.name}: a recording has {len(names)} speakers, and more than {MOST_SPEAKERS} are not supported"
            )
        places = [
            (names.index(who), nearest_frame(start, self.hop), nearest_frame(end, self.hop))
            for who, start, end in turns
        ]
        active = np.zeros((max((end for *_, end in places), default=0), len(names)), dtype=bool)
        for column, start, end in places:
            active[start:end, column] = True
        bits = np.int64(1) << np.arange(len(names), dtype=np.int64)
        return torch.from_numpy((active * bits).sum(1, dtype=np.int64))

    def crop_target(self, target: Tensor, start: int, samples: int) -> Tensor:
        return cropped(target, start, samples, self.hop)

    def build_head(self, dim: int) -> None:
        self.network = SegmentationNetwork(dim, len(self.powerset), self.hidden, self.layers, self.dropout)

    def outputs(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Logits of a window `(batch, frames, classes)`."""
        return self.network(features, lengths)

    def loss(self, outputs: Tensor, lengths: Tensor, targets: Targets) -> Tensor:
        """Cross-entropy of the classes in the best order of speakers, mean over the frames of the batch."""
        frames = outputs.shape[1]
        bits = targets.values[:, :frames]
        bits = nn.functional.pad(bits, (0, frames - bits.shape[1]))
        valid = ~padding_mask(lengths, frames)
        return self.window_loss(outputs, most_talkative(activity_of(bits), self.speakers), valid)

    def window_loss(self, logits: Tensor, reference: Tensor, valid: Tensor) -> Tensor:
        """The loss of windows whose speakers are known.

        Args:
            logits: `(batch, frames, classes)`.
            reference: 0 and 1, `(batch, frames, speakers)`.
            valid: bool `(batch, frames)`.
        """
        orders = best_orders(self.powerset.activity(logits.detach()), reference, valid)
        classes = self.powerset.classes(ordered(reference, orders))
        losses = nn.functional.cross_entropy(logits.float().transpose(1, 2), classes, reduction="none")
        return (losses * valid).sum() / valid.sum()

    # Windows of a recording.

    def window_errors(self, activity: Tensor, reference: Tensor) -> DiarizationErrors:
        """Errors of all windows together, each in its own best order of speakers; both `(windows, frames, speakers)`, 0 and 1."""
        everywhere = torch.ones(activity.shape[:2], dtype=torch.bool, device=activity.device)
        reference = ordered(reference, best_orders(activity, reference, everywhere))
        there, claimed = reference.sum(2), activity.sum(2)
        right = (reference * activity).sum(2)
        sums = [
            (there - claimed).clamp(min=0).sum(),
            (claimed - there).clamp(min=0).sum(),
            (torch.minimum(there, claimed) - right).sum(),
            there.sum(),
        ]
        return DiarizationErrors(*(float(each) / self.upstream.frame_rate for each in sums))

    def starts(self, samples: int) -> np.ndarray:
        """First frames of the windows of a recording, int64 `(windows,)`."""
        window, step = (max(1, round(each * self.upstream.frame_rate)) for each in (self.window, self.step))
        return window_starts(samples // self.hop, window, step)

    def heard_windows(self, waveform: Tensor, starts: np.ndarray) -> Any:
        """The windows of a recording `(samples,)`, some at a time, as `HeardWindow`; all have equally many frames."""
        samples = min(len(waveform), max(1, round(self.window * self.upstream.frame_rate)) * self.hop)
        parts = range(0, len(starts), AT_ONCE)
        for first in progress_bar(iterable=parts, desc="windows", unit="batch", leave=False, delay=QUIET_SECONDS):
            begins = (starts[first : first + AT_ONCE] * self.hop).tolist()
            audio = torch.stack([waveform[begin : begin + samples] for begin in begins])
            layers = self.upstream(audio, torch.full((len(begins),), samples, device=audio.device))
            yield HeardWindow(first, audio, layers, self.outputs(self.weighted_sum(layers), layers.lengths))

    def reference_windows(self, bits: Tensor, starts: np.ndarray, frames: int) -> Tensor:
        """Who speaks in each window, float32 0 and 1 `(windows, frames, speakers)`, from the target of the recording."""
        last = int(starts[-1]) + frames
        bits = nn.functional.pad(bits[:last], (0, max(0, last - len(bits))))
        windows = torch.stack([bits[start : start + frames] for start in starts.tolist()])
        return most_talkative(activity_of(windows), self.speakers).float()


def activity_of(bits: Tensor) -> Tensor:
    """Who speaks, int64 0 and 1 `(..., frames, speakers)`, from one bit for each speaker, int64 `(..., frames)`."""
    number = int(bits.max()).bit_length() if bits.numel() else 0
    return (bits[..., None] >> torch.arange(number, device=bits.device)) & 1
