"""Feature cache: the outputs of a frozen upstream, computed once per utterance and kept on disk.

Two levels. `utterance` keeps the mean over time of every layer: for heads without a nonlinearity before their mean
pooling the mean commutes with everything up to the logits, so training on it is exact (`superb.md`, section 8).
`frame` keeps every frame in half precision.

A file holds the utterances of one piece of a shard (about ten minutes of audio). Its folder is named after everything
that changes the features: the upstream (class, settings and weights), the level, the gain, the precision.
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
from typing import Literal, Protocol

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from wavlm_lightning.audio import SAMPLE_RATE
from wavlm_lightning.encoder import Layers
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.files import atomic_write, locked
from wavlm_lightning.system.progress import progress_bar
from wavlm_lightning.upstreams.base import Upstream

Level = Literal["utterance", "frame"]
FORMAT = 2
HALF_MAX = 65504.0  # largest float16
PIECE_SECONDS = 600.0  # audio per file, about: the most that a killed run loses
BLANK = "0" * 64  # stands in a file's header for its hash while the hash is computed


class AudioShard(Protocol):
    """A source of utterances: a shard of a corpus."""

    @property
    def path(self) -> Path: ...  # its stem names the shard in the cache
    @property
    def sha256(self) -> str: ...  # of the audio; another hash means other features
    @property
    def keys(self) -> Sequence[str]: ...
    @property
    def samples(self) -> Sequence[int]: ...  # lengths of the utterances
    def waveform(self, place: int) -> np.ndarray: ...  # float32 (samples,)


class Pieces:
    """Utterances of a shard by ascending length, cut into pieces of about ten minutes of audio.

    The division depends on the lengths alone, so that a later run finds the files of an earlier one. `places` holds the
    numbers of the utterances of each piece.
    """

    def __init__(self, samples: Sequence[int]) -> None:
        self.samples = np.asarray(samples, dtype=np.int64)
        order = np.argsort(self.samples, kind="stable")
        before = np.cumsum(self.samples[order]) - self.samples[order]
        number = before // round(PIECE_SECONDS * SAMPLE_RATE)
        self.places = np.split(order, np.flatnonzero(np.diff(number)) + 1)
        self._piece_of, self._row_of = np.empty((2, len(self.samples)), dtype=np.int64)
        for piece, places in enumerate(self.places):
            self._piece_of[places], self._row_of[places] = piece, np.arange(len(places))

    def locate(self, place: int) -> tuple[int, int]:
        """The piece that holds an utterance, and its row there."""
        return int(self._piece_of[place]), int(self._row_of[place])

    def up_to(self, longest: int | None) -> list[int]:
        """Numbers of the pieces with an utterance of at most `longest` samples; all pieces if it is None."""
        return [n for n, places in enumerate(self.places) if longest is None or self.samples[places[0]] <= longest]


class FeatureCache:
    """Features of utterances, shard by shard, in safetensors files of about ten minutes of audio each.

    Files are never deleted; a damaged file is computed again.

    Args:
        directory: where the files go; a folder named after upstream and level is made inside.
        upstream: a frozen upstream, not differentiable.
        level: `utterance` or `frame`.
        budget_gib: refuse to begin if a split needs more disk space than this.
        factor: gain applied to the samples of every waveform.
        precision: in which the upstream runs, as Lightning calls it.
        context: returns a context manager that sets this precision.

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
            raise UserError("cache: features of a trained upstream (frozen: false) change; switch the cache off")
        if upstream.differentiable:
            raise UserError(
                "cache: upstream.differentiable lets gradients reach the waveform, which cached features do not; switch one "
                "of them off"
            )
        self.upstream, self.level, self.context = upstream, level, context
        self.budget_gib, self.factor = budget_gib, factor
        content = [FORMAT, upstream.fingerprint(), level, factor, precision]
        digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
        self.directory = directory / f"{upstream.label.replace('/', '_').replace(' ', '-')}-{level}-{digest}"
        self._pieces: dict[str, Pieces] = {}
        self._paths: dict[tuple[Path, str, int], Path] = {}
        self._means: dict[Path, Tensor] = {}
        self._open: dict[Path, safe_open] = {}

    def _pieces_of(self, shard: AudioShard) -> Pieces:
        name = f"{shard.path.stem}-{shard.sha256}"  # two splits may have parts of one tar
        if name not in self._pieces:
            self._pieces[name] = Pieces(shard.samples)
        return self._pieces[name]

    def path(self, shard: AudioShard, piece: int) -> Path:
        """The file of a piece; another one where another corpus names or selects the utterances of the same audio otherwise."""
        place = (shard.path, shard.sha256, piece)
        if place not in self._paths:
            facts, name = self._facts(shard, piece), f"{shard.path.stem}-{shard.sha256[:12]}"
            keys = hashlib.sha256(facts["keys"].encode()).hexdigest()
            path = self.directory / f"{name}-{keys[:6]}-{piece:03d}.safetensors"
            older = self.directory / f"{name}-{piece:03d}.safetensors"  # as versions before December 2026 wrote it
            self._paths[place] = older if _says(older, facts) and not path.is_file() else path
        return self._paths[place]

    def _facts(self, shard: AudioShard, piece: int) -> dict[str, str]:
        keys = [shard.keys[place] for place in self._pieces_of(shard).places[piece]]
        return {"audio": shard.sha256, "keys": json.dumps(keys), "frame_rate": json.dumps(self.upstream.frame_rate)}

    def estimate_gib(self, samples: Sequence[int] | np.ndarray) -> float:
        """Disk space for utterances of these lengths, GiB."""
        size = self.upstream.num_layers * self.upstream.dim
        if self.level == "utterance":
            return len(samples) * size * 4 / 2**30
        return float(np.sum(samples)) / SAMPLE_RATE * self.upstream.frame_rate * size * 2 / 2**30

    def check_budget(self, shards: Iterable[AudioShard], longest: int | None = None) -> tuple[float, float]:
        """Estimate the disk space of the shards of a split: GiB in all, and GiB still to be written.

        A UserError says if they exceed the budget or the free space, before anything is computed.
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
                f"cache: features of these utterances need {need:.1f} GiB, more than cache_gib={self.budget_gib:g}; "
                "raise it or set cache: null"
            )
        there = next(folder for folder in (self.directory, *self.directory.absolute().parents) if folder.exists())
        free = shutil.disk_usage(there).free / 2**30
        if missing > free:
            raise UserError(
                f"cache: features of these utterances need {missing:.1f} GiB more, and {there} has "
                f"{free:.1f} GiB left; free some, put the cache elsewhere or set cache: null"
            )
        return need, missing

    def absent(self, shard: AudioShard, longest: int | None = None) -> int:
        """Number of utterances of a shard whose file is not there yet; a damaged file is found only by `fill`."""
        pieces = self._pieces_of(shard)
        return sum(len(pieces.places[n]) for n in pieces.up_to(longest) if not self.path(shard, n).is_file())

    @torch.no_grad()
    def fill(
        self,
        shard: AudioShard,
        device: torch.device | str = "cpu",
        longest: int | None = None,
        batch_seconds: float = 40.0,
        bar: tqdm | None = None,
    ) -> list[Path]:
        """Compute the features of a shard that are not in the cache, and return the files.

        Several runs may share a cache: one computes a file while the others wait for it. After a kill, the next call
        continues with the first missing file. Only utterances of at most `longest` samples will be read. A forward takes
        `batch_seconds` of audio, padding counted. `bar` counts the utterances computed here, see `absent`; without one
        each file has its own.
        """
        paths = []
        for piece in self._pieces_of(shard).up_to(longest):
            path, facts = self.path(shard, piece), self._facts(shard, piece)
            paths.append(path)
            if path.is_file() and _intact(path, facts):
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            with locked(path.with_suffix(".lock")):
                if path.is_file():  # another run may have computed it while this one waited
                    if _intact(path, facts):
                        continue
                    warnings.warn(f"{path}: damaged (cut off or altered); computed again", stacklevel=2)
                _write(path, self._compute(shard, piece, device, batch_seconds, bar), facts)
        return paths

    def _compute(
        self, shard: AudioShard, piece: int, device: torch.device | str, batch_seconds: float, bar: tqdm | None
    ) -> dict[str, Tensor]:
        """The tensors of a file: `means` `(utterances, layers, dim)`, or `(layers, frames, dim)` for each key."""
        tensors: dict[str, Tensor] = {}
        means: list[Tensor] = []
        order, upstream = self._pieces_of(shard).places[piece], self.upstream.to(device)
        name, begin = f"features {upstream.label} {self.path(shard, piece).stem}", 0
        own = progress_bar(total=len(order), desc=name, leave=False) if bar is None else contextlib.nullcontext(bar)
        with own as counted:
            while begin < len(order):
                # Lengths ascend, so the last utterance of a batch is its longest and sets the padded size.
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
                        tensors[shard.keys[place]] = _half_precision(hidden[:, row, :frames])
                counted.update(end - begin)
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
        """Pad and stack the features that `read` returned for the utterances of a batch, float32."""
        lengths = torch.tensor([row.shape[1] for row in rows])
        if self.level == "utterance":
            return Layers(torch.stack(list(rows), dim=1), lengths, self.upstream.frame_rate)
        hidden = torch.zeros(rows[0].shape[0], len(rows), int(lengths.max()), rows[0].shape[2])
        for place, row in enumerate(rows):
            hidden[:, place, : row.shape[1]] = row
        return Layers(hidden, lengths, self.upstream.frame_rate)


def pooled(layers: Layers) -> Tensor:
    """Mean over the valid frames, as level `utterance` keeps it: float32 `(layers, batch, dim)`."""
    return replace(layers, hidden=layers.hidden.float()).mean_over_time()


def _half_precision(hidden: Tensor) -> Tensor:
    """As float16; as bfloat16, which has less precision but the range of float32, if a value exceeds float16."""
    dtype = torch.float16 if hidden.abs().max() <= HALF_MAX else torch.bfloat16
    return hidden.to(dtype, copy=True).contiguous()


def _write(path: Path, tensors: dict[str, Tensor], facts: dict[str, str]) -> None:
    """Write a safetensors file whose metadata are `facts` and `sha256`, the hash of the file with that hash blanked."""
    # Only the owner of the lock writes, so a fixed temporary name is safe: a killed run's file is overwritten. A process
    # that has the old file open continues to read the old one.
    with atomic_write(path, temporary=path.with_suffix(".tmp"), durable=True) as temporary:
        save_file(tensors, temporary, metadata={**facts, "sha256": BLANK})
        header, digest = _hash(temporary)
        with temporary.open("r+b") as file:
            file.seek(8 + header.index(_entry(BLANK)))
            file.write(_entry(digest))


def _intact(path: Path, facts: dict[str, str]) -> bool:
    """Whether a file has its hash and these facts."""
    try:
        header, digest = _hash(path)
        written = json.loads(header)["__metadata__"]
    except Exception:  # a damaged header may hold anything
        return False
    return written == {**facts, "sha256": digest}


def _says(path: Path, facts: dict[str, str]) -> bool:
    """Whether there is a file whose header has these facts; its content is not read."""
    try:
        with safe_open(path, framework="pt") as file:
            written = file.metadata()
    except Exception:  # no file, or a damaged one, which may hold anything
        return False
    return written is not None and {**written, **facts} == written


def _entry(digest: str) -> bytes:
    return f'"sha256":"{digest}"'.encode()


def _hash(path: Path) -> tuple[bytes, str]:
    """The header of a safetensors file, and the hash of the file with its `sha256` blanked."""
    with path.open("rb") as file:
        size = file.read(8)
        length = int.from_bytes(size, "little")
        if length > path.stat().st_size:
            raise ValueError(f"{path}: cut off within its header")
        header = file.read(length)
        stored = json.loads(header)["__metadata__"]["sha256"]
        digest = hashlib.sha256(size + header.replace(_entry(stored), _entry(BLANK)))
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return header, digest.hexdigest()
