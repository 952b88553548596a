"""`wavlm pseudo-label`: a recogniser transcribes a corpus, and what it is sure of becomes a corpus to train a student on.

Each shard is heard once: its transcripts and scores go to `OUT/pseudo_labels/SPLIT-NNNNNN.jsonl`, so that an interrupted call
goes on, and another share or score needs no second hearing. The corpus in `OUT` links to the audio and has records of its own.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import cached_property, partial
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from wavlm_lightning.audio import SAMPLE_RATE
from wavlm_lightning.codebooks.audio_progress import HoursBar
from wavlm_lightning.codebooks.job_shards import JobShard, jobs_for_audio
from wavlm_lightning.data.batch import Waveforms
from wavlm_lightning.data.corpus import Corpus, CorpusWriter
from wavlm_lightning.data.label_sets import label_sets
from wavlm_lightning.data.loading.batching import plan_batches
from wavlm_lightning.data.remote.mirror import is_remote
from wavlm_lightning.data.shard_index import ShardIndex
from wavlm_lightning.data.shards import with_other_records
from wavlm_lightning.data.shared_utterances import HELD_OUT, shared_keys
from wavlm_lightning.encoder.checkpoints.labels_seen import LABELLED, said
from wavlm_lightning.metrics.alignment import aligned
from wavlm_lightning.reports.tables import metric_title
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.files import check_output, own_folder, sweep_leftovers, write_json, write_text
from wavlm_lightning.system.reading import read_json, read_text, sha256
from wavlm_lightning.system.run_folder import BEST, checkpoint, require_run_config
from wavlm_lightning.system.worker_pool import in_order
from wavlm_lightning.tasks import TaskData
from wavlm_lightning.tasks.components.beam_search import NOT_WORDS, TUNED, BeamSearch, LanguageModel
from wavlm_lightning.tasks.components.confidence import SCORES, LengthNormalisation, Scores, as_record, path_scores
from wavlm_lightning.tasks.components.spoken_text import spoken_text
from wavlm_lightning.tasks.content.phoneme_recognition import PAUSE
from wavlm_lightning.tasks.contract import PROCESSING
from wavlm_lightning.tasks.decoding import DecodedTask, check_decodes
from wavlm_lightning.tasks.pseudo_labels import LABEL_SOURCE, PSEUDO, is_pseudo_record
from wavlm_lightning.workflows.predict.head import TrainedHead, open_head
from wavlm_lightning.workflows.predict.run_data import data_of_run

KEPT = "pseudo_labels"  # folder in OUT: what was heard
SHARE = 0.7  # of the first round; a choice, as no paper states it
# Fields of a record that say what was spoken: the teacher must not pass on what people have written.
SPOKEN = ("text", "phones", "words", "intent", "slots", "keyword", "term", "terms")
DECILES = 10


def pseudo_label(
    run: Path,
    corpus: Path | str,
    out: Path,
    share: float | None = None,
    threshold: float | None = None,
    score: str = "confidence",
    lm: Path | None = None,
    splits: Sequence[str] | None = None,
    exclude: Sequence[Path | str] = (),
    min_seconds: float = 1.0,
    max_seconds: float = 30.0,
    batch_seconds: float = 60.0,
    jobs: int | None = None,
    part: str | None = None,
    device: str | None = None,
) -> list[str]:
    """Transcribe a corpus with a trained ASR or PR head, and write the surest transcripts as a corpus.

    Args:
        run: run folder of the teacher, with a head that letters or phones come out of.
        corpus: folder of the corpus. Utterances on which the run was trained with their true labels are left out.
        out: folder of the new corpus, whose audio is linked. Its `corpus.json` says how it was made (`source.pseudo_labels`), its
            records who wrote the transcript (`label_source`, with all scores).
        share: of the transcripts, the best ones by `score`, ties by key; `SHARE` if neither this nor a threshold is given.
        threshold: keep transcripts with at least this score instead.
        score: which of `SCORES` decides.
        lm: ARPA file for a beam search with the weights of `RUN/language_model.yaml` (`wavlm lm tune`), or without that file with
            the default ones; also such a file. None decodes greedily.
        splits: to transcribe; by default the training split.
        exclude: corpora whose utterances, found by their keys, are left out: those that a student hears with their true text, or
            is judged by.
        min_seconds: shorter utterances are left out.
        max_seconds: longer ones are left out.
        batch_seconds: audio in a batch, padding included.
        jobs: processes; None chooses.
        part: `I/N` or `auto`: only hear every N-th shard, for a call without it that comes after all parts.
        device: such as `cpu`; the GPU if there is one by default.

    Returns:
        Lines that say what was found: counts, and where the corpus has true labels, the errors of the transcripts.

    Raises:
        UserError: the run is no recogniser, the corpus cannot be heard as the run's was, nothing is left, or another process
            writes to `out`.

    Example:
        >>> pseudo_label(Path("runs/asr"), "data/unlabelled", Path("data/pseudo1"))[0]
        'data/pseudo1: 8,812 of 12,588 transcripts, 15.2 h, round 1'
    """
    if score not in SCORES:
        raise UserError(f"--score {score}: there is none of this name; give one of {', '.join(SCORES)}")
    if share is not None and threshold is not None:
        raise UserError("--share and --threshold both choose; give one of them")
    if share is not None and not 0 < share <= 1:
        raise UserError(f"--share {share}: must be above 0 and at most 1")
    if not 0 <= min_seconds < max_seconds:
        raise UserError(f"--min-seconds {min_seconds:g} and --max-seconds {max_seconds:g}: must be above 0 and ascend")
    check_output(out)
    _refuse_foreign(out)
    shard = JobShard.parse(part) if part else JobShard()
    with own_folder(out, "pseudo-label", part=(shard.number, shard.of)):
        teacher = Teacher(run, lm, batch_seconds, min_seconds, max_seconds, device)
        opened = Corpus.open(corpus)
        if out.resolve() == opened.directory.resolve():
            raise UserError(f"--out {out}: is the corpus that is transcribed; choose another folder")
        hearing = Hearing(teacher, opened, out / KEPT, _splits(opened, splits, teacher), exclude)
        hearing.hear(jobs, shard)
        if part:
            return [
                f"{hearing.folder}: {len(hearing.places)} shards of part {part}; after all parts, run it without --part"
            ]
        normalisation = teacher.normalisation(out / KEPT, needed=score == "normalised")
        return _write(hearing, out, normalisation, score, share, threshold)


# The teacher.


class Teacher:
    """A trained recogniser, how it decodes, and what it has learned from.

    Args:
        run: its run folder.
        lm: a language model, see `pseudo_label`.
        batch_seconds: audio in a batch.
        min_seconds: of the shortest utterance that it hears.
        max_seconds: of the longest one.
        device: asked for by the user.

    Raises:
        UserError: the run holds no recogniser, or the language model does not fit it.
    """

    def __init__(
        self,
        run: Path,
        lm: Path | None,
        batch_seconds: float,
        min_seconds: float,
        max_seconds: float,
        device: str | None,
    ) -> None:
        require_run_config(run)
        self.run, self.device = run, device
        self.batch_seconds, self.min_seconds, self.max_seconds = batch_seconds, min_seconds, max_seconds
        self.model: LanguageModel | None
        self.model, self.note = (None, "") if lm is None else _language_model(run, lm)
        self.data = data_of_run(run, None)
        self.sha256 = sha256(checkpoint(run, BEST))

    def __getstate__(self) -> dict[str, Any]:
        # Processes that hear open the head themselves.
        return {
            name: value for name, value in self.__dict__.items() if name not in ("head", "search", "data", "corpus")
        } | {"factor": self.factor}

    @cached_property
    def head(self) -> TrainedHead:
        head = open_head(self.run, self.device)
        check_decodes(head.task, str(self.run)).language_model = None
        return head

    @property
    def task(self) -> DecodedTask:
        return check_decodes(self.head.task, str(self.run))

    @cached_property
    def search(self) -> BeamSearch | None:
        return None if self.model is None else self.task.search_with(self.model)

    @cached_property
    def factor(self) -> float:
        """What training multiplied waveforms by."""
        return self.data.factor

    @cached_property
    def corpus(self) -> Corpus | None:
        """The corpus on which it was trained, if it is still there."""
        try:
            return Corpus.open(self.data.path)
        except UserError:
            return None

    @property
    def facts(self) -> dict[str, Any]:
        """All of it that transcripts depend on."""
        limits = [self.batch_seconds, self.min_seconds, self.max_seconds]
        return {"teacher": self.sha256, "decoder": self.decoder, "limits": limits, "gain": self.factor}

    @cached_property
    def decoder(self) -> dict[str, Any]:
        """How it decodes: `greedy`, or files, weights and hashes of a beam search."""
        if self.model is None:
            return {"kind": "greedy"}
        files = {name: path for name in ("model", "lexicon") if (path := getattr(self.model, name)) is not None}
        hashes = {f"{name}_sha256": sha256(Path(path)) for name, path in files.items()}
        weights = {k: v for k, v in asdict(self.model).items() if v is not None and k not in (*files, "searched")}
        return {"kind": "beam search", **{name: str(path) for name, path in files.items()}, **hashes, **weights}

    @property
    def labelled(self) -> list[dict[str, Any]]:
        """True labels behind its transcripts: its own, those of its teachers, and those that its encoder has seen."""
        return self.task.labels_behind

    @property
    def round(self) -> int:
        """How often pseudo-labels were made before, and once more."""
        return int(self.task.trained.get("pseudo_labelled", {}).get("round", 0)) + 1

    def learned_from(self, corpus: Corpus) -> bool:
        """Whether a corpus is the one on which it was trained."""
        return self.corpus is not None and self.corpus.sha256 == corpus.sha256

    def known(self, corpus: Corpus) -> dict[str, set[str]]:
        """Name of a shard -> keys of the utterances of a corpus whose true labels it was trained on."""
        if not self.learned_from(corpus):
            return {}
        train, found = _stage(self.data, self.task, "train"), dict[str, set[str]]()
        for number in range(len(train)):
            shard, place = train.locate(number)
            found.setdefault(shard.path.name, set()).add(shard.keys[place])
        return found

    @torch.inference_mode()
    def hear(self, shards: Sequence[tuple[ShardIndex, int]]) -> Iterator[tuple[int, str, Scores | None]]:
        """Number, transcript and scores of each utterance (a shard and a place in it), in batches of similar length."""
        samples = np.array([shard.samples[place] for shard, place in shards], dtype=np.int64)
        longest = float(samples.max(initial=0)) / SAMPLE_RATE
        for batch in plan_batches(samples, batch_seconds=max(self.batch_seconds, longest), shuffle=False):
            audio = [shards[number][0].waveform(shards[number][1]) * np.float32(self.factor) for number in batch]
            outputs, lengths = self.task.answers(Waveforms.pad(audio).to(self.head.device))
            for number, logits, frames in zip(batch.tolist(), outputs, lengths.tolist(), strict=True):
                shard, place = shards[number]
                if not torch.isfinite(logits[:frames]).all():
                    raise UserError(
                        f"{shard.path}: the answer for utterance {shard.keys[place]!r} holds NaN or infinite numbers; the head "
                        f"of {self.run} has diverged in training"
                    )
                yield number, *self.transcript(logits[:frames])

    def transcript(self, logits: torch.Tensor) -> tuple[str, Scores | None]:
        """The transcript of logits `(frames, labels)` and its scores; an empty one has none."""
        if self.search is not None:
            emissions = self.search.emissions(logits)
            found = self.search.best_path(emissions)
            return found.text, path_scores(emissions, found.symbols, found.score, found.acoustic)
        task = self.task
        log_probabilities = logits.float().log_softmax(-1).cpu()
        best, path = log_probabilities.max(-1)
        # Special symbols and pauses stand for no letter or phone, so that they are as silent as the blank.
        silent = path < task.special
        if PAUSE in task.labels:
            silent |= path == task.labels.index(PAUSE)
        symbols = path.masked_fill(silent, 0).tolist()
        text = task.spell([number for number, _ in groupby(symbols) if number])
        total = float(best.sum())
        return text, path_scores(log_probabilities, symbols, total, total)

    def normalisation(self, folder: Path, needed: bool) -> LengthNormalisation | None:
        """Scores by length, fitted on the validation split of the run; None if it is not there and not `needed`."""
        if self.corpus is None:
            if needed:
                raise UserError(
                    f"--score normalised: is fitted on the validation split of {self.run}, and its corpus {self.data.path} is "
                    "not there; copy it back, or choose another --score"
                )
            return None
        path, facts = folder / "validation.json", {**self.facts, "corpus": self.corpus.sha256}
        kept = read_json(path, "scores of the validation split", "remove it") if path.is_file() else {}
        if kept.get("facts") != facts:
            split = _stage(self.data, self.task, "valid")
            places = [split.locate(number) for number in range(len(split))]
            shortest = self.task.upstream.shortest
            heard = self.hear([(shard, place) for shard, place in places if shard.samples[place] >= shortest])
            rows = [[scores.total, scores.tokens] for _, _, scores in heard if scores is not None]
            kept = {"facts": facts, "rows": rows}
            write_json(path, kept, indent=None)
        where = f"--score normalised: split {self.data.splits['valid']} of {self.data.path}"
        try:
            totals, tokens = zip(*kept["rows"], strict=True) if kept["rows"] else ((), ())
            return LengthNormalisation.fit(totals, tokens, where)
        except UserError:
            if needed:
                raise
            return None


def _stage(data: TaskData, task: DecodedTask, name: str) -> Any:
    data.needs = (task.needs(),)
    return data.open_stage((name,))[name]


def _language_model(run: Path, lm: Path) -> tuple[LanguageModel, str]:
    """The language model that `--lm` means, and a sentence about its weights."""
    if lm.is_dir() or lm.suffix in (".yaml", ".yml"):
        model, note = LanguageModel.read(lm).for_head(checkpoint(run, BEST))
        return model, f"weights of {lm}" + (", searched for another head" if note else "")
    if not lm.is_file():
        raise UserError(f"--lm {lm}: no such file; make one with `wavlm lm TEXT... --out {lm}`")
    if (run / TUNED).is_file():
        tuned = LanguageModel.read(run / TUNED)
        wanted = (tuned.searched or {}).get("model_sha256")
        if wanted == sha256(lm):
            model, note = tuned.for_head(checkpoint(run, BEST))
            return replace(model, model=str(lm)), f"weights of {run / TUNED}" + (
                ", searched for another head" if note else ""
            )
        raise UserError(
            f"--lm {lm}: the weights in {run / TUNED} were searched with another file; search them with `wavlm lm tune {run} "
            f"--lm {lm}`, or name that file"
        )
    return LanguageModel(
        None, str(lm)
    ), f"default weights, since {run / TUNED} is not there (`wavlm lm tune` searches them)"


# Hearing.


def _splits(corpus: Corpus, asked: Sequence[str] | None, teacher: Teacher) -> list[str]:
    names = list(asked or ["train"])
    judged = [teacher.data.splits[name] for name in ("valid", "test")] if teacher.learned_from(corpus) else []
    held = {part for name in judged for part in name.split("+")}
    for name in names:
        if name.startswith(HELD_OUT) or name in held:
            raise UserError(
                f"--splits {name}: pseudo-labels are for training, and a model that learned from this split could not be judged "
                "on it; name training splits"
            )
        corpus.split(name)
    return names


def _file(folder: Path, split: str, number: int) -> Path:
    return folder / f"{split}-{number:06d}.jsonl"


class LeftOut(NamedTuple):
    """Utterances that are not transcribed, whatever they sound like."""

    known: Mapping[str, set[str]]  # name of a shard -> keys that the teacher was trained on
    excluded: frozenset[str]  # keys in other corpora

    def of(self, shard: ShardIndex) -> dict[str, str]:
        """Key -> why, in a shard."""
        known, here = self.known.get(shard.path.name, set()), set(shard.keys)
        return dict.fromkeys(self.excluded & here, "excluded") | dict.fromkeys(known & here, "labelled")


class Hearing:
    """The transcripts of some splits of a corpus, a file a shard.

    Args:
        teacher: who hears.
        corpus: whose utterances.
        folder: of the files.
        splits: names.
        exclude: folders of corpora whose utterances are left out.

    Attributes:
        shared: `corpus`, `sha256` and `utterances` of each of these corpora: how many of the splits it has.

    Raises:
        UserError: the corpus is behind a URL, its audio was prepared in another way than that of the teacher's corpus, or what
            the teacher has learned from cannot be left out.
    """

    def __init__(
        self, teacher: Teacher, corpus: Corpus, folder: Path, splits: Sequence[str], exclude: Sequence[Path | str]
    ) -> None:
        if is_remote(corpus.directory):
            raise UserError(
                f"{corpus.name}: the new corpus links to audio, which must be on this machine; copy the corpus"
            )
        ours = teacher.task.trained.get("processing", {})
        theirs = {name: corpus.body["source"][name] for name in PROCESSING if name in corpus.body["source"]}
        if ours != theirs:
            raise UserError(
                f"{corpus.directory}: its audio was prepared with {theirs or 'no change'}, that of the teacher's corpus with "
                f"{ours or 'no change'}; prepare it alike"
            )
        self.teacher, self.corpus, self.folder, self.splits = teacher, corpus, folder, splits
        of_teacher = (teacher.task.trained.get(LABELLED) or {}).get("corpus")
        if teacher.corpus is None and of_teacher == corpus.name and not exclude:
            raise UserError(
                f"{teacher.run}: its corpus {teacher.data.path} is not there, so that its labelled utterances cannot be left out "
                f"of {corpus.directory}, which has the same name; copy it back, or name it with --exclude"
            )
        excluded: set[str] = set()
        self.shared: list[dict[str, Any]] = []
        for other in map(Corpus.open, exclude):
            if other.sha256 == corpus.sha256:
                raise UserError(f"--exclude {other.directory}: is the corpus that is transcribed; name another one")
            keys = shared_keys(corpus, splits, other, "--exclude")
            self.shared.append({"corpus": other.name, "sha256": other.sha256, "utterances": len(keys)})
            excluded |= keys
        self.left_out = LeftOut(teacher.known(corpus), frozenset(excluded))
        self.places = [(split, number) for split in splits for number in range(len(corpus.split(split).shards))]

    def stamp(self, shard: ShardIndex) -> str:
        """A hash that changes if the transcripts of a shard would."""
        why = self.left_out.of(shard)
        known, excluded = (sorted(key for key in why if why[key] == reason) for reason in ("labelled", "excluded"))
        facts = [self.teacher.facts, shard.sha256, shard.index_sha256, shard.keys, known]
        facts += [excluded] if excluded else []
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def rows(self, split: str, number: int) -> list[dict[str, Any]] | None:
        """What was heard in a shard; None if nothing was, or with another teacher."""
        shard = self.corpus.split(split).shards[number]
        path = _file(self.folder, split, number)
        if not path.is_file():
            return None
        try:
            first, *rows = [json.loads(line) for line in read_text(path, "transcripts").splitlines()]
            return rows if first["stamp"] == self.stamp(shard) and len(rows) == shard.utterances else None
        except (ValueError, KeyError, TypeError):  # of a power failure, or of another program: heard again
            return None

    def hear(self, jobs: int | None, part: JobShard) -> None:
        """Hear the shards of a part that were not heard before."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if part.of == 1:
            sweep_leftovers(self.folder)
        self.places = part.deal(self.places)
        samples = {
            (split, number): self.corpus.body["splits"][split]["shards"][number]["samples"]
            for split, number in self.places
        }
        pending = [place for place in self.places if self.rows(*place) is None]
        left, total = sum(samples[place] for place in pending), sum(samples.values())
        jobs = jobs_for_audio("layer", left / SAMPLE_RATE / 3600) if jobs is None else jobs
        stamps = {place: self.stamp(self.corpus.split(place[0]).shards[place[1]]) for place in pending}
        listener = partial(Listener, self.teacher, self.corpus.directory, self.folder, self.left_out)
        with HoursBar(total, total - left, "transcripts") as bar:
            for place in in_order(listener, [(*place, stamps[place]) for place in pending], jobs):
                bar.add(samples[place[0], place[1]])


