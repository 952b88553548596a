"""ASR by fine-tuning: one linear layer on the top of a trained encoder, CTC over letters (wav2vec 2.0, HuBERT, WavLM)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn

from wavlm_lightning.data.batch import Targets, TaskBatch
from wavlm_lightning.encoder import Layers
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks.components.beam_search import WORD_END, LanguageModel
from wavlm_lightning.tasks.content.letters import SPECIAL, LetterRecognition
from wavlm_lightning.tasks.ctc import BLANK
from wavlm_lightning.tasks.huggingface.reading import HeadFolder, is_head_folder, letter_rows
from wavlm_lightning.tasks.transformers_form import CTC, TransformersForm
from wavlm_lightning.upstreams import TopLayer, Upstream
from wavlm_lightning.upstreams.cache import Level


class FineTunedRecognition(LetterRecognition):
    """Dropout, Linear(dim, letters) on the last hidden state, CTC; the head of every published WER table of these encoders.

    What makes it learn belongs to the upstream (`frozen: false`, `fine_tuning`: when it wakes, its learning rates, its masks)
    and to the schedule. `configs/finetune` has the published recipes (arXiv 2006.11477, appendix B; 2106.07447, table
    I). Compare its figures with each other, not with SUPERB's ASR, which is a larger head on a frozen encoder.

    Targets are the letters of the upper-case text with `|` after every word and no end symbol, as fairseq's. The loss is summed
    over the labels of an utterance; an update divides it by the utterances of all its batches and processes (fairseq's
    `sentence_avg`). An utterance with more labels than frames adds nothing to the sum, but is counted, and reported.

    Args:
        upstream: the encoder, usually trained.
        learning_rate: of Adam; of the encoder, too, unless `upstream.fine_tuning.learning_rate` says otherwise.
        final_dropout: before the linear layer.
        alphabet: null for fairseq's 28 letters; `corpus` for the letters of the training split, in any script.
        language_model: for a second decoding of the test set; null for none.
        rare_letters: with `alphabet: corpus`, letters that occur at most so often in training have no output of their own: they
            become the one unknown label, and a word with one counts as wrong. Common Voice has foreign names.
        betas: of Adam.
        settings: see `Task`: seed, schedule, weight_decay and so on.

    Example:
        >>> encoder = WavLMUpstream("base", frozen=False, fine_tuning=FineTuning(10_000, time_mask_probability=0.65))
        >>> FineTunedRecognition(encoder, 5e-5, schedule=Schedule("tri_stage", warmup=0.1, hold=0.4))
    """

    name = "ASR-FT"
    cache_level: ClassVar[Level | None] = None  # masks and dropout are drawn anew for every batch

    def __init__(
        self,
        upstream: Upstream,
        learning_rate: float = 5e-5,
        final_dropout: float = 0.0,
        alphabet: Literal["corpus"] | None = None,
        language_model: LanguageModel | None = None,
        rare_letters: int = 0,
        betas: tuple[float, float] = (0.9, 0.98),
        **settings: Any,
    ) -> None:
        super().__init__(upstream, learning_rate, alphabet, language_model, betas=betas, **settings)
        if rare_letters and alphabet is None:
            raise UserError("model.rare_letters needs model.alphabet: corpus, whose letters it counts; set that, or 0")
        self.rare_letters = rare_letters
        self.weighted_sum = TopLayer(self.weighted_sum.normalize)
        self.final_dropout = nn.Dropout(final_dropout)
        self._sentences = 0  # of this update, in this process

    def take_weights(self, source: str) -> dict[str, Any]:
        """As every task; of a folder with a `WavLMForCTC` the outputs of the letters that both have, found by their symbols."""
        if not is_head_folder(Path(source)):
            return super().take_weights(source)
        where = f"model.start_from {source}"
        if self.start_with != "head":
            raise UserError(
                f"{where}: a folder of transformers; set model.start_with: head, and model.upstream.source: {source} for its "
                "encoder"
            )
        rows = letter_rows(HeadFolder.read(Path(source)))
        shared = [label for label in self.labels if label in rows]
        if not set(shared) - {*SPECIAL, WORD_END}:
            raise UserError(f"{where}: has none of the letters of this head; leave model.start_from out")
        if (dim := len(rows[shared[0]][0])) != self.lm_head.in_features:
            raise UserError(
                f"{where}: its head reads {dim} channels, and this encoder has {self.lm_head.in_features}; set "
                f"model.upstream.source: {source}"
            )
        with torch.no_grad():
            for number, label in enumerate(self.labels):
                if label in rows:
                    weight, bias = rows[label]
                    self.lm_head.weight[number].copy_(weight)
                    self.lm_head.bias[number].copy_(bias)
        if fresh := [label for label in self.labels if label not in rows]:
            rank_zero_info(f"{self.name}: {where} has no {' '.join(fresh)}: these outputs begin at random")
        return {"checkpoint": source, "with": "head", "step": 0}

    def read_target(self, meta: dict[str, Any]) -> Tensor:
        """Letters and `|` after every word, int64 `(labels,)`."""
        return torch.tensor(self.numbered_letters(meta))

    def build_head(self, dim: int) -> None:
        self.lm_head = nn.Linear(dim, len(self.labels))
        nn.init.xavier_uniform_(self.lm_head.weight)
        nn.init.zeros_(self.lm_head.bias)

    def upstream_layers(self, inputs: Any) -> Layers:
        # A stack of all hidden states would be the largest tensor of the step.
        return inputs if isinstance(inputs, Layers) else self.upstream(inputs.audio, inputs.lengths, keep=(-1,))

    def outputs(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Logits `(batch, frames, letters)`."""
        return self.lm_head(self.final_dropout(features))

    def loss(self, outputs: Tensor, lengths: Tensor, targets: Targets) -> Tensor:
        """CTC loss in nats, summed over the labels of an utterance, mean over all utterances."""
        if (losses := self.losses_with_priors(outputs, lengths, targets)) is not None:
            return losses.sum() / len(lengths)
        precise = outputs.to(torch.promote_types(outputs.dtype, torch.float32))  # also under bf16 autocast
        log_probabilities = precise.log_softmax(-1).transpose(0, 1)
        total = nn.functional.ctc_loss(
            log_probabilities,
            targets.values,
            lengths,
            targets.lengths,
            blank=BLANK,
            reduction="sum",
            zero_infinity=True,
        )
        return total / len(lengths)

    def _counted(self, lengths: Tensor, batch: TaskBatch) -> int:
        return len(batch.keys)

    def training_step(self, batch: TaskBatch, batch_idx: int) -> Tensor:
        """The summed loss; `on_before_optimizer_step` divides its gradient by the utterances of the update."""
        loss = super().training_step(batch, batch_idx)
        self._sentences += len(batch.keys)
        return loss * len(batch.keys)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        self.divide_gradient(self._sentences)
        self._sentences = 0
        super().on_before_optimizer_step(optimizer)

    def spell(self, numbers: list[int]) -> str:
        """Words separated by spaces, without special symbols."""
        return super().spell([number for number in numbers if number >= len(SPECIAL)])

    def references(self, targets: Targets) -> list[str]:
        """The texts of targets. A letter that the head lacks is U+FFFD, which no answer has, so that its word is wrong."""
        rows = zip(targets.values, targets.lengths.tolist(), strict=True)
        return [super(FineTunedRecognition, self).spell(row[:length].tolist()) for row, length in rows]

    def transformers_form(self) -> TransformersForm | str:
        """The head of a `WavLMForCTC`."""
        return TransformersForm(
            CTC, list(self.labels), own={"task": "ASR"}
        )  # what `wavlm predict` takes such folders for
