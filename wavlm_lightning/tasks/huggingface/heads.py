"""Heads of the transformers library as tasks: applied, scored on a corpus with the same labels, or trained further."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from wavlm_lightning.data.batch import Targets
from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks.base import Task
from wavlm_lightning.tasks.classification import UtteranceClassification
from wavlm_lightning.tasks.components.spoken_text import spoken_text
from wavlm_lightning.tasks.components.xvector import AdditiveMarginSoftmax, XVector
from wavlm_lightning.tasks.content.keyword_spotting import KeywordSpotting
from wavlm_lightning.tasks.content.phoneme_recognition import PAUSE, PhonemeRecognition
from wavlm_lightning.tasks.content.speech_recognition import SpeechRecognition
from wavlm_lightning.tasks.ctc import BLANK
from wavlm_lightning.tasks.paralinguistics.emotion_recognition import EmotionRecognition
from wavlm_lightning.tasks.semantics.intent_classification import IntentClassification
from wavlm_lightning.tasks.speaker.speaker_diarization import USUAL, SpeakerDiarization
from wavlm_lightning.tasks.speaker.speaker_identification import SpeakerIdentification
from wavlm_lightning.tasks.speaker.speaker_verification import SpeakerVerification

WORD_ENDS = ("|", " ")
UNKNOWN_TOKENS = ("<unk>", "[UNK]")


class FolderLabels(Task):
    """What all of them share: the labels are the folder's, in its order. See `Task` for the arguments."""

    def read_labels(self, corpus: Corpus) -> Any:
        """The head's own labels.

        Raises:
            UserError: the corpus has labels that the head does not know.
        """
        ours, theirs = self.labels, super().read_labels(corpus)  # type: ignore[safe-super] # of the task beside
        pairs = ours.items() if isinstance(ours, Mapping) else [("", ours)]
        for slot, known in pairs:
            unknown = sorted(set(theirs.get(slot, ()) if slot else theirs) - set(known))
            if unknown:
                raise UserError(
                    f"{self.name}: {corpus.directory} has the label {unknown[0]!r}, which this head of "
                    f"{self.upstream.label} does not know (it knows {', '.join(list(known)[:5])}, ...); use a corpus "
                    "with its labels"
                )
        return ours


class FolderClassification(FolderLabels, UtteranceClassification):
    """Some classes, nobody said of what: it can be applied but not scored."""

    name = "classification"
    inventory = "labels"
    field = "label"

    def read_labels(self, corpus: Corpus) -> Any:
        """Refuse.

        Raises:
            UserError: always.
        """
        raise UserError(f"{self.upstream.label} does not say what it classifies; set model.task to KS, SID or ER")


class FolderKeywordSpotting(FolderLabels, KeywordSpotting):
    """KS by a `WavLMForSequenceClassification`."""


class FolderSpeakerIdentification(FolderLabels, SpeakerIdentification):
    """SID by a `WavLMForSequenceClassification`."""


class FolderEmotionRecognition(FolderLabels, EmotionRecognition):
    """ER by a `WavLMForSequenceClassification`."""


class FolderIntentClassification(FolderLabels, IntentClassification):
    """IC by a `WavLMForSequenceClassification` that `wavlm export` has written: nothing else says where slots begin."""


class OwnSpeakerVerification(SpeakerVerification):
    """SV by a `WavLMForXVector` that `wavlm export` has written: embeddings are what SUPERB takes, after a ReLU."""

    def read_labels(self, corpus: Corpus) -> Any:
        """The speakers that were trained on; trials are of others."""
        return self.labels


