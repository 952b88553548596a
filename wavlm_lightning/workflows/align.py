"""`wavlm align`: times of letters, phones and words of a corpus from a trained CTC head, beside its shards."""

from __future__ import annotations

import bisect
import hashlib
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wavlm_lightning.audio import SAMPLE_RATE, gain
from wavlm_lightning.codebooks.audio_progress import HoursBar
from wavlm_lightning.data.alignments import SILENCE, AlignmentSet, AlignmentWriter, Segment, frame_classes
from wavlm_lightning.data.alignments.alignment_set import OWN, Aligned, alignment_file, alignment_sets, read_head
from wavlm_lightning.data.batch import Waveforms
from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.data.shard_index import ShardIndex
from wavlm_lightning.data.shared_utterances import shared_keys, training_splits
from wavlm_lightning.data.subset import open_splits
from wavlm_lightning.encoder.checkpoints.labels_seen import LABELLED, Entry, joined
from wavlm_lightning.metrics.segment_times import boundary_offsets
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.files import write_text
from wavlm_lightning.system.progress import timed
from wavlm_lightning.system.reading import read_lines, reading
from wavlm_lightning.system.run_folder import BEST, checkpoint, init_args, require_run_config
from wavlm_lightning.tasks.components.beam_search import WORD_END, BeamSearch, LanguageModel
from wavlm_lightning.tasks.components.forced_alignment import (
    BLANK,
    Transcript,
    align,
    at_double_rate,
    runs,
    segments,
)
from wavlm_lightning.tasks.components.realignment import FrameClassifier, train_classifier
from wavlm_lightning.tasks.components.spoken_text import spoken_text
from wavlm_lightning.tasks.decoding import DecodedTask, SpokenWord, check_decodes
from wavlm_lightning.tasks.pseudo_labels import PSEUDO, is_pseudo
from wavlm_lightning.workflows.predict.head import TrainedHead, open_head

TRANSCRIPTS = ("true", "decoded")
RATES = (50, 100)
WINDOW = 400  # samples of the window of a frame
FAILED = "failed.jsonl"  # in the folder of a set: utterances without an alignment, and why
ENOUGH = 100  # utterances after which a call stops if none of them could be aligned
NAMED = 3  # utterances that a line names
TEACHING_SECONDS = 2 * 3600.0  # of audio that the classifier of a realignment learns from
FIRST = "first"  # suffix of the set that a realignment begins with
BEAM = 20  # of a search whose language model comes without weights
TOLERANCES = (0.02, 0.04)  # seconds by which a boundary may be off


@dataclass
class AlignedCorpus:
    """What `align_corpus` has done; `lines` says it."""

    folder: Path
    lines: list[str] = field(default_factory=list)


def align_corpus(
    run: Path,
    corpus: str | Path,
    name: str,
    *,
    splits: Sequence[str] | None = None,
    transcripts: str = "true",
    labelled: Path | None = None,
    lm: Path | None = None,
    lexicon: Path | None = None,
    rate: int | None = None,
    realign: bool = False,
    batch_seconds: float = 60.0,
    device: str | None = None,
) -> AlignedCorpus:
    """Align a corpus with a trained ASR or PR head: `CORPUS/alignments/NAME`, one file a shard; an interrupted call goes on.

    Args:
        run: run folder of the head, or a folder of transformers with a `WavLMForCTC`.
        corpus: folder of the corpus.
        name: of the alignments.
        splits: which; all by default.
        transcripts: `true`, those of the corpus, or `decoded`, what the head hears.
        labelled: a corpus whose utterances, found by their keys, keep its transcripts; all others are decoded, as are those of
            its validation and test that are in a training split of `corpus`. Some of them must be in `corpus`, unless
            `transcripts` is `decoded` (the teacher learned from another corpus).
        lm: decode by beam search: an ARPA file, or weights of `wavlm lm tune` (a file or the run folder that holds it).
        lexicon: words and their letters (letter heads, for the search), or words and their phones (phone heads: the text of the
            corpus is pronounced, and `lm` is a model of words).
        rate: 100 aligns a head of 50 frames a second on twice as many, with scores interpolated between them; None: as the head.
        realign: one round of realignment by a small classifier of frames (`tasks.components.realignment`); phone heads only. The
            first alignment is kept as `NAME-first`.
        batch_seconds: audio in a batch, padding included.
        device: such as `cuda`; the GPU if there is one by default.

    Raises:
        UserError: the head cannot be used, options contradict each other, the set was made by something else, or nothing could be
            aligned.

    Example:
        >>> print(*align_corpus(Path("runs/finetune/pr"), "runs/demo/corpus/pr", "forced").lines, sep="\\n")
    """
    _check_options(transcripts, labelled, lm, rate, batch_seconds)
    opened = Corpus.open(corpus)
    names = list(opened.splits if splits is None else splits)
    for split in names:
        opened.split(split)
    head = open_head(Path(run), device)
    task = check_decodes(head.task, str(run))
    if realign and WORD_END in task.labels:
        raise UserError(
            f"--realign: {run} answers with letters, which do not sound alike everywhere; realign a phone head"
        )
    aligner = Aligner(
        head, opened, transcripts, labelled, lm, lexicon, rate, batch_seconds, labels_of_head(task, Path(run))
    )
    about = aligner.about(Path(run))
    first = _align(opened, f"{name}-{FIRST}" if realign else name, names, about, aligner)
    done = first
    if realign:
        about["settings"] = {**about["settings"], "realign": True}
        done = _realign(opened, name, f"{name}-{FIRST}", names, about, aligner)
        done.lines += first.lines[len(names) :]  # what could not be aligned
    for split in names:
        done.lines += compared_with_truth(opened, name, split, aligner.rate)
    return done


