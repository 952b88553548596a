"""The LightningModule that trains WavLM by masked prediction on mixed utterances."""

from __future__ import annotations

from typing import Any, Literal

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor, nn

from wavlm_lightning.data.batch import PretrainingBatch
from wavlm_lightning.errors import UserError
from wavlm_lightning.pretraining.masking import SpanMasking
from wavlm_lightning.pretraining.mixing import UtteranceMixing
from wavlm_lightning.pretraining.objectives import FeaturePenalty, MaskedPrediction, Objective, Prediction
from wavlm_lightning.pretraining.schedule import learning_rate_factor
from wavlm_lightning.pretraining.scores import PredictionScores
from wavlm_lightning.upstreams.wavlm import ENCODER_KEY, load_encoder

NOMINAL_FRAMES = 1000.0
"""Losses are summed over frames and divided by this constant before backward, which keeps fp16 gradients in range;
the true number of masked frames, over all ranks and micro-steps, divides the gradient before the update."""


class WavLMPretraining(pl.LightningModule):
    """Masked speech prediction with utterance mixing (WavLM, arXiv 2110.13900).

    Defaults are the published values of WavLM Base.

    Args:
        encoder: a preset (`tiny`, `base`, `base_plus`, `large`) for fresh weights, or a checkpoint to go on from.
        encoder_overrides: configuration fields of the encoder to change.
        objectives: the terms of the loss; masked prediction and feature penalty by default.
        masking: how frames are hidden.
        mixing: how utterances are mixed.
        learning_rate: peak of the schedule.
        warmup: share of the steps over which the rate climbs.
        decay: `linear` or `cosine` to zero at `trainer.max_steps`.
        betas: of AdamW.
        eps: of AdamW.
        weight_decay: of AdamW, on all parameters as fairseq does.
        seed: of initial weights, masking and mixing.
    """

    monitor = ("valid/loss", "min")

    def __init__(
        self,
        encoder: str = "base",
        encoder_overrides: dict[str, Any] | None = None,
        objectives: list[Objective] | None = None,
        masking: SpanMasking = SpanMasking(),  # noqa: B008 - frozen
        mixing: UtteranceMixing = UtteranceMixing(),  # noqa: B008 - frozen
        learning_rate: float = 5e-4,
        warmup: float = 0.08,
        decay: Literal["linear", "cosine"] = "linear",
        betas: tuple[float, float] = (0.9, 0.98),
        eps: float = 1e-6,
        weight_decay: float = 0.01,
        seed: int = 0,
    ) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.encoder = load_encoder(encoder, encoder_overrides)
        self.objectives = nn.ModuleList(objectives or [MaskedPrediction(), FeaturePenalty()])
        heads = [objective for objective in self.objectives if isinstance(objective, MaskedPrediction)]
        if not heads:
            raise UserError("objectives: masked prediction must be among them")
        self.masking, self.mixing = masking, mixing
        self.learning_rate, self.warmup, self.decay = learning_rate, warmup, decay
        self.betas, self.eps, self.weight_decay, self.seed = betas, eps, weight_decay, seed
        self.label_count: int | None = None
        self.codebook_sha256: str | None = None
        self._masked_frames: Tensor | float = 0.0

    @property
    def head(self) -> MaskedPrediction:
        """The (first) masked prediction objective: accuracy is measured with it."""
        return next(objective for objective in self.objectives if isinstance(objective, MaskedPrediction))

    # Construction: the codebook's size is known when the data are.

    def configure_model(self) -> None:
        """Build the objectives for the codebook in use.

        Raises:
            UserError: noise is to be mixed in but the data bring none, or labels are cut for another frame grid.
        """
        if self._trainer is None:  # the checkpoint that is being loaded builds them
            return
        data: Any = self.trainer.datamodule
        labels = data.label_set
        if self.mixing.noise_probability > 0 and not data.has_noise:
            raise UserError(
                "mixing.noise_probability is above 0 but data.noise_corpus names no corpus; "
                "set data.noise_corpus or mixing.noise_probability: 0"
            )
        ours, theirs = self.encoder.config, data.grid
        if (ours.hop, ours.receptive_field) != (theirs.hop, theirs.receptive_field):
            raise UserError(
                f"model.encoder makes a frame every {ours.hop} samples from {ours.receptive_field}, but the data cut labels "
                f"every {theirs.hop} from {theirs.receptive_field}; keep the published kernels and strides"
            )
        self.build(labels.size, labels.codebook_sha256)

    def build(self, label_count: int, codebook_sha256: str) -> None:
        """Make projections and codewords; a second call with the same codebook does nothing."""
        if self.label_count is not None:
            return
        torch.manual_seed(self.seed + 1)
        self.label_count, self.codebook_sha256 = label_count, codebook_sha256
        for objective in self.objectives:
            objective.build(self.encoder.config, label_count)
        classes = label_count + self.head.extra_codewords
        self.valid_masked, self.valid_visible = PredictionScores(classes), PredictionScores(classes)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what is needed to rebuild encoder and heads."""
        checkpoint[ENCODER_KEY] = self.encoder.config.to_dict()
        checkpoint["codebook"] = {"size": self.label_count, "sha256": self.codebook_sha256}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Build the heads if needed, and refuse another codebook.

        Raises:
            UserError: the checkpoint was trained on other labels.
        """
        codebook = checkpoint["codebook"]
        self.build(codebook["size"], codebook["sha256"])
        if codebook["sha256"] != self.codebook_sha256:
            raise UserError("resume: the checkpoint was trained on labels of another codebook than data.labels names")

    # One pass.

    def predict_masked(self, batch: PretrainingBatch, audio: Tensor, generator: torch.Generator) -> Prediction:
        """Encode `audio` `(batch, samples)` with some frames hidden."""
        features, frame_lengths = self.encoder.features(audio)  # crops are full: no lengths, no wait for the GPU
        frames = min(features.shape[1], batch.labels.shape[1])
        features, frame_lengths = features[:, :frames], frame_lengths.clamp(max=frames)
        mask = self.masking(frame_lengths, frames, generator)
        projected = self.encoder.project(features)
        layers = self.encoder.contextualise(projected, frame_lengths, mask, last_only=True)
        return Prediction(layers, features, projected, mask, batch.labels[:, :frames], batch.audio)

    def _generator(self, stage: int, batch_idx: int) -> torch.Generator:
        """Randomness that depends on the place in the run alone, so that a resumed run masks and mixes the same way."""
        entropy = [self.seed, stage, self.current_epoch if stage == 0 else 0, batch_idx, self.global_rank]
        state = int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> np.uint64(1))
        return torch.Generator(self.device).manual_seed(state)

    def training_step(self, batch: PretrainingBatch, batch_idx: int) -> Tensor:
        """Sum of all objectives, times masked frames over `NOMINAL_FRAMES`."""
        generator = self._generator(0, batch_idx)
        mixed = self.mixing(batch.audio, batch.noise, batch.noise_lengths, generator)
        prediction = self.predict_masked(batch, mixed, generator)
        masked = prediction.mask.sum()
        terms = [objective(prediction) for objective in self.objectives]
        total = torch.stack([o.weight * term for o, term in zip(self.objectives, terms, strict=True)]).sum()
        self._masked_frames = self._masked_frames + masked
        if (self.trainer.global_step + 1) % self.trainer.log_every_n_steps == 0:  # when Lightning will write it
            self._log_training(prediction, terms, total)
        return total * masked / NOMINAL_FRAMES

    @torch.no_grad()
    def _log_training(self, prediction: Prediction, terms: list[Tensor], total: Tensor) -> None:
        hidden, labels = prediction.layers.hidden[-1], prediction.labels
        logits = self.head.logits(hidden[prediction.mask])
        visible = ~prediction.mask & ~prediction.layers.padding
        values = {
            "loss": nn.functional.cross_entropy(logits, labels[prediction.mask]),
            "masked_accuracy": (logits.argmax(1) == labels[prediction.mask]).float().mean(),
            "unmasked_accuracy": (self.head.logits(hidden[visible]).argmax(1) == labels[visible]).float().mean(),
            "total_loss": total.detach(),
            "learning_rate": torch.tensor(self.optimizers().param_groups[0]["lr"]),
        }
        for place, (objective, term) in enumerate(zip(self.objectives, terms, strict=True)):
            name = objective.name if objective.name not in values else f"{objective.name}_{place}"
            values[name] = term.detach()
        self.log_dict({f"train/{name}": value for name, value in values.items()}, batch_size=len(labels))
        self.log("accuracy", values["masked_accuracy"], prog_bar=True, logger=False, batch_size=len(labels))

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Divide the gradient by the masked frames of all ranks and micro-steps of this update.

        Runs before clipping. Lightning has averaged over ranks and divided by `accumulate_grad_batches`: undo both.
        """
        frames = torch.as_tensor(self._masked_frames, dtype=torch.float32, device=self.device)
        frames = self.trainer.strategy.reduce(frames, reduce_op="sum")
        factor = NOMINAL_FRAMES * self.trainer.world_size * self.trainer.accumulate_grad_batches / frames
        gradients = [p.grad for p in self.parameters() if p.grad is not None]
        torch._foreach_mul_(gradients, factor)
        self._masked_frames = 0.0

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip by global norm; Lightning's own clipping refuses fused optimisers even where nothing is scaled."""
        if gradient_clip_algorithm not in (None, "norm"):
            raise UserError(f"trainer.gradient_clip_algorithm {gradient_clip_algorithm!r}: pre-training clips by norm")
        if gradient_clip_val:
            torch.nn.utils.clip_grad_norm_(self.parameters(), gradient_clip_val)

    def validation_step(self, batch: PretrainingBatch, batch_idx: int) -> None:
        """Score masked and visible frames of clean crops, with the same masks every time."""
        prediction = self.predict_masked(batch, batch.audio, self._generator(1, batch_idx))
        hidden, labels = prediction.layers.hidden[-1], prediction.labels
        visible = ~prediction.mask & ~prediction.layers.padding
        self.valid_masked.update(self.head.logits(hidden[prediction.mask]), labels[prediction.mask])
        self.valid_visible.update(self.head.logits(hidden[visible]), labels[visible])

    def on_validation_epoch_end(self) -> None:
        """Log the scores of all frames of all ranks."""
        masked, visible = self.valid_masked.compute(), self.valid_visible.compute()
        values = {("masked_accuracy" if name == "accuracy" else name): value for name, value in masked.items()}
        values["unmasked_accuracy"] = visible["accuracy"]
        self.log_dict({f"valid/{name}": value for name, value in values.items()}, sync_dist=True)
        self.log("valid_accuracy", values["masked_accuracy"], prog_bar=True, logger=False, sync_dist=True)
        self.valid_masked.reset()
        self.valid_visible.reset()

    def configure_optimizers(self) -> dict[str, Any]:
        """AdamW with warm-up and decay over `trainer.max_steps`.

        Raises:
            UserError: `trainer.max_steps` is not set.
        """
        total = self.trainer.max_steps
        if total <= 0:
            raise UserError("pre-training needs trainer.max_steps: the schedule ends there")
        optimizer = torch.optim.AdamW(
            self.parameters(),
            lr=self.learning_rate,
            betas=self.betas,
            eps=self.eps,
            weight_decay=self.weight_decay,
            fused=self.device.type == "cpu" or None,  # elsewhere fp16's loss scaling must see unfused steps
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: learning_rate_factor(step, total, self.warmup, self.decay)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
