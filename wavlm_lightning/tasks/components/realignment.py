"""One round of realignment: a small local classifier of frames learns from an alignment, and aligns again without blanks.

CTC's spikes say that a label occurred, and hardly where it begins. A classifier that sees 7 frames cannot know more than what
sounds there. Its posteriors have no blank, so that they also serve as soft targets. Measured in `experiments/alignment`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from wavlm_lightning.audio import SAMPLE_RATE, log_mel
from wavlm_lightning.data.alignments import SILENCE, Segment, frame_classes
from wavlm_lightning.tasks.components.forced_alignment import Transcript, runs, search, segments

CONTEXT = 3  # frames on either side
BINS = 40
HIDDEN = 256
FRAMES = 1024  # in a batch
PASSES = 8  # over all frames
LEARNING_RATE = 1e-3


class FrameClassifier(nn.Module):
    """Log-mel features of 7 frames, two hidden layers, one class a frame.

    Args:
        names: of the classes.
        rate: frames per second.
    """

    log_prior: Tensor

    def __init__(self, names: Sequence[str], rate: float) -> None:
        super().__init__()
        self.names, self.rate = list(names), rate
        self.numbers = {name: number for number, name in enumerate(self.names)}
        width = (2 * CONTEXT + 1) * BINS
        self.layers = nn.Sequential(
            *(nn.Linear(width, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU()),
            nn.Linear(HIDDEN, len(self.names)),
        )
        self.register_buffer("log_prior", torch.zeros(len(self.names)))

    def features(self, waveform: np.ndarray) -> Tensor:
        """What it sees of a waveform `(samples,)`: `(frames, 280)`, the mean of the utterance removed."""
        mel = log_mel(torch.from_numpy(waveform)[None], BINS, round(SAMPLE_RATE / self.rate))[0]
        mel = mel - mel.mean(0)
        padded = torch.cat([mel[:1].expand(CONTEXT, -1), mel, mel[-1:].expand(CONTEXT, -1)])
        return padded.unfold(0, 2 * CONTEXT + 1, 1).flatten(1)

    def forward(self, features: Tensor) -> Tensor:
        """Logits `(frames, classes)`."""
        return self.layers(features)

    def classes(self, phones: Sequence[Segment], frames: int) -> Tensor:
        """The class of each frame, int64 `(frames,)`."""
        return torch.from_numpy(frame_classes(phones, frames, self.rate, self.numbers))

    @torch.inference_mode()
    def realign(self, waveform: np.ndarray, phones: Sequence[Segment]) -> list[Segment] | None:
        """The same phones with new times; a pause may vanish. None if there are fewer frames than phones.

        Scores are log-posteriors less the log-priors of the classes, as in hybrid recognisers.
        """
        slots = [[(), (self.numbers[name],)] if name == SILENCE else [(self.numbers[name],)] for name, *_ in phones]
        scores = self(self.features(waveform)).log_softmax(-1) - self.log_prior
        path = search(scores.numpy(), Transcript(slots).without_blanks)
        return None if path is None else segments(runs(path), self.names, self.rate, len(waveform) / SAMPLE_RATE)


def train_classifier(
    names: Sequence[str], rate: float, utterances: Sequence[tuple[np.ndarray, Sequence[Segment]]], seed: int = 0
) -> FrameClassifier:
    """Train a classifier on waveforms and their phones; it depends on the seed and the utterances alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = FrameClassifier(names, rate)
    seen = [model.features(waveform).half() for waveform, _ in utterances]
    classes = torch.cat([model.classes(phones, len(rows)) for rows, (_, phones) in zip(seen, utterances, strict=True)])
    features = torch.cat(seen)
    optimizer = torch.optim.Adam(model.parameters(), LEARNING_RATE)
    generator = torch.Generator().manual_seed(seed)
    total = PASSES * -(-len(features) // FRAMES)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total)
    for _ in range(PASSES):
        for rows in torch.randperm(len(features), generator=generator).split(FRAMES):
            loss = nn.functional.cross_entropy(model(features[rows].float()), classes[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    counts = torch.bincount(classes, minlength=len(names)).double()
    model.log_prior.copy_(((counts + 1) / (counts + 1).sum()).log())
    return model.eval()
