"""Hidden states of chosen stretches of utterances, all layers from one pass of an upstream, on disk while they are scored."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import monotonic

import numpy as np
import torch

from wavlm_lightning.audio import SAMPLE_RATE, BadAudio
from wavlm_lightning.data.split import Split
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.files import write_json
from wavlm_lightning.system.hardware import choose_device
from wavlm_lightning.system.progress import progress_bar
from wavlm_lightning.system.reading import read_json, reading, reason_of
from wavlm_lightning.upstreams.base import Upstream

STATE = "state.json"
SECONDS = 20.0  # between two records of how far the pass is: the most that an interrupted one loses


class LayerFrames:
    """The frames of some stretches of a split, one raw float32 file a layer; an interrupted pass goes on.

    Args:
        folder: of the files; `remove` deletes it.
        upstream: whose hidden states are wanted.
        split: utterances to read.
        stretches: by key of an utterance: the first frame that is wanted and the one after the last.
        layers: the wanted hidden states.
        device: of the upstream; None chooses.

    Attributes:
        begins: by key: where its stretch begins in the files of the layers.
        available: by key: frames of the stretch that the upstream has, which may be fewer at the end of an utterance.

    Raises:
        UserError: the disk is too small, audio is damaged, or the upstream fails on an utterance; the message names it.
    """

    def __init__(
        self,
        folder: Path,
        upstream: Upstream,
        split: Split,
        stretches: Mapping[str, tuple[int, int]],
        layers: Sequence[int],
        device: str | None = None,
    ) -> None:
        self.folder, self.upstream, self.layers = folder, upstream, list(layers)
        self._places = [number for number, key in enumerate(split.keys) if key in stretches]
        keys = [split.keys[number] for number in self._places]
        lengths = np.array([stretches[key][1] - stretches[key][0] for key in keys])
        ends = np.cumsum(lengths)
        self.begins = dict(zip(keys, (ends - lengths).tolist(), strict=True))
        self.available: dict[str, int] = {}
        self.frames = int(ends[-1])
        # What decides the frames, beside their layers: a pass that was interrupted goes on if it is the same.
        content = [
            upstream.fingerprint(),
            [shard.sha256 for shard in split.shards],
            [[key, *stretches[key]] for key in keys],
        ]
        self._content = hashlib.sha256(json.dumps(content).encode()).hexdigest()
        self._fill(split, stretches, device)

    def layer(self, layer: int) -> np.ndarray:
        """The frames of all stretches on one layer, float32 `(frames, dim)`, read from disk."""
        return np.array(self._open(layer, "r"))

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def _open(self, layer: int, mode: str) -> np.memmap:
        shape = (self.frames, self.upstream.dim)
        return np.memmap(self.folder / f"layer-{layer:02d}.f32", np.float32, mode, shape=shape)  # type: ignore[call-overload]

    def _fill(self, split: Split, stretches: Mapping[str, tuple[int, int]], device: str | None) -> None:
        done = self._resumed()
        if done == len(self._places):
            return
        chosen = choose_device(device)
        upstream = self.upstream.to(chosen).eval()
        files = {layer: self._open(layer, "r+") for layer in self.layers}
        seconds = [int(split.samples[number]) / SAMPLE_RATE for number in self._places]
        said = monotonic()
        with progress_bar(total=round(sum(seconds)), desc=f"features {upstream.label}", unit=" s", leave=False) as bar:
            bar.update(round(sum(seconds[:done])))
            for number, place in enumerate(self._places[done:], start=done):
                key = split.keys[place]
                hidden = self._hidden(upstream, split, place, chosen)
                first, last = stretches[key]
                self.available[key] = there = max(min(last, hidden.shape[1]) - first, 0)
                for row, layer in zip(hidden, self.layers, strict=True):
                    files[layer][self.begins[key] : self.begins[key] + there] = row[first : first + there]
                bar.update(seconds[number])
                if monotonic() - said > SECONDS:
                    self._record(files, number + 1)
                    said = monotonic()
        self._record(files, len(self._places))

    def _hidden(self, upstream: Upstream, split: Split, place: int, device: torch.device) -> np.ndarray:
        """The wanted layers of one whole utterance, `(layers, frames, dim)`; without frames if it is too short for one."""
        shard, where = split.locate(place)
        try:
            waveform = torch.from_numpy(shard.waveform(where))
            if len(waveform) < upstream.shortest:
                return np.zeros((len(self.layers), 0, upstream.dim), np.float32)
            layers = upstream(waveform[None].to(device), torch.tensor([len(waveform)], device=device), keep=self.layers)
        except BadAudio as error:
            raise UserError(f"{error}; prepare the corpus again") from error
        except (ValueError, RuntimeError) as error:
            raise UserError(f"{shard.path}: utterance {shard.keys[where]!r}: {reason_of(error)}") from error
        hidden = layers.hidden[:, 0, : int(layers.lengths[0])].float().cpu().numpy()
        # An upstream returns the layers asked for, or all of them.
        return hidden if len(hidden) == len(self.layers) else hidden[self.layers]

    def _record(self, files: Mapping[int, np.memmap], done: int) -> None:
        for file in files.values():
            file.flush()
        state = {"content": self._content, "layers": self.layers, "done": done, "available": self.available}
        write_json(self.folder / STATE, state)

    def _resumed(self) -> int:
        """The number of utterances that are there; makes the folder with empty files if there are none."""
        state, again = self.folder / STATE, "remove the folder; its frames are computed again"
        if state.is_file():
            found = read_json(state, "the state of a pass", again)
            with reading(state, "the state of a pass", again):
                # A call that was interrupted after the pass has scored some of the layers that lie there.
                if found["content"] == self._content and set(self.layers) <= set(found["layers"]):
                    self.layers = [int(layer) for layer in found["layers"]]
                    self.available = {str(key): int(frames) for key, frames in found["available"].items()}
                    return int(found["done"])
        self.remove()
        self.folder.mkdir(parents=True)
        need = len(self.layers) * self.frames * self.upstream.dim * 4
        if need > (free := shutil.disk_usage(self.folder).free):
            self.remove()
            raise UserError(
                f"{self.folder}: the frames of {len(self.layers)} layers need {need / 2**30:.1f} GiB, and "
                f"{free / 2**30:.1f} GiB are free there; choose fewer --layers, or an --out on another disk"
            )
        for layer in self.layers:
            self._open(layer, "w+").flush()
        return 0
