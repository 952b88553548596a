"""Make a corpus from any folder of recordings, with an optional CSV manifest: `wavlm prepare folder`."""

from __future__ import annotations

import csv
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.data.recordings import AudioFile, CorpusPlan, Inventories, Meta, Recording, clean_key, hold_out
from wavlm_lightning.data.shards import check_member_name
from wavlm_lightning.data.writing import write_corpus
from wavlm_lightning.system.errors import UserError

SUFFIXES = {".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff", ".aif", ".au"}
RENAMED = {"transcript": "text", "transcription": "text", "speaker_id": "speaker", "lang": "language"}
FURTHER = "audio:"  # begins the columns with paths of further audio
SHARD_FILES = 500  # recordings per shard
# With fewer speakers, holding out whole ones would cost much data and give noisy scores.
FEWEST_SPEAKERS = 10


@dataclass(frozen=True)
class FolderRecipe:
    """Recordings under a folder, optionally described by a manifest.

    Files of any rate and channel count become 16 kHz mono FLAC. Shards that an interrupted run finished are kept.

    Args:
        folder: searched recursively; relative paths in the manifest start here.
        out: the corpus folder.
        manifest: CSV with a `path` column; `speaker`, `text` (or `transcript`), `language`, `split` and `phones`
            (from a lexicon, separated by spaces) are used. A column `audio:NAME` holds paths of further audio, such as
            `audio:clean` or `audio:enrolment`, empty where an utterance has none. All other columns are kept as they are.
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
        splits = self._assign(self._recordings())
        name = self.name or self.folder.resolve().name
        source = {"recipe": "folder", "split_by": self._unit(splits)}
        plan = CorpusPlan(name, self.licence, splits, _inventories, source=source, shard_files=SHARD_FILES)
        return write_corpus(plan, self.out, workers, self.on_error)

    def _recordings(self) -> list[Recording]:
        if not self.folder.is_dir():
            raise UserError(f"{self.folder}: no such folder; name the folder that holds the recordings")
        rows: list[dict[str, Any]] = self._manifest_rows() if self.manifest else [{"path": p} for p in self._found()]
        recordings: list[Recording] = []
        keys: set[str] = set()
        for row in rows:
            path = Path(row.pop("path"))
            full = self._file(path)
            further = [column for column in row if column.startswith(FURTHER)]
            audio = {name.removeprefix(FURTHER): AudioFile(self._file(Path(row.pop(name)))) for name in further}
            key = clean_key(str(path.with_suffix("")).lstrip("/"))
            if key in keys:
                key = f"{key}-{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
            keys.add(key)
            if "phones" in row:
                row["phones"] = [[phone] for phone in row["phones"].split()]
            recordings.append(Recording(full, key, {**row, "file": str(path)}, audio=audio))
        if not recordings:
            raise UserError(f"{self.folder}: no {', '.join(sorted(SUFFIXES))} file here or below")
        return recordings

    def _file(self, path: Path) -> Path:
        full = path if path.is_absolute() else self.folder / path
        if not full.is_file() and self.on_error == "stop":
            raise UserError(
                f"{full}: no such file, but {self.manifest} lists it; correct the manifest or use --on-error skip"
            )
        return full

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
        for column in columns:
            if column.startswith(FURTHER):
                check_member_name(column.removeprefix(FURTHER), f"{self.manifest}, column `{column}`")
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
        """Recordings by split: the split of the manifest, or by the hash of speaker or key."""
        given = [r for r in recordings if "split" in r.meta]
        if given and len(given) < len(recordings):
            raise UserError(
                f"{self.manifest}: {len(recordings) - len(given)} rows have no split, {len(given)} have; give all or none"
            )
        if given:
            splits: dict[str, list[Recording]] = {}
            for recording in recordings:
                splits.setdefault(clean_key(recording.meta["split"]), []).append(recording)
            return splits
        by_speaker = self._by_speaker(recordings)
        units = {r.key: str(r.meta["speaker"]) if by_speaker else r.key for r in recordings}
        shares = {"valid": self.valid, "test": self.test}
        split_of = hold_out(units.values(), shares, "speakers" if by_speaker else "files")
        names = ("train", "valid", "test")
        parts = {name: [r for r in recordings if split_of[units[r.key]] == name] for name in names}
        return {name: part for name, part in parts.items() if part}


def _inventories(written: dict[str, list[Meta]]) -> Inventories:
    """Label sets of what was written: a speaker whose files were all skipped is not among them."""
    metas = [meta for part in written.values() for meta in part]
    return {
        "speakers": sorted({m["speaker"] for m in metas if m.get("speaker")}),
        "languages": sorted({m["language"] for m in metas if m.get("language")}),
        "phones": sorted({phone for m in metas for (phone,) in m.get("phones", [])}),
    }
