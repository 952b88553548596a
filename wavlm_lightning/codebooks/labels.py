"""Frame labels of a corpus: one file per shard, with the hashes of its codebook and of its shard."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from safetensors import safe_open

from wavlm_lightning.codebooks.label_files import (
    SOFT_CLASSES,
    SOFT_WEIGHTS,
    LabelHead,
    check_content,
    check_label_set,
    check_labels,
    label_file,
    labels_directory,
)
from wavlm_lightning.codebooks.soft_labels import SoftSetting
from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.data.remote.mirror import is_remote, materialise
from wavlm_lightning.data.remote.transport import NotThere
from wavlm_lightning.data.shard_index import REMOTE_HANDLES, ShardIndex, check_each
from wavlm_lightning.data.split import Split
from wavlm_lightning.encoder.checkpoints.labels_seen import LABELLED, Entry, entries_of, joined
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.reading import read_json, reading, reason_of

Row = TypeVar("Row")


class LabelRows(Sequence[np.ndarray]):
    """The labels of a split's utterances, read from disk on access.

    `check` raises if a file of labels does not belong to its shard; it sees those of a remote corpus when they arrive.
    """

    def __init__(
        self,
        split: Split,
        files: list[Path],
        check: Callable[[Path, ShardIndex, np.ndarray], None],
        check_content: Callable[[Path], None],
    ) -> None:
        self._split, self._files, self._check, self._check_content = split, files, check, check_content
        here = [number for number, shard in enumerate(split.shards) if not shard.remote]
        check_each(self._check_shard, here)
        self._checked = np.zeros(len(split.shards), dtype=bool)
        self._checked[here] = True
        self._read = np.zeros(len(split.shards), dtype=bool)  # files whose content this process has checked

    def _check_shard(self, number: int) -> None:
        begin, end = self._split.starts[number : number + 2].tolist()
        self._check(self._files[number], self._split.shards[number], self._split.samples[begin:end])

    def __len__(self) -> int:
        return len(self._split)

    def __getitem__(self, number: int) -> np.ndarray:  # type: ignore[override]  # no slices: they would read files
        """uint16 `(label_frames,)` of one utterance."""
        return self.read(number, "labels")[0]

    def read(self, number: int, *names: str) -> tuple[np.ndarray, ...]:
        """The rows of one utterance in tensors of its label file, `(label_frames, ...)`."""
        if not 0 <= number < len(self):
            raise IndexError(number)  # the sequence protocol ends an iteration with it
        shard, place = self._split.locate(number)
        which = int(np.searchsorted(self._split.starts, number, side="right")) - 1
        try:
            file = self._file(which, shard)
        except FileNotFoundError:  # another process may have evicted it from the cache
            if not shard.remote:
                self._check_shard(which)
            file = self._file(which, shard)
        begin, end = file.get_slice("starts")[place : place + 2].tolist()
        return tuple(file.get_slice(name)[begin:end] for name in names)

    def _file(self, which: int, shard: ShardIndex) -> Any:
        path = shard.fetch(self._files[which])
        if not self._checked[which]:
            self._check_shard(which)
            self._checked[which] = True
        if not self._read[which]:  # once a process, where the file is first read: opening 188,000 files reads none
            self._check_content(path)
            self._read[which] = True
        # The inode identifies a rewritten file; the modification time does not, because the cache of remote corpora
        # updates it at every use.
        return (_opened_remote if shard.remote else _opened)(path, path.stat().st_ino, os.getpid())


def _open(path: Path, inode: int, process: int) -> Any:
    # Kept open, because reading the header costs more than reading a row. The process is part of the key, because
    # forked workers must not share a file.
    with reading(path, "labels", "remove the file and run `wavlm codebook apply` again"):
        return safe_open(path, framework="np")


_opened = lru_cache(maxsize=256)(_open)
_opened_remote = lru_cache(maxsize=REMOTE_HANDLES)(_open)


class SoftRows(Sequence[tuple[np.ndarray, ...]]):
    """The soft labels of a split's utterances, read from disk on access."""

    def __init__(self, rows: LabelRows) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, number: int) -> tuple[np.ndarray, ...]:  # type: ignore[override]
        """Classes uint16 and weights float16 `(label_frames, soft labels)` of one utterance."""
        return self._rows.read(number, SOFT_CLASSES, SOFT_WEIGHTS)


