"""Masked prediction of codebook labels (HuBERT, WavLM, ILS-SSL), at the last or any other layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from wavlm_lightning.data.batch import SoftLabels
from wavlm_lightning.encoder import WavLMConfig
from wavlm_lightning.pretraining.flops import linear_flops
from wavlm_lightning.pretraining.objectives.base import LayerObjective, ObjectiveCost, Prediction
from wavlm_lightning.system.errors import UserError


class MaskedPrediction(LayerObjective):
    """HuBERT's masked prediction: cross-entropy over all labels, on masked frames.

    `similarity` says what the softmax is of: `cosine`, of the projected frame to each codeword over the temperature, as in
    HuBERT and WavLM; or `logits`, of one linear layer on the hidden state over the temperature, which is cheaper and has no
    codewords (Fast-HuBERT, arXiv 2309.13860; k2SSL, arXiv 2411.17100).

    Several of them may be summed: one per label set for multi-target training (HuBERT's `untie_final_proj`), or one
    per layer for intermediate layer supervision (ILS-SSL, arXiv 2112.08778: layers 4 and 12 of Base, each with its own
    projection and codewords).

    Source: HuBERT, arXiv 2106.07447, equations 1-3. fairseq's criterion contrasts one positive with all codewords,
    which equals this softmax.

    Args:
        final_dim: width of projection and codewords: 256 for Base, 768 for Large. `logits` have neither.
        temperature: divisor of the cosine or the logits; 0.1 is published for both.
        unmasked_weight: weight of the cross-entropy over the visible frames, which is added; published: 0.
        codeword_init: `uniform` in [0, 1) as published, or `normal`. With uniform codewords all cosines are alike at
            first, and short runs stay on the majority class. The linear layer of `logits` begins at zero instead, so that the
            loss begins at the logarithm of the number of classes.
        extra_codewords: codewords that are never a target; fairseq's dictionary adds 4 (bos, pad, eos, unk).
        layer: index of the hidden state that predicts, from 1; None for the last. A layer that LayerDrop skips passes
            its input on, as in the reference.
        labels: name of the predicted label set of `data.labels`; None for the first.
        weight: factor in the sum of objectives.
        soft: predict the soft labels of the label set (`wavlm codebook apply --soft K`): the cross-entropy with their
            weights, whose least value is the entropy of the targets, logged as `target_entropy`. Accuracies compare with
            the hard labels. Published with mixtures of Gaussians in place of k-means (GMM-JEPA, arXiv 2602.09040).
        similarity: `cosine` or `logits`, see above.

    Raises:
        UserError: the similarity is neither, or the temperature is not positive.
    """

    name = "masked_prediction"

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
        soft: bool = False,
        similarity: Literal["cosine", "logits"] = "cosine",
    ) -> None:
        super().__init__(layer)
        if similarity not in ("cosine", "logits"):
            raise UserError(f"{type(self).__name__}: similarity is cosine or logits, not {similarity!r}")
        if not temperature > 0:
            raise UserError(f"{type(self).__name__}: temperature must be above 0 (published: 0.1), not {temperature:g}")
        self.soft, self.similarity = soft, similarity
        self.final_dim, self.temperature, self.weight, self.labels = final_dim, temperature, weight, labels
        self.unmasked_weight, self.codeword_init, self.extra_codewords = unmasked_weight, codeword_init, extra_codewords

    def build(self, encoder: WavLMConfig, label_sizes: Mapping[str, int]) -> None:
        """Create the projection, `dim` to `final_dim`, and the codewords, `(labels + extra_codewords, final_dim)`.

        With `similarity: logits` one linear layer, `dim` to `labels + extra_codewords`.
        """
        self.build_layer_norm(encoder)
        if not label_sizes:
            raise UserError("objectives: masked prediction needs labels, but data.labels names none")
        self.label_set = str(self.label_set_of(list(label_sizes)))
        if self.label_set not in label_sizes:
            raise UserError(
                f"objectives: masked prediction wants labels {self.label_set!r}, but data.labels names "
                f"{', '.join(label_sizes)}"
            )
        classes = label_sizes[self.label_set] + self.extra_codewords
        if self.similarity == "logits":
            self.classify = nn.Linear(encoder.dim, classes)
            nn.init.zeros_(self.classify.weight)
            nn.init.zeros_(self.classify.bias)
        else:
            self.project = nn.Linear(encoder.dim, self.final_dim)
            draw = torch.rand if self.codeword_init == "uniform" else torch.randn
            self.codewords = nn.Parameter(draw(classes, self.final_dim))
        self.masked_scores, self.visible_scores = PredictionScores(classes), PredictionScores(classes)

    def label_set_of(self, names: Sequence[str]) -> str | None:
        return next(iter(names), None) if self.labels is None else self.labels

    def check_labels(self, codebooks: Mapping[str, Mapping[str, Any]]) -> None:
        if self.soft and "soft" not in codebooks[self.label_set]:
            raise UserError(
                f"objectives: soft: true wants soft labels, and the label set {self.label_set!r} has none; make one with "
                "`wavlm codebook apply --soft K`"
            )

    def cost(
        self, encoder: WavLMConfig, labels: int, frames: float, masked: float, compute_bytes: int
    ) -> ObjectiveCost | None:
        dim, width, codewords = encoder.dim, self.final_dim, labels + self.extra_codewords
        predicted, norm = frames if self.unmasked_weight else masked, self.layer_norm_parameters(encoder)
        if self.similarity == "logits":
            return ObjectiveCost(
                parameters=(dim + 1) * codewords + norm,
                flops=linear_flops(predicted, dim, codewords),
                kept=4 * predicted * (dim + codewords),  # the hidden state in fp32; log-probabilities
            )
        return ObjectiveCost(
            parameters=(dim + 1) * width + codewords * width + norm,
            flops=linear_flops(predicted, dim, width) + linear_flops(predicted, width, codewords),
            # The hidden state; its projection before and after normalisation; log-probabilities; unit codewords.
            kept=predicted * (compute_bytes * dim + 4 * (2 * width + codewords)) + 4 * codewords * width,
        )

    def logits(self, hidden: Tensor) -> Tensor:
        """Similarity of each frame `(frames, dim)` to each class over the temperature, float32 `(frames, classes)`."""
        if self.similarity == "logits":
            # In fp32 at any precision of the run: the temperature multiplies what bf16 rounds by ten.
            with torch.autocast(hidden.device.type, enabled=False):
                weight, bias = self.classify.weight.float(), self.classify.bias.float()
                return nn.functional.linear(hidden.float(), weight, bias) / self.temperature
        projected = self.project(hidden)
        # In fp32 at any precision of the run, because cosines differ in the third digit.
        with torch.autocast(hidden.device.type, enabled=False):
            frames = nn.functional.normalize(projected.float(), dim=-1)
            codewords = nn.functional.normalize(self.codewords.float(), dim=-1)
            return frames @ codewords.T / self.temperature

    def forward(self, prediction: Prediction) -> Tensor:
        """Mean cross-entropy in nats over the masked frames, plus `unmasked_weight` times that of the visible frames."""
        loss = self._cross_entropy(prediction, prediction.mask, *self._frames(prediction, prediction.mask))
        if self.unmasked_weight:
            where = prediction.visible
            visible = self._cross_entropy(prediction, where, *self._frames(prediction, where))
            loss = loss + self.unmasked_weight * visible
        return loss

    def _cross_entropy(self, prediction: Prediction, where: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean over the frames of `where`, from `_frames`."""
        if self.soft:
            return soft_cross_entropy(logits.log_softmax(1), prediction.soft_labels[self.label_set][where]).mean()
        return nn.functional.cross_entropy(logits, labels)

    def _frames(self, prediction: Prediction, where: Tensor) -> tuple[Tensor, Tensor]:
        """Logits `(true frames, codewords)` and labels `(true frames,)` of the frames where `where` is true."""
        return self.logits(self.read(prediction, where)), prediction.labels[self.label_set][where]

    @torch.no_grad()
    def scores(self, prediction: Prediction) -> dict[str, Tensor]:
        """Cross-entropy of the masked frames, accuracies of masked and of visible frames."""
        masked, labels = self._frames(prediction, prediction.mask)
        visible, visible_labels = self._frames(prediction, prediction.visible)
        scores = {
            "loss": self._cross_entropy(prediction, prediction.mask, masked, labels),
            "masked_accuracy": (masked.argmax(1) == labels).float().mean(),
            "unmasked_accuracy": (visible.argmax(1) == visible_labels).float().mean(),
        }
        if self.soft:
            scores["target_entropy"] = entropy(prediction.soft_labels[self.label_set][prediction.mask]).mean()
        return scores

    @torch.no_grad()
    def update_scores(self, prediction: Prediction) -> None:
        soft = prediction.soft_labels[self.label_set][prediction.mask] if self.soft else None
        self.masked_scores.update(*self._frames(prediction, prediction.mask), soft)
        self.visible_scores.update(*self._frames(prediction, prediction.visible))

    def compute_scores(self) -> dict[str, Tensor]:
        scores = self.masked_scores.compute()
        scores["masked_accuracy"] = scores.pop("accuracy")
        scores["unmasked_accuracy"] = self.visible_scores.compute()["accuracy"]
        self.masked_scores.reset()
        self.visible_scores.reset()
        return scores


class PredictionScores(Metric):
    """Scores over masked frames, or over unmasked ones, of `classes` codewords."""

    full_state_update = False

    def __init__(self, classes: int) -> None:
        super().__init__()
        for name, shape in (
            ("loss", ()),
            ("entropy", ()),
            ("correct", ()),
            ("predicted", (classes,)),
            ("targets", (classes,)),
        ):
            self.add_state(name, torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, logits: Tensor, labels: Tensor, soft: SoftLabels | None = None) -> None:
        """Add frames: logits, float32 `(frames, classes)`, labels, int64 `(frames,)`, and soft labels that the loss is of."""
        log_probabilities = logits.log_softmax(1)
        if soft is None:
            self.loss += nn.functional.nll_loss(log_probabilities, labels, reduction="sum").double()
        else:
            self.loss += soft_cross_entropy(log_probabilities, soft).double().sum()
            self.entropy += entropy(soft).double().sum()
        self.correct += (logits.argmax(1) == labels).sum()
        self.predicted += log_probabilities.exp().sum(0)
        self.targets += torch.bincount(labels, minlength=len(self.targets))

    def compute(self) -> dict[str, Tensor]:
        """Loss (nats), accuracy, perplexity of the mean prediction and of the targets, accuracy of the majority class.

        With soft labels their mean entropy as well, below which the loss cannot fall.
        """
        frames = self.targets.sum().clamp(min=1)
        scores = {
            "loss": (self.loss / frames).float(),
            "accuracy": (self.correct / frames).float(),
            "perplexity": perplexity(self.predicted / frames),
            "target_perplexity": perplexity(self.targets / frames),
            "majority_accuracy": (self.targets.max() / frames).float(),
        }
        return scores | ({"target_entropy": (self.entropy / frames).float()} if self.entropy > 0 else {})


def soft_cross_entropy(log_probabilities: Tensor, soft: SoftLabels) -> Tensor:
    """Cross-entropy in nats of each frame with its soft labels, `(frames,)`, from `(frames, classes)`."""
    return -(soft.weights * log_probabilities.gather(1, soft.classes)).sum(1)


def entropy(soft: SoftLabels) -> Tensor:
    """Entropy in nats of the soft labels of each frame, `(frames,)`."""
    return torch.special.entr(soft.weights).sum(1)


def perplexity(probabilities: Tensor) -> Tensor:
    """exp of the entropy of a distribution `(classes,)`: the effective number of classes."""
    return torch.special.entr(probabilities).sum().exp().float()
