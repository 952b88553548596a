"""PR: which phonemes are said (SUPERB; LibriSpeech 100 h)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.text import WordErrorRate

from wavlm_lightning.data.batch import Targets
from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.encoder import padding_mask
from wavlm_lightning.errors import UserError
from wavlm_lightning.tasks.base import Task
from wavlm_lightning.upstreams import Upstream

BLANK, EOS, UNKNOWN = 0, 1, 2
SPECIAL = ("<pad>", "<eos>", "<unk>")
PAUSE = "SIL"


class PhonemeRecognition(Task):
    """Linear(dim, 256), Linear(256, phones + 3), CTC; greedy decoding; phone error rate.

    Targets are the utterance's phones without pauses and with an end symbol, as in s3prl `downstream/ctc`
    (`libriphone.yaml`); blank is index 0. Reads `phones` of each utterance, `[[name, ...], ...]` with or without times.

    Args:
        upstream: where features come from.
        learning_rate: of Adam.
        hidden: width between the two layers; 256 in SUPERB.
        normalize: layer norm over each layer before the weighted sum; off in SUPERB.
        seed: of the head's initial weights.
    """

    name = "PR"
    metric = "per"
    better = "lower"
    cache_level = "frame"

    def __init__(
        self,
        upstream: Upstream,
        learning_rate: float = 1e-2,
        hidden: int = 256,
        normalize: bool = False,
        seed: int = 1337,
    ) -> None:
        super().__init__(upstream, learning_rate, normalize, seed)
        self.hidden = hidden

    def read_labels(self, corpus: Corpus) -> list[str]:
        """Three special symbols and the corpus' `phones`."""
        return [*SPECIAL, *(phone for phone in corpus.inventory("phones") if phone != PAUSE)]

    def read_target(self, meta: dict[str, Any]) -> Tensor:
        """Phones and end symbol, int64 `(labels,)`.

        Raises:
            UserError: the utterance has no phones.
        """
        if not meta.get("phones"):
            raise UserError("PR: an utterance has no phones; use a corpus with phone labels")
        numbers = {phone: number for number, phone in enumerate(self.labels)}
        said = [numbers.get(phone, UNKNOWN) for phone, *_ in meta["phones"] if phone != PAUSE]
        return torch.tensor([*said, EOS])

    def build_head(self, dim: int) -> None:
        """Two linear layers."""
        self.projector = nn.Linear(dim, self.hidden)
        self.classifier = nn.Linear(self.hidden, len(self.labels))

    def outputs(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Logits `(batch, frames, labels)`."""
        return self.classifier(self.projector(features))

    def loss(self, outputs: Tensor, lengths: Tensor, targets: Targets) -> Tensor:
        """CTC, mean over utterances of the loss per label; impossible alignments count zero."""
        log_probabilities = outputs.float().log_softmax(-1).transpose(0, 1)
        return nn.functional.ctc_loss(
            log_probabilities, targets.values, lengths, targets.lengths, blank=BLANK, zero_infinity=True
        )

    def decode(self, outputs: Tensor, lengths: Tensor) -> list[str]:
        """Best label a frame, repeats merged, special symbols dropped: one string of phones an utterance."""
        best = outputs.argmax(-1).masked_fill(padding_mask(lengths, outputs.shape[1]), BLANK)
        merged = [torch.unique_consecutive(row).tolist() for row in best]
        return [" ".join(self.labels[i] for i in row if i not in (BLANK, EOS)) for row in merged]

    def build_metric(self) -> Metric:
        """Edits over reference phones, of the whole split: a word error rate whose words are phones."""
        return WordErrorRate()

    def update_metric(self, metric: Metric, outputs: Tensor, lengths: Tensor, targets: Targets) -> None:
        """Add a batch."""
        said = [
            " ".join(self.labels[i] for i in row[:length].tolist() if i != EOS)
            for row, length in zip(targets.values, targets.lengths, strict=True)
        ]
        metric.update(self.decode(outputs, lengths), said)
