"""Labels beside the shards: one file a shard, each carrying the hash of its codebook and of its shard."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from wavlm_lightning.audio import SAMPLE_RATE
from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.data.shard_index import ShardIndex, check_each
from wavlm_lightning.data.split import Split
from wavlm_lightning.errors import UserError


def labels_directory(corpus: Corpus, name: str) -> Path:
    """Where the labels of a name lie: `CORPUS/labels/NAME`."""
    return corpus.directory / "labels" / name


def label_file(directory: Path, shard: ShardIndex) -> Path:
    """Where the labels of a shard lie."""
    return directory / f"{shard.path.stem}.safetensors"


class LabelRows(Sequence[np.ndarray]):
    """The labels of utterances, each read from its shard's file when it is asked for.

    Args:
        split: the utterances.
        files: the label file of each shard.
        check: raises if the labels do not belong to a shard; called for those that were not there at the beginning.
    """

    def __init__(self, split: Split, files: list[Path], check: Callable[[Path, ShardIndex, np.ndarray], None]) -> None:
        self._split, self._files, self._check = split, files, check
        here = [number for number, shard in enumerate(split.shards) if not shard.remote]
        check_each(self._check_shard, here)
        self._checked = set(here)

    def _check_shard(self, number: int) -> None:
        begin, end = self._split.starts[number : number + 2].tolist()
        self._check(self._files[number], self._split.shards[number], self._split.samples[begin:end])

    def __len__(self) -> int:
        return len(self._split)

    def __getitem__(self, number: int) -> np.ndarray:  # type: ignore[override]  # no slices: each would read files
        """uint16 `(label_frames,)` of one utterance."""
        if not 0 <= number < len(self):
            raise IndexError(number)  # ends an iteration
        shard, place = self._split.locate(number)
        which = int(np.searchsorted(self._split.starts, number, side="right")) - 1
        path = shard.fetch(self._files[which])
        if which not in self._checked:
            self._check_shard(which)
            self._checked.add(which)
        file = _opened(path, path.stat().st_mtime_ns, os.getpid())
        begin, end = file.get_slice("starts")[place : place + 2]
        return file.get_slice("labels")[int(begin) : int(end)]


@lru_cache(maxsize=256)
def _opened(path: Path, written: int, process: int) -> Any:
    # Kept open: reading a header costs more than reading a row. A forked worker opens its own.
    return safe_open(path, framework="np")


class JoinedRows(Sequence[np.ndarray]):
    """Labels of several splits, one after another.

    Args:
        parts: those of each split.
    """

    def __init__(self, parts: Sequence[Sequence[np.ndarray]]) -> None:
        self._parts = parts
        self._starts = np.cumsum([0, *map(len, parts)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, number: int) -> np.ndarray:  # type: ignore[override]
        """uint16 `(label_frames,)` of one utterance."""
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
        codebook_sha256: which codebook made them.
        rows: one uint16 `(label_frames,)` an utterance.
    """

    size: int
    rate: float
    codebook_sha256: str
    rows: Sequence[np.ndarray]

    def codebook(self) -> dict[str, Any]:
        """What checkpoints keep of it: size, hash and rate."""
        return {"size": self.size, "sha256": self.codebook_sha256, "rate": self.rate}

    @classmethod
    def open(cls, corpus: Corpus, name: str, split: str) -> LabelSet:
        """Open the labels of a split and check that they belong to its shards.

        The labels stay on disk. Those of a remote corpus are checked as they come.

        Raises:
            UserError: labels are missing, made from other shards or by different codebooks, or too short for the audio.
        """
        directory = labels_directory(corpus, name)
        again = f"run `wavlm codebook apply CODEBOOK {corpus.directory} --name {name}`"
        opened = corpus.split(split)
        _fetch_head(directory, opened.shards[0])
        if not (directory / "labels.json").is_file():
            raise UserError(f"{directory}: no labels here; {again}")
        head = json.loads((directory / "labels.json").read_text())
        files = [label_file(directory, shard) for shard in opened.shards]
        rows = LabelRows(opened, files, partial(_check, head=head, again=again))
        return cls(head["size"], head["rate"], head["codebook_sha256"], rows)

    @classmethod
    def join(cls, parts: Sequence[LabelSet]) -> LabelSet:
        """The labels of several splits, one after another.

        Raises:
            UserError: different codebooks made them.
        """
        first = parts[0]
        for part in parts[1:]:
            if part.codebook() != first.codebook():
                raise UserError(
                    f"labels: those of one corpus are of codebook {first.codebook_sha256[:12]}, those of another of "
                    f"{part.codebook_sha256[:12]}; run `wavlm codebook apply` with one codebook on all corpora"
                )
        rows = first.rows if len(parts) == 1 else JoinedRows([part.rows for part in parts])
        return cls(first.size, first.rate, first.codebook_sha256, rows)


def _fetch_head(directory: Path, shard: ShardIndex) -> None:
    if not shard.remote:
        return
    from wavlm_lightning.data.remote import materialise

    materialise(directory / "labels.json")


def _check(path: Path, shard: ShardIndex, samples: np.ndarray, *, head: dict[str, Any], again: str) -> None:
    """Raise if the labels in a file are not those of a shard, whose utterances have so many samples each."""
    if not path.is_file():
        raise UserError(f"{path}: this shard has no labels; {again}")
    with safe_open(path, framework="np") as file:
        meta, starts = file.metadata(), file.get_tensor("starts")
        labels = file.get_slice("labels").get_shape()[0]
    if meta["shard_sha256"] != shard.sha256:
        raise UserError(f"{path}: these labels were made from another version of {shard.path.name}; {again}")
    if meta["codebook_sha256"] != head["codebook_sha256"]:
        raise UserError(f"{path}: made by another codebook than labels.json says; remove the folder and {again}")
    if float(meta["rate"]) != head["rate"]:
        raise UserError(f"{path}: its rate is {meta['rate']} labels/s, labels.json says {head['rate']}; {again}")
    if len(starts) != shard.utterances + 1:
        raise UserError(
            f"{path}: labels for {len(starts) - 1} utterances, but the shard holds {shard.utterances}; {again}"
        )
    if starts[-1] > labels:
        raise UserError(f"{path}: it ends before the labels of its last utterance; remove the file and {again}")
    # A window of 25 ms and the grid's rounding may cost some labels at the end, never more than 0.1 s.
    short = np.abs(np.diff(starts) - samples / SAMPLE_RATE * head["rate"]) > 0.1 * head["rate"]
    if short.any():
        place = int(short.argmax())
        raise UserError(
            f"{path}: utterance {shard.keys[place]!r} has {starts[place + 1] - starts[place]} labels for "
            f"{samples[place] / SAMPLE_RATE:.2f} s at {head['rate']:g} labels/s; {again}"
        )