class Listener:
    """Hears one shard per call and writes its file; the worker of `Hearing`."""

    def __init__(self, teacher: Teacher, corpus: Path, folder: Path, left_out: LeftOut, device: str | None) -> None:
        self.teacher, self.corpus, self.folder, self.left_out = teacher, Corpus.open(corpus), folder, left_out
        if teacher.device is None:
            teacher.device = device

    def __call__(self, place: tuple[str, int, str]) -> tuple[str, int, str]:
        split, number, stamp = place
        shard = self.corpus.split(split).shards[number]
        left_out, teacher = self.left_out.of(shard), self.teacher
        shortest = max(teacher.min_seconds * SAMPLE_RATE, teacher.task.upstream.shortest)
        rows: list[dict[str, Any]] = []
        heard: list[int] = []
        for at, (key, samples) in enumerate(zip(shard.keys, shard.samples, strict=True)):
            rows.append({"key": key})
            if key in left_out:
                rows[-1]["why"] = left_out[key]
            elif samples < shortest:
                rows[-1]["why"] = "too short"
            elif samples > teacher.max_seconds * SAMPLE_RATE:
                rows[-1]["why"] = "too long"
            else:
                heard.append(at)
        for at, text, scores in teacher.hear([(shard, at) for at in heard]):
            row = rows[heard[at]]
            if scores is None or not text:
                row["why"] = "empty"
            elif NOT_WORDS[0] in text.split():
                row["why"] = "unknown word"
            else:
                row |= {"text": text, **scores._asdict()}
                if (true := true_text(teacher.task, shard.meta(heard[at]))) is not None:
                    edits = aligned(true.split(), text.split()).edits
                    row |= {"errors": edits.errors, "units": edits.units}
        lines = [{"stamp": stamp, "shard": shard.path.name}, *rows]
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        write_text(_file(self.folder, split, number), text, durable=True)
        return place


