"""The contrastive objective of wav2vec 2.0: tell the true quantised frame from 100 distractors."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from wavlm_lightning.encoder import WavLMConfig
from wavlm_lightning.pretraining.flops import linear_flops
from wavlm_lightning.pretraining.objectives.base import LayerObjective, ObjectiveCost, Prediction
from wavlm_lightning.pretraining.objectives.quantiser import (
    GumbelQuantiser,
    GumbelTemperature,
    Quantised,
    code_perplexity,
    diversity_loss,
)
from wavlm_lightning.system.errors import UserError


class ContrastivePrediction(LayerObjective):
    """Tells the quantised features of a masked frame from those of other masked frames of the same utterance.

    It needs no labels: the codebook is learned together with the encoder, and a diversity term keeps its entries in
    use. In a healthy run `code_perplexity` climbs to several hundred of 640; a collapsed codebook shows as 2.

    All randomness (noise, negatives, dropout of the features) comes from `prediction.generator`. As in every objective,
    the only synchronisation with the GPU is the count of masked frames.

    Source: wav2vec 2.0, arXiv 2006.11477, section 3.2, equations 2-4, and fairseq for details that the paper omits.

    Args:
        final_dim: width of the space in which frames are compared: 256 for Base, 768 for Large.
        groups: number of codebooks of the quantiser.
        entries: number of entries of each codebook.
        vq_dim: width of the quantised vector; None for `final_dim`.
        negatives: number of distractors per masked frame, drawn with replacement.
        temperature: divisor of the cosine.
        gumbel: temperature schedule of the quantiser's Gumbel-softmax.
        diversity_weight: weight of the diversity term within this objective.
        dropout_features: dropout of the features before the quantiser: 0.1 for Base, 0 for Large.
        layer: index of the hidden state that predicts, from 1; None for the last.
        weight: factor in the sum of objectives.

    Raises:
        UserError: `negatives` is below 1.
    """

    name = "contrastive"

    def __init__(
        self,
        final_dim: int = 256,
        groups: int = 2,
        entries: int = 320,
        vq_dim: int | None = None,
        negatives: int = 100,
        temperature: float = 0.1,
        gumbel: GumbelTemperature = GumbelTemperature(),  # noqa: B008 - frozen
        diversity_weight: float = 0.1,
        dropout_features: float = 0.1,
        layer: int | None = None,
        weight: float = 1.0,
    ) -> None:
        super().__init__(layer)
        if negatives < 1:
            raise UserError(f"ContrastivePrediction: negatives must be 1 or more (published: 100), not {negatives}")
        self.final_dim, self.groups, self.entries, self.vq_dim = final_dim, groups, entries, vq_dim or final_dim
        self.negatives, self.temperature, self.gumbel = negatives, temperature, gumbel
        self.diversity_weight, self.dropout_features, self.weight = diversity_weight, dropout_features, weight

    @property
    def summed_codebooks(self) -> int:
        return self.groups

    def build(self, encoder: WavLMConfig, label_sizes: Mapping[str, int]) -> None:
        self.build_layer_norm(encoder)
        self.quantiser = GumbelQuantiser(encoder.feature_dim, self.vq_dim, self.groups, self.entries)
        self.project = nn.Linear(encoder.dim, self.final_dim)  # fairseq's `final_proj`
        self.project_target = nn.Linear(self.vq_dim, self.final_dim)  # fairseq's `project_q`
        self.valid_scores = ContrastiveScores(self.groups, self.entries)

    def cost(
        self, encoder: WavLMConfig, labels: int, frames: float, masked: float, compute_bytes: int
    ) -> ObjectiveCost | None:
        channels, dim, width, quantised = encoder.feature_dim, encoder.dim, self.final_dim, self.vq_dim
        codes, code_dim = self.groups * self.entries, quantised // self.groups
        parameters = (channels + 1) * codes + codes * code_dim  # quantiser
        parameters += (dim + 1) * width + (quantised + 1) * width + self.layer_norm_parameters(encoder)
        products = ((channels, codes), (codes, code_dim), (dim, width), (quantised, width))
        flops = sum(linear_flops(masked, *product) for product in products)
        flops += linear_flops(masked, width, round(masked))  # cosines of all pairs
        kept = masked * (compute_bytes * dim + 5 * channels)
        kept += masked * 4 * (4 * width + quantised + 3 * codes + masked + 3 * self.negatives)
        return ObjectiveCost(parameters, flops, kept)

    def forward(self, prediction: Prediction) -> Tensor:
        """Mean cross-entropy in nats over the masked frames, plus the weighted diversity term of this process's batch."""
        logits, quantised = self._contrast(prediction)
        return cross_entropy(logits).mean() + self.diversity_weight * diversity_loss(quantised.probabilities)

    def _contrast(self, prediction: Prediction) -> tuple[Tensor, Quantised]:
        """Logits `(masked frames, 1 + negatives)`, and the quantised targets before their projection."""
        mask, generator = prediction.mask, prediction.generator
        features = prediction.normalised[mask]
        if self.training and self.dropout_features:
            kept = torch.rand(features.shape, device=features.device, generator=generator) >= self.dropout_features
            features = features * kept / (1 - self.dropout_features)
        quantised = self.quantiser(features, self.gumbel.at(prediction.step), generator)
        others = draw_negatives(mask, len(features), self.negatives, generator)
        predicted = self.project(self.read(prediction, mask))
        targets = self.project_target(quantised.vectors)
        return contrastive_logits(predicted, targets, quantised.codes, others, self.temperature), quantised

    @torch.no_grad()
    def scores(self, prediction: Prediction) -> dict[str, Tensor]:
        """Cross-entropy, accuracy, codebook use and temperature, with newly drawn noise and negatives."""
        logits, quantised = self._contrast(prediction)
        used = count_codes(quantised.codes, self.entries) / len(logits)
        return {
            "loss": cross_entropy(logits).mean(),
            "masked_accuracy": told_apart(logits).float().mean(),
            "code_perplexity": code_perplexity(used),
            "diversity": diversity_loss(quantised.probabilities),
            "gumbel_temperature": logits.new_tensor(self.gumbel.at(prediction.step)),
        }

    @torch.no_grad()
    def update_scores(self, prediction: Prediction) -> None:
        self.valid_scores.update(*self._contrast(prediction))  # in evaluation with the likeliest codes, without noise

    def compute_scores(self) -> dict[str, Tensor]:
        scores = self.valid_scores.compute()
        self.valid_scores.reset()
        return scores


