"""Tasks trained with connectionist temporal classification (PR, ASR, SF): the loss and greedy decoding."""

from __future__ import annotations

from collections import Counter
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn

from wavlm_lightning.data.batch import Targets, TaskBatch
from wavlm_lightning.encoder import padding_mask
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks.base import Answer, Direction
from wavlm_lightning.tasks.components.beam_search import Hypothesis
from wavlm_lightning.tasks.components.label_priors import LabelPriors, ctc_loss_with_priors, posterior_sums
from wavlm_lightning.tasks.components.prefix_search import BEAM, prefix_search
from wavlm_lightning.tasks.text import TextTask
from wavlm_lightning.tasks.transformers_form import TransformersForm
from wavlm_lightning.upstreams import Upstream
from wavlm_lightning.upstreams.cache import Level

BLANK = 0  # index of the CTC blank
ENOUGH = 100  # training utterances after which a run is stopped if most of them cannot be learned
Stage = Literal["train", "valid", "test"]


def frames_needed(targets: Targets) -> Tensor:
    """Frames that CTC needs for each row, int64 `(batch,)`: one a label, and a blank between two equal ones."""
    values = targets.values
    places = torch.arange(1, values.shape[1], device=values.device)
    equal = (values[:, 1:] == values[:, :-1]) & (places < targets.lengths[:, None])
    return targets.lengths + equal.sum(1)


def alignable(lengths: Tensor, targets: Targets) -> Tensor:
    """Which rows have enough frames for their labels, bool `(batch,)`; CTC has no path for the others."""
    return frames_needed(targets) <= lengths


