"""Aligns the utterances of one shard with a trained CTC head: true or decoded transcripts, pronunciations, pauses."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wavlm_lightning.audio import SAMPLE_RATE, amplified
from wavlm_lightning.data.alignments import Segment
from wavlm_lightning.data.alignments.alignment_set import Aligned
from wavlm_lightning.data.batch import Waveforms
from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.data.shard_index import ShardIndex
from wavlm_lightning.data.shared_utterances import shared_keys, training_splits
from wavlm_lightning.encoder.checkpoints.labels_seen import Entry
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.reading import read_lines, sha256
from wavlm_lightning.tasks.components.beam_search import WORD_END, BeamSearch, LanguageModel
from wavlm_lightning.tasks.components.forced_alignment import (
    BLANK,
    Transcript,
    align,
    at_double_rate,
    runs,
    segments,
)
from wavlm_lightning.tasks.components.spoken_text import spoken_text
from wavlm_lightning.tasks.decoding import SpokenWord, check_decodes
from wavlm_lightning.workflows.align.teacher import teacher_hash
from wavlm_lightning.workflows.predict.head import TrainedHead

BEAM = 20  # of a search whose language model comes without weights


class Unaligned(Exception):
    """An utterance that cannot be aligned: `kind` of the reason, which is counted, and its details."""

    def __init__(self, kind: str, details: str = "") -> None:
        super().__init__(kind + (f" ({details})" if details else ""))
        self.kind = kind


class Aligner:
    """Aligns the utterances of shards with a trained head; see `align_corpus` for the arguments."""

    def __init__(
        self,
        head: TrainedHead,
        corpus: Corpus,
        transcripts: str,
        labelled: Path | None,
        lm: Path | None,
        lexicon: Path | None,
        rate: int | None,
        batch_seconds: float,
        taught: list[Entry],
    ) -> None:
        self.taught = taught  # what labels the head was trained on
        self.head, self.task, self.corpus = head, check_decodes(head.task, "align"), corpus
        self.decoded = transcripts == "decoded" or labelled is not None
        self.labelled, self.lm, self.lexicon, self.batch_seconds = labelled, lm, lexicon, batch_seconds
        own = self.task.upstream.frame_rate
        self.doubles = rate is not None and rate == 2 * own
        if rate not in (None, own) and not self.doubles:
            raise UserError(
                f"--rate {rate}: this head has {own:g} frames a second, whose times are the finest it knows; leave --rate out"
            )
        self.rate = 2 * own if self.doubles else own
        # The gain of the training corpus' recipe is in the audio of a corpus that a recipe with the same gain has made.
        trained = self.task.trained.get("processing", {}).get("gain_db", 0.0)
        self.gain_db = head.gain_db - float(corpus.body["source"].get("gain_db") or 0.0 if trained else 0.0)
        self.source = corpus  # of true transcripts
        self.kept_back = 0  # utterances whose true text is not for training
        self.truths = None if labelled is None else self._truths(labelled, apart=transcripts == "decoded")
        self.letters = WORD_END in self.task.labels
        self.spelled = read_pronunciations(lexicon, self.task.labels) if lexicon and not self.letters else None
        self.search = self._search() if lm is not None else None

    def _truths(self, labelled: Path, apart: bool) -> dict[str, dict[str, Any]]:
        """Metadata of the labelled utterances by their keys; `apart`: none of them need be in the corpus.

        What is aligned may become targets of pre-training, which must not learn from the text of validation and test.
        """
        other = Corpus.open(labelled)
        shared = shared_keys(self.corpus, self.corpus.splits, other, "--labelled")
        learned = {key for split in training_splits(self.corpus) for key in self.corpus.split(split).keys}
        truths: dict[str, dict[str, Any]] = {}
        for split in other.splits:
            opened, held = other.split(split), split not in training_splits(other)
            for key, meta in zip(opened.keys, opened.metas(), strict=True):
                if key in shared and held and key in learned:
                    self.kept_back += 1
                elif key in shared:
                    truths[key] = meta
        if not truths and not apart:
            raise UserError(
                f"--labelled {labelled}: none of its keys is one of {self.corpus.directory}; name the labelled part of that "
                "corpus, or give --transcripts decoded if it is apart from it"
            )
        self.source = other
        return truths

    def is_true(self, key: str) -> bool:
        """Whether an utterance is aligned with its true transcript."""
        return key in self.truths if self.truths is not None else not self.decoded

    def _search(self) -> BeamSearch:
        assert self.lm is not None
        if self.lm.is_dir() or self.lm.suffix in (".yaml", ".yml"):
            model, note = LanguageModel.read(self.lm).for_head(self.head.weights)
            if note:
                print(note, file=sys.stderr)
        else:
            words = str(self.lexicon) if self.lexicon is not None and self.letters else None
            model = LanguageModel(words, str(self.lm), beam=BEAM)
        if self.spelled is None:
            return self.task.search_with(model)
        names = self.task.labels
        spelled = {word: [[names[n] for n in each] for each in choices] for word, choices in self.spelled.items()}
        return self.task.search_with(model, spelled)

    def about(self, run: Path) -> dict[str, Any]:
        """`kind`, `teacher` and `settings` of the set."""
        settings: dict[str, Any] = {"transcripts": "decoded" if self.decoded else "true", "rate": self.rate}
        if self.labelled is not None:
            settings["labelled"] = Corpus.open(self.labelled).sha256
        if self.lm is not None:
            assert self.search is not None
            model = self.search.language_model
            settings["language_model"] = {
                **{key: getattr(model, key) for key in ("beam", "threshold", "weight", "word_score", "silence")},
                "sha256": sha256(Path(model.model), "a language model"),
            }
        if self.lexicon is not None:
            settings["lexicon"] = sha256(self.lexicon, "a lexicon")
        kind = "decoded" if self.decoded else "forced"
        facts = {"units": "letters" if self.letters else "phones", "head": self.task.name, "run": str(run)}
        return {"kind": kind, "teacher": teacher_hash(run), "settings": settings, **facts}

    # One shard.

    def rows(self, shard: ShardIndex) -> tuple[list[Aligned | None], list[tuple[str, Unaligned]]]:
        """The alignment of each utterance, and those that have none with the reason."""
        found: list[Aligned | None] = [None] * shard.utterances
        failed: dict[int, Unaligned] = {}
        for place, outputs in self.outputs(shard):
            try:
                found[place] = self.aligned(shard, place, outputs)
            except Unaligned as error:
                failed[place] = error
        return found, [(shard.keys[place], failed[place]) for place in sorted(failed)]

    def outputs(self, shard: ShardIndex) -> Iterator[tuple[int, Tensor]]:
        """Logits `(frames, labels)` of every utterance on the CPU, in the order of their lengths."""
        order = sorted(range(shard.utterances), key=lambda place: shard.samples[place])
        batch: list[int] = []
        for place in order:
            if batch and (len(batch) + 1) * shard.samples[place] > self.batch_seconds * SAMPLE_RATE:
                yield from self._batch(shard, batch)
                batch = []
            batch.append(place)
        yield from self._batch(shard, batch)

    @torch.inference_mode()
    def _batch(self, shard: ShardIndex, places: list[int]) -> Iterator[tuple[int, Tensor]]:
        waveforms = [shard.waveform(place) for place in places]
        if self.gain_db:
            waveforms = [amplified(waveform, self.gain_db) for waveform in waveforms]
        shortest = self.task.upstream.shortest
        if short := [place for place, row in zip(places, waveforms, strict=True) if len(row) < shortest]:
            raise UserError(
                f"{shard.path}: utterance {shard.keys[short[0]]!r} is shorter than a frame ({shortest} samples); prepare the "
                "corpus again"
            )
        inputs = Waveforms.pad(waveforms).to(self.head.device)
        outputs, lengths = self.task.answers(inputs)
        outputs = outputs.float().cpu()
        for place, row, frames in zip(places, outputs, lengths.tolist(), strict=True):
            if not torch.isfinite(row[:frames]).all():
                raise UserError(
                    f"{shard.path}: utterance {shard.keys[place]!r}: the head answers with NaN or infinite numbers; "
                    "it has diverged in training"
                )
            yield place, row[:frames]

    # One utterance.

    def aligned(self, shard: ShardIndex, place: int, outputs: Tensor) -> Aligned:
        """Phones or letters and, where they are known, words with their times; `Unaligned` says why not."""
        words = self.transcript(shard, place, outputs)
        samples = shard.samples[place]
        scores = self.scores(outputs)
        transcript, names = self.with_pauses(words)
        path = align(scores, transcript)
        if path is None:
            details = f"{len(scores)} frames, and its labels need {transcript.shortest()}"
            raise Unaligned("too few frames for its labels", details)
        found = runs(path)
        timed = segments(found, self.task.labels, self.rate, samples / SAMPLE_RATE)
        if not all(word.name for word in words):
            return Aligned(timed)
        spoken: dict[int, tuple[float, float]] = {}
        for run, (label, start, end) in zip(found, timed, strict=True):
            if run.slot in names and label != WORD_END:
                spoken[run.slot] = (spoken.get(run.slot, (start, end))[0], end)
        return Aligned(timed, [Segment(names[slot], *times) for slot, times in spoken.items()])

    def transcript(self, shard: ShardIndex, place: int, outputs: Tensor) -> list[SpokenWord]:
        """The words to align: the true ones, or those that the head hears."""
        key = shard.keys[place]
        if self.is_true(key):
            meta = shard.meta(place) if self.truths is None else self.truths[key]
            try:
                return self.pronounced(meta) if self.spelled is not None else self.task.words_to_align(meta)
            except UserError as error:
                raise Unaligned("no transcript that the head can write", str(error)) from error
        if self.search is None:
            text = self.task.decode(outputs[None], torch.tensor([len(outputs)]))[0]
        else:
            text = self.search.search_row(self.search.emissions(outputs))[0].text
        if not text:
            raise Unaligned("nothing was heard")
        try:
            if self.search is not None and self.spelled is not None:  # words, which phones spell
                return self.pronounced({"text": text})
            return self.task.words_to_align(self.task.said(text))
        except UserError as error:
            raise Unaligned("an answer that the head cannot write", str(error)) from error

    def pronounced(self, meta: dict[str, Any]) -> list[SpokenWord]:
        """The words of a text by the lexicon; of several pronunciations `with_pauses` takes all."""
        assert self.spelled is not None
        words = spoken_text(meta.get("text") or "").split()
        if not words:
            raise UserError("it has no text")
        if missing := [word for word in words if word not in self.spelled]:
            raise UserError(f"its word {missing[0]!r} is not in {self.lexicon}")
        return [SpokenWord(word, self.spelled[word][0]) for word in words]

    def scores(self, outputs: Tensor) -> Tensor:
        """Log-probabilities `(frames, labels)` in which the end symbol counts as the blank."""
        scores = outputs.log_softmax(-1)
        for number in self.task.silent:
            scores[:, BLANK] = torch.logaddexp(scores[:, BLANK], scores[:, number])
        return at_double_rate(scores) if self.doubles else scores

    def with_pauses(self, words: Sequence[SpokenWord]) -> tuple[Transcript, dict[int, str]]:
        """The transcript with an optional pause between words and at both ends, and the word of each slot."""
        pause = self.task.pause
        slots: list[list[tuple[int, ...]]] = []
        names: dict[int, str] = {}
        between: list[list[tuple[int, ...]]] = [] if pause is None else [[(), (pause,)]]
        for word in words:
            slots += between
            names[len(slots)] = word.name
            slots.append(self.choices(word))
        return Transcript([*slots, *between]), names

    def choices(self, word: SpokenWord) -> list[tuple[int, ...]]:
        """All pronunciations of a word of the lexicon, or its only one."""
        return [word.labels] if self.spelled is None or word.name not in self.spelled else self.spelled[word.name]


def read_pronunciations(path: Path, labels: Sequence[str]) -> dict[str, list[tuple[int, ...]]]:
    """Words and their pronunciations, as indices of a head's phones; `WORD(2)` is another pronunciation of `WORD`.

    Stress digits are dropped where the head's phones have none. Lines that begin with `;;;` are comments (CMU's dictionary).
    """
    numbers = {label: number for number, label in enumerate(labels)}
    found: dict[str, list[tuple[int, ...]]] = {}
    for place, line in enumerate(read_lines(path, "a lexicon"), 1):
        word, *phones = line.split() or [""]
        if not phones or word.startswith(";;;"):
            continue
        plain = [phone if phone in numbers else phone.rstrip("012") for phone in phones]
        if unknown := sorted(set(plain) - numbers.keys()):
            raise UserError(
                f"{path}, line {place}: the head has no phone {unknown[0]!r}; use a lexicon in the phones that it was trained on"
            )
        choices = found.setdefault(re.sub(r"\(\d+\)$", "", word).upper(), [])
        if (spoken := tuple(numbers[phone] for phone in plain)) not in choices:
            choices.append(spoken)
    if not found:
        raise UserError(f"{path}: holds no word; each line of a lexicon is a word and its phones")
    return found
