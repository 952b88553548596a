"""The heads that the transformers library can hold, and their encoder, as tasks: to apply, score or train further."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from wavlm_lightning.data.batch import Targets
from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.encoder import Layers, padding_mask
from wavlm_lightning.encoder.frontend import normalize_waveforms
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks.base import Task
from wavlm_lightning.tasks.classification import UtteranceClassification
from wavlm_lightning.tasks.components.beam_search import WORD_END, BeamSearch, LanguageModel
from wavlm_lightning.tasks.components.spoken_text import spoken_text
from wavlm_lightning.tasks.components.xvector import AdditiveMarginSoftmax, XVector, to_transformers
from wavlm_lightning.tasks.content.keyword_spotting import KeywordSpotting
from wavlm_lightning.tasks.content.letters import words_behind
from wavlm_lightning.tasks.content.phoneme_recognition import PAUSE, PhonemeRecognition
from wavlm_lightning.tasks.content.speech_recognition import SpeechRecognition
from wavlm_lightning.tasks.ctc import BLANK
from wavlm_lightning.tasks.decoding import DecodedTask, SpokenWord
from wavlm_lightning.tasks.paralinguistics.emotion_recognition import EmotionRecognition
from wavlm_lightning.tasks.semantics.intent_classification import IntentClassification
from wavlm_lightning.tasks.speaker.speaker_diarization import SpeakerDiarization
from wavlm_lightning.tasks.speaker.speaker_identification import SpeakerIdentification
from wavlm_lightning.tasks.speaker.speaker_verification import SpeakerVerification
from wavlm_lightning.tasks.transformers_form import CTC, FRAMES, TransformersForm
from wavlm_lightning.upstreams import WavLMUpstream

WORD_ENDS = ("|", " ")
UNKNOWN_TOKENS = ("<unk>", "[UNK]")
NORMALIZE_EPS = 1e-7  # added to the variance by Hugging Face's feature extractor; our encoder adds 1e-5, as unilm does


def _of_version_4(values: dict[str, Any]) -> bool:
    """Whether transformers 4 or an older version wrote this `config.json`."""
    major = str(values.get("transformers_version") or "").partition(".")[0]
    return major.isdecimal() and int(major) < 5


class HeadEncoder(WavLMUpstream):
    """A `WavLMUpstream` with the hidden states and the normalisation of a transformers model with a head.

    - Without `use_weighted_layer_sum` the head reads the encoder's output alone.
    - With it, the last hidden state of a pre-norm model comes from before the final layer norm, unless `config.json`
      has `tie_last_hidden_states` or was written by transformers 4, which normalised it.
    - Waveforms are normalised as by the library's feature extractor.

    Args:
        source: a folder in Hugging Face's format.
        values: content of its `config.json`.
        frozen: False trains the encoder with the head.
    """

    source_argument = None  # a checkpoint holds neither its configuration nor the vocabulary of the head

    def __init__(self, source: str, values: dict[str, Any], frozen: bool = True) -> None:
        super().__init__(source, frozen=frozen)
        self.weighted = bool(values.get("use_weighted_layer_sum", False))
        # `layers` normalises waveforms with the feature extractor's epsilon, so the encoder must not normalise again.
        self.normalize_eps = NORMALIZE_EPS if self.encoder.config.normalize_waveform else None
        self.encoder.config = replace(self.encoder.config, normalize_waveform=False)
        if not self.weighted:
            self.num_layers = 1
        elif self.encoder.config.pre_norm and not values.get("tie_last_hidden_states", _of_version_4(values)):
            self.encoder.encoder.layer_norm = nn.Identity()

    def settings(self) -> str:
        """The encoder's configuration, and which hidden states the head reads."""
        last = type(self.encoder.encoder.layer_norm).__name__
        return f"{super().settings()} {self.weighted} {last} {self.normalize_eps}"

    def layers(self, waveforms: Tensor, lengths: Tensor) -> Layers:
        """The hidden states that the head reads, `(layers + 1 or 1, batch, frames, dim)`."""
        if self.normalize_eps is not None:
            lengths = lengths.to(waveforms.device)
            waveforms = waveforms.masked_fill(padding_mask(lengths, waveforms.shape[1]), 0.0)
            waveforms = normalize_waveforms(waveforms, lengths, self.normalize_eps)
        last = self.encoder.config.layers
        return self.encode(waveforms, lengths, keep=range(last + 1) if self.weighted else (last,))


class FolderLabels(Task):
    """A head whose labels are the folder's, in its order. See `Task` for the arguments."""

    def read_labels(self, corpus: Corpus) -> Any:
        """The head's own labels, which must include those of the corpus."""
        ours, theirs = self.labels, super().read_labels(corpus)  # type: ignore[safe-super] # the task is the next base class
        pairs = ours.items() if isinstance(ours, Mapping) else [("", ours)]
        for slot, known in pairs:
            unknown = sorted(set(theirs.get(slot, ()) if slot else theirs) - set(known))
            if unknown:
                raise UserError(
                    f"{self.name}: {corpus.directory} has the label {unknown[0]!r}, which this head of "
                    f"{self.upstream.label} does not know (it knows {', '.join(list(known)[:5])}, ...); use a corpus "
                    "with the head's labels"
                )
        return ours


