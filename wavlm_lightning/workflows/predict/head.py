"""Load a trained head: from a run folder of `wavlm fit`, or from a folder in Hugging Face's format."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jsonargparse import ArgumentError

from wavlm_lightning.audio import BadAudio, amplified, check_length, check_waveform, load_mono, trim_silence
from wavlm_lightning.data.finding import printable
from wavlm_lightning.encoder import CheckpointError
from wavlm_lightning.encoder.checkpoints.tensor_files import read_json
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.hardware import choose_device
from wavlm_lightning.system.reading import reading
from wavlm_lightning.system.run_folder import BEST, CONFIG, checkpoint
from wavlm_lightning.tasks import Task
from wavlm_lightning.tasks.components.beam_search import LanguageModel
from wavlm_lightning.tasks.decoding import check_decodes
from wavlm_lightning.tasks.huggingface.reading import HEADS, huggingface_head, is_head_folder
from wavlm_lightning.tasks.speaker.meeting_diarization import MeetingDiarization, checked_count
from wavlm_lightning.tasks.text import TextTask
from wavlm_lightning.tasks.trained_run import EXPECTED, trained_task
from wavlm_lightning.upstreams.run_checkpoints import HEAD_KEY, read_entries
from wavlm_lightning.workflows.fit import yaml_loader  # noqa: F401 - bounds what the parser reads
from wavlm_lightning.workflows.fit.parser_errors import user_error
from wavlm_lightning.workflows.predict.written import state_of


@dataclass(frozen=True)
class TrainedHead:
    """A trained task on a device."""

    task: Task  # in eval mode
    gain_db: float  # of every waveform, as in training
    trim: bool  # remove quiet stretches, as the recipe of the training corpus did
    device: torch.device
    weights: Path  # the checkpoint, or the folder in Hugging Face's format

    def read(self, path: Path, whole: bool = False) -> np.ndarray:
        """Read a recording and prepare it as in training: float32 `(samples,)`, or a `UserError`; `whole` trims nothing."""
        try:
            waveform = load_mono(path)
        except (BadAudio, OSError) as error:
            raise UserError(printable(f"{error}; leave it out")) from error
        return self.prepare(waveform, str(path), whole)

    def prepare(self, waveform: np.ndarray, name: str, whole: bool = False) -> np.ndarray:
        """Prepare a waveform at 16 kHz as in training: float32 `(samples,)`, or a `UserError` that calls it `name`."""
        if self.gain_db:
            waveform = amplified(waveform, self.gain_db)
        try:
            if (
                self.trim and not whole and self.task.answer != "waveform"
            ):  # whose answer keeps the time of the recording
                waveform = trim_silence(waveform)
                check_waveform(waveform, f"{name}: without its quiet stretches")
            check_length(waveform, name, self.task.upstream.shortest)
        except BadAudio as error:
            raise UserError(printable(f"{error}; leave it out")) from error
        return waveform


def holds_head(path: Path) -> bool:
    """Whether a path, which may be anything, holds a head (in a run folder or in Hugging Face's format)."""
    best = checkpoint(path, BEST)
    if best.exists():
        return HEAD_KEY in read_entries(best)
    if not is_head_folder(path):
        return False
    try:
        named = read_json(path / "config.json").get("architectures")
    except CheckpointError as error:
        raise UserError(str(error)) from error
    return isinstance(named, list) and bool(named) and str(named[0]).endswith(HEADS)


def weights_of(path: Path) -> Path:
    """Where the weights of a head are that `open_head` loads: the best checkpoint of a run, or the path itself."""
    best = checkpoint(path, BEST)
    return best if best.exists() else path


def open_head(path: Path, device: str | None = None) -> TrainedHead:
    """Load a head from a run folder of `wavlm fit`, or from a folder in Hugging Face's format; see `choose_device`.

    Raises a `UserError` if the path holds no head, its upstream is missing, or the device cannot be used.
    """
    place = choose_device(device)
    with reading(path, "a trained head", EXPECTED):
        if is_head_folder(path):
            task, gain_db = huggingface_head(str(path)), 0.0
            processing = task.trained["processing"]
        else:
            task, processing, gain_db = _from_run(path)
        # The corpus was made with `processing`; the data module may have applied a further gain while training.
        gain_db = float(gain_db + processing.get("gain_db", 0.0))
        if not math.isfinite(gain_db):
            raise UserError(f"{path}: its recordings got a gain of {gain_db} dB; {EXPECTED}")
        return TrainedHead(task.eval().to(place), gain_db, bool(processing.get("trim")), place, weights_of(path))


def answer_with(head: TrainedHead, nbest: int) -> None:
    """Let a head give that many answers for each recording; a `UserError` if it has no search that finds several."""
    if nbest > 1 and not isinstance(head.task, TextTask):
        raise UserError(
            f"--nbest {nbest}: {head.task.name} has one answer for a recording; heads that answer with text have several"
        )
    if isinstance(head.task, TextTask):
        head.task.nbest = nbest


def count_speakers(head: TrainedHead, speakers: str) -> None:
    """Fix the number of speakers that a head for diarization finds: "3", or a range, "2-4"."""
    if not isinstance(head.task, MeetingDiarization):
        raise UserError(f"--speakers {speakers}: {head.task.name} counts no speakers; give a run of MeetingDiarization")
    least, _, most = speakers.partition("-")
    if not (least.isdecimal() and (most or least).isdecimal()):
        raise UserError(f"--speakers {speakers}: give a number such as 3, or a range such as 2-4")
    head.task.count = checked_count([int(least), int(most or least)])


def decode_with(head: TrainedHead, path: Path) -> dict[str, Any]:
    """Let an ASR or PR head decode with a language model as well, and return what describes it, JSON-like.

    Args:
        head: loaded.
        path: a file of `wavlm lm tune`, or the run folder that holds one. Weights that were searched for another head are used,
            with a note.

    Raises:
        UserError: the head answers with something else, the file is no language model, its files do not fit the head, or the head
            has been trained on since the search.
    """
    task = check_decodes(head.task, f"--lm {path}")
    model, note = LanguageModel.read(path).for_head(head.weights)
    if note:
        print(note, file=sys.stderr)
    task.use_language_model(model)
    return {**model.described(), "state": [state_of(Path(file)) for file in (model.lexicon, model.model) if file]}


def _from_run(run: Path) -> tuple[Task, dict[str, Any], float]:
    """As `trained_task`, with what the parser complains of in one sentence."""
    try:
        return trained_task(run)
    except UserError:
        raise
    except (ArgumentError, ValueError) as error:
        if (said := user_error(error, [])) is None:
            raise
        raise UserError(f"{run / CONFIG}: {said}") from error