def _check_options(
    transcripts: str, labelled: Path | None, lm: Path | None, rate: int | None, batch_seconds: float
) -> None:
    if transcripts not in TRANSCRIPTS:
        raise UserError(f"--transcripts {transcripts}: choose {' or '.join(TRANSCRIPTS)}")
    if lm is not None and transcripts == "true" and labelled is None:
        raise UserError(
            "--lm: true transcripts are not decoded; add --transcripts decoded or --labelled, or leave --lm out"
        )
    if rate is not None and rate not in RATES:
        raise UserError(f"--rate {rate}: choose {' or '.join(map(str, RATES))}")
    if not batch_seconds > 0:
        raise UserError(f"--batch-seconds {batch_seconds:g}: must be above 0")


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
                "sha256": _sha256(Path(model.model)),
            }
        if self.lexicon is not None:
            settings["lexicon"] = _sha256(self.lexicon)
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
            waveforms = [gain(waveform, self.gain_db) for waveform in waveforms]
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


def _align(corpus: Corpus, name: str, splits: list[str], about: dict[str, Any], aligner: Aligner) -> AlignedCorpus:
    """Align the shards that the set lacks."""
    failures: list[tuple[str, Unaligned]] = []
    with AlignmentWriter(corpus, name, about, splits) as writer:
        pending, samples = _pending(corpus, splits, writer)
        seen = 0
        with HoursBar(samples, samples - sum(sum(shard.samples) for shard in pending), "align") as bar:
            for shard in pending:
                rows, failed = aligner.rows(shard)
                seen, failures = seen + len(rows), failures + failed
                if len(failures) == seen >= ENOUGH:
                    raise UserError(f"{shard.path}: none of {seen} utterances could be aligned: {_reasons(failures)}")
                _note_failures(writer.directory / FAILED, shard, failed)
                writer.write(shard, rows)
                bar.add(sum(shard.samples))
        if len(failures) == seen > 0 and len(pending) == sum(len(corpus.split(split).shards) for split in splits):
            raise UserError(f"{corpus.directory}: none of {seen} utterances could be aligned: {_reasons(failures)}")
        writer.about |= _labelled(corpus, name, splits, writer, aligner)
    done = _described(corpus, name, splits, writer.directory)
    if aligner.kept_back:
        done.lines.append(
            f"decoded: {aligner.kept_back:,} utterances of validation and test of {aligner.source.name} are in a training split "
            "here, where their true text may not be learned"
        )
    if failures:
        done.lines.append(f"not aligned: {_reasons(failures)}; all are listed in {writer.directory / FAILED}")
    elif (writer.directory / FAILED).is_file():
        done.lines.append(f"not aligned by earlier calls: see {writer.directory / FAILED}")
    if aligner.task.pause is None and not aligner.letters:
        done.lines.append(
            "note: this head was trained without pauses, so that silence belongs to the phone beside it; train one with "
            "model.pauses: true"
        )
    return done


def _pending(corpus: Corpus, splits: Sequence[str], writer: AlignmentWriter) -> tuple[list[ShardIndex], int]:
    """Shards without alignments, and the samples of all shards."""
    shards = [shard for split in splits for shard in corpus.split(split).shards]
    return [shard for shard in shards if not writer.done(shard)], sum(sum(shard.samples) for shard in shards)