class CtcTask(TextTask):
    """A sequence of labels for each utterance (Graves et al. 2006); index 0 is the blank. See `Task` for the arguments.

    A subclass implements `spell`, which turns a sequence of labels into text.

    Args:
        upstream: where features come from.
        learning_rate: of Adam.
        label_priors: factor of the log-priors of labels that training subtracts from the log-probabilities inside the loss
            (arXiv 2406.02560, there 0.35 for phones); 0 for plain CTC. The priors are the mean posteriors of the epoch before, so
            that the first epoch of a run has none. Labels then last longer and blanks are fewer, at the cost of more errors:
            start from a trained plain head (`start_from`). Validation and test have the plain loss.
        settings: see `Task`.
    """

    better: ClassVar[Direction] = "lower"
    answer: ClassVar[Answer | None] = "labels"
    cache_level: ClassVar[Level | None] = "frame"
    unknown: ClassVar[int | None] = None  # index of the label that stands for those that the head lacks

    left_out = "the loss"  # what utterances that CTC cannot align add nothing to

    _example = ""  # the first utterance that CTC cannot align

    def __init__(self, upstream: Upstream, learning_rate: float, label_priors: float = 0.0, **settings: Any) -> None:
        super().__init__(upstream, learning_rate, **settings)
        self.label_priors = LabelPriors(label_priors)

    def transformers_form(self) -> TransformersForm | str:
        return "it has two LSTMs and reads all layers, where WavLMForCTC has one linear layer on the last"

    def loss(self, outputs: Tensor, lengths: Tensor, targets: Targets) -> Tensor:
        """CTC loss per label, mean over utterances with enough frames for their labels; 0 if there is none."""
        if (losses := self.losses_with_priors(outputs, lengths, targets)) is not None:
            return (losses / targets.lengths.clamp(min=1)).sum() / alignable(lengths, targets).sum().clamp(min=1)
        # In fp32, also under bf16 autocast.
        log_probabilities = outputs.float().log_softmax(-1).transpose(0, 1)
        loss = nn.functional.ctc_loss(
            log_probabilities, targets.values, lengths, targets.lengths, blank=BLANK, zero_infinity=True
        )
        # Utterances without a path count 0 in PyTorch's mean, which would look like a better model.
        return loss / alignable(lengths, targets).float().mean().clamp(min=1 / len(lengths))

    def losses_with_priors(self, outputs: Tensor, lengths: Tensor, targets: Targets) -> Tensor | None:
        """The loss of each utterance with label priors, `(batch,)` in nats, 0 without a path; None where plain CTC is trained.

        Adds the posteriors of the batch to the priors of the next epoch.
        """
        if not self.label_priors.strength or not self.training:
            return None
        # At least fp32, also under bf16 autocast.
        log_probabilities = outputs.to(torch.promote_types(outputs.dtype, torch.float32)).log_softmax(-1)
        priors = self.label_priors.of_epoch(self.trainer.current_epoch)
        sums = posterior_sums(log_probabilities, lengths)
        if self.trainer.world_size > 1:
            # At every step, so that the checkpoint of any process holds the sum over all of them.
            sums = self.trainer.strategy.reduce(sums, reduce_op="sum")
        self.label_priors.add(sums[:-1], float(sums[-1]))
        if priors is None:
            return None
        scaled = self.label_priors.strength * priors
        return ctc_loss_with_priors(
            log_probabilities, scaled, lengths, targets, alignable(lengths, targets), blank=BLANK
        )

    def _counted(self, lengths: Tensor, batch: TaskBatch) -> int | Tensor:
        return alignable(lengths, batch.targets).sum()

    # Targets that cannot be learned.

    @cached_property
    def target_counts(self) -> dict[str, Counter[str]]:
        """By stage, utterances `seen`, with too few frames (`impossible`), with labels that the head lacks (`unknown`).

        Those of training are of its first epoch.
        """
        return {}

    def targets_seen(self, batch: TaskBatch, lengths: Tensor, stage: Stage) -> None:
        """Count the utterances whose labels CTC cannot align, or the head lacks; stop if most cannot be aligned."""
        if (stage == "train" and self.trainer.current_epoch) or self.trainer.sanity_checking:
            return
        targets = batch.targets
        impossible = (~alignable(lengths, targets)).tolist()
        counts = self.target_counts.setdefault(stage, Counter())
        counts.update(seen=len(impossible), impossible=sum(impossible))
        if self.unknown is not None:
            counts["unknown"] += int((targets.values == self.unknown).any(1).sum())
        if any(impossible) and not self._example:
            row = impossible.index(True)
            labels, frames = int(targets.lengths[row]), int(lengths[row])
            self._example = f"such as {batch.keys[row]!r} with {labels} labels and {frames} frames"
        if stage == "train" and counts["seen"] >= ENOUGH:
            self._check_targets(stage)

    def _check_targets(self, stage: Stage) -> None:
        counts = self.target_counts.get(stage, Counter())
        if 2 * counts["impossible"] > counts["seen"]:
            raise UserError(
                f"{self.name}: {counts['impossible']} of {counts['seen']} utterances of {stage} have more labels than frames, "
                f"{self._example}, and CTC cannot align them; do the transcripts belong to these recordings, and are they cut "
                "to them?"
            )

    def _report_targets(self, stage: Stage) -> None:
        """Print what was counted in a stage, once."""
        counts = self.target_counts.get(stage, Counter())
        if counts["impossible"]:
            rank_zero_info(
                f"{self.name}: {counts['impossible']} of {counts['seen']} utterances of {stage} have more labels than frames "
                f"({self._example}); CTC cannot align them, and they are left out of {self.left_out}"
            )
        if counts["unknown"]:
            rank_zero_info(
                f"{self.name}: {counts['unknown']} of {counts['seen']} utterances of {stage} have labels that the head lacks; "
                "they count as one unknown label"
            )

    def _sum_over_processes(self, stage: Stage) -> None:
        counts = self.target_counts.get(stage)
        if counts and self.trainer.world_size > 1:
            names = ("seen", "impossible", "unknown")
            mine = torch.tensor([counts[name] for name in names], device=self.device)
            total = self.trainer.strategy.reduce(mine, reduce_op="sum")
            self.target_counts[stage] = Counter(dict(zip(names, total.tolist(), strict=True)))

    def on_train_epoch_end(self) -> None:
        super().on_train_epoch_end()
        if self.trainer.current_epoch == 0:
            self._sum_over_processes("train")
            self._check_targets("train")
            self._report_targets("train")

    def on_validation_epoch_start(self) -> None:
        super().on_validation_epoch_start()
        self.target_counts.pop("valid", None)

    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        if not self.trainer.sanity_checking:
            self._check_targets("valid")

    def on_test_epoch_start(self) -> None:
        super().on_test_epoch_start()
        self.target_counts.pop("test", None)

    def on_test_epoch_end(self) -> None:
        super().on_test_epoch_end()
        self._sum_over_processes("test")
        self._report_targets("test")
        counted = {**self.trained.get("targets", {}), **_faulty(self.target_counts)}
        if counted:
            self.details = {**self.details, "targets": counted}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """As every head; and how many targets of training and validation could not be learned, if any."""
        super().on_save_checkpoint(checkpoint)
        if counted := {**self.trained.get("targets", {}), **_faulty(self.target_counts)}:
            checkpoint["task"]["targets"] = counted
        if self.label_priors.strength:
            checkpoint["label_priors"] = self.label_priors.state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        if self.label_priors.strength and "label_priors" in checkpoint:
            self.label_priors.load(checkpoint["label_priors"])

    def decode(self, outputs: Tensor, lengths: Tensor) -> list[str]:
        """Greedy decoding of logits `(batch, frames, labels)`: the best label of each frame, repeats merged, blanks dropped."""
        best = outputs.argmax(-1).masked_fill(padding_mask(lengths, outputs.shape[1]), BLANK)
        merged = [torch.unique_consecutive(row).tolist() for row in best]
        return [self.spell([number for number in row if number != BLANK]) for row in merged]

    def best_texts(self, outputs: Tensor, lengths: Tensor, count: int) -> list[list[Hypothesis]]:
        """The most probable texts of each utterance, best first: at least one, at most `count`.

        A text's score is the natural logarithm of its probability: the sum over all alignments of all label sequences that
        spell it. The first one may differ from that of `decode`, which follows the best single alignment.
        """
        rows = []
        for row, frames in zip(outputs.detach().float().log_softmax(-1).cpu(), lengths.tolist(), strict=True):
            scores: dict[str, float] = {}
            for numbers, score in prefix_search(row[:frames].numpy(), max(BEAM, 2 * count), blank=BLANK):
                text = self.spell(list(numbers))
                scores[text] = float(np.logaddexp(scores.get(text, -np.inf), score))
            best = sorted(scores.items(), key=lambda item: -item[1])[:count]
            rows.append([Hypothesis(*each) for each in best])
        return rows


def _faulty(counts: dict[str, Counter[str]]) -> dict[str, dict[str, int]]:
    """The counts of stages in which something is wrong, JSON-like."""
    return {stage: dict(of) for stage, of in counts.items() if of["impossible"] or of["unknown"]}
