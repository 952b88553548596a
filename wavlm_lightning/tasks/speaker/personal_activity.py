"""pVAD: when the speaker of an enrolment talks, alone or over others (personal voice activity detection; TS-SUPERB)."""

from __future__ import annotations

from itertools import groupby
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.functional.classification import binary_average_precision, multiclass_average_precision
from torchmetrics.utilities import dim_zero_cat

from wavlm_lightning.audio import SAMPLE_RATE
from wavlm_lightning.data.batch import Targets, TaskBatch
from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.encoder import padding_mask
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks.base import Direction, Task
from wavlm_lightning.tasks.components.recurrent import run_both_ways
from wavlm_lightning.tasks.components.reference_turns import checked_turns, cropped, nearest_frame
from wavlm_lightning.tasks.enrolled import EnrolledTask
from wavlm_lightning.tasks.transformers_form import TransformersForm
from wavlm_lightning.upstreams import Upstream

CLASSES = ("no speech", "others", "target overlapped", "target alone")
THREE = torch.tensor([0, 1, 2, 2])  # TS-SUPERB's classes: no speech, others, target


class FrameAveragePrecision(Metric):
    """Average precision of frames of `CLASSES`, as scikit-learn's `average_precision_score` computes it.

    `map` is the mean over the classes that occur, `map_micro` TS-SUPERB's figure: all decisions of its three classes pooled.
    """

    full_state_update = False
    is_differentiable = False
    scores: list[Tensor]
    classes: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("scores", [], dist_reduce_fx="cat")
        self.add_state("classes", [], dist_reduce_fx="cat")

    def update(self, scores: Tensor, classes: Tensor) -> None:
        """Add frames: probabilities `(frames, 4)` and classes, int64 `(frames,)`."""
        self.scores.append(scores.float())
        self.classes.append(classes)

    def compute(self) -> dict[str, Tensor]:
        """`map`, `map_micro`, and of each class that occurs `ap/NAME` and its share of the frames, `share/NAME`."""
        scores, classes = dim_zero_cat(self.scores), dim_zero_cat(self.classes)
        each = multiclass_average_precision(scores, classes, len(CLASSES), average="none", thresholds=None)
        counts = classes.bincount(minlength=len(CLASSES))
        there = counts > 0
        # A sum of two may exceed 1 by rounding, and torchmetrics takes such scores for logits.
        three = torch.stack([scores[:, 0], scores[:, 1], scores[:, 2:].sum(1).clamp(max=1)], 1)
        wanted = nn.functional.one_hot(THREE.to(classes.device)[classes], 3)
        values = {
            "map": each[there].mean(),
            "map_micro": binary_average_precision(three.flatten(), wanted.flatten(), thresholds=None),
        }
        for number in there.nonzero()[:, 0].tolist():
            values[f"ap/{CLASSES[number]}"] = each[number]
            values[f"share/{CLASSES[number]}"] = counts[number] / counts.sum()
        return values