def true_text(task: DecodedTask, meta: Mapping[str, Any]) -> str | None:
    """The true transcript of a record in the form in which the task answers; None if it has none, or that of a recogniser."""
    if is_pseudo_record(meta):
        return None
    if task.text_key == "phones":
        phones = [phone for phone, *_ in meta.get("phones") or [] if phone != PAUSE]
        return " ".join(phones) or None
    return spoken_text(meta.get("text") or "") or None


# Selection.


class Candidate(NamedTuple):
    """A usable transcript."""

    split: str
    shard: int
    place: int
    key: str
    text: str
    scores: dict[str, float]
    tokens: int
    errors: int | None
    units: int

    def order(self, score: str) -> tuple[float, str, str]:
        """The best first, equal ones by key."""
        return (-self.scores[score], self.key, self.split)


def chosen(
    candidates: Sequence[Candidate], score: str, share: float | None, threshold: float | None
) -> tuple[list[Candidate], list[Candidate]]:
    """All candidates, best first, and those that are selected."""
    ordered = sorted(candidates, key=lambda each: each.order(score))
    if threshold is not None:
        return ordered, [each for each in ordered if each.scores[score] >= threshold]
    count = max(1, round((SHARE if share is None else share) * len(ordered))) if ordered else 0
    return ordered, ordered[:count]


