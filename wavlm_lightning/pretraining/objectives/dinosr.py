"""DinoSR and SpidR: masked frames predict the clusters of a teacher's layers, which are found while the encoder trains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from wavlm_lightning.encoder import WavLM, WavLMConfig
from wavlm_lightning.pretraining.flops import linear_flops
from wavlm_lightning.pretraining.objectives.base import ObjectiveCost, Prediction
from wavlm_lightning.pretraining.objectives.masked_prediction import PredictionScores, perplexity
from wavlm_lightning.pretraining.objectives.self_distillation import SelfDistillation
from wavlm_lightning.system.errors import UserError


class DinoSR(SelfDistillation):
    """Cross-entropy with the nearest codes of a teacher's top layers, each with a codebook that follows its frames.

    A codebook is online k-means: each code is the moving average of the masked frames of the teacher that were nearest to
    it. No labels and no second run are needed. A linear head for each of these layers predicts its codes from the masked
    frames: all from the last layer of the encoder (DinoSR), or each from the layer of the same number (`same_layer`, SpidR),
    with a layer norm of its own where a pre-norm encoder has none.

    In a healthy run `target_perplexity`, the effective number of codes in use (mean over the codebooks), stays at tens or
    hundreds; a collapse takes it to 1, `perplexity` of the predictions with it, and stops the run.

    Codebooks move once an update, by the frames of all micro-steps and processes; they are in checkpoints and in the exported
    pre-training head, and a skipped update does not move them. Differences from the paper: targets are hidden states of whole
    layers, not of their feed-forward blocks before the residual sum.

    Source: DinoSR, arXiv 2305.10005, section 3, equations 2-5; SpidR, arXiv 2512.20308.

    Args:
        top: number of layers of the teacher that have a codebook, the last ones; published: 8 of 12.
        codes: size of each codebook; published: 256.
        codebook_decay: share of its own that a code keeps in an update in which frames were nearest to it; published: 0.9.
        codebook_init: `unit` draws codes from a normal distribution as wide as the frames, as published; `small`, which the
            authors' code offers too, near the mean of the frames, so that a frame which is far from the codes in use takes a
            fresh one.
        same_layer: whether layer l of the encoder predicts layer l of the teacher; false: the last layer predicts all.
        decay: see `SelfDistillation`, as the other arguments. SpidR's decay rises along an exponential to 1.
        final_decay: that share from update `decay_updates` on.
        decay_updates: published: 30,000.
        weight: factor in the sum of objectives.
        clean_targets: the teacher hears the clean crops.

    Raises:
        UserError: `codes` is below 2, the decay of the codebooks is not from 0 to below 1, or see `SelfDistillation`.
    """

    name = "dinosr"
    sums: Tensor
    counts: Tensor

    def __init__(
        self,
        top: int = 8,
        codes: int = 256,
        codebook_decay: float = 0.9,
        codebook_init: Literal["unit", "small"] = "unit",
        same_layer: bool = False,
        decay: float = 0.999,
        final_decay: float = 0.9999,
        decay_updates: int = 30_000,
        weight: float = 1.0,
        clean_targets: bool = False,
    ) -> None:
        super().__init__(top, decay, final_decay, decay_updates, weight, clean_targets)
        if codes < 2:
            raise UserError(f"DinoSR: codes is {codes}, and a codebook has 2 or more (published: 256)")
        if not 0 <= codebook_decay < 1:
            raise UserError(f"DinoSR: codebook_decay is {codebook_decay:g}; it is from 0 to below 1 (published: 0.9)")
        if codebook_init not in ("unit", "small"):
            raise UserError(f"DinoSR: codebook_init is unit or small, not {codebook_init!r}")
        self.codes, self.codebook_decay, self.codebook_init = codes, codebook_decay, codebook_init
        self.same_layer = same_layer
        self.counting: int | None = None  # the update whose frames `_new_sums` and `_new_counts` hold

    def layers(self, count: int) -> tuple[int, ...]:
        return self.top_layers(count) if self.same_layer else (count,)

    def build(self, encoder: WavLMConfig, label_sizes: Mapping[str, int]) -> None:
        """Create heads, `dim` to `codes`, and codebooks as sums and counts of frames, `(top, codes, dim)` and `(top, codes)`."""
        super().build(encoder, label_sizes)
        self.heads = nn.ModuleList(nn.Linear(encoder.dim, self.codes) for _ in range(self.top))
        self.layer_norms = nn.ModuleList(
            nn.LayerNorm(encoder.dim, encoder.layer_norm_eps)
            if self._needs_norms(encoder) and layer < self.last
            else nn.Identity()
            for layer in self.top_layers(self.last)
        )
        drawn = torch.randn(self.top, self.codes, encoder.dim)
        width = 1.0 if self.codebook_init == "unit" else self.codes**-0.5
        self.register_buffer("sums", width * drawn)
        self.register_buffer("counts", torch.ones(self.top, self.codes))
        self.of_layers = nn.ModuleList(PredictionScores(self.codes) for _ in range(self.top))

    def _needs_norms(self, encoder: WavLMConfig) -> bool:
        """Whether the layers below the last get a layer norm of their own, see `LayerObjective`."""
        return self.same_layer and encoder.pre_norm

    def cost(
        self, encoder: WavLMConfig, labels: int, frames: float, masked: float, compute_bytes: int
    ) -> ObjectiveCost | None:
        dim, heads = encoder.dim, linear_flops(masked, encoder.dim, self.codes)
        norms = 2 * dim * (self.top - 1) if self._needs_norms(encoder) else 0
        inputs = self.top if self.same_layer else 1
        return ObjectiveCost(
            parameters=self.top * (dim + 1) * self.codes + norms,
            # Distances and sums of frames have no backward pass: a third each of what a plan counts for a product with one.
            flops=self.top * heads * (1 + 2 / 3),
            kept=masked * (inputs * dim * compute_bytes + 4 * self.top * self.codes),
            passes=self.teacher_pass(encoder, self.top * self.codes * (dim + 1)),
        )

    @property
    def codebooks(self) -> Tensor:
        """The codes of each layer of the teacher, float32 `(top, codes, dim)`."""
        return self.sums / self.counts[:, :, None]

    @torch.no_grad()
    def targets(self, prediction: Prediction) -> tuple[Tensor, Tensor]:
        """The teacher's masked frames `(top, masked, dim)` and the nearest code of each, int64 `(top, masked)`."""
        frames = self.teacher_states(prediction)[:, prediction.mask]
        with torch.autocast(frames.device.type, enabled=False):
            codebooks = self.codebooks
            # |x|^2 is the same for all codes.
            distances = codebooks.square().sum(2)[:, None] - 2.0 * frames @ codebooks.transpose(1, 2)
            return frames, distances.argmin(2)

    def logits(self, prediction: Prediction) -> list[Tensor]:
        """Of each codebook, float32 `(masked, codes)`."""
        layers = self.top_layers(self.last) if self.same_layer else (self.last,) * self.top
        masked = {layer: prediction.hidden[layer][prediction.mask] for layer in set(layers)}
        return [
            head(norm(masked[layer])).float()
            for head, norm, layer in zip(self.heads, self.layer_norms, layers, strict=True)
        ]

    def forward(self, prediction: Prediction) -> Tensor:
        """Mean cross-entropy in nats over codebooks and masked frames, a float32 scalar."""
        frames, codes = self.targets(prediction)
        if self.training:
            self._count(frames, codes, prediction.step)
        return self._cross_entropy(self.logits(prediction), codes)

    @staticmethod
    def _cross_entropy(logits: list[Tensor], codes: Tensor) -> Tensor:
        pairs = zip(logits, codes, strict=True)
        return torch.stack([nn.functional.cross_entropy(one, code) for one, code in pairs]).mean()

    @torch.no_grad()
    def _count(self, frames: Tensor, codes: Tensor, step: int) -> None:
        """Add the frames of a micro-step to those of its update; those of a skipped update are forgotten here."""
        if self.counting != step:
            self.counting = step
            # Not buffers: DDP would give each micro-step those of the first process.
            self._new_sums, self._new_counts = torch.zeros_like(self.sums), torch.zeros_like(self.counts)
        with torch.autocast(frames.device.type, enabled=False):
            # A product and no `index_add_`, which adds in any order on a GPU: a resumed run has the same codes.
            chosen = nn.functional.one_hot(codes, self.codes).float()
            self._new_sums += chosen.transpose(1, 2) @ frames
            self._new_counts += chosen.sum(1)

    @torch.no_grad()
    def after_update(self, encoder: WavLM, step: int) -> None:
        super().after_update(encoder, step)
        if self.counting is None:
            return
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(self._new_sums)
            torch.distributed.all_reduce(self._new_counts)
        # A code that no frame was nearest to stays as it is.
        moved = (1 - self.codebook_decay) * (self._new_counts > 0)
        self.sums += moved[:, :, None] * (self._new_sums - self.sums)
        self.counts += moved * (self._new_counts - self.counts)
        self.counting = None

    @torch.no_grad()
    def scores(self, prediction: Prediction) -> dict[str, Tensor]:
        """Cross-entropy, accuracy and effective number of codes in use, means over the codebooks."""
        codes, logits = self.targets(prediction)[1], self.logits(prediction)
        right = [(one.argmax(1) == code).float().mean() for one, code in zip(logits, codes, strict=True)]
        used = [torch.bincount(code, minlength=self.codes).float() / code.numel() for code in codes]
        return {
            "loss": self._cross_entropy(logits, codes),
            "masked_accuracy": torch.stack(right).mean(),
            "target_perplexity": torch.stack([perplexity(share) for share in used]).mean(),
        }

    @torch.no_grad()
    def update_scores(self, prediction: Prediction) -> None:
        codes = self.targets(prediction)[1]
        for metric, logits, code in zip(self.of_layers, self.logits(prediction), codes, strict=True):
            metric.update(logits, code)

    def compute_scores(self) -> dict[str, Tensor]:
        """Those of masked prediction, means over the codebooks."""
        found = [metric.compute() for metric in self.of_layers]
        for metric in self.of_layers:
            metric.reset()
        scores = {name: torch.stack([each[name] for each in found]).mean() for name in found[0]}
        scores["masked_accuracy"] = scores.pop("accuracy")
        return scores
