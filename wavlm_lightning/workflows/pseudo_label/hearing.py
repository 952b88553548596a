"""Transcripts and scores of a corpus by a teacher, a file a shard, so that an interrupted call goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from wavlm_lightning.audio import SAMPLE_RATE
from wavlm_lightning.codebooks.audio_progress import HoursBar
from wavlm_lightning.codebooks.job_shards import JobShard, jobs_for_audio
from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.data.remote.mirror import is_remote
from wavlm_lightning.data.shard_index import ShardIndex
from wavlm_lightning.data.shared_utterances import HELD_OUT, shared_keys
from wavlm_lightning.encoder.checkpoints.labels_seen import LABELLED
from wavlm_lightning.metrics.alignment import aligned
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.files import sweep_leftovers, write_text
from wavlm_lightning.system.reading import read_text
from wavlm_lightning.system.worker_pool import in_order
from wavlm_lightning.tasks.components.beam_search import NOT_WORDS
from wavlm_lightning.tasks.components.spoken_text import spoken_text
from wavlm_lightning.tasks.content.phoneme_recognition import PAUSE
from wavlm_lightning.tasks.contract import PROCESSING
from wavlm_lightning.tasks.decoding import DecodedTask
from wavlm_lightning.tasks.pseudo_labels import is_pseudo_record
from wavlm_lightning.workflows.pseudo_label.teacher import Teacher


def splits_to_hear(corpus: Corpus, asked: Sequence[str] | None, teacher: Teacher) -> list[str]:
    """The names of the splits to transcribe, `train` by default; refuses those on which the teacher, or a student, is judged."""
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