class FolderSpeakerVerification(OwnSpeakerVerification):
    """SV by a `WavLMForXVector`, which has no ReLU behind the pooling: embeddings may have negative numbers."""

    def build_head(self, dim: int) -> None:
        """Projection, network without its last layer, that layer, second affine layer and classes."""
        self.projector = nn.Linear(dim, self.hidden)
        self.network = XVector(self.hidden, self.widths, self.embedding)
        # Statistics of rectified frames are not negative, so the ReLU behind a layer that does nothing does nothing.
        self.network.affine = nn.Identity()
        self.embedder = nn.Linear(2 * self.widths[-1], self.embedding)
        self.affine = nn.Linear(self.embedding, self.embedding)
        self.objective = AdditiveMarginSoftmax(self.embedding, len(self.labels), self.scale, self.margin)

    def outputs(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Embeddings `(batch, embedding)`, not yet of length 1."""
        return self.embedder(super().outputs(features, lengths))

    def loss(self, outputs: Tensor, lengths: Tensor, targets: Targets) -> Tensor:
        """AM-softmax, mean over utterances."""
        return self.objective(self.affine(outputs), targets.values)


class FolderSpeakerDiarization(SpeakerDiarization):
    """SD by a `WavLMForAudioFrameClassification`: a linear layer at every frame, where SUPERB has an LSTM before it."""

    def build_head(self, dim: int) -> None:
        """The linear layer."""
        self.classifier = nn.Linear(dim, self.speakers)
        self.register_buffer("setting", torch.tensor(USUAL))

    def read_labels(self, corpus: Corpus) -> list[str]:
        """What the outputs are called."""
        return self.labels

    def outputs(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Logits `(batch, frames, speakers)`."""
        return self.classifier(features)


class FolderCtc(FolderLabels):
    """What the two with CTC share: one linear layer, and labels of which some are no text."""

    def build_head(self, dim: int) -> None:
        """The linear layer."""
        self.lm_head = nn.Linear(dim, len(self.labels))

    def outputs(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Logits `(batch, frames, labels)`, the blank first."""
        return self.lm_head(features)

    def read_labels(self, corpus: Corpus) -> Any:
        """The head's own labels; what it cannot spell shows when a target is read."""
        return self.labels

    def numbers(self, said: list[str]) -> Tensor:
        """Labels as indices, int64 `(labels,)`; what is not among them is the label for unknown ones.

        Raises:
            UserError: there is no such label.
        """
        places = {label: number for number, label in enumerate(self.labels)}
        rest = next((places[token] for token in UNKNOWN_TOKENS if token in places), None)
        strange = [label for label in said if label not in places]
        if strange and rest is None:
            raise UserError(
                f"{self.name}: an utterance has {strange[0]!r}, which {self.upstream.label} has no label for"
            )
        return torch.tensor([places.get(label, rest) for label in said])

    def text(self, numbers: list[int]) -> list[str]:
        """Labels that stand for something, in order."""
        said = [self.labels[number] for number in numbers if number != BLANK]
        said = ["\N{REPLACEMENT CHARACTER}" if label in UNKNOWN_TOKENS else label for label in said]
        return [label for label in said if not (len(label) > 1 and label[0] + label[-1] in ("<>", "[]"))]


class FolderSpeechRecognition(FolderCtc, SpeechRecognition):
    """ASR by a `WavLMForCTC`, in the case of its letters."""

    def read_target(self, meta: dict[str, Any]) -> Tensor:
        """Letters with a sign between words, int64 `(labels,)`.

        Raises:
            UserError: the utterance has no text, or a letter without label.
        """
        text = spoken_text(meta.get("text") or "")
        if not text:
            raise UserError("ASR: an utterance has no text; use a corpus with transcripts")
        if not any(len(label) == 1 and label.isupper() for label in self.labels):
            text = text.lower()
        return self.numbers(list(text.replace(" ", next(sign for sign in WORD_ENDS if sign in self.labels))))

    def spell(self, numbers: list[int]) -> str:
        """Words separated by spaces."""
        return " ".join("".join(self.text(numbers)).replace(WORD_ENDS[0], " ").split())


class FolderPhonemeRecognition(FolderCtc, PhonemeRecognition):
    """PR by a `WavLMForCTC` whose labels are phones."""

    def read_target(self, meta: dict[str, Any]) -> Tensor:
        """Phones, int64 `(labels,)`.

        Raises:
            UserError: the utterance has no phones, or one without label.
        """
        if not meta.get("phones"):
            raise UserError("PR: an utterance has no phones; use a corpus with phone labels")
        return self.numbers([phone for phone, *_ in meta["phones"] if phone != PAUSE])

    def spell(self, numbers: list[int]) -> str:
        """Phones separated by spaces."""
        return " ".join(self.text(numbers))