def _reasons(failures: Sequence[tuple[str, Unaligned]]) -> str:
    """Such as `3 utterances (a, b, c): too few frames for its labels (40 frames, ...)`, the most frequent first."""
    counts = Counter(why.kind for _, why in failures)
    parts = []
    for kind, count in counts.most_common():
        keys = [key for key, why in failures if why.kind == kind]
        why = next(str(why) for _, why in failures if why.kind == kind)
        named = ", ".join(keys[:NAMED]) + (", ..." if count > NAMED else "")
        parts.append(f"{count} utterance{'s' if count > 1 else ''} ({named}): {why}")
    return "; ".join(parts)


def _note_failures(path: Path, shard: ShardIndex, failed: Sequence[tuple[str, Unaligned]]) -> None:
    """List the utterances of a shard that have no alignment, in the place of what an earlier call said of this shard."""
    earlier = []
    if path.is_file():
        with reading(path, "the list of what could not be aligned", "remove it"):
            rows = [json.loads(line) for line in read_lines(path)]
            earlier = [row for row in rows if row["shard"] != shard.path.name]
    found = [{"shard": shard.path.name, "key": key, "why": str(why)} for key, why in failed]
    if earlier or found or path.is_file():
        write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in [*earlier, *found]))


def _labelled(
    corpus: Corpus, name: str, splits: Sequence[str], writer: AlignmentWriter, aligner: Aligner
) -> dict[str, Any]:
    """Which true transcripts are in the set, of all its splits, whichever call has aligned them, with those behind the head."""
    before = AlignmentSet.open(corpus, name).splits if name in alignment_sets(corpus) else []
    utterances, seconds = 0, 0.0
    for split in sorted({*splits, *before}):
        for shard in corpus.split(split).shards:
            with reading(path := alignment_file(writer.directory, shard), "alignments of a shard", "remove the file"):
                lines = [json.loads(line) for line in read_lines(path)[1:]]
            for line, samples in zip(lines, shard.samples, strict=True):
                if line["phones"] is not None and aligner.is_true(line["key"]):
                    utterances, seconds = utterances + 1, seconds + samples / SAMPLE_RATE
    source = aligner.source
    own: Any = {"utterances": utterances, "seconds": round(seconds, 3), "corpus": source.name}
    if is_pseudo(source):  # a recogniser wrote its transcripts
        own = source.body["source"][PSEUDO].get(LABELLED)
    return {"labelled": joined(own, aligner.taught), "teacher_labelled": aligner.taught}


def labels_of_head(task: DecodedTask, run: Path) -> list[Entry]:
    """The labels that a head, its encoder and its teachers have learned from, an entry a corpus."""
    return joined(task.labels_behind, None if task.trained.get(LABELLED) else _labels_of_run(run))


def _labels_of_run(run: Path) -> Entry:
    """The labels of a run whose checkpoint does not name them: amounts are null if its corpus is no longer there."""
    unknown = {"utterances": None, "seconds": None, "corpus": str(run)}
    if not checkpoint(run, BEST).exists():  # a folder of transformers
        return unknown
    data = init_args(require_run_config(run), "data")
    try:
        corpus = Corpus.open(data["corpus"])
        split = open_splits(corpus, data.get("train_split") or "train")
    except (UserError, KeyError):
        return {**unknown, "corpus": str(data.get("corpus", run))}
    seconds = min(split.seconds, data.get("train_seconds") or split.seconds)
    utterances = len(split) if seconds == split.seconds else None
    return {"utterances": utterances, "seconds": round(seconds, 3), "corpus": corpus.name}


def teacher_hash(run: Path) -> str:
    """Hash of the weights of a head, and of what a folder of transformers says of them."""
    best = checkpoint(run, BEST)
    files = [best] if best.exists() else sorted(run.glob("*.safetensors")) + sorted(run.glob("*.json"))
    digest = hashlib.sha256()
    for file in files:
        for part in sorted(each for each in file.rglob("*") if each.is_file()) if file.is_dir() else [file]:
            digest.update(_sha256(part).encode())
    return digest.hexdigest()


def _sha256(path: Path) -> str:
    with reading(path, "a file that alignments depend on"), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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


# The second round.


def _realign(
    corpus: Corpus, name: str, first: str, splits: list[str], about: dict[str, Any], aligner: Aligner
) -> AlignedCorpus:
    """Train a classifier of frames on the alignments `first`, and align with it."""
    before = AlignmentSet.open(corpus, first)
    with AlignmentWriter(corpus, name, about, splits) as writer:
        pending, samples = _pending(corpus, splits, writer)
        if pending:
            with timed("classifier of frames"):
                classifier = train_classifier(before.inventory, aligner.rate, list(_lessons(corpus, before, splits)))
            with HoursBar(samples, samples - sum(sum(shard.samples) for shard in pending), "realign") as bar:
                for shard in pending:
                    rows = before.of_shard(shard)
                    writer.write(shard, [_again(classifier, shard, place, row) for place, row in enumerate(rows)])
                    bar.add(sum(shard.samples))
        writer.about |= {key: before.about[key] for key in ("labelled", "teacher_labelled")}
    return _described(corpus, name, splits, writer.directory)


