"""Watches a pre-training run: its speed, what its layers still tell apart, and when there is no use in going on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from wavlm_lightning.data.batch import PretrainingBatch
from wavlm_lightning.metrics import EffectiveRank
from wavlm_lightning.pretraining.health_speed import Speed, padding_share
from wavlm_lightning.pretraining.objectives import ContrastivePrediction
from wavlm_lightning.system.errors import UserError

if TYPE_CHECKING:
    from wavlm_lightning.pretraining.module import WavLMPretraining

CALMER = (
    "a lower model.learning_rate, a longer model.warmup, or trainer.precision bf16-mixed or 32-true instead of 16-mixed"
)


class Health(pl.Callback):
    """Logs `health/...` and stops a run that is beyond help; part of every pre-training run.

    At each logging step: see `Speed.read`, and the padding of the batch. At each validation: the effective rank of every
    hidden state of the clean, unmasked first batch (of all processes), `health/effective_rank/layer_00` being the input
    of the first layer.

    A run has collapsed when its top layer or its predictions have: effective rank or perplexity near 1, whatever the
    input. It is stopped when several validations in a row have found that; a single one may be a passing spike. Top
    layers of fresh encoders have ranks from 24 (of 32 dimensions) to 450 (of 768, and of 1024), of trained ones 50 to
    103 (of 192), of those that too high a rate had ruined 1.0 to 3.6 (of 192, post- and pre-norm), all on a handful of
    crops of speech. The loss does not tell: it stays at that of the label frequencies, where young runs are, too, and
    so does the perplexity of the predictions.

    It draws no random numbers and changes nothing that is trained. The counts of a resumed run go on.

    Args:
        minimum_rank: effective rank of the top layer below which it has collapsed.
        minimum_perplexity: of the predictions over all frames, below which they have collapsed; of each codebook of a
            contrastive objective likewise.
        patience: validations in a row that must find a collapse.
        stop_after_skipped: updates in a row left out because their gradients were not finite; the search of fp16 for
            its loss scale needs a dozen.
    """

    def __init__(
        self,
        minimum_rank: float = 4.0,
        minimum_perplexity: float = 2.0,
        patience: int = 3,
        stop_after_skipped: int = 50,
    ) -> None:
        self.minimum_rank, self.minimum_perplexity = minimum_rank, minimum_perplexity
        self.patience, self.stop_after_skipped = patience, stop_after_skipped
        self.collapsed_in_a_row = 0
        self.updates = 0
        self.speed: Speed | None = None
        self.top_rank = float("inf")

    def state_dict(self) -> dict[str, Any]:
        """How many validations in a row have found a collapse."""
        return {"collapsed_in_a_row": self.collapsed_in_a_row}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting."""
        self.collapsed_in_a_row = state_dict["collapsed_in_a_row"]

    # Training.

    def on_train_start(self, trainer: pl.Trainer, pl_module: WavLMPretraining) -> None:
        """Begin to measure."""
        self.speed, self.updates = Speed(pl_module.encoder.config), trainer.global_step

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: WavLMPretraining, outputs: Any, batch: PretrainingBatch, batch_idx: int
    ) -> None:
        """Log what Lightning will write after this batch.

        Raises:
            UserError: too many updates in a row were left out.
        """
        assert self.speed is not None
        self.speed.count(*batch.audio.shape)
        updated, self.updates = trainer.global_step > self.updates, trainer.global_step
        if pl_module.skipped_in_a_row >= self.stop_after_skipped:
            raise UserError(
                f"step {trainer.global_step}: {pl_module.skipped_in_a_row} updates in a row were left out because their "
                f"gradients were not finite; go back to an earlier checkpoint, or start again, with {CALMER}"
            )
        if updated and trainer.global_step % trainer.log_every_n_steps == 0:
            figures = {**self.speed.read(trainer.strategy), "padding_share": padding_share(batch.audio)}
            pl_module.log_dict({f"health/{name}": value for name, value in figures.items()})

    # Validation.

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop the clock."""
        if self.speed is not None:
            self.speed.pause()

    @torch.no_grad()
    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: WavLMPretraining,
        outputs: Any,
        batch: PretrainingBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Measure the layers on the first batch."""
        if batch_idx or trainer.sanity_checking:
            return
        with trainer.precision_plugin.forward_context():
            layers = pl_module.encoder(batch.audio)
        ranks = [self._rank(hidden[~layers.padding]) for hidden in layers.hidden]
        self.top_rank = float(ranks[-1])
        named = {f"health/effective_rank/layer_{number:02}": rank for number, rank in enumerate(ranks)}
        # Alike on all ranks, whose batches are not: Lightning cuts the mean of unlike batch sizes to an integer.
        pl_module.log_dict(named, batch_size=1, sync_dist=True)

    @staticmethod
    def _rank(frames: Tensor) -> Tensor:
        rank = EffectiveRank(frames.shape[1]).to(frames.device)
        rank.update(frames)
        return rank.compute()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: WavLMPretraining) -> None:
        """Count collapses, and let the clock run again.

        Raises:
            UserError: the run has collapsed.
        """
        if self.speed is not None:
            self.speed.go_on()
        if trainer.sanity_checking or trainer.state.fn != TrainerFn.FITTING:
            return
        signs = self._signs(pl_module, trainer.callback_metrics)
        collapsed = trainer.strategy.reduce_boolean_decision(bool(signs), all=False)
        self.collapsed_in_a_row = self.collapsed_in_a_row + 1 if collapsed else 0
        if self.collapsed_in_a_row >= self.patience:
            found = "; ".join(signs) or "on another process"
            raise UserError(
                f"step {trainer.global_step}: the run has collapsed, at {self.collapsed_in_a_row} validations in a row "
                f"({found}); go back to an earlier checkpoint, or start again, with {CALMER}, and make sure that the labels "
                "are in use (valid/target_perplexity), or give a contrastive objective a larger weight of diversity"
            )

    def _signs(self, pl_module: WavLMPretraining, metrics: Mapping[str, Tensor]) -> list[str]:
        """What speaks of a collapse, in words."""
        signs = []
        if self.top_rank < self.minimum_rank:
            signs.append(f"effective rank of the top layer {self.top_rank:.2f}, below {self.minimum_rank:g}")
        contrastive = [each for each in pl_module.objectives if isinstance(each, ContrastivePrediction)]
        for name, value in metrics.items():
            if not name.startswith("valid/") or not name.endswith("perplexity") or "target_perplexity" in name:
                continue
            # That of the codes is a sum over codebooks, each of which counts 1 when it has collapsed.
            codebooks = min((each.groups for each in contrastive), default=1) if name.endswith("code_perplexity") else 1
            if not value >= self.minimum_perplexity * codebooks:  # NaN is no sign of health
                signs.append(f"{name} {float(value):.2f}, below {self.minimum_perplexity * codebooks:g}")
        return signs