def error_rate(candidates: Sequence[Candidate], missed: int = 0) -> float | None:
    """Wrong words or phones in percent of the true ones, over the transcripts with true ones; None if none has.

    `missed` are words of further utterances in which nothing was heard: each is a deletion.
    """
    known = [each for each in candidates if each.errors is not None]
    units = missed + sum(each.units for each in known)
    return round(100 * (missed + sum(each.errors or 0 for each in known)) / units, 4) if units else None


def _candidates(
    hearing: Hearing, normalisation: LengthNormalisation | None
) -> tuple[list[Candidate], Counter[str], int]:
    """The usable transcripts, why the others are not, and how many true words or phones the empty ones have missed."""
    found: list[Candidate] = []
    counts: Counter[str] = Counter()
    missed = 0
    for split, number in hearing.places:
        rows = hearing.rows(split, number)
        assert rows is not None, "every shard has been heard"
        for place, row in enumerate(rows):
            counts[row.get("why", "usable")] += 1
            if row.get("why") == "empty":
                meta = hearing.corpus.split(split).shards[number].meta(place)
                missed += len((true_text(hearing.teacher.task, meta) or "").split())
            if "why" in row:
                continue
            scores = Scores(*(row[name] for name in Scores._fields))
            truth = row.get("errors"), row.get("units", 0)
            record = as_record(scores, normalisation)
            found.append(Candidate(split, number, place, row["key"], row["text"], record, scores.tokens, *truth))
    return found, counts, missed


