"""`wavlm prepare folder`: any folder of recordings to a corpus."""

from __future__ import annotations

import csv
import hashlib
import json
import math
import os
import re
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from wavlm_lightning.audio import BadAudio, load_mono
from wavlm_lightning.data.corpus import Corpus, CorpusWriter
from wavlm_lightning.data.shards import ShardIndex, Utterance, write_shard
from wavlm_lightning.errors import UserError
from wavlm_lightning.progress import progress_bar

SUFFIXES = {".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff", ".aif", ".au"}
RENAMED = {"transcript": "text", "transcription": "text", "speaker_id": "speaker", "lang": "language"}
SHARD_FILES = 500
FEWEST_SPEAKERS = 10
"""With fewer speakers than this, holding some of them out would cost too much of the data or be left to luck."""


@dataclass(frozen=True)
class Recording:
    """A file to read, under the key and with the metadata its utterance will have."""

    path: Path
    key: str
    meta: dict[str, Any]


@dataclass(frozen=True)
class FolderRecipe:
    """Recordings under a folder, optionally described by a manifest.

    Files of any rate and channel count become 16 kHz mono FLAC. Shards that an interrupted run has finished are kept.

    Args:
        folder: searched with all folders below it; relative paths of the manifest start here.
        out: the corpus folder.
        manifest: CSV with a `path` column; `speaker`, `text` (or `transcript`), `language`, `split` and `phones`
            (from a lexicon, separated by spaces) are used, all other columns are kept as they are.
        on_error: `stop` at a file that cannot be used, or `skip` and count it.
        valid: share held out for validation.
        test: share held out for test.
        split_by: hold out whole speakers, or single files; `auto` takes speakers if there are at least 10.
        name: of the corpus.
        licence: terms of use.

    Example:
        >>> FolderRecipe(Path("recordings"), Path("data/mine")).prepare().splits
        ['train', 'valid', 'test']
    """

    folder: Path
    out: Path
    manifest: Path | None = None
    on_error: str = "stop"
    valid: float = 0.05
    test: float = 0.05
    split_by: str = "auto"
    name: str | None = None
    licence: str = "unknown"

    def prepare(self, workers: int | None = None) -> Corpus:
        """Write the corpus.

        Raises:
            UserError: nothing to read, a manifest that does not fit, or (with `on_error="stop"`) a bad file.
        """
        recordings = self._assign(self._recordings())
        self.out.mkdir(parents=True, exist_ok=True)
        source: dict[str, Any] = {"recipe": "folder", "split_by": self._unit(recordings), "skipped": []}
        writer = CorpusWriter(self.out, self.name or self.folder.resolve().name, self.licence, source)
        jobs = [
            (self.out / f"{split}-{number:06d}.tar", chunk, self.on_error)
            for split, part in recordings.items()
            for number, chunk in enumerate(_chunks(part))
        ]
        everything = [recording for part in recordings.values() for recording in part]
        with progress_bar(total=len(everything), unit=" files", desc=str(self.out)) as bar:
            for (path, chunk, _), (index, skipped) in zip(jobs, _run(jobs, workers), strict=True):
                if index is not None:
                    writer.add_shard(path.stem.rsplit("-", 1)[0], index)
                source["skipped"] += skipped
                bar.update(len(chunk))
        unused = {entry["file"] for entry in source["skipped"]}
        metas: list[dict[str, Any]] = [r.meta for r in everything if str(r.path) not in unused]
        inventories = {
            "speakers": sorted({m["speaker"] for m in metas if m.get("speaker")}),
            "languages": sorted({m["language"] for m in metas if m.get("language")}),
            "phones": sorted({phone for m in metas for (phone,) in m.get("phones", [])}),
        }
        return writer.finish({k: v for k, v in inventories.items() if v})

    def _recordings(self) -> list[Recording]:
        if not self.folder.is_dir():
            raise UserError(f"{self.folder}: no such folder; name the folder that holds the recordings")
        rows: list[dict[str, Any]] = self._manifest_rows() if self.manifest else [{"path": p} for p in self._found()]
        recordings: list[Recording] = []
        keys: set[str] = set()
        for row in rows:
            path = Path(row.pop("path"))
            full = path if path.is_absolute() else self.folder / path
            if not full.is_file() and self.on_error == "stop":
                raise UserError(
                    f"{full}: no such file, but {self.manifest} lists it; mend the manifest or use --on-error skip"
                )
            key = re.sub(r"[^A-Za-z0-9_-]+", "_", str(path.with_suffix("")).lstrip("/"))
            if key in keys:
                key = f"{key}-{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
            keys.add(key)
            if "phones" in row:
                row["phones"] = [[phone] for phone in row["phones"].split()]
            recordings.append(Recording(full, key, {**row, "file": str(path)}))
        if not recordings:
            raise UserError(f"{self.folder}: no {', '.join(sorted(SUFFIXES))} file here or below")
        return recordings

    def _found(self) -> list[str]:
        files = (p for p in self.folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
        return sorted(str(p.relative_to(self.folder)) for p in files)

    def _manifest_rows(self) -> list[dict[str, Any]]:
        assert self.manifest is not None
        try:
            with self.manifest.open(newline="", encoding="utf-8-sig") as file:
                reader = csv.DictReader(file)
                columns = reader.fieldnames or []
                rows = [{RENAMED.get(k, k): v for k, v in row.items() if k is not None and v} for row in reader]
        except FileNotFoundError as error:
            raise UserError(f"{self.manifest}: no such manifest") from error
        if "path" not in columns:
            raise UserError(f"{self.manifest}: no `path` column; its columns are {', '.join(columns) or 'none'}")
        for number, row in enumerate(rows, start=2):
            if "path" not in row:
                raise UserError(f"{self.manifest}, line {number}: the path is empty")
        return rows

    def _unit(self, recordings: dict[str, list[Recording]]) -> str:
        everything = [r for part in recordings.values() for r in part]
        if all("split" in r.meta for r in everything):
            return "manifest"
        return "speaker" if self._by_speaker(everything) else "file"

    def _by_speaker(self, recordings: list[Recording]) -> bool:
        speakers = {r.meta.get("speaker") for r in recordings}
        if self.split_by == "auto":
            return None not in speakers and len(speakers) >= FEWEST_SPEAKERS
        if self.split_by == "speaker" and (None in speakers or len(speakers) < 3):
            raise UserError(
                "--split-by speaker needs a speaker for every file and at least 3 of them; use --split-by file"
            )
        return self.split_by == "speaker"

    def _assign(self, recordings: list[Recording]) -> dict[str, list[Recording]]:
        """Give every recording its split: the manifest's, or by the hash of its speaker or key."""
        given = [r for r in recordings if "split" in r.meta]
        if given and len(given) < len(recordings):
            raise UserError(
                f"{self.manifest}: {len(recordings) - len(given)} rows have no split, {len(given)} have; give all or none"
            )
        if given:
            splits: dict[str, list[Recording]] = {}
            for recording in recordings:
                name = re.sub(r"[^A-Za-z0-9_-]+", "_", recording.meta["split"])
                splits.setdefault(name, []).append(recording)
            return splits
        by_speaker = self._by_speaker(recordings)
        units = {r.key: str(r.meta["speaker"]) if by_speaker else r.key for r in recordings}
        order = sorted(set(units.values()), key=lambda unit: hashlib.sha256(unit.encode()).hexdigest())
        held = {"valid": math.ceil(self.valid * len(order)), "test": math.ceil(self.test * len(order))}
        if sum(held.values()) >= len(order):
            raise UserError(
                f"--valid and --test would hold out all {len(order)} {'speakers' if by_speaker else 'files'}"
            )
        split_of = dict.fromkeys(order, "train")
        split_of |= dict.fromkeys(order[: held["valid"]], "valid")
        split_of |= dict.fromkeys(order[held["valid"] : held["valid"] + held["test"]], "test")
        names = ("train", "valid", "test")
        parts = {name: [r for r in recordings if split_of[units[r.key]] == name] for name in names}
        return {name: part for name, part in parts.items() if part}


def _chunks(recordings: list[Recording]) -> Iterator[list[Recording]]:
    for begin in range(0, len(recordings), SHARD_FILES):
        yield recordings[begin : begin + SHARD_FILES]


Job = tuple[Path, list[Recording], str]
Done = tuple[ShardIndex | None, list[dict[str, str]]]


def _run(jobs: list[Job], workers: int | None) -> Iterator[Done]:
    workers = min(workers or os.cpu_count() or 1, len(jobs))
    if workers <= 1:
        yield from map(_make_shard, jobs)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from pool.map(_make_shard, jobs)


def _make_shard(job: Job) -> Done:
    """Read, check and write the recordings of one shard, unless an earlier run has."""
    path, recordings, on_error = job
    stamp = _stamp(recordings)
    note = path.with_suffix(".prepared.json")
    if note.is_file():
        kept = json.loads(note.read_text())
        if kept["stamp"] == stamp and (kept["empty"] or path.is_file()):
            return (None if kept["empty"] else ShardIndex.open(path)), kept["skipped"]
    skipped: list[dict[str, str]] = []

    def utterances() -> Iterator[Utterance]:
        for recording in recordings:
            try:
                yield Utterance(recording.key, load_mono(recording.path), recording.meta)
            except (BadAudio, OSError) as error:
                if on_error == "stop":
                    raise UserError(f"{error}; mend or remove it, or use --on-error skip") from error
                skipped.append({"file": str(recording.path), "why": str(error)})

    index = write_shard(path, utterances())
    note.write_text(json.dumps({"stamp": stamp, "skipped": skipped, "empty": index is None}))
    return index, skipped


def _stamp(recordings: list[Recording]) -> str:
    """Changes when a file or its metadata does."""
    facts = []
    for recording in recordings:
        state = recording.path.stat() if recording.path.exists() else None
        facts.append([recording.key, recording.meta, state and [state.st_size, state.st_mtime_ns]])
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()