class PersonalActivity(EnrolledTask, Task):
    """Two bidirectional LSTMs, the first multiplied by the speaker vector of the enrolment, and two linear layers.

    The classes of a frame are `CLASSES`; TS-SUPERB counts the target alone or overlapped as one class, and publishes the average
    precision of all decisions pooled (`map_micro`). The headline is the mean of the average precisions of those of the four
    classes that occur (`map`); that of random scores is a quarter where all occur. Labels are at the upstream's frame rate. Reads
    `turns`, [[speaker, start, end], ...] in seconds, and `speaker`, the target, who may be silent throughout, and the further
    audio `enrolment`.

    Args:
        upstream: where features come from; it hears the mixture and the enrolment.
        learning_rate: of Adam.
        hidden: width of the head, cells of both directions; 64 in TS-SUPERB.
        settings: see `EnrolledTask` and `Task`: enrolment_seconds, normalize, seed, protocol.
    """

    name: ClassVar[str] = "PVAD"
    metric, better = "map", "higher"
    others: ClassVar[dict[str, Direction]] = {"map_micro": "higher"}
    answer, cache_level = "frames", "frame"

    def __init__(self, upstream: Upstream, learning_rate: float = 1e-4, hidden: int = 64, **settings: Any) -> None:
        super().__init__(upstream, learning_rate, **settings)
        if hidden < 2 or hidden % 2:
            raise UserError(f"model.hidden {hidden}: must be even, for two directions of equal width")
        self.hidden = hidden
        self.stride = SAMPLE_RATE / upstream.frame_rate

    @property
    def chance(self) -> float:
        """Random scores have the share of a class as its average precision, and the shares of those that occur add up to 1.

        After a test those are the classes that it had; before, all.
        """
        return 1 / len(self.details.get("classes", CLASSES))

    def read_labels(self, corpus: Corpus) -> list[str]:
        return list(CLASSES)

    def read_target(self, meta: dict[str, Any]) -> Tensor:
        """The class of each frame up to the end of the last turn, int64 `(frames,)`."""
        if "turns" not in meta or not meta.get("speaker"):
            raise UserError(
                f"{self.name}: an utterance has no turns, or no speaker who is the target; use a corpus with both"
            )
        places = [
            (speaker == str(meta["speaker"]), nearest_frame(start, self.stride), nearest_frame(end, self.stride))
            for speaker, start, end in checked_turns(meta, self.name)
        ]
        active = torch.zeros(2, max((end for *_, end in places), default=0), dtype=torch.bool)
        for mine, start, end in places:
            active[int(mine), start:end] = True
        others, target = active
        return torch.where(target, torch.where(others, 2, 3), others.long())

    def crop_target(self, target: Tensor, start: int, samples: int) -> Tensor:
        return cropped(target, start, samples, self.stride)

    def transformers_form(self) -> TransformersForm | str:
        return "it hears an enrolment, which no head of transformers does"

    def build_head(self, dim: int) -> None:
        cells = self.hidden // 2
        self.first = nn.LSTM(dim, cells, batch_first=True, bidirectional=True)
        self.second = nn.LSTM(self.hidden, cells, batch_first=True, bidirectional=True)
        self.layer = nn.Linear(self.hidden, self.hidden)
        self.classifier = nn.Linear(self.hidden, len(CLASSES))
        self.make_speaker_vector(self.hidden)

    def outputs(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Logits `(batch, frames, 4)`."""
        hidden = run_both_ways(self.first, features, lengths) * self.voice[:, None]
        return self.classifier(self.layer(run_both_ways(self.second, hidden, lengths)).tanh())

    def loss(self, outputs: Tensor, lengths: Tensor, targets: Targets) -> Tensor:
        """Cross-entropy, mean over the frames of an utterance and then over utterances."""
        labels = matched(targets.values, outputs.shape[1])
        losses = nn.functional.cross_entropy(outputs.float().transpose(1, 2), labels, reduction="none")
        valid = ~padding_mask(lengths, outputs.shape[1])
        return ((losses * valid).sum(1) / lengths).mean()

    def build_metric(self) -> FrameAveragePrecision:
        return FrameAveragePrecision()

    def update_metric(self, metric: Metric, outputs: Tensor, lengths: Tensor, batch: TaskBatch) -> None:
        labels = matched(batch.targets.values, outputs.shape[1])
        inside = ~padding_mask(lengths, outputs.shape[1])
        metric.update(outputs[inside].float().softmax(1), labels[inside])

    def evaluate(self, batch: TaskBatch, metric: Metric, stage: Literal["valid", "test"]) -> None:
        self.scored.missing = "a mean average precision is no mean over utterances"
        super().evaluate(batch, metric, stage)

    def score(self, metric: Metric, stage: Literal["valid", "test"]) -> dict[str, Tensor]:
        """`map` and `map_micro`; the test also puts average precision and share of each class into `details`."""
        values = metric.compute()
        named = {name: values.pop(name) for name in [*values] if "/" in name}
        if stage == "test":
            classes = [name.removeprefix("ap/") for name in named if name.startswith("ap/")]
            self.details = {
                "classes": {
                    name: {
                        "average_precision": round(float(named[f"ap/{name}"]), 4),
                        "share": round(float(named[f"share/{name}"]), 4),
                    }
                    for name in classes
                }
            }
        return values

    def readable(self, outputs: Tensor, lengths: Tensor) -> list[dict[str, Any]]:
        """The stretches of the likeliest class in which the target speaks, `[class, start, end]` in seconds."""
        rows = []
        for row, length in zip(outputs.argmax(-1).tolist(), lengths.tolist(), strict=True):
            turns, frame = [], 0
            for number, run in groupby(row[:length]):
                end = frame + len(list(run))
                if CLASSES[number].startswith("target"):
                    seconds = (round(place / self.upstream.frame_rate, 3) for place in (frame, end))
                    turns.append([CLASSES[number].replace(" ", "_"), *seconds])
                frame = end
            rows.append({"turns": turns})
        return rows


def matched(labels: Tensor, frames: int) -> Tensor:
    """Classes `(batch, labels)` cut to `frames`, or padded with no speech."""
    return nn.functional.pad(labels[:, :frames], (0, max(0, frames - labels.shape[1])))
