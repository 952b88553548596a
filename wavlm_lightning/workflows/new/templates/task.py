"""MyTask: keyword classification; change the labels, target, head, loss and metric to yours."""

import torch
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

from wavlm_lightning.encoder import padding_mask
from wavlm_lightning.tasks import Task
from wavlm_lightning.upstreams import Upstream


class MyTask(Task):
    """One class per utterance, from the mean and standard deviation of its frames.

    Args:
        upstream: the encoder that gives the features.
        hidden: width of the head.
        settings: see `Task`: learning_rate, schedule, start_from, normalize, seed, ...
    """

    name, metric, better = "MY_TASK", "accuracy", "higher"  # `metric` chooses the checkpoint
    # others, headlines = {"mae": "lower"}, ("accuracy", "mae")  # further metrics, and those that tables show
    # units = {"mae": Unit("years", 1.0, 1)}  # shown as "4.2 years" (`tasks.Unit`); others are fractions, shown in percent
    answer = "label"  # or "vector", "labels" (CTC), "frames", "text": what `outputs` gives; audio: see `WaveformTask`
    cache_level = "frame"  # run the frozen upstream once over the corpus; None if your head changes the waveform
    # target_audio, extra_audio = ("clean",), ("enrolment",)  # audio as the target, and beside the input (`batch.extra`)

    def __init__(self, upstream: Upstream, hidden: int = 128, **settings) -> None:
        super().__init__(upstream, **settings)
        self.hidden = hidden

    def read_labels(self, corpus):  # listed by `wavlm data info CORPUS`; stored in the checkpoint
        return list(corpus.inventory("keywords"))

    def read_target(self, meta):  # the metadata of one utterance -> int64 indices, or floats, `()` or `(frames, ...)`
        return torch.tensor(self.labels.index(meta["keyword"]))

    def build_head(self, dim: int) -> None:
        self.projector = nn.Linear(dim, self.hidden)
        self.classifier = nn.Linear(2 * self.hidden, len(self.labels))

    def outputs(self, features: Tensor, lengths: Tensor) -> Tensor:  # (batch, frames, dim) -> (batch, classes)
        frames = self.projector(features).relu()
        valid = (~padding_mask(lengths, frames.shape[1]))[:, :, None]
        mean = (frames * valid).sum(1) / lengths[:, None]
        variance = ((frames - mean[:, None]).square() * valid).sum(1) / lengths[:, None]
        return self.classifier(torch.cat([mean, (variance + 1e-5).sqrt()], dim=1))

    def loss(self, outputs, lengths, targets) -> Tensor:
        return nn.functional.cross_entropy(outputs, targets.values)

    def build_metric(self) -> MulticlassAccuracy:
        return MulticlassAccuracy(len(self.labels), average="micro")

    def update_metric(self, metric, outputs, lengths, batch) -> None:
        metric.update(outputs, batch.targets.values)

    def readable(self, outputs, lengths) -> list[dict]:  # printed by `wavlm predict` for each recording
        return [{"keyword": self.labels[number]} for number in outputs.argmax(1).tolist()]