def _lessons(
    corpus: Corpus, before: AlignmentSet, splits: Sequence[str]
) -> Iterator[tuple[np.ndarray, Sequence[Segment]]]:
    """Waveforms and phones for the classifier: the utterances in order, up to `TEACHING_SECONDS`."""
    left = TEACHING_SECONDS
    for split in splits:
        for shard in corpus.split(split).shards:
            for place, row in enumerate(before.of_shard(shard)):
                if row is not None and left > 0:
                    left -= shard.samples[place] / SAMPLE_RATE
                    yield shard.waveform(place), row.phones


def _again(classifier: FrameClassifier, shard: ShardIndex, place: int, row: Aligned | None) -> Aligned | None:
    """An utterance with the times of the classifier; those of the first round if it has fewer frames than phones."""
    if row is None or (phones := classifier.realign(shard.waveform(place), row.phones)) is None:
        return row
    if row.words is None:
        return Aligned(phones)
    starts = [word.start for word in row.words]
    spoken = [max(0, bisect.bisect_right(starts, start) - 1) for label, start, _ in row.phones if label != SILENCE]
    words: dict[int, tuple[float, float]] = {}
    for at, (_, start, end) in zip(spoken, (one for one in phones if one.name != SILENCE), strict=True):
        words[at] = (words.get(at, (start, end))[0], end)
    return Aligned(phones, [Segment(row.words[at].name, *times) for at, times in words.items()])


# What is said of it.


def _described(corpus: Corpus, name: str, splits: Sequence[str], folder: Path) -> AlignedCorpus:
    done = AlignedCorpus(folder)
    for split in splits:
        heads = [read_head(alignment_file(folder, shard)) for shard in corpus.split(split).shards]
        utterances, aligned = (sum(head[key] for head in heads) for key in ("utterances", "aligned"))
        hours = sum(head["aligned_seconds"] for head in heads) / 3600
        done.lines.append(f"{folder}: {split}: {aligned:,} of {utterances:,} utterances aligned, {hours:.2f} h")
    return done


def compared_with_truth(corpus: Corpus, name: str, split: str, rate: float) -> list[str]:
    """Lines that compare a set with the true times that a corpus has in its metadata; none where it has none.

    Frames are counted in all utterances that have both, boundaries where the names agree.
    """
    if OWN not in alignment_sets(corpus):
        return []
    found, truth = AlignmentSet.open(corpus, name), AlignmentSet.open(corpus, OWN)
    phones = found.about.get("units") != "letters"
    numbers = {label: n for n, label in enumerate(sorted({*found.inventory, *truth.inventory}))}
    right = frames = compared = agreeing = 0
    offsets: list[float] = []
    for shard in corpus.split(split).shards:
        rows = zip(found.of_shard(shard), truth.of_shard(shard), shard.samples, strict=True)
        for one, other, samples in rows:
            if one is None or other is None:
                continue
            compared += 1
            if phones:
                count = int((samples - WINDOW) * rate // SAMPLE_RATE) + 1
                classes = [frame_classes(row.phones, count, rate, numbers) for row in (one, other)]
                right, frames = right + int((classes[0] == classes[1]).sum()), frames + count
                missed = boundary_offsets(other.phones, one.phones)
            else:
                missed = _word_offsets(one, other)
            agreeing += missed is not None
            offsets += missed or []
    if not compared:
        return []
    parts = [f"{right / frames:.1%} of {frames:,} frames have the right phone"] if phones else []
    if offsets and 2 * agreeing >= compared:  # a few short utterances that were heard right say little
        away = np.array(offsets)
        near = " and ".join(f"{(away <= limit + 1e-9).mean():.1%} within {1000 * limit:.0f} ms" for limit in TOLERANCES)
        of = (
            ""
            if agreeing == compared
            else f" of the {agreeing:,} utterances whose {'phones' if phones else 'words'} are the true ones"
        )
        parts.append(f"of {len(away):,} {'boundaries' if phones else 'boundaries of words'}{of} {near}")
    return [f"{split}, against the true times: {'; '.join(parts)}"] if parts else []


def _word_offsets(one: Aligned, other: Aligned) -> list[float] | None:
    """The same of words, whose spelling need not agree in case."""
    if one.words is None or other.words is None:
        return None
    said = [(spoken_text(name), start, end) for name, start, end in other.words]
    return boundary_offsets(said, [(spoken_text(name), start, end) for name, start, end in one.words])
