"""MOS with listeners: a score for every frame and listener, as the strong learner of UTMOS without its phonemes."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from wavlm_lightning.data.batch import Targets, TaskBatch
from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.encoder import padding_mask
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks.components.recurrent import run_both_ways
from wavlm_lightning.tasks.paralinguistics.quality_prediction import MEAN, MEAN_LISTENER, QualityPrediction, points
from wavlm_lightning.training.fsdp import FSDP2
from wavlm_lightning.upstreams import Upstream
from wavlm_lightning.upstreams.cache import Level


class ListenerQualityPrediction(QualityPrediction):
    """A bidirectional LSTM over features and the embedding of a listener; a score for every frame, averaged.

    Training hears each utterance once for each of its listeners and once for the mean listener, whose score is the mean
    rating; validation, test and prediction ask the mean listener (strong learner of UTMOS, Saeki et al., arXiv 2204.02152).
    The loss is the clipped mean square error of frames, where an error counts only above `clip`, plus `contrastive_weight`
    times the contrastive loss of scores: half the mean over pairs of what the difference of predictions is off by beyond
    `margin`. Inside the head the scale is mapped to -1 to 1, in which `clip` and `margin` are given.

    Left out of UTMOS: the phonemes of a recogniser with their reference, the domains (one corpus is one), and the average
    of several seeds; tempo and pitch belong to `data.transforms` (`ChangeSpeed` moves both). Here the rows of a step are
    all the ratings of its utterances, so the encoder hears each utterance once; UTMOS deals (utterance, listener) pairs
    into batches.

    Beside what `QualityPrediction` reads: `ratings` of each training utterance, `{listener: score}`, and the corpus' `listeners`.
    A listener who is not in that list, as in another corpus, counts in the mean alone, and so does an utterance without
    `ratings`. In validation the loss is the clipped error of the scores of utterances.

    Args:
        upstream: where features come from.
        learning_rate: of Adam; 2e-5 in UTMOS, for the encoder too.
        hidden: cells of the LSTM in each direction.
        projection: width of the layer between LSTM and score; 2048 in UTMOS.
        listener_dim: width of a listener's embedding; 128 in UTMOS.
        clip: error of a frame that does not count; 0.25 in UTMOS.
        margin: by which a difference of two predictions may be off; 0.1 in UTMOS.
        contrastive_weight: 0.5 in UTMOS.
        settings: see `Task`: normalize, seed, schedule.
    """

    name = "MOS-L"
    cache_level: ClassVar[Level | None] = "frame"

    def __init__(
        self,
        upstream: Upstream,
        learning_rate: float = 2e-5,
        hidden: int = 512,
        projection: int = 2048,
        listener_dim: int = 128,
        clip: float = 0.25,
        margin: float = 0.1,
        contrastive_weight: float = 0.5,
        **settings: Any,
    ) -> None:
        super().__init__(upstream, learning_rate, **settings)
        self.hidden, self.projection, self.listener_dim = hidden, projection, listener_dim
        self.clip, self.margin, self.contrastive_weight = clip, margin, contrastive_weight

    def read_labels(self, corpus: Corpus) -> dict[str, Any]:
        """The scale, and the listeners; a trained head keeps its own listeners, of whom a test needs none."""
        scale = super().read_labels(corpus)
        if self._fitting:
            return {**scale, "listeners": list(corpus.inventory("listeners"))}
        # Those of a corpus that is only scored until a checkpoint brings its own.
        known = corpus.inventories.get("listeners", []) if self.labels is None else self.labels["listeners"]
        return {**scale, "listeners": list(known)}

    @property
    def _fitting(self) -> bool:
        return self._trainer is not None and self.trainer.state.fn == "fit"

    def upgrade(self, checkpoint: dict[str, Any]) -> None:
        """Make room for the listeners of a checkpoint, in place of those of the corpus that is about to be scored."""
        kept = checkpoint["task"]["labels"]
        if self.labels is not None and not self._fitting and kept == {**self.labels, "listeners": kept["listeners"]}:
            if self.labels != kept and self._trainer is not None and isinstance(self.trainer.strategy, FSDP2):
                raise UserError(
                    f"{self.name}: the corpus has other listeners than the training, for whom trainer.strategy fsdp2 cannot "
                    "make room; test with one device"
                )
            self.labels = None if self.labels != kept else self.labels

    def read_target(self, meta: dict[str, Any]) -> Tensor:
        """int64 `(2 + listeners, 2)`: as `QualityPrediction`, then the number of each listener, from 1, and the score."""
        ratings = meta.get("ratings", {})
        if not isinstance(ratings, dict):
            raise UserError(f"{self.name}: an utterance has `ratings` {ratings!r}; give an object, listener to score")
        number = {name: place + 1 for place, name in enumerate(self.labels["listeners"])}
        rows = [[number[name], self._score(score, f"of {name}")] for name, score in ratings.items() if name in number]
        return torch.cat([super().read_target(meta), torch.tensor(rows, dtype=torch.int64).reshape(-1, 2)])

    def build_head(self, dim: int) -> None:
        self.listeners = nn.Embedding(1 + len(self.labels["listeners"]), self.listener_dim)
        self.recurrent = nn.LSTM(dim + self.listener_dim, self.hidden, batch_first=True, bidirectional=True)
        self.projector = nn.Linear(2 * self.hidden, self.projection)
        self.regressor = nn.Linear(self.projection, 1)
        nn.init.constant_(self.regressor.bias, float(self._inside(torch.tensor(self._mean_rating()))))

    def _inside(self, score: Tensor) -> Tensor:
        """Scores of the corpus' scale on -1 to 1."""
        low, high = self.labels["rating_scale"]
        return (2 * score - low - high) / (high - low)

    def frame_scores(self, features: Tensor, lengths: Tensor, listeners: Tensor) -> Tensor:
        """The scores that listeners give to the frames, on -1 to 1, float32 `(batch, frames)`; 0 behind the end of a row.

        From features `(batch, frames, dim)`, valid frames and numbers of listeners, int64 `(batch,)` each.
        """
        heard = self.listeners(listeners)[:, None].expand(-1, features.shape[1], -1)
        hidden = run_both_ways(self.recurrent, torch.cat([features, heard.to(features.dtype)], 2), lengths)
        hidden = self.projector(hidden).relu().float()
        with torch.autocast(hidden.device.type, enabled=False):  # see `QualityPrediction.outputs`
            scores = self.regressor(hidden)[:, :, 0]
        return scores * ~padding_mask(lengths, features.shape[1])

    def outputs(self, features: Tensor, lengths: Tensor) -> Tensor:
        """The mean listener's score of each utterance, on the corpus' scale, `(batch, 1)`."""
        listeners = torch.full_like(lengths, MEAN_LISTENER)
        scores = self.frame_scores(features, lengths, listeners).sum(1, keepdim=True) / lengths[:, None]
        low, high = self.labels["rating_scale"]
        return (scores * (high - low) + low + high) / 2

    def training_step(self, batch: TaskBatch, batch_idx: int) -> Tensor:
        """The loss of all ratings of the batch."""
        with self.named(batch):
            layers = self.upstream_layers(batch.inputs)
            loss = self.listener_loss(self.weighted_sum(layers), layers.lengths, batch.targets)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch.keys))
        self.targets_seen(batch, layers.lengths, "train")
        return loss

    def listener_loss(self, features: Tensor, lengths: Tensor, targets: Targets) -> Tensor:
        """The loss over the ratings of a batch, the mean listener's among them; features `(batch, frames, dim)`."""
        rows = torch.arange(targets.values.shape[1], device=lengths.device)
        utterance, row = ((rows >= MEAN) & (rows < targets.lengths[:, None])).nonzero(as_tuple=True)
        listener, score = targets.values[utterance, row].unbind(1)
        frames = self.frame_scores(features[utterance], lengths[utterance], listener)
        rated = self._inside(points(score))
        scores = frames.sum(1) / lengths[utterance]
        off = ((scores[:, None] - scores) - (rated[:, None] - rated)).abs()
        contrastive = (off - self.margin).clamp(min=0).mean() / 2
        return self._clipped(frames, lengths[utterance], rated) + self.contrastive_weight * contrastive

    def loss(self, outputs: Tensor, lengths: Tensor, targets: Targets) -> Tensor:
        """The clipped part for the mean listener's scores `(batch, 1)`, an utterance counting as one frame.

        Without pairs, which would make the loss of a split depend on its batches.
        """
        rated = self._inside(points(targets.values[:, MEAN, 1]))
        return self._clipped(self._inside(outputs.float()), torch.ones_like(lengths), rated)

    def _clipped(self, frames: Tensor, lengths: Tensor, rated: Tensor) -> Tensor:
        """Mean square error of frame scores `(rows, frames)` against `(rows,)`, in -1 to 1, where it is above `clip`."""
        error = frames - rated[:, None]
        counted = (error.abs() > self.clip) & ~padding_mask(lengths, frames.shape[1])
        return ((error.square() * counted).sum(1) / lengths).mean()
