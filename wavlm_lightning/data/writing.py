"""Write a corpus from its plan: decode, check and pack recordings into shards, in several processes, resumable."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

from wavlm_lightning.audio import SAMPLE_RATE, BadAudio
from wavlm_lightning.data.corpus import Corpus, CorpusWriter
from wavlm_lightning.data.corpus_json import INDEX
from wavlm_lightning.data.finding import printable
from wavlm_lightning.data.recordings import AudioFile, CorpusPlan, Meta, Recording
from wavlm_lightning.data.shards import ShardIndex, Utterance, write_shard
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.files import check_output, locked, sweep_leftovers, write_json
from wavlm_lightning.system.hardware import capped, usable_cores
from wavlm_lightning.system.paths import plain_name
from wavlm_lightning.system.progress import progress_bar
from wavlm_lightning.system.reading import read_json
from wavlm_lightning.system.worker_pool import in_order

Job = tuple[Path, list[Recording], str, bool]
LEFT = r".*\.tmp"  # also those of older versions
Done = tuple[ShardIndex | None, dict[str, Any]]


def write_corpus(
    plan: CorpusPlan, out: Path, workers: int | None = None, on_error: Literal["stop", "skip"] = "stop"
) -> Corpus:
    """Read, check and write the recordings of a plan; shards that an interrupted run finished are kept.

    Args:
        plan: from a recipe.
        out: the corpus folder.
        workers: processes; one per core by default.
        on_error: `stop` at a file that cannot be used, or `skip` it and list it in `source.skipped`. Trials with a
            skipped utterance are left out and counted in `source.trials_dropped`.

    Raises:
        UserError: there is nothing to write, another process writes this corpus, the disk is full, a process was killed, or
            (with `on_error="stop"`) a file cannot be used.

    Example:
        >>> recordings = [Recording(Path("a.wav"), "a", {"speaker": "s1"})]
        >>> write_corpus(CorpusPlan("mine", "CC0", {"train": recordings}, {"speakers": ["s1"]}), Path("data/mine")).splits
        ['train']
    """
    check_output(out)
    out.mkdir(parents=True, exist_ok=True)
    busy = f"{out}: another process is preparing this corpus; wait for it, or choose another --out"
    with locked(out / ".lock", busy, optional=True):
        sweep_leftovers(out, LEFT)  # of a process that was killed
        try:
            return _write(plan, out, workers, on_error)
        finally:
            sweep_leftovers(out, LEFT)  # of processes that an error has ended


def _write(plan: CorpusPlan, out: Path, workers: int | None, on_error: str) -> Corpus:
    source: dict[str, Any] = {**plan.source, "skipped": []}
    writer = CorpusWriter(out, plan.name, plan.licence, source)
    for split in plan.splits:
        plain_name(split, f"{out}: the names of splits", "give that split another name")
        files: dict[str, Path] = {}
        for recording in plan.splits[split]:
            if recording.key in files:
                both = f"{printable(files[recording.key])} and {printable(recording.path)}"
                raise UserError(
                    f"{out}: {both} would both have the key {recording.key!r} in {split}; rename one of them"
                )
            files[recording.key] = recording.path
    if callable(plan.inventories):  # labels that are none are refused before hours of audio
        plan.inventories({split: [recording.meta for recording in part] for split, part in plan.splits.items()})
    places = [
        (split, number, recordings[begin : begin + plan.shard_files])
        for split, recordings in plan.splits.items()
        for number, begin in enumerate(range(0, len(recordings), plan.shard_files))
    ]
    jobs: list[Job] = [
        (out / f"{split}-{number:06d}.tar", chunk, on_error, plan.distinct) for split, number, chunk in places
    ]
    count = capped(workers, "--workers") if workers else usable_cores()
    # Resampling may use all cores when there is one process, as it always has.
    made = in_order(_shard_maker, jobs, count, one_thread_each=False, option="--workers")
    written: dict[str, list[Meta]] = {}
    absent: dict[str, set[str]] = {}
    too_short: dict[str, int] = {}
    sounds = Sounds()
    total = sum(map(len, plan.splits.values()))
    with contextlib.closing(made), progress_bar(total=total, unit=" files", desc=str(out)) as bar:
        for (split, _, chunk), (index, left_out) in zip(places, made, strict=True):
            if index is not None:
                writer.add_shard(split, index)
            source["skipped"] += left_out["skipped"]
            if left_out["too_short"]:
                too_short[split] = too_short.get(split, 0) + len(left_out["too_short"])
            gone = {entry["key"] for entry in left_out["skipped"]} | set(left_out["too_short"])
            absent.setdefault(split, set()).update(gone)
            sounds.add(split, left_out.get("sounds", {}))
            written.setdefault(split, []).extend(r.meta for r in chunk if r.key not in gone)
            bar.update(len(chunk))
    sounds.check(out)
    if sounds.within:
        source["twice_in_a_split"] = sounds.within
    if too_short:
        source["too_short"] = too_short
    listed = plan.trials or {}
    owner = {f"{split}_{name}": split for split, names in source.get("trial_lists", {}).items() for name in names}
    trials = {
        s: [row for row in rows if absent.get(owner.get(s, s), set()).isdisjoint(row[1:])] for s, rows in listed.items()
    }
    dropped = {s: len(rows) - len(trials[s]) for s, rows in listed.items() if len(rows) > len(trials[s])}
    if dropped:
        source["trials_dropped"] = dropped
    inventories = plan.inventories(written) if callable(plan.inventories) else plan.inventories
    labels = {name: names for name, names in inventories.items() if names}
    return writer.finish(labels, {split: rows for split, rows in trials.items() if rows})


class Sounds:
    """Finds recordings that are equal sample by sample, whatever their names and formats."""

    def __init__(self) -> None:
        self._first: dict[str, tuple[str, str]] = {}  # hash of the samples -> split and file that had them first
        self._across: list[str] = []
        self.within: dict[str, int] = {}  # split -> recordings that another one of the split equals

    def add(self, split: str, digests: dict[str, str]) -> None:
        """Add a shard of a split: the hash of each file."""
        for file, digest in digests.items():
            before, other = self._first.setdefault(digest, (split, file))
            if before != split:
                self._across.append(f"{other} in {before} and {file} in {split}")
            elif other != file:
                self.within[split] = self.within.get(split, 0) + 1

    def check(self, out: Path) -> None:
        """Refuse a corpus in which a sound of the training split is in another one, too."""
        if self._across:
            shown = ", ".join(self._across[:3]) + (", ..." if len(self._across) > 3 else "")
            raise UserError(
                f"{out}: {len(self._across)} recordings are the same sound in two splits ({shown}); remove one of each, or "
                "give a manifest whose column `split` keeps them together"
            )


def _shard_maker(device: str | None) -> Callable[[Job], Done]:
    return _make_shard


def _make_shard(job: Job) -> Done:
    """Read, check and write the recordings of one shard, unless an earlier run did."""
    path, recordings, on_error, distinct = job
    stamp = _stamp(recordings)
    if distinct:
        stamp += " distinct"  # the note of an older version has no hashes
    note = path.with_suffix(".prepared.json")
    if (earlier := _earlier(path, note, stamp, [recording.key for recording in recordings])) is not None:
        return earlier
    note.unlink(missing_ok=True)  # it describes the shard that is about to be replaced
    skipped: list[dict[str, str]] = []
    too_short: list[str] = []
    sounds: dict[str, str] = {}

    def utterances() -> Iterator[Utterance]:
        for recording in recordings:
            try:
                waveform = recording.waveform()
                audio = {name: file.waveform(recording.allow_silence) for name, file in recording.audio.items()}
            except (BadAudio, OSError) as error:
                if on_error == "stop":
                    raise UserError(f"{error}; repair or remove it, or use --on-error skip") from error
                skipped.append({"file": str(recording.path), "key": recording.key, "why": str(error)})
                continue
            if recording.longer_than and len(waveform) <= recording.longer_than * SAMPLE_RATE:
                too_short.append(recording.key)
            else:
                if distinct and waveform.any():
                    name = str(recording.meta.get("file", recording.key))
                    stretch = f" from {recording.start:g} s" if recording.start or recording.end is not None else ""
                    stretch += f" to {recording.end:g} s" if recording.end is not None else ""
                    stretch += f", channel {recording.channel}" if recording.channel is not None else ""
                    sounds[name + stretch] = hashlib.sha256(waveform.astype("<f4").tobytes()).hexdigest()
                yield Utterance(recording.key, waveform, recording.meta, recording.allow_silence, audio)

    index = write_shard(path, utterances())
    left_out: dict[str, Any] = {"skipped": skipped, "too_short": too_short}
    if distinct:
        left_out["sounds"] = sounds
    facts = {"stamp": stamp, "empty": index is None, "bytes": index.size if index else 0, **left_out}
    if index is not None:
        facts[INDEX] = index.index_sha256
    write_json(note, facts, durable=False, indent=None)
    return index, left_out


def _earlier(path: Path, note: Path, stamp: str, keys: list[str]) -> Done | None:
    """The result of an earlier run on the same recordings, if its shard is still there with the right size.

    The note is believed only if it accounts for every recording, those with `keys`: a note with other values
    must not leave recordings out.
    """
    try:
        kept = read_json(note, "the note of an earlier run")
        if kept["stamp"] != stamp or not _is_note(kept):
            return None
        gone = {entry["key"] for entry in kept["skipped"]} | set(kept["too_short"])
        left = [key for key in keys if key not in gone]
        if kept["empty"]:
            return None if left else (None, kept)
        index = ShardIndex.open(path)
        if index.keys != left or index.size != kept.get("bytes", index.size):
            return None
        return (index, kept) if index.index_sha256 == kept.get(INDEX, index.index_sha256) else None
    except (KeyError, UserError):
        return None


def _is_note(kept: dict[str, Any]) -> bool:
    """Whether a note has the values that `_make_shard` writes."""
    skipped, too_short, sounds = kept["skipped"], kept["too_short"], kept.get("sounds", {})
    texts = [kept["stamp"], *too_short] if isinstance(too_short, list) else [None]
    if not isinstance(skipped, list) or not isinstance(sounds, dict) or type(kept["empty"]) is not bool:
        return False
    for entry in skipped:
        texts += [entry.get(name) for name in ("file", "key", "why")] if isinstance(entry, dict) else [None]
    return all(isinstance(text, str) for text in [*texts, *sounds.values()])


def _stamp(recordings: list[Recording]) -> str:
    """A hash that changes if a file, its metadata or the way of reading it changes."""
    facts = []
    for recording in recordings:
        reading = [recording.start, recording.end, recording.gain_db, recording.trim, recording.longer_than]
        reading.append(recording.allow_silence)
        further = [
            [name, file.start, file.end, file.gain_db, *_source(file), *_state(file.path), *["padded"] * file.padded]
            for name, file in recording.audio.items()
        ]
        facts.append([recording.key, recording.meta, reading, _state(recording.path), _source(recording), further])
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()


def _source(file: Recording | AudioFile) -> list[Any]:
    """What is read of which file. Names of two folders suffice, so that a corpus that has moved is not written again."""
    return ["/".join(file.path.parts[-3:]), file.channel, repr(file.stored) if file.stored else None]


def _state(path: Path) -> list[int]:
    """Size and time of a file; empty if it is not there."""
    state = path.stat() if path.exists() else None
    return [state.st_size, state.st_mtime_ns] if state else []