class FolderClassification(FolderLabels, UtteranceClassification):
    """A classifier whose folder names no task: it can be applied but not scored."""

    name = "classification"
    inventory = "labels"
    field = "label"

    def read_labels(self, corpus: Corpus) -> Any:
        raise UserError(f"{self.upstream.label} does not say what it classifies; set model.task to KS, SID or ER")


class FolderMultiLabel(FolderClassification):
    """A classifier whose labels do not exclude each other (`problem_type: multi_label_classification`)."""

    def transformers_form(self) -> TransformersForm:
        form = super().transformers_form()
        return replace(form, config={**form.config, "problem_type": "multi_label_classification"})

    def readable(self, outputs: Tensor, lengths: Tensor) -> list[dict[str, Any]]:
        """The probability of each label, by itself."""
        rows = outputs.float().sigmoid().tolist()
        return [{"labels": {name: round(p, 4) for name, p in zip(self.labels, row, strict=True)}} for row in rows]


class FolderRegression(FolderClassification):
    """Numbers instead of classes (`problem_type: regression`)."""

    def transformers_form(self) -> TransformersForm:
        form = super().transformers_form()
        return replace(form, config={**form.config, "problem_type": "regression"})

    def readable(self, outputs: Tensor, lengths: Tensor) -> list[dict[str, Any]]:
        """The numbers, by name."""
        rows = outputs.float().tolist()
        return [{"values": {name: round(v, 4) for name, v in zip(self.labels, row, strict=True)}} for row in rows]


class FolderKeywordSpotting(FolderLabels, KeywordSpotting):
    """KS by a `WavLMForSequenceClassification`."""


class FolderSpeakerIdentification(FolderLabels, SpeakerIdentification):
    """SID by a `WavLMForSequenceClassification`."""


class FolderEmotionRecognition(FolderLabels, EmotionRecognition):
    """ER by a `WavLMForSequenceClassification`."""


class FolderIntentClassification(FolderLabels, IntentClassification):
    """IC by a `WavLMForSequenceClassification` written by `wavlm export`, which records the slot of each label."""


class OwnSpeakerVerification(SpeakerVerification):
    """SV by a `WavLMForXVector` written by `wavlm export`: embeddings are SUPERB's, after a ReLU."""

    def read_labels(self, corpus: Corpus) -> Any:
        """The training speakers; trials are of other speakers."""
        return self.labels


