"""CTC over each masked region (CTCBERT): the labels of a region in their order, without their times."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from wavlm_lightning.encoder import WavLMConfig
from wavlm_lightning.pretraining.objectives.base import ObjectiveCost, Prediction
from wavlm_lightning.pretraining.objectives.masked_prediction import MaskedPrediction, PredictionScores

# Frames that the regions of a batch take when all are as long as its longest, over their own frames: for the cost alone.
# A batch of 87.5 s under WavLM's masking without thinning; the test draws it again.
PADDING = 3.6
STATES = 35  # of CTC in the longest region: two for each of its labels, which last 80 ms or so, and one


class MaskedCtc(MaskedPrediction):
    """CTCBERT's objective: connectionist temporal classification of every masked region, in place of frame cross-entropy.

    A region is a run of masked frames between visible ones; padding ends it. Its target is the sequence of its labels
    with repeats removed, so that only their order counts: labels whose boundaries are wrong by some frames cost nothing.
    Visible context tells what a region begins and ends with, as in masked prediction.

    Every region has a path: each target label takes at least one frame of the region in which it was found, and two
    neighbours differ, so that no blank must stand between them; frames >= labels + repeats holds because there are no
    repeats. No loss is infinite, and none is set to zero in silence.

    The term is the sum over regions of -log P(labels of the region), in nats, divided by the masked frames, as the
    cross-entropy is: each path is a product over frames, so the learning rate of masked prediction fits. The paper sums
    over regions; its divisor is not settled, and ours makes accumulation and several processes exact.

    Thinning (`masking.equalise`) takes single frames out of regions and so cuts them; short regions leave CTC little
    freedom. `masking: {equalise: false}` keeps them whole.

    Source: CTCBERT, arXiv 2210.08603; probabilities are those of `MaskedPrediction` with one class more.

    Args:
        final_dim: width of projection and codewords: 256 for Base, 768 for Large.
        temperature: divisor of the cosine or the logits.
        unmasked_weight: weight of the same term over the visible regions, per visible frame, which is added; published: 0.
        codeword_init: `uniform` in [0, 1) or `normal`, see `MaskedPrediction`.
        extra_codewords: codewords that are never a target, between those of the labels and the blank.
        layer: index of the hidden state that predicts, from 1; None for the last.
        labels: name of the predicted label set of `data.labels`; None for the first.
        weight: factor in the sum of objectives.
        similarity: `cosine` or `logits`, see `MaskedPrediction`.
    """

    name = "masked_ctc"

    def __init__(
        self,
        final_dim: int = 256,
        temperature: float = 0.1,
        unmasked_weight: float = 0.0,
        codeword_init: Literal["uniform", "normal"] = "uniform",
        extra_codewords: int = 4,
        layer: int | None = None,
        labels: str | None = None,
        weight: float = 1.0,
        similarity: Literal["cosine", "logits"] = "cosine",
    ) -> None:
        # The blank is one more class, the last.
        super().__init__(
            final_dim,
            temperature,
            unmasked_weight,
            codeword_init,
            extra_codewords + 1,
            layer,
            labels,
            weight,
            similarity=similarity,
        )

    def build(self, encoder: WavLMConfig, label_sizes: Mapping[str, int]) -> None:
        """Create the projection and the codewords, `(labels + extra_codewords + 1, final_dim)`; the last is the blank's."""
        super().build(encoder, label_sizes)
        self.blank = label_sizes[self.label_set] + self.extra_codewords - 1
        self.masked_scores, self.visible_scores = PredictionScores(self.blank), PredictionScores(self.blank)
        self.region_scores = RegionScores()

    def cost(
        self, encoder: WavLMConfig, labels: int, frames: float, masked: float, compute_bytes: int
    ) -> ObjectiveCost | None:
        cost = super().cost(encoder, labels, frames, masked, compute_bytes)
        assert cost is not None
        # The log-probabilities once more, and the forward variables, both padded to the longest region.
        predicted = frames if self.unmasked_weight else masked
        return replace(cost, kept=cost.kept + 4 * PADDING * predicted * (labels + self.extra_codewords + STATES))

    def forward(self, prediction: Prediction) -> Tensor:
        """CTC loss in nats per masked frame, plus `unmasked_weight` times that per visible frame."""
        loss = self._loss(prediction, prediction.mask)
        if self.unmasked_weight:
            loss = loss + self.unmasked_weight * self._loss(prediction, prediction.visible)
        return loss

    def _loss(self, prediction: Prediction, where: Tensor) -> Tensor:
        return self._losses(prediction, where, *self._frames(prediction, where & ~prediction.padding)).sum() / (
            where.sum().clamp(min=1)
        )

    def _losses(self, prediction: Prediction, where: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        """The loss of each region of `where`, `(regions,)`, from `_frames`."""
        inside = where & ~prediction.padding
        first = inside & ~nn.functional.pad(inside, (1, 0))[:, :-1]
        return region_losses(logits, labels, first[inside], self.blank)

    @torch.no_grad()
    def scores(self, prediction: Prediction) -> dict[str, Tensor]:
        """CTC loss per masked frame, accuracies of masked and of visible frames, and the share of masked frames with blank.

        A frame counts as right if the likeliest of all labels, the blank left out, is its own.
        """
        masked, labels = self._frames(prediction, prediction.mask & ~prediction.padding)
        visible, visible_labels = self._frames(prediction, prediction.visible)
        losses = self._losses(prediction, prediction.mask, masked, labels)
        return {
            "loss": losses.sum() / max(len(labels), 1),
            "masked_accuracy": (masked[:, : self.blank].argmax(1) == labels).float().mean(),
            "unmasked_accuracy": (visible[:, : self.blank].argmax(1) == visible_labels).float().mean(),
            "blank_share": (masked.argmax(1) == self.blank).float().mean(),
        }

    @torch.no_grad()
    def update_scores(self, prediction: Prediction) -> None:
        masked, labels = self._frames(prediction, prediction.mask & ~prediction.padding)
        self.region_scores.update(
            self._losses(prediction, prediction.mask, masked, labels), masked.argmax(1) == self.blank
        )
        self.masked_scores.update(masked[:, : self.blank], labels)
        visible, visible_labels = self._frames(prediction, prediction.visible)
        self.visible_scores.update(visible[:, : self.blank], visible_labels)

    def compute_scores(self) -> dict[str, Tensor]:
        """Those of masked prediction over the labels without the blank, but `loss`, which is CTC's, and `blank_share`."""
        scores = super().compute_scores() | self.region_scores.compute()
        self.region_scores.reset()
        return scores


def region_losses(logits: Tensor, labels: Tensor, first: Tensor, blank: int) -> Tensor:
    """-log P of the labels of each region under CTC, repeats removed, in one call over all regions.

    Args:
        logits: of the frames of all regions, one region after the other, `(frames, classes)`.
        labels: of these frames, int64 `(frames,)`.
        first: bool `(frames,)`, true where a region begins; true for the first frame.
        blank: the class of the blank.

    Returns:
        nats, `(regions,)`, in the dtype of the logits, at least float32.
    """
    with torch.autocast(logits.device.type, enabled=False):
        logits = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
        log_probabilities = logits.log_softmax(1)
        if not len(labels):
            return log_probabilities.sum(1)
        region = first.cumsum(0) - 1
        lengths = torch.bincount(region)
        place = torch.arange(len(labels), device=labels.device) - (lengths.cumsum(0) - lengths)[region]
        # Frames behind the end of a region are not read.
        padded = log_probabilities.new_zeros(int(lengths.max()), len(lengths), logits.shape[1])
        padded = padded.index_put((place, region), log_probabilities)
        changes = first | (labels != labels.roll(1))
        return nn.functional.ctc_loss(
            padded,
            labels[changes],
            lengths,
            torch.bincount(region[changes], minlength=len(lengths)),
            blank=blank,
            reduction="none",
        )


class RegionScores(Metric):
    """CTC loss per masked frame, and the share of frames whose likeliest class is the blank."""

    full_state_update = False

    def __init__(self) -> None:
        super().__init__()
        for name in ("total", "blanks", "frames"):
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, losses: Tensor, blanks: Tensor) -> None:
        """Add losses of regions `(regions,)` and, for each of their frames, whether it is blank, bool `(frames,)`."""
        self.total += losses.double().sum()
        self.blanks += blanks.sum()
        self.frames += len(blanks)

    def compute(self) -> dict[str, Tensor]:
        frames = self.frames.clamp(min=1)
        return {"loss": (self.total / frames).float(), "blank_share": (self.blanks / frames).float()}