# The new corpus.


def _write(
    hearing: Hearing,
    out: Path,
    normalisation: LengthNormalisation | None,
    score: str,
    share: float | None,
    threshold: float | None,
) -> list[str]:
    teacher, corpus, task = hearing.teacher, hearing.corpus, hearing.teacher.task
    candidates, counts, missed = _candidates(hearing, normalisation)
    ordered, best = chosen(candidates, score, share, threshold)
    reasons = {why: count for why, count in sorted(counts.items()) if why != "usable"}
    told = ", ".join(f"{count:,} {why}" for why, count in reasons.items()) or "none was left out before"
    if not best:
        remedy = (
            "" if threshold is None or not candidates else f", whose best {score} is {ordered[0].scores[score]:.4g}"
        )
        raise UserError(
            f"{out}: no transcript is selected of {len(candidates):,}{remedy} ({told}); choose other limits"
        )
    lowest = best[-1].scores[score]
    choice = {"threshold": threshold} if threshold is not None else {"share": SHARE if share is None else share}
    truth = _truth(ordered, best, score, missed)
    source: dict[str, Any] = {
        "recipe": "pseudo-label",
        **{name: corpus.body["source"][name] for name in PROCESSING if name in corpus.body["source"]},
        PSEUDO: {
            "round": teacher.round,
            "teacher": {"run": str(teacher.run), "task": task.name, "sha256": teacher.sha256},
            "decoder": teacher.decoder,
            "of": {"corpus": corpus.name, "sha256": corpus.sha256, "splits": list(hearing.splits)},
            "score": score,
            **choice,
            "lowest": lowest,
            "usable": len(candidates),
            "selected": len(best),
            "left_out": reasons,
            **({"excluded": hearing.shared} if hearing.shared else {}),
            **({} if normalisation is None else {"normalisation": asdict(normalisation)}),
            **({} if truth is None else {"truth": {"metric": task.metric, **truth}}),
            LABELLED: teacher.labelled,
        },
    }
    writer = CorpusWriter(out, f"{corpus.name}, pseudo-labels {teacher.round}", corpus.body["licence"], source)
    metas = _write_shards(writer, hearing, best, out)
    inventories = {name: names for name, names in label_sets({"train": metas}).items() if names}
    if task.text_key == "phones":
        inventories["phones"] = list(task.labels[task.special :])  # a student's head has the outputs of its teacher's
    written = writer.finish(inventories)
    hours = sum(written.split(split).seconds for split in written.splits) / 3600
    lines = [
        f"{out}: {len(best):,} of {len(candidates):,} transcripts, {hours:.2f} h, round {teacher.round}; score "
        f"{score!r} at least {lowest:.4g}",
        f"left out: {told}",
        *(f"excluded: {each['utterances']:,} utterances that {each['corpus']} has" for each in hearing.shared),
        f"decoder: {teacher.decoder['kind']}" + (f", {teacher.note}" if teacher.note else ""),
        f"true labels behind them: {said(teacher.labelled) or 'not known'}",
    ]
    if teacher.corpus is None:
        lines.append(
            f"note: the corpus of the teacher, {teacher.data.path}, is not there, and nothing was left out because of it"
        )
    if truth is not None:
        name = metric_title(task.metric)
        nothing = f", with {missed:,} {task.counted} where nothing was heard" if missed else ""
        lines.append(
            f"{name} of the transcripts: {truth['selected']:.2f} % selected, {truth['all']:.2f} % all" + nothing
        )
        deciles = " ".join(f"{value:.1f}" if value is not None else "-" for value in truth["deciles"])
        lines.append(f"{name} by tenths, the best by score {score!r} first: {deciles}")
    return lines