class JoinedRows(Sequence[Row]):
    """Labels of several splits, concatenated."""

    def __init__(self, parts: Sequence[Sequence[Row]]) -> None:
        self._parts = parts
        self._starts = np.cumsum([0, *map(len, parts)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, number: int) -> Row:  # type: ignore[override]
        if not 0 <= number < len(self):
            raise IndexError(number)
        part = int(np.searchsorted(self._starts, number, side="right")) - 1
        return self._parts[part][number - int(self._starts[part])]


@dataclass(frozen=True)
class LabelSet:
    """The labels of one split, in the order of its utterances.

    Attributes:
        size: number of different labels.
        rate: labels per second.
        codebook_sha256: hash of their codebook.
        rows: for each utterance uint16 `(label_frames,)`.
        has_labels: which utterances have labels, bool `(utterances,)`; None if all have.
        labelled: labelled speech that the codebook was made with, an entry a corpus; empty if there was none.
        soft: how soft labels were made; None if they are hard alone.
        soft_rows: for each utterance classes and weights, see `SoftRows`; None without soft labels.
    """

    size: int
    rate: float
    codebook_sha256: str
    rows: Sequence[np.ndarray]
    has_labels: np.ndarray | None = None
    labelled: tuple[Entry, ...] = ()
    soft: SoftSetting | None = None
    soft_rows: Sequence[tuple[np.ndarray, ...]] | None = None

    def codebook(self) -> dict[str, Any]:
        """Size, hash and rate, as checkpoints store them; with which labels it was made, and its soft labels, if any."""
        seen = {LABELLED: [dict(entry) for entry in self.labelled]} if self.labelled else {}
        soft = {} if self.soft is None else {"soft": self.soft.about()}
        return {"size": self.size, "sha256": self.codebook_sha256, "rate": self.rate, **seen, **soft}

    @classmethod
    def open(cls, corpus: Corpus, name: str, split: str) -> LabelSet:
        """Open the labels of a split and check that they belong to its shards; the labels stay on disk.

        Raises:
            UserError: labels are missing, of other shards or of different codebooks, or too short for the audio.
        """
        directory, opened = labels_directory(corpus, name), corpus.split(split)
        head = label_head(corpus, name)
        files = [label_file(directory, shard) for shard in opened.shards]
        again = _again(corpus, name)
        whole = partial(_whole, size=head["size"], again=again)
        rows = LabelRows(opened, files, partial(check_labels, head=head, again=again), whole)
        has_labels, soft = None, SoftSetting.read(head)
        if head.get("partial") is True:  # of a remote corpus, all label files are fetched for this
            starts = [
                LabelHead.read(shard.fetch(path)).starts for shard, path in zip(opened.shards, files, strict=True)
            ]
            has_labels = np.concatenate([np.diff(each) > 0 for each in starts])
        seen = tuple(entries_of(head.get(LABELLED)))
        soft_rows = SoftRows(rows) if soft else None
        return cls(head["size"], head["rate"], head["codebook_sha256"], rows, has_labels, seen, soft, soft_rows)

    @classmethod
    def join(cls, parts: Sequence[LabelSet]) -> LabelSet:
        """Concatenate the labels of several splits; a UserError says if they are of different codebooks."""
        first = parts[0]
        for part in parts[1:]:
            if (part.size, part.rate, part.codebook_sha256) != (first.size, first.rate, first.codebook_sha256):
                raise UserError(
                    f"labels: one corpus has labels of codebook {first.codebook_sha256[:12]}, another one of "
                    f"{part.codebook_sha256[:12]}; run `wavlm codebook apply` with one codebook on all corpora"
                )
            if part.soft != first.soft:
                first_is, part_is = (each.soft.about() if each.soft else "none" for each in (first, part))
                raise UserError(
                    f"labels: one corpus has soft labels {first_is}, another one {part_is}; run `wavlm codebook apply` with "
                    "the same --soft and --temperature on all corpora"
                )
        rows = first.rows if len(parts) == 1 else JoinedRows([part.rows for part in parts])
        soft_rows = first.soft_rows
        if len(parts) > 1 and first.soft is not None:
            soft_rows = JoinedRows([part.soft_rows for part in parts if part.soft_rows is not None])
        seen = tuple(joined(*(part.labelled for part in parts)))
        return cls(first.size, first.rate, first.codebook_sha256, rows, _joined(parts), seen, first.soft, soft_rows)


def _joined(parts: Sequence[LabelSet]) -> np.ndarray | None:
    """Which utterances of several splits have labels; None if all have."""
    if all(part.has_labels is None for part in parts):
        return None
    return np.concatenate(
        [np.ones(len(part.rows), dtype=bool) if part.has_labels is None else part.has_labels for part in parts]
    )


def label_sets(corpus: Corpus) -> list[str]:
    """Names of the label sets in a corpus folder; for a remote corpus, those that were downloaded."""
    return sorted(path.parent.name for path in corpus.directory.glob("labels/*/labels.json"))


def label_head(corpus: Corpus, name: str) -> dict[str, Any]:
    """The content of `labels.json`: `size`, `rate`, `codebook_sha256`, perhaps `soft`; a UserError says if it is missing."""
    path = labels_directory(corpus, name) / "labels.json"
    if is_remote(corpus.directory):
        try:
            materialise(path)
        except NotThere as error:
            raise UserError(f"{corpus.name}: no labels {name!r} at the corpus' URL ({error})") from error
    if not path.exists():
        raise UserError(f"{path.parent}: no labels here; {_again(corpus, name)}")
    head = read_json(path, "the description of labels", f"remove it and {_again(corpus, name)}", kind=object)
    if (wrong := check_label_set(head)) is not None:
        raise UserError(f"{path}: {wrong}; remove it and {_again(corpus, name)}")
    return head


def _whole(path: Path, size: int, again: str) -> None:
    try:
        check_content(path, size)
    except FileNotFoundError:  # removed after it had been checked
        raise
    except Exception as error:  # parsers of a damaged header raise what they like
        raise UserError(f"{path}: damaged ({reason_of(error)}); remove the file and {again}") from error


def _again(corpus: Corpus, name: str) -> str:
    return f"run `wavlm codebook apply CODEBOOK {corpus.directory} --name {name}`"
