"""Make a corpus from any folder of recordings, with an optional CSV manifest: `wavlm prepare folder`."""

from __future__ import annotations

import hashlib
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.data.finding import SUFFIXES, FoundAudio, find_audio, printable
from wavlm_lightning.data.recordings import AudioFile, CorpusPlan, Inventories, Meta, Recording, clean_key, hold_out
from wavlm_lightning.data.shards import check_member_name
from wavlm_lightning.data.transcripts import visible
from wavlm_lightning.data.writing import write_corpus
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.files import check_output
from wavlm_lightning.system.paths import unique_names
from wavlm_lightning.system.reading import read_table, reading

RENAMED = {"transcript": "text", "transcription": "text", "speaker_id": "speaker", "lang": "language"}
FURTHER = "audio:"  # begins the columns with paths of further audio
SHARD_FILES = 500  # recordings per shard
# With fewer speakers, holding out whole ones would cost much data and give noisy scores.
FEWEST_SPEAKERS = 10


@dataclass(frozen=True)
class FolderRecipe:
    """Recordings under a folder, optionally described by a manifest.

    Linked folders are searched, files with another suffix are counted in `source.left_out`. Texts lose characters that
    nobody sees (`visible`). The same sound in two splits is refused. Files of any rate and channel count become 16 kHz
    mono FLAC. Shards that an interrupted run finished are kept.

    Args:
        folder: searched recursively; relative paths in the manifest start here.
        out: the corpus folder.
        manifest: CSV with a `path` column; `speaker`, `text` (or `transcript`), `language`, `split` and `phones`
            (from a lexicon, separated by spaces) are used; `start` and `end` (seconds) make an utterance of a stretch of
            a file. A column `audio:NAME` holds paths of further audio, such as `audio:clean` or `audio:enrolment`, empty
            where an utterance has none. All other columns are kept as they are.
        on_error: `stop` at a file that cannot be used, or `skip` it and list it.
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
    on_error: Literal["stop", "skip"] = "stop"
    valid: float = 0.05
    test: float = 0.05
    split_by: str = "auto"
    name: str | None = None
    licence: str = "unknown"

    def prepare(self, workers: int | None = None) -> Corpus:
        """Write the corpus.

        Raises:
            UserError: there is nothing to read, the manifest does not fit the files, or (with `on_error="stop"`) a file
                cannot be used.
        """
        check_output(self.out)
        found = None if self.manifest else self._found()
        splits = self._assign(self._recordings(found))
        name = self.name or self.folder.resolve().name
        source: dict[str, Any] = {"recipe": "folder", "split_by": self._unit(splits)}
        if found is not None and found.left_out:
            source["left_out"] = dict(sorted(found.left_out.items()))
        plan = CorpusPlan(name, self.licence, splits, _inventories, None, source, SHARD_FILES, distinct=True)
        return write_corpus(plan, self.out, workers, self.on_error)

    def _recordings(self, found: FoundAudio | None) -> list[Recording]:
        if found is None:
            self._check_folder()
            rows = self._manifest_rows()
        else:
            rows = [{"path": str(path.relative_to(self.folder))} for path in found.files]
        recordings: list[Recording] = []
        keys: set[str] = set()
        stretches: set[tuple[Path, float, float | None]] = set()
        for row in rows:
            path = Path(row.pop("path"))
            full = self._file(path)
            further = [column for column in row if column.startswith(FURTHER)]
            audio = {name.removeprefix(FURTHER): AudioFile(self._file(Path(row.pop(name)))) for name in further}
            start, end = row.pop("start", 0.0), row.pop("end", None)
            key = clean_key(str(path.with_suffix("")).lstrip("/"))
            if start or end is not None:
                key = f"{key}-{round(1000 * start):08d}"
            if key in keys:
                key = f"{key}-{hashlib.sha256(os.fsencode(path) + f' {start} {end}'.encode()).hexdigest()[:8]}"
            if key in keys:
                (key,) = unique_names([key], keys, case_counts=True)
            if (listed := (path, start, end)) in stretches:
                raise UserError(f"{self.manifest}: {printable(path)} is listed twice; leave one row out")
            stretches.add(listed)
            keys.add(key)
            if "phones" in row:
                row["phones"] = [[phone] for phone in row["phones"].split()]
            recordings.append(Recording(full, key, {**row, "file": printable(path)}, start, end, audio=audio))
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

    def _manifest_rows(self) -> list[dict[str, Any]]:
        assert self.manifest is not None
        rows = []
        for number, fields in read_table(self.manifest, "a manifest (CSV)", ["path"], remedy="correct this row"):
            where = f"{self.manifest}, line {number}"
            row: dict[str, Any] = {
                RENAMED.get(name, name): visible(value) for name, value in fields.items() if value.strip()
            }
            if "path" not in row:
                raise UserError(f"{where}: the path is empty")
            row["path"] = fields["path"].strip()  # the file has the name that it has
            for name in fields:
                if name.startswith(FURTHER):
                    check_member_name(name.removeprefix(FURTHER), f"{self.manifest}, column `{name}`")
                    if name in row:
                        row[name] = fields[name].strip()
            for name in ("start", "end"):
                if name in row:
                    row[name] = _seconds(row[name], f"{where}, column `{name}`")
            if "end" in row and row["end"] <= row.get("start", 0.0):
                raise UserError(f"{where}: the stretch ends at {row['end']:g} s, before it begins")
            rows.append(row)
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
        """Recordings by split: the split of the manifest, or by the hash of speaker or key."""
        given = [r for r in recordings if "split" in r.meta]
        if given and len(given) < len(recordings):
            raise UserError(
                f"{self.manifest}: {len(recordings) - len(given)} rows have no split, {len(given)} have; give all or none"
            )
        if given:
            splits: dict[str, list[Recording]] = {}
            named: dict[str, str] = {}
            for recording in recordings:
                name = clean_key(recording.meta["split"])
                other = named.setdefault(name, recording.meta["split"])
                if other != recording.meta["split"]:
                    both = f"{other!r} and {recording.meta['split']!r}"
                    raise UserError(f"{self.manifest}: the splits {both} would both be {name!r}; rename one")
                splits.setdefault(name, []).append(recording)
            return splits
        by_speaker = self._by_speaker(recordings)
        units = {r.key: str(r.meta["speaker"]) if by_speaker else r.key for r in recordings}
        shares = {"valid": self.valid, "test": self.test}
        split_of = hold_out(units.values(), shares, "speakers" if by_speaker else "files")
        names = ("train", "valid", "test")
        parts = {name: [r for r in recordings if split_of[units[r.key]] == name] for name in names}
        return {name: part for name, part in parts.items() if part}


def _seconds(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise UserError(f"{where}: {text!r} is not a number of seconds")
    return value


def _inventories(written: dict[str, list[Meta]]) -> Inventories:
    """Label sets of what was written: a speaker whose files were all skipped is not among them."""
    metas = [meta for part in written.values() for meta in part]
    return {
        "speakers": sorted({m["speaker"] for m in metas if m.get("speaker")}),
        "languages": sorted({m["language"] for m in metas if m.get("language")}),
        "phones": sorted({phone for m in metas for (phone,) in m.get("phones", [])}),
    }
