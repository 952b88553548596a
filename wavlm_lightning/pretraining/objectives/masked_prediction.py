"""HuBERT's masked prediction: at the top, at any layer, of any label set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from wavlm_lightning.encoder import WavLMConfig
from wavlm_lightning.pretraining.objectives.base import LayerObjective, Prediction
from wavlm_lightning.pretraining.scores import PredictionScores
from wavlm_lightning.system.errors import UserError


class MaskedPrediction(LayerObjective):
    """HuBERT's masked prediction: cosine to a codeword over a temperature, cross-entropy on masked frames.

    Several of them compose: one a label set for multi-target training (HuBERT's `untie_final_proj`), one a layer for
    intermediate layer supervision (ILS-SSL, arXiv 2112.08778: layers 4 and 12 of Base, each with a projection and
    codewords of its own, summed).

    Source: HuBERT, arXiv 2106.07447, equations 1-3; fairseq's criterion picks one positive against all codewords, which
    equals this softmax.

    Args:
        final_dim: dimensions of projection and codewords: 256 for Base, 768 for Large.
        temperature: divides the cosine.
        unmasked_weight: cross-entropy over the visible frames is added with this weight; published: 0.
        codeword_init: `uniform` in [0, 1) as published, or `normal`: with uniform codewords all cosines are alike at
            first and short runs stay on the majority class.
        extra_codewords: rows that are never a target; fairseq's dictionary adds 4 (bos, pad, eos, unk).
        layer: which hidden state predicts, from 1; None for the last. A layer that LayerDrop skips hands on its input,
            as in the reference.
        labels: which label set of `data.labels` is predicted; None for the first.
        weight: factor in the sum of objectives.
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
    ) -> None:
        super().__init__(layer)
        self.final_dim, self.temperature, self.weight, self.labels = final_dim, temperature, weight, labels
        self.unmasked_weight, self.codeword_init, self.extra_codewords = unmasked_weight, codeword_init, extra_codewords

    def build(self, encoder: WavLMConfig, label_sizes: Mapping[str, int]) -> None:
        """Projection `(dim -> final_dim)` and codewords `(labels + extra, final_dim)`.

        Raises:
            UserError: the data have no such label set, or the encoder no such layer.
        """
        self.build_layer_norm(encoder)
        if not label_sizes:
            raise UserError("objectives: masked prediction needs labels, but data.labels names none")
        self.label_set = next(iter(label_sizes)) if self.labels is None else self.labels
        if self.label_set not in label_sizes:
            raise UserError(
                f"objectives: masked prediction wants labels {self.label_set!r}, but data.labels names "
                f"{', '.join(label_sizes)}"
            )
        self.project = nn.Linear(encoder.dim, self.final_dim)
        draw = torch.rand if self.codeword_init == "uniform" else torch.randn
        self.codewords = nn.Parameter(draw(label_sizes[self.label_set] + self.extra_codewords, self.final_dim))
        classes = len(self.codewords)
        self.masked_scores, self.visible_scores = PredictionScores(classes), PredictionScores(classes)

    def logits(self, hidden: Tensor) -> Tensor:
        """Cosine of each frame to each codeword over the temperature.

        Args:
            hidden: `(frames, dim)`.

        Returns:
            float32 `(frames, codewords)`: in fp32 whatever the run's precision, because cosines differ in the third digit.
        """
        projected = self.project(hidden)
        with torch.autocast(hidden.device.type, enabled=False):
            frames = nn.functional.normalize(projected.float(), dim=-1)
            codewords = nn.functional.normalize(self.codewords.float(), dim=-1)
            return frames @ codewords.T / self.temperature

    def forward(self, prediction: Prediction) -> Tensor:
        """Mean cross-entropy in nats over the masked frames (plus the visible ones, weighted)."""
        loss = nn.functional.cross_entropy(*self._frames(prediction, prediction.mask))
        if self.unmasked_weight:
            visible = nn.functional.cross_entropy(*self._frames(prediction, prediction.visible))
            loss = loss + self.unmasked_weight * visible
        return loss

    def _frames(self, prediction: Prediction, where: Tensor) -> tuple[Tensor, Tensor]:
        """Logits `(frames, codewords)` and labels `(frames,)` of some frames."""
        return self.logits(self.read(prediction, where)), prediction.labels[self.label_set][where]

    @torch.no_grad()
    def scores(self, prediction: Prediction) -> dict[str, Tensor]:
        """Cross-entropy of the masked frames, accuracy of masked and visible ones."""
        masked, labels = self._frames(prediction, prediction.mask)
        visible, visible_labels = self._frames(prediction, prediction.visible)
        return {
            "loss": nn.functional.cross_entropy(masked, labels),
            "masked_accuracy": (masked.argmax(1) == labels).float().mean(),
            "unmasked_accuracy": (visible.argmax(1) == visible_labels).float().mean(),
        }

    @torch.no_grad()
    def update_scores(self, prediction: Prediction) -> None:
        """Add the masked and the visible frames of a validation batch."""
        self.masked_scores.update(*self._frames(prediction, prediction.mask))
        self.visible_scores.update(*self._frames(prediction, prediction.visible))

    def compute_scores(self) -> dict[str, Tensor]:
        """All of `PredictionScores` for masked frames, and the accuracy on visible ones."""
        scores = self.masked_scores.compute()
        scores["masked_accuracy"] = scores.pop("accuracy")
        scores["unmasked_accuracy"] = self.visible_scores.compute()["accuracy"]
        self.masked_scores.reset()
        self.visible_scores.reset()
        return scores