class FolderSpeakerVerification(OwnSpeakerVerification):
    """SV by a `WavLMForXVector`, which has no ReLU after the affine layer: embeddings may have negative elements."""

    def build_head(self, dim: int) -> None:
        self.projector = nn.Linear(dim, self.hidden)
        self.network = XVector(self.hidden, self.widths, self.embedding)
        # Pooled ReLU outputs are >= 0, so the ReLU after this nn.Identity has no effect.
        self.network.affine = nn.Identity()
        self.embedder = nn.Linear(2 * self.widths[-1], self.embedding)
        self.affine = nn.Linear(self.embedding, self.embedding)
        self.objective = AdditiveMarginSoftmax(self.embedding, len(self.labels), self.scale, self.margin)

    def outputs(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Embeddings `(batch, embedding)`, not yet scaled to length 1."""
        return self.embedder(super().outputs(features, lengths))

    def loss(self, outputs: Tensor, lengths: Tensor, targets: Targets) -> Tensor:
        """AM-softmax, mean over utterances."""
        return self.objective(self.affine(outputs), targets.values)

    def transformers_form(self) -> TransformersForm | str:
        form = super().transformers_form()
        if isinstance(form, str):
            return form
        return replace(form, own={"embedding": "linear"}, rename=partial(to_transformers, affine="embedder"))


class FolderSpeakerDiarization(SpeakerDiarization):
    """SD by a `WavLMForAudioFrameClassification`: a linear layer at every frame, without SUPERB's LSTM before it."""

    def build_head(self, dim: int) -> None:
        self.classifier = nn.Linear(dim, self.speakers)

    def read_labels(self, corpus: Corpus) -> list[str]:
        return self.labels

    def outputs(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Logits `(batch, frames, speakers)`."""
        return self.classifier(features)

    def transformers_form(self) -> TransformersForm:
        return TransformersForm(FRAMES, list(self.labels))


class FolderCtc(DecodedTask):
    """Shared by both CTC tasks: one linear layer, and labels of which some are not text."""

    unknown: ClassVar[int | None] = None  # `numbers` knows the folder's own token
    word_end: str | None = None  # label between words, as the folder's tokeniser says
    lower_case = False  # transcripts in small letters, as the folder's tokeniser says

    def build_head(self, dim: int) -> None:
        self.lm_head = nn.Linear(dim, len(self.labels))

    def outputs(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Logits `(batch, frames, labels)`, the blank first."""
        return self.lm_head(features)

    def transformers_form(self) -> TransformersForm:
        return TransformersForm(CTC, list(self.labels))

    def read_labels(self, corpus: Corpus) -> Any:
        """The head's own labels; `numbers` reports targets that they cannot spell."""
        return self.labels

    def check_labels(self, labels: Any) -> None:
        """The folder's own labels are what they are."""

    def numbers(self, said: list[str]) -> Tensor:
        """Indices of labels, int64 `(labels,)`; labels that the head lacks become its unknown token."""
        places = self._numbers
        rest = next((places[token] for token in UNKNOWN_TOKENS if token in places), None)
        strange = [label for label in said if label not in places]
        if strange and rest is None:
            raise UserError(
                f"{self.name}: an utterance has {strange[0]!r}, which {self.upstream.label} has no label for"
            )
        return torch.tensor([places.get(label, rest) for label in said])

    def search_with(
        self, language_model: LanguageModel, pronunciations: dict[str, list[list[str]]] | None = None
    ) -> BeamSearch:
        """A beam search over the folder's outputs; a `UserError` if its words do not end in `|`."""
        if self.word_end not in (None, WORD_END) and self.word_end in self.labels:
            raise UserError(
                f"{self.upstream.label}: separates words by {self.word_end!r}, and a search with a language model needs "
                f"{WORD_END!r}; decode without --lm"
            )
        special = [n for n in range(len(self.labels)) if not self.text([n])]
        return BeamSearch(language_model, self.labels, special, (), pronunciations)

    @property
    def silent(self) -> tuple[int, ...]:
        return ()  # the folder's special labels are not in `read_target`

    @property
    def unknowns(self) -> frozenset[int]:
        return frozenset(number for number, label in enumerate(self.labels) if label in UNKNOWN_TOKENS)

    def text(self, numbers: list[int], unknown: str = "") -> list[str]:
        """The labels of a sequence that stand for text, in order, without special tokens; `unknown` for what the head lacks."""
        said = [self.labels[number] for number in numbers if number != BLANK]
        said = [unknown if label in UNKNOWN_TOKENS else label for label in said]
        return [label for label in said if label and not (len(label) > 1 and label[0] + label[-1] in ("<>", "[]"))]

    def joined(self, labels: list[str]) -> str:
        """The text of labels: phones, separated by spaces."""
        return " ".join(labels)

    def spell(self, numbers: list[int]) -> str:
        """The text of a sequence, without special tokens."""
        return self.joined(self.text(numbers))

    def references(self, targets: Targets) -> list[str]:
        """The texts of targets. A label that the head lacks is U+FFFD, which no answer has, so that its word is wrong."""
        rows = zip(targets.values, targets.lengths.tolist(), strict=True)
        return [self.joined(self.text(row[:length].tolist(), "\N{REPLACEMENT CHARACTER}")) for row, length in rows]


class FolderSpeechRecognition(FolderCtc, SpeechRecognition):
    """ASR by a `WavLMForCTC`, in upper or lower case as its labels are."""

    def read_target(self, meta: dict[str, Any]) -> Tensor:
        """Letters with a separator between words, int64 `(labels,)`."""
        text = spoken_text(meta.get("text") or "")
        if not text:
            raise UserError("ASR: an utterance has no text; use a corpus with transcripts")
        # Published models differ in the case of their letters.
        if not any(len(label) == 1 and label.isupper() for label in self.labels):
            text = text.lower()
        signs = [sign for sign in (self.word_end, *WORD_ENDS) if sign is not None and sign in self.labels]
        if not signs and " " in text:
            raise UserError(f"ASR: {self.upstream.label} has no label between words; use it without scoring")
        return self.numbers(list(text.replace(" ", signs[0]) if signs else text))

    def cut_words(self, numbers: list[int], meta: dict[str, Any]) -> list[SpokenWord]:
        """Words with the folder's separator behind each but the last."""
        signs = [sign for sign in (self.word_end, *WORD_ENDS) if sign is not None and sign in self.labels]
        return words_behind(numbers, self.labels, signs[0] if signs else WORD_END)

    def joined(self, labels: list[str]) -> str:
        """Words separated by spaces."""
        text = "".join(labels).replace(self.word_end or WORD_ENDS[0], " ")
        return " ".join((text.lower() if self.lower_case else text).split())


class FolderPhonemeRecognition(FolderCtc, PhonemeRecognition):
    """PR by a `WavLMForCTC` whose labels are phones."""

    def read_target(self, meta: dict[str, Any]) -> Tensor:
        """Phones, int64 `(labels,)`."""
        if not meta.get("phones"):
            raise UserError("PR: an utterance has no phones; use a corpus with phone labels")
        return self.numbers([phone for phone, *_ in meta["phones"] if phone != PAUSE])

    def words_to_align(self, meta: dict[str, Any]) -> list[SpokenWord]:
        return DecodedTask.words_to_align(self, meta)