def draw_negatives(mask: Tensor, frames: int, count: int, generator: torch.Generator | None) -> Tensor:
    """Draw other masked frames of the same row for each masked frame, uniformly and with replacement.

    Args:
        mask: bool `(batch, width)`; rows may hold different numbers of masked frames.
        frames: number of masked frames, which the caller knows; counting them here would wait for the GPU.

    Returns:
        int64 `(frames, count)`, positions in the list of all masked frames, row by row. The only masked frame of a row
        gets itself; `contrastive_logits` excludes such negatives.
    """
    masked = mask.sum(1)
    row = torch.arange(len(mask), device=mask.device).repeat_interleave(masked, output_size=frames)
    start = (masked.cumsum(0) - masked)[row, None]
    others = (masked - 1)[row, None]
    place = torch.arange(frames, device=mask.device)[:, None] - start
    drawn = (torch.rand(frames, count, device=mask.device, generator=generator) * others).long()
    drawn = drawn + ((drawn >= place) & (others > 0)).long()  # skip the frame itself
    return start + drawn


def contrastive_logits(
    predicted: Tensor, targets: Tensor, codes: Tensor, negatives: Tensor, temperature: float
) -> Tensor:
    """Cosine of each prediction `(frames, dim)` to its target and to its negatives, divided by the temperature.

    The cosines of all pairs are computed first and then gathered: `frames ** 2` numbers, where copies of the negatives
    would take `frames * negatives * dim`, which is more for any batch below 25,000 masked frames of 256 dimensions.

    Args:
        codes: int64 `(frames, groups)`; a negative with the same codes as the target gets -inf.
        negatives: int64 `(frames, negatives)`, positions in `targets`.

    Returns:
        float32 `(frames, 1 + negatives)`, the target first; in fp32 at any precision of the run, because cosines differ
        in the third digit.
    """
    with torch.autocast(predicted.device.type, enabled=False):
        predicted, targets = (nn.functional.normalize(x.float(), dim=-1) for x in (predicted, targets))
        cosines = predicted @ targets.T
        same = (codes[negatives] == codes[:, None]).all(-1)
        distractors = (cosines.gather(1, negatives) / temperature).masked_fill(same, -torch.inf)
        return torch.cat([cosines.diagonal()[:, None] / temperature, distractors], 1)


def cross_entropy(logits: Tensor) -> Tensor:
    """Cross-entropy in nats with the first column as the target, `(frames,)`; 0 where no negative is left."""
    return logits.logsumexp(1) - logits[:, 0]


def told_apart(logits: Tensor) -> Tensor:
    """bool `(frames,)`: the target is above all negatives and at least one is left, so a collapsed codebook scores 0."""
    best = logits[:, 1:].amax(1)
    return (logits[:, 0] > best) & best.isfinite()


def count_codes(codes: Tensor, entries: int) -> Tensor:
    """Counts of the chosen entries, int64 `(groups, entries)`, from codes `(frames, groups)`."""
    return nn.functional.one_hot(codes, entries).sum(0)


class ContrastiveScores(Metric):
    """Scores of contrastive prediction as sums that add up over batches and ranks."""

    full_state_update = False

    def __init__(self, groups: int, entries: int) -> None:
        super().__init__()
        shapes = {"frames": (), "loss": (), "correct": (), "used": (groups, entries), "expected": (groups, entries)}
        for name, shape in shapes.items():
            self.add_state(name, torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, logits: Tensor, quantised: Quantised) -> None:
        """Add frames: what `contrastive_logits` gives, and their targets."""
        self.frames += len(logits)
        self.loss += cross_entropy(logits).double().sum()
        self.correct += told_apart(logits).sum()
        self.used += count_codes(quantised.codes, self.used.shape[1])
        self.expected += quantised.probabilities.double() * len(logits)

    def compute(self) -> dict[str, Tensor]:
        """Cross-entropy in nats, accuracy, codes in use over all frames, and the diversity term over all frames."""
        frames = self.frames.clamp(min=1)
        return {
            "loss": (self.loss / frames).float(),
            "masked_accuracy": (self.correct / frames).float(),
            "code_perplexity": code_perplexity(self.used / frames).float(),
            "diversity": diversity_loss(self.expected / frames).float(),
        }
