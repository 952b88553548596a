"""A head from its run folder, ready to be applied to recordings."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
import yaml
from jsonargparse import ArgumentError, ArgumentParser

from wavlm_lightning.audio import SAMPLE_RATE, BadAudio, check_waveform, gain, load_mono, trim_silence
from wavlm_lightning.callbacks.checkpoints import BEST
from wavlm_lightning.data.batch import Waveforms
from wavlm_lightning.data.folder import SUFFIXES
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks import Task
from wavlm_lightning.workflows.fit.parser_errors import one_sentence
from wavlm_lightning.workflows.predict.windows import long_outputs


@dataclass(frozen=True)
class TrainedHead:
    """A task whose head is trained, on a device.

    Attributes:
        task: in eval mode.
        gain_db: of every waveform, as in training.
        trim: remove quiet stretches, as the recipe of the training corpus did.
        device: where it runs.
    """

    task: Task
    gain_db: float
    trim: bool
    device: torch.device

    def read(self, path: Path) -> np.ndarray:
        """A recording as the head knows recordings, float32 `(samples,)`.

        Raises:
            UserError: it is not usable.
        """
        try:
            waveform = load_mono(path)
            if self.gain_db:
                waveform = gain(waveform, self.gain_db)
            if self.trim:
                waveform = trim_silence(waveform)
                check_waveform(waveform, f"{path}: without its quiet stretches")
        except (BadAudio, OSError) as error:
            raise UserError(f"{error}; leave it out") from error
        return waveform


def load_head(run: Path, device: str | None = None) -> TrainedHead:
    """Open a run folder that `wavlm fit` has made.

    Args:
        run: the folder.
        device: where to run; the GPU if there is one by default.

    Raises:
        UserError: it is no such folder, holds no head, or its upstream is gone.
    """
    config, checkpoint = run / "config.yaml", run / "checkpoints" / f"{BEST}.ckpt"
    for path in (config, checkpoint):
        if not path.is_file():
            raise UserError(f"{path}: no such file; give the run folder of a head that `wavlm fit` has trained")
    content = yaml.safe_load(config.read_text())
    if not isinstance(content, dict) or "model" not in content:
        raise UserError(
            f"{config}: says nothing of a model; give the run folder of a head that `wavlm fit` has trained"
        )
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(pl.LightningModule, "model")
    try:
        model = parser.instantiate_classes(parser.parse_object({"model": content["model"]})).model
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    except ArgumentError as error:
        raise UserError(f"{config}: {one_sentence(str(error), [])}") from error
    except (RuntimeError, EOFError, OSError, pickle.UnpicklingError) as error:
        raise UserError(f"{checkpoint}: not readable as a checkpoint; is it cut short?") from error
    if not isinstance(model, Task):
        raise UserError(f"{run}: holds {type(model).__name__}, which is no head; give the run folder of a task")
    model.on_load_checkpoint(state)
    model.load_state_dict(state["state_dict"])
    try:
        place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        model.eval().to(place)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {device}: not usable here ({str(error).splitlines()[0]})") from error
    processing = state["task"].get("processing", {})
    loudness = (content.get("data") or {}).get("init_args", {}).get("gain_db") or 0.0
    return TrainedHead(model, loudness + processing.get("gain_db", 0.0), bool(processing.get("trim")), place)


def audio_files(given: Path) -> list[Path]:
    """A file, or all recordings in a folder and below it, in order of their names.

    Raises:
        UserError: there is nothing.
    """
    if given.is_file():
        return [given]
    found = sorted(path for path in given.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not found:
        raise UserError(f"{given}: no such file, and no recordings in a folder of that name")
    return found


def predict_files(
    head: TrainedHead, paths: Sequence[Path], batch_seconds: float, window: float = 0.0
) -> Iterator[dict[str, Any]]:
    """What the head says of each file, in order.

    Args:
        head: from `load_head`.
        paths: audio files of any rate.
        batch_seconds: audio a batch, padding counted; a longer file is a batch of its own.
        window: files of more seconds are heard in windows of so many (see `long_outputs`); 0 for none.

    Yields:
        `file`, and what the task's `readable` gives.

    Raises:
        UserError: a file is not usable.
    """
    waiting: list[tuple[Path, np.ndarray]] = []
    for path in paths:
        waveform = head.read(path)
        longest = max(len(waveform), *(len(w) for _, w in waiting)) if waiting else len(waveform)
        long = 0 < window * SAMPLE_RATE < len(waveform)
        if waiting and (long or (len(waiting) + 1) * longest > batch_seconds * SAMPLE_RATE):
            yield from _predict(head, waiting)
            waiting = []
        if long:
            yield from _predict(head, [(path, waveform)], window)
        else:
            waiting.append((path, waveform))
    if waiting:
        yield from _predict(head, waiting)


@torch.inference_mode()
def _predict(head: TrainedHead, batch: list[tuple[Path, np.ndarray]], window: float = 0.0) -> Iterator[dict[str, Any]]:
    inputs = Waveforms.pad([waveform for _, waveform in batch]).to(head.device)
    try:
        outputs, lengths = long_outputs(head.task, inputs.audio[0], window) if window else head.task(inputs)
    except UserError as error:
        raise UserError(f"{', '.join(str(path) for path, _ in batch)}: {error}") from error
    for (path, _), row in zip(batch, head.task.readable(outputs, lengths), strict=True):
        yield {"file": str(path), **row}
