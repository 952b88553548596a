"""Labels beside the shards: one file a shard, each carrying the hash of its codebook and of its shard."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from wavlm_lightning.audio import SAMPLE_RATE
from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.data.shards import ShardIndex
from wavlm_lightning.errors import UserError


def labels_directory(corpus: Corpus, name: str) -> Path:
    """Where the labels of a name lie: `CORPUS/labels/NAME`."""
    return corpus.directory / "labels" / name


def label_file(directory: Path, shard: ShardIndex) -> Path:
    """Where the labels of a shard lie."""
    return directory / f"{shard.path.stem}.safetensors"


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
    rows: list[np.ndarray]

    def codebook(self) -> dict[str, Any]:
        """What checkpoints keep of it: size, hash and rate."""
        return {"size": self.size, "sha256": self.codebook_sha256, "rate": self.rate}

    @classmethod
    def open(cls, corpus: Corpus, name: str, split: str) -> LabelSet:
        """Read the labels of a split and check that they belong to its shards.

        Raises:
            UserError: labels are missing, made from other shards or by different codebooks, or too short for the audio.
        """
        directory = labels_directory(corpus, name)
        again = f"run `wavlm codebook apply CODEBOOK {corpus.directory} --name {name}`"
        if not (directory / "labels.json").is_file():
            raise UserError(f"{directory}: no labels here; {again}")
        head = json.loads((directory / "labels.json").read_text())
        rows: list[np.ndarray] = []
        for shard in corpus.split(split).shards:
            rows += cls._read(label_file(directory, shard), shard, head, again)
        return cls(head["size"], head["rate"], head["codebook_sha256"], rows)

    @staticmethod
    def _read(path: Path, shard: ShardIndex, head: dict, again: str) -> list[np.ndarray]:
        if not path.is_file():
            raise UserError(f"{path}: this shard has no labels; {again}")
        with safe_open(path, framework="np") as file:
            meta = file.metadata()
            labels, starts = file.get_tensor("labels"), file.get_tensor("starts")
        if meta["shard_sha256"] != shard.sha256:
            raise UserError(f"{path}: these labels were made from another version of {shard.path.name}; {again}")
        if meta["codebook_sha256"] != head["codebook_sha256"]:
            raise UserError(f"{path}: made by another codebook than labels.json says; remove the folder and {again}")
        if float(meta["rate"]) != head["rate"]:
            raise UserError(f"{path}: its rate is {meta['rate']} labels/s, labels.json says {head['rate']}; {again}")
        if len(starts) != len(shard.keys) + 1:
            raise UserError(
                f"{path}: labels for {len(starts) - 1} utterances, but the shard holds {len(shard.keys)}; {again}"
            )
        rows = [labels[begin:end] for begin, end in itertools.pairwise(starts)]
        for key, samples, row in zip(shard.keys, shard.samples, rows, strict=True):
            # A window of 25 ms and the grid's rounding may cost some labels at the end, never more than 0.1 s.
            if abs(len(row) - samples / SAMPLE_RATE * head["rate"]) > 0.1 * head["rate"]:
                raise UserError(
                    f"{path}: utterance {key!r} has {len(row)} labels for {samples / SAMPLE_RATE:.2f} s "
                    f"at {head['rate']:g} labels/s; {again}"
                )
        return rows
