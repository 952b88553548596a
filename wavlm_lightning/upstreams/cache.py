"""What a frozen upstream says of each utterance, computed once and kept on disk.

Two levels. `utterance` keeps the mean over time of every layer: for heads without a nonlinearity before their mean
pooling the mean commutes with everything up to the logits, so training on it is exact (`superb.md`, section 8).
`frame` keeps every frame in half precision.

A file holds some utterances of one shard. Its folder is named after whatever else changes the features: the upstream
(class, settings and weights, in which the convention of layers and frames lies), the level, the gain, the precision.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from wavlm_lightning.audio import SAMPLE_RATE
from wavlm_lightning.encoder import Layers
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.progress import progress_bar
from wavlm_lightning.upstreams.base import Upstream
from wavlm_lightning.upstreams.cache_files import alone, intact, write
from wavlm_lightning.upstreams.cache_pieces import AudioShard, Pieces

Level = Literal["utterance", "frame"]
FORMAT = 2
HALF_MAX = 65504.0


class FeatureCache:
    """Features of the utterances of one shard after another, in safetensors files of ten minutes of audio each.

    Nothing is ever deleted but a file that is not what was written, which is computed again.

    Args:
        directory: where the files go; a folder named after upstream and level is made inside.
        upstream: a frozen upstream.
        level: `utterance` or `frame`.
        budget_gib: refuse to begin if a split would take more than this.
        factor: on the samples of every waveform.
        precision: that the upstream runs in, as Lightning calls it.
        context: makes the context that gives it this precision.

    Example:
        >>> cache = FeatureCache(Path("runs/cache"), upstream, "utterance")
        >>> cache.fill(shard)  # computes only what is missing
        >>> cache.layers([cache.read(shard, 0), cache.read(shard, 3)])
    """

    def __init__(
        self,
        directory: Path,
        upstream: Upstream,
        level: Level,
        budget_gib: float = 20.0,
        factor: float = 1.0,
        precision: str = "32-true",
        context: Callable[[], AbstractContextManager[object]] = contextlib.nullcontext,
    ) -> None:
        if not upstream.frozen:
            raise UserError(
                "cache: the upstream is trained (frozen: false), so its features change; switch the cache off"
            )
        self.upstream, self.level, self.context = upstream, level, context
        self.budget_gib, self.factor = budget_gib, factor
        content = [FORMAT, upstream.fingerprint(), level, factor, precision]
        digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
        self.directory = directory / f"{upstream.label.replace('/', '_').replace(' ', '-')}-{level}-{digest}"
        self._pieces: dict[str, Pieces] = {}
        self._checked: set[Path] = set()
        self._means: dict[Path, Tensor] = {}
        self._open: dict[Path, safe_open] = {}

    def _pieces_of(self, shard: AudioShard) -> Pieces:
        if shard.sha256 not in self._pieces:
            self._pieces[shard.sha256] = Pieces(shard.samples)
        return self._pieces[shard.sha256]

    def path(self, shard: AudioShard, piece: int) -> Path:
        """One file of a shard."""
        return self.directory / f"{shard.path.stem}-{shard.sha256[:12]}-{piece:03d}.safetensors"

    def _facts(self, shard: AudioShard, piece: int) -> dict[str, str]:
        keys = [shard.keys[place] for place in self._pieces_of(shard).places[piece]]
        return {"audio": shard.sha256, "keys": json.dumps(keys), "frame_rate": json.dumps(self.upstream.frame_rate)}

    def estimate_gib(self, samples: Sequence[int] | np.ndarray) -> float:
        """Disk space that utterances of these lengths take, GiB."""
        size = self.upstream.num_layers * self.upstream.dim
        if self.level == "utterance":
            return len(samples) * size * 4 / 2**30
        return float(np.sum(samples)) / SAMPLE_RATE * self.upstream.frame_rate * size * 2 / 2**30

    def check_budget(self, shards: Iterable[AudioShard], longest: int | None = None) -> tuple[float, float]:
        """Estimate what shards take, before anything is computed.

        Args:
            shards: of a split.
            longest: as for `fill`.

        Returns:
            GiB in all, and GiB that are not there yet.

        Raises:
            UserError: they exceed the budget or the free space.
        """
        need = missing = 0.0
        for shard in shards:
            pieces = self._pieces_of(shard)
            for piece in pieces.up_to(longest):
                size = self.estimate_gib(pieces.samples[pieces.places[piece]])
                need += size
                missing += 0.0 if self.path(shard, piece).is_file() else size
        if need > self.budget_gib:
            raise UserError(
                f"cache: features of these utterances would take {need:.1f} GiB, more than cache_gib={self.budget_gib:g}; "
                "raise it or set cache: null"
            )
        there = next(folder for folder in (self.directory, *self.directory.absolute().parents) if folder.exists())
        free = shutil.disk_usage(there).free / 2**30
        if missing > free:
            raise UserError(
                f"cache: features of these utterances would take {missing:.1f} GiB more, and {there} has "
                f"{free:.1f} GiB left; free some, put the cache elsewhere or set cache: null"
            )
        return need, missing

    @torch.no_grad()
    def fill(
        self,
        shard: AudioShard,
        device: torch.device | str = "cpu",
        longest: int | None = None,
        batch_seconds: float = 40.0,
    ) -> list[Path]:
        """Compute the features of a shard, unless they are there.

        Several runs may share a corpus: one computes a file while the others wait for it. A run that was killed goes on
        with the file it was at.

        Args:
            shard: where the audio is.
            device: where the upstream runs.
            longest: samples of the longest utterance that will be read; None for all of them.
            batch_seconds: audio per forward, padding counted.

        Returns:
            The files.
        """
        paths = []
        for piece in self._pieces_of(shard).up_to(longest):
            path, facts = self.path(shard, piece), self._facts(shard, piece)
            paths.append(path)
            if path.is_file() and intact(path, facts):
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            with alone(path):
                if path.is_file():
                    if intact(path, facts):
                        continue
                    warnings.warn(f"{path}: not as it was written (cut off or altered); computed again", stacklevel=2)
                write(path, self._compute(shard, piece, device, batch_seconds), facts)
        return paths

    def _compute(
        self, shard: AudioShard, piece: int, device: torch.device | str, batch_seconds: float
    ) -> dict[str, Tensor]:
        """The tensors of a file: `means` `(utterances, layers, dim)`, or `(layers, frames, dim)` for each key."""
        tensors: dict[str, Tensor] = {}
        means: list[Tensor] = []
        order, upstream = self._pieces_of(shard).places[piece], self.upstream.to(device)
        name, begin = f"features {upstream.label} {self.path(shard, piece).stem}", 0
        with progress_bar(total=len(order), desc=name, leave=False) as bar:
            while begin < len(order):
                # Ascending lengths: the last one taken is the longest, and batches stay within the budget.
                end = begin + 1
                while end < len(order) and (end + 1 - begin) * shard.samples[order[end]] <= batch_seconds * SAMPLE_RATE:
                    end += 1
                places = order[begin:end].tolist()
                layers = self._layers([shard.waveform(place) for place in places], device)
                if self.level == "utterance":
                    means.append(pooled(layers).cpu().transpose(0, 1))
                else:
                    hidden = layers.hidden.cpu()
                    for row, (place, frames) in enumerate(zip(places, layers.lengths.tolist(), strict=True)):
                        tensors[shard.keys[place]] = _halved(hidden[:, row, :frames])
                bar.update(end - begin)
                begin = end
        return {"means": torch.cat(means)} if means else tensors

    def _layers(self, waveforms: list[np.ndarray], device: torch.device | str) -> Layers:
        lengths = torch.tensor([len(waveform) for waveform in waveforms])
        audio = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(w) for w in waveforms], batch_first=True)
        with self.context():
            return self.upstream((audio * self.factor).to(device), lengths.to(device))

    def read(self, shard: AudioShard, place: int) -> Tensor:
        """Features of one utterance, `(layers, frames, dim)`; one frame at level `utterance`."""
        piece, row = self._pieces_of(shard).locate(place)
        path = self.path(shard, piece)
        if path not in self._open:
            self._open[path] = safe_open(path, framework="pt")
            if self.level == "utterance":
                self._means[path] = self._open[path].get_tensor("means")
        if self.level == "utterance":
            return self._means[path][row][:, None]
        return self._open[path].get_tensor(shard.keys[place])

    def layers(self, rows: Sequence[Tensor]) -> Layers:
        """Stack what `read` gave for the utterances of a batch, in float32."""
        lengths = torch.tensor([row.shape[1] for row in rows])
        if self.level == "utterance":
            return Layers(torch.stack(list(rows), dim=1), lengths, self.upstream.frame_rate)
        hidden = torch.zeros(rows[0].shape[0], len(rows), int(lengths.max()), rows[0].shape[2])
        for place, row in enumerate(rows):
            hidden[:, place, : row.shape[1]] = row
        return Layers(hidden, lengths, self.upstream.frame_rate)


def pooled(layers: Layers) -> Tensor:
    """What level `utterance` keeps: the mean over the valid frames, float32 `(layers, batch, dim)`."""
    return replace(layers, hidden=layers.hidden.float()).mean_over_time()


def _halved(hidden: Tensor) -> Tensor:
    """In float16, or where a value exceeds that, in bfloat16, which has its range but three digits less."""
    dtype = torch.float16 if hidden.abs().max() <= HALF_MAX else torch.bfloat16
    return hidden.to(dtype, copy=True).contiguous()
