"""Make a corpus from any folder of recordings, with an optional manifest (CSV, TSV, jsonl): `wavlm prepare folder`."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.data.division import Division
from wavlm_lightning.data.finding import SUFFIXES, FoundAudio, find_audio, printable
from wavlm_lightning.data.foreign.manifest import FURTHER, WHOLE, manifest_rows
from wavlm_lightning.data.label_sets import label_sets
from wavlm_lightning.data.recordings import AudioFile, CorpusPlan, Recording, clean_key
from wavlm_lightning.data.writing import write_corpus
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.files import check_output
from wavlm_lightning.system.paths import unique_names
from wavlm_lightning.system.reading import reading

SHARD_FILES = 500  # recordings per shard
DURATION_TOLERANCE = 0.1  # seconds by which a stated length may differ from that of the file: lists are rounded


@dataclass(frozen=True)
class FolderRecipe:
    """Recordings under a folder, optionally described by a manifest.

    Linked folders are searched, files with another suffix are counted in `source.left_out`. Texts lose characters that
    nobody sees (`visible`). The same sound in two splits is refused. Files of any rate and channel count become 16 kHz
    mono FLAC. Shards that an interrupted run finished are kept.

    Args:
        folder: searched recursively; relative paths in the manifest start here.
        out: the corpus folder.
        manifest: CSV or TSV with a `path` column, or jsonl (see `data/foreign/manifest.py`); `speaker`, `text` (or
            `transcript`), `language`, `split` and `phones` (from a lexicon, separated by spaces) are used; `start` and `end`
            (seconds) make an utterance of a stretch of a file, `channel` (from 0) of one channel. A column `audio:NAME` holds
            paths of further audio, such as `audio:clean` or `audio:enrolment`, empty where an utterance has none. All other
            columns are kept as they are.
        on_error: `stop` at a file that cannot be used, or `skip` it and list it.
        valid: share held out for validation.
        test: share held out for test.
        split_by: see `wavlm_lightning.data.division.Division`.
        name: of the corpus.
        licence: terms of use.
        label_columns: columns whose values become a label set of their name, for heads of your own.

    Example:
        >>> FolderRecipe(Path("recordings"), Path("data/mine")).prepare().splits
        ['train', 'valid', 'test']
    """

    folder: Path
    out: Path
    manifest: Path | None = None
    on_error: Literal["stop", "skip"] = "stop"
    valid: float = 0.05
    test: float = 0.05
    split_by: str = "auto"
    name: str | None = None
    licence: str = "unknown"
    label_columns: Sequence[str] = ()

    def prepare(self, workers: int | None = None) -> Corpus:
        """Write the corpus.

        Raises:
            UserError: there is nothing to read, the manifest does not fit the files, or (with `on_error="stop"`) a file
                cannot be used.
        """
        check_output(self.out)
        found = None if self.manifest else self._found()
        division = Division(self.valid, self.test, self.split_by)
        divided = division.divide(self._recordings(found), self.manifest or self.folder)
        name = self.name or self.folder.resolve().name
        source: dict[str, Any] = {"recipe": "folder", "split_by": divided.unit, "divided": divided.said}
        if found is not None and found.left_out:
            source["left_out"] = dict(sorted(found.left_out.items()))
        inventories = partial(label_sets, columns=tuple(self.label_columns))
        plan = CorpusPlan(name, self.licence, divided.splits, inventories, None, source, SHARD_FILES, distinct=True)
        return write_corpus(plan, self.out, workers, self.on_error)

    def _recordings(self, found: FoundAudio | None) -> list[Recording]:
        if found is None:
            self._check_folder()
            rows = self._listed()
        else:
            rows = [{"path": str(path.relative_to(self.folder))} for path in found.files]
        recordings: list[Recording] = []
        keys: set[str] = set()
        stretches: set[tuple[Path, float, float | None, int | None]] = set()
        for row in rows:
            path = Path(row.pop("path"))
            full = self._file(path)
            further = [column for column in row if column.startswith(FURTHER)]
            audio = {name.removeprefix(FURTHER): AudioFile(self._file(Path(row.pop(name)))) for name in further}
            start, end, channel = row.pop("start", 0.0), row.pop("end", None), row.pop("channel", None)
            key = clean_key(str(path.with_suffix("")).lstrip("/"))
            if start or end is not None:
                key = f"{key}-{round(1000 * start):08d}"
            if channel is not None:
                key = f"{key}-channel{channel}"
            if key in keys:
                key = f"{key}-{hashlib.sha256(os.fsencode(path) + f' {start} {end}'.encode()).hexdigest()[:8]}"
            if key in keys:
                (key,) = unique_names([key], keys, case_counts=True)
            if (listed := (path, start, end, channel)) in stretches:
                raise UserError(f"{self.manifest}: {printable(path)} is listed twice; leave one row out")
            stretches.add(listed)
            keys.add(key)
            if (stated := row.pop(WHOLE, None)) is not None:
                self._check_whole(full, stated)
            meta = {**row, "file": printable(path)}
            recordings.append(Recording(full, key, meta, start, end, audio=audio, channel=channel))
        if not recordings:
            raise UserError(
                f"{self.manifest}: lists no file"
                if found is None
                else f"{self.folder}: no {', '.join(sorted(SUFFIXES))} file here or below"
            )
        return recordings

    def _file(self, path: Path) -> Path:
        full = path if path.is_absolute() else self.folder / path
        with reading(self.manifest or self.folder, "a list of files"):  # a name may be longer than names can be
            there = full.is_file()
        if not there and self.on_error == "stop":
            raise UserError(
                f"{full}: no such file, but {self.manifest} lists it; correct the manifest or use --on-error skip"
            )
        return full

    def _check_folder(self) -> None:
        if not self.folder.is_dir():
            raise UserError(f"{self.folder}: no such folder; name the folder that holds the recordings")

    def _found(self) -> FoundAudio:
        """The files of the folder; one recording in two formats is refused, or kept once with `on_error="skip"`."""
        self._check_folder()
        found = find_audio(self.folder)
        takes: dict[Path, list[Path]] = {}
        for path in found.files:
            takes.setdefault(path.with_suffix(""), []).append(path)
        twice = [paths for paths in takes.values() if len(paths) > 1]
        if twice and self.on_error == "stop":
            names = ", ".join(" and ".join(printable(path) for path in paths) for paths in twice[:3])
            raise UserError(
                f"{self.folder}: {len(twice)} recordings are there in two formats ({names}{', ...' if len(twice) > 3 else ''}); "
                "remove one of each, name the files in a --manifest, or keep the first of each with --on-error skip"
            )
        for paths in twice:
            for path in paths[1:]:
                found.left_out[f"{path.suffix.lower()} (the same take in another format)"] += 1
        return FoundAudio(sorted(paths[0] for paths in takes.values()), found.left_out)

    def _listed(self) -> list[dict[str, Any]]:
        assert self.manifest is not None
        rows = []
        for where, row in manifest_rows(self.manifest):
            if "end" in row and row["end"] <= row.get("start", 0.0):
                raise UserError(f"{where}: the stretch ends at {row['end']:g} s, before it begins")
            rows.append(row)
        return rows

    def _check_whole(self, file: Path, stated: float) -> None:
        """Refuse a `duration` without an `offset` that is not that of the file: readers differ in what they take of it."""
        from wavlm_lightning.audio import stated_seconds

        lasts = stated_seconds(file)
        if lasts is not None and abs(lasts - stated) > DURATION_TOLERANCE:
            raise UserError(
                f"{self.manifest}: {printable(file)} lasts {lasts:.2f} s, but its duration is {stated:g} s; correct it, or add "
                '"offset": 0 to take the beginning of the file'
            )
