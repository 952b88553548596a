"""The utterance lengths of a split in one binary file, so that planning an epoch reads no shard index.

For 25 million utterances the file has 100 MB.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.files import write_bytes
from wavlm_lightning.system.reading import check_file, reading


@dataclass(frozen=True)
class Lengths:
    """A file of lengths: a NumPy array uint32 `(utterances,)`."""

    path: Path
    utterances: int
    size: int  # of the file in bytes
    sha256: str  # of the file
    remote: bool = False  # of a remote corpus, so it is downloaded when it is needed
    shards: tuple[tuple[int, int], ...] = ()  # utterances and samples of each shard, as `corpus.json` counts them

    def read(self) -> np.ndarray:
        """Length of each utterance in samples, int64 `(utterances,)`.

        Raises:
            UserError: the file is missing or altered, no array of this format, or contradicts `corpus.json`.
        """
        if self.remote:
            from wavlm_lightning.data.remote.mirror import materialise

            materialise(self.path, {"bytes": self.size, "sha256": self.sha256})
        check_file(self.path, "the lengths of a split", "prepare the corpus again")
        if not self.path.is_file():
            raise UserError(f"{self.path}: the lengths of this split are missing; prepare the corpus again")
        data = self.path.read_bytes()
        if hashlib.sha256(data).hexdigest() != self.sha256:
            raise UserError(f"{self.path}: not the lengths that corpus.json describes; prepare the corpus again")
        with reading(self.path, "the lengths of a split", "prepare the corpus again"):
            samples = _parse(data).astype(np.int64)
        if len(samples) != self.utterances:
            raise UserError(
                f"{self.path}: {len(samples)} lengths, but corpus.json counts {self.utterances} utterances; "
                "prepare the corpus again"
            )
        self._check_totals(samples)
        return samples

    def _check_totals(self, samples: np.ndarray) -> None:
        """Compare the sum over each shard with `corpus.json`; single lengths are compared when their shard is read."""
        counts, totals = np.asarray(self.shards, dtype=np.int64).reshape(-1, 2).T
        if not len(counts):
            return
        filled = counts > 0  # `reduceat` gives an empty stretch the value at its beginning
        sums = np.zeros(len(counts), dtype=np.int64)
        sums[filled] = np.add.reduceat(samples, (np.cumsum(counts) - counts)[filled]) if filled.any() else 0
        if (wrong := np.flatnonzero(sums != totals)).size:
            first = int(wrong[0])
            raise UserError(
                f"{self.path}: the lengths of shard {first} add up to {sums[first]:,} samples, corpus.json counts "
                f"{totals[first]:,}; prepare the corpus again"
            )


def _parse(data: bytes) -> np.ndarray:
    """The array uint32 `(utterances,)` in a file; a ValueError says what else it is.

    `np.load` would believe the shape in the header, allocate that much, and only then notice that the file is short.
    """
    buffer = io.BytesIO(data)
    if np.lib.format.read_magic(buffer) != (1, 0):
        raise ValueError("another version of the NumPy format")
    shape, _, dtype = np.lib.format.read_array_header_1_0(buffer)
    if dtype != np.dtype("<u4") or len(shape) != 1:
        raise ValueError(f"it holds {dtype} of shape {shape} instead of a row of uint32")
    if len(data) - buffer.tell() != 4 * shape[0]:
        raise ValueError(f"its header counts {shape[0]:,} lengths, and {len(data) - buffer.tell():,} bytes follow")
    return np.frombuffer(data, dtype="<u4", offset=buffer.tell())


def write_lengths(path: Path, samples: np.ndarray) -> dict[str, Any]:
    """Write lengths in samples, `(utterances,)`, each below 2^32 (74 hours); returns the entry in `corpus.json`."""
    buffer = io.BytesIO()
    np.save(buffer, samples.astype(np.uint32), allow_pickle=False)
    data = buffer.getvalue()
    write_bytes(path, data, durable=True)
    return {"name": path.name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
