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
from wavlm_lightning.system.reading import reading


@dataclass(frozen=True)
class Lengths:
    """A file of lengths: a NumPy array uint32 `(utterances,)`."""

    path: Path
    utterances: int
    size: int  # of the file in bytes
    sha256: str  # of the file
    remote: bool = False  # of a remote corpus, so it is downloaded when it is needed

    def read(self) -> np.ndarray:
        """Length of each utterance in samples, int64 `(utterances,)`; `UserError` if the file is missing or altered."""
        if self.remote:
            from wavlm_lightning.data.remote.mirror import materialise

            materialise(self.path, {"bytes": self.size, "sha256": self.sha256})
        if not self.path.is_file():
            raise UserError(f"{self.path}: the lengths of this split are missing; prepare the corpus again")
        data = self.path.read_bytes()
        if hashlib.sha256(data).hexdigest() != self.sha256:
            raise UserError(f"{self.path}: not the lengths that corpus.json describes; prepare the corpus again")
        with reading(self.path, "the lengths of a split", "prepare the corpus again"):
            stored = np.load(io.BytesIO(data), allow_pickle=False)
            if not isinstance(stored, np.ndarray) or stored.ndim != 1 or stored.dtype.kind not in "ui":
                raise ValueError("it is not one row of whole numbers")
            samples = stored.astype(np.int64)
        if len(samples) != self.utterances:
            raise UserError(
                f"{self.path}: {len(samples)} lengths, but corpus.json counts {self.utterances} utterances; "
                "prepare the corpus again"
            )
        return samples


def write_lengths(path: Path, samples: np.ndarray) -> dict[str, Any]:
    """Write lengths in samples, `(utterances,)`, each below 2^32 (74 hours); returns the entry in `corpus.json`."""
    buffer = io.BytesIO()
    np.save(buffer, samples.astype(np.uint32), allow_pickle=False)
    data = buffer.getvalue()
    write_bytes(path, data, durable=True)
    return {"name": path.name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