def _truth(ordered: Sequence[Candidate], best: Sequence[Candidate], score: str, missed: int) -> dict[str, Any] | None:
    """Errors of all, of the selected, and of each tenth by score; None without true labels.

    All of them include the empty transcripts; the tenths do not, which have no score.
    """
    everything, selected = error_rate(ordered, missed), error_rate(best)
    if everything is None or selected is None:
        return None
    ends = [round(len(ordered) * number / DECILES) for number in range(DECILES + 1)]
    deciles = [error_rate(ordered[begin:end]) for begin, end in itertools.pairwise(ends)]
    units = missed + sum(each.units for each in ordered if each.errors is not None)
    return {
        "all": everything,
        "selected": selected,
        "deciles": deciles,
        "deciles_by": score,
        "units": units,
        "missed": missed,
    }


def _write_shards(writer: CorpusWriter, hearing: Hearing, best: Sequence[Candidate], out: Path) -> list[dict[str, Any]]:
    """Link the shards and write their records, in the order of the corpus; returns the records."""
    teacher, phones = hearing.teacher, hearing.teacher.task.text_key == "phones"
    here: dict[tuple[str, int], dict[int, Candidate]] = {}
    for each in best:
        here.setdefault((each.split, each.shard), {})[each.place] = each
    metas: list[dict[str, Any]] = []
    numbers: Counter[str] = Counter()
    for split, number in hearing.places:
        if (split, number) not in here:
            continue
        shard, records = hearing.corpus.split(split).shards[number], []
        places = sorted(here[split, number])
        for place in places:
            each = here[split, number][place]
            meta = {name: value for name, value in shard.meta(place).items() if name not in SPOKEN}
            meta |= {"phones": [[phone] for phone in each.text.split()]} if phones else {"text": each.text}
            meta[LABEL_SOURCE] = {
                "kind": "pseudo",
                "teacher": teacher.sha256,
                "round": teacher.round,
                "scores": each.scores,
                "tokens": each.tokens,
            }
            records.append(meta)
        link = out / f"{split}-{numbers[split]:06d}.tar"
        writer.add_shard(split, with_other_records(link, shard, places, records))
        numbers[split] += 1
        metas += records
    ours = {f"{split}-{number:06d}.tar" for split, count in numbers.items() for number in range(count)}
    for link in out.glob("*.tar"):  # of an earlier selection
        if link.name not in ours:
            link.with_suffix(".index.json").unlink(missing_ok=True)
            link.unlink()
    return metas


def _refuse_foreign(out: Path) -> None:
    """Refuse a folder that holds something else than an earlier result."""
    for path in out.glob("*.tar"):
        if not path.is_symlink():
            raise UserError(f"{path}: a shard that is no link, so {out} holds another corpus; choose another --out")
    if (out / "corpus.json").is_file() and PSEUDO not in Corpus.open(out).body["source"]:
        raise UserError(f"{out}: holds a corpus that is not pseudo-labelled; choose another --out")
