"""What a frozen upstream says of each utterance, computed once and kept on disk.

Two levels. `utterance` keeps the mean over time of every layer: for heads without a nonlinearity before their mean
pooling the mean commutes with everything up to the logits, so training on it is exact (`superb.md`, section 8).
`frame` keeps every frame in half precision.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from wavlm_lightning.audio import SAMPLE_RATE
from wavlm_lightning.encoder import Layers
from wavlm_lightning.errors import UserError
from wavlm_lightning.progress import progress_bar
from wavlm_lightning.upstreams.base import Upstream

Level = Literal["utterance", "frame"]
HALF_MAX = 65504.0


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Let one process at a time make a file; the lock ends with its process, however that ends."""
    import fcntl  # here, so that what needs no cache imports where there is none

    with path.with_suffix(".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class FeatureCache:
    """Features of the utterances of one shard after another, one safetensors file a shard.

    Args:
        directory: where the files go; a folder named after upstream and level is made inside.
        upstream: a frozen upstream.
        level: `utterance` or `frame`.
        budget_gib: refuse to begin if a split would take more than this.
        factor: on the samples of every waveform.

    Example:
        >>> cache = FeatureCache(Path("runs/cache"), upstream, "utterance")
        >>> cache.fill("train-000000", sha256, keys, samples, read)    # computes only what is missing
        >>> cache.layers("train-000000", ["a", "b"])
    """

    def __init__(
        self, directory: Path, upstream: Upstream, level: Level, budget_gib: float = 20.0, factor: float = 1.0
    ) -> None:
        if not upstream.frozen:
            raise UserError(
                "cache: the upstream is trained (frozen: false), so its features change; switch the cache off"
            )
        self.upstream, self.level, self.budget_gib, self.factor = upstream, level, budget_gib, factor
        content = f"{upstream.fingerprint()} {level}" + (f" {factor}" if factor != 1 else "")
        digest = hashlib.sha256(content.encode()).hexdigest()[:16]
        self.directory = directory / f"{upstream.label.replace('/', '_').replace(' ', '-')}-{level}-{digest}"
        self._open: dict[str, safe_open] = {}

    def estimate_gib(self, samples: Sequence[int] | np.ndarray) -> float:
        """Disk space that utterances of these lengths take, GiB."""
        size = self.upstream.num_layers * self.upstream.dim
        if self.level == "utterance":
            return len(samples) * size * 4 / 2**30
        return float(np.sum(samples)) / SAMPLE_RATE * self.upstream.frame_rate * size * 2 / 2**30

    def check_budget(self, samples: Sequence[int] | np.ndarray) -> None:
        """Raise `UserError` if utterances of these lengths would not fit the budget."""
        need = self.estimate_gib(samples)
        if need > self.budget_gib:
            raise UserError(
                f"cache: features of these utterances would take {need:.1f} GiB, more than cache_gib={self.budget_gib:g}; "
                "raise it or set cache: null"
            )

    def path(self, shard: str, sha256: str) -> Path:
        """The file for a shard."""
        return self.directory / f"{shard}-{sha256[:12]}.safetensors"

    @torch.no_grad()
    def fill(
        self,
        shard: str,
        sha256: str,
        keys: Sequence[str],
        samples: Sequence[int],
        read: Callable[[int], np.ndarray],
        device: torch.device | str = "cpu",
        batch_seconds: float = 40.0,
    ) -> Path:
        """Compute the features of a shard, unless they are there.

        Args:
            shard: its name.
            sha256: hash of its audio; another hash means other features.
            keys: its utterances.
            samples: their lengths.
            read: place in the shard to waveform `(samples,)`.
            device: where the upstream runs.
            batch_seconds: audio per forward, padding counted.
        """
        path = self.path(shard, sha256)
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            with _alone(path):  # several heads may share a corpus: the others wait for the first one's work
                if not path.is_file():
                    self._write(path, keys, samples, read, device, batch_seconds)
        return path

    def _write(
        self,
        path: Path,
        keys: Sequence[str],
        samples: Sequence[int],
        read: Callable[[int], np.ndarray],
        device: torch.device | str,
        batch_seconds: float,
    ) -> None:
        tensors: dict[str, Tensor] = {}
        order = np.argsort(samples)
        upstream = self.upstream.to(device)
        begin = 0
        with progress_bar(total=len(keys), desc=f"features {self.upstream.label} {path.stem}", leave=False) as bar:
            while begin < len(order):
                # Ascending lengths: the last one taken is the longest, and batches stay within the budget.
                end = begin + 1
                while end < len(order) and (end + 1 - begin) * samples[order[end]] <= batch_seconds * SAMPLE_RATE:
                    end += 1
                places = order[begin:end]
                tensors.update(
                    self._compute(upstream, [keys[p] for p in places], [read(int(p)) for p in places], device)
                )
                bar.update(end - begin)
                begin = end
        temporary = path.with_suffix(".tmp")
        save_file(tensors, temporary, metadata={"frame_rate": json.dumps(self.upstream.frame_rate)})
        temporary.rename(path)

    def _compute(
        self, upstream: Upstream, keys: list[str], waveforms: list[np.ndarray], device: torch.device | str
    ) -> dict[str, Tensor]:
        lengths = torch.tensor([len(waveform) for waveform in waveforms])
        audio = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(w) for w in waveforms], batch_first=True)
        audio = audio * self.factor
        layers = upstream(audio.to(device), lengths.to(device))
        if self.level == "utterance":
            means = layers.mean_over_time().float().cpu()
            return {key: means[:, row].clone()[:, None] for row, key in enumerate(keys)}
        hidden = layers.hidden.cpu()
        if hidden.abs().max() > HALF_MAX:
            raise UserError(f"cache: features of {self.upstream.label} exceed half precision; set cache: null")
        hidden = hidden.half()
        return {
            key: hidden[:, row, :n].clone()
            for row, (key, n) in enumerate(zip(keys, layers.lengths.tolist(), strict=True))
        }

    def read(self, path: Path, key: str) -> Tensor:
        """Features of one utterance, `(layers, frames, dim)`; one frame at level `utterance`."""
        if str(path) not in self._open:
            self._open[str(path)] = safe_open(path, framework="pt")
        return self._open[str(path)].get_tensor(key)

    def layers(self, rows: Sequence[Tensor]) -> Layers:
        """Stack what `read` gave for the utterances of a batch."""
        lengths = torch.tensor([row.shape[1] for row in rows])
        hidden = torch.zeros(rows[0].shape[0], len(rows), int(lengths.max()), rows[0].shape[2])
        for place, row in enumerate(rows):
            hidden[:, place, : row.shape[1]] = row
        return Layers(hidden, lengths, self.upstream.frame_rate)
