"""Encoders and trained heads in Python: from any source that the command line knows, on arrays and files.

`wavlm_lightning.load_encoder` and `wavlm_lightning.load_head` are these functions, imported when they are first asked for.
Tests: `tests/workflows/test_from_python.py`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from wavlm_lightning.audio import SAMPLE_RATE, BadAudio, load_mono, to_speech
from wavlm_lightning.data.batch import Waveforms
from wavlm_lightning.encoder import Layers
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.hardware import choose_device
from wavlm_lightning.tasks.enrolled import ENROLMENT
from wavlm_lightning.upstreams import Upstream
from wavlm_lightning.upstreams.specs import build
from wavlm_lightning.workflows.predict.enrolments import check_hears_enrolments
from wavlm_lightning.workflows.predict.head import TrainedHead, open_head

Audio: TypeAlias = Tensor | np.ndarray | str | Path
HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


class LoadedEncoder:
    """An encoder on a device, in eval mode, that reads waveforms and files.

    Attributes:
        upstream: the `Upstream`, a torch module.
        device: where it runs.
    """

    def __init__(self, upstream: Upstream, device: torch.device) -> None:
        self.upstream, self.device = upstream.eval().to(device), device

    @property
    def label(self) -> str:
        return self.upstream.label

    @property
    def dim(self) -> int:
        return self.upstream.dim

    @property
    def frame_rate(self) -> float:
        return self.upstream.frame_rate

    def __call__(self, audio: Audio | Sequence[Audio], sample_rate: int = SAMPLE_RATE) -> Layers:
        """All hidden states, without gradients: `hidden (layers, batch, frames, dim)`, `lengths (batch,)`.

        Args:
            audio: a waveform `(samples,)` in [-1, 1], the path of a recording, or a list of them, which become one batch.
            sample_rate: of the waveforms; files know theirs.

        Raises:
            UserError: a waveform or a file cannot be used.
        """
        given: list[Any] = list(audio) if isinstance(audio, list | tuple) else [audio]
        inputs = Waveforms.pad([_waveform(each, sample_rate) for each in given]).to(self.device)
        with torch.no_grad():
            return self.upstream.layers(inputs.audio, inputs.lengths)

    def __repr__(self) -> str:
        return f"<encoder {self.label}: {self.upstream.num_layers} layers of {self.dim}, {self.frame_rate:g} frames/s>"


class LoadedHead:
    """A trained head on a device, that answers for waveforms and files.

    Attributes:
        task: the `Task`, a LightningModule in eval mode.
    """

    def __init__(self, head: TrainedHead, window: float) -> None:
        self._head, self._window = head, window
        self.task = head.task

    def __call__(
        self, audio: Audio | Sequence[Audio], sample_rate: int = SAMPLE_RATE, enrolment: Audio | None = None
    ) -> Any:
        """What `wavlm predict` prints: `text`, `turns`, `embedding`, a label with its probability, ..., as a dict.

        A head that answers with audio gives it as `audio`, float32 `(samples,)` or `(samples, parts)` at 16 kHz.

        Args:
            audio: a waveform `(samples,)` in [-1, 1], the path of a recording, or a list of them.
            sample_rate: of the waveforms; files know theirs.
            enrolment: of heads about a target speaker, a recording of that speaker alone.

        Returns:
            A dict, or a list of dicts if a list is given. The dict of a file has its path as `file`.

        Raises:
            UserError: a waveform or a file cannot be used.
        """
        if isinstance(audio, Sequence) and not isinstance(audio, str):
            return [self._answer(each, sample_rate, enrolment) for each in audio]
        return self._answer(audio, sample_rate, enrolment)

    @torch.inference_mode()
    def _answer(self, audio: Audio, sample_rate: int, enrolment: Audio | None) -> dict[str, Any]:
        head, name = self._head, {"file": str(audio)} if isinstance(audio, str | Path) else {}
        waveform = head.prepare(_waveform(audio, sample_rate), name.get("file", "the waveform"))
        inputs = Waveforms.pad([waveform]).to(head.device)
        long = 0 < self._window * SAMPLE_RATE < len(waveform)
        extra = {}
        if enrolment is not None:
            check_hears_enrolments(head, "enrolment")
            heard = head.prepare(_waveform(enrolment, sample_rate), "the enrolment", whole=True)
            extra = {ENROLMENT: Waveforms.pad([heard]).to(head.device)}
        with head.task.beside(extra):
            outputs, lengths = head.task.heard(inputs, self._window if long else 0.0)
        (row,) = head.task.readable(outputs, lengths)
        if head.task.answer == "waveform":
            (answer,) = head.task.answer_rows(outputs, lengths)
            row = {**row, "audio": answer.float().cpu().numpy() / np.float32(10 ** (head.gain_db / 20))}
        return {**name, **row}

    def __repr__(self) -> str:
        return f"<head {self.task.name} on {self.task.upstream.label}>"


def load_encoder(source: str | Path, device: str | None = None) -> LoadedEncoder:
    """Load an encoder to listen with; its weights are frozen.

    Args:
        source: whatever `wavlm superb` takes: the folder of a pre-training run or of a head that trained its encoder, a
            checkpoint, a Hugging Face folder or name on the hub (`microsoft/wavlm-base-plus`, also with `hf:`), a unilm or
            fairseq file, `torchaudio:BUNDLE`, `fbank`, `random:base`, `package.module.Class`.
        device: such as `cuda`; the GPU if there is one by default.

    Raises:
        UserError: the source does not exist or is not readable as an encoder.

    Example:
        >>> encoder = load_encoder("runs/demo/pretrain")
        >>> encoder("speech.wav").hidden.shape
        torch.Size([5, 1, 124, 192])
    """
    spec = str(source)
    if HUB_NAME.fullmatch(spec) and not Path(spec).exists():
        spec = f"hf:{spec}"
    return LoadedEncoder(build(spec), choose_device(device))


def load_head(run: str | Path, device: str | None = None, window: float = 60.0) -> LoadedHead:
    """Load a trained head.

    Args:
        run: run folder of `wavlm fit`, or a folder in Hugging Face's format.
        device: such as `cuda`; the GPU if there is one by default.
        window: longer recordings are processed in windows of this many seconds, at least 1; 0 for no windows.

    Raises:
        UserError: there is no head, or its upstream is missing.

    Example:
        >>> load_head("runs/demo/heads/ks-pretrained")("speech.wav")
        {'file': 'speech.wav', 'keyword': 'stop', 'probability': 0.93}
    """
    if window and not window >= 1:
        raise UserError(f"window={window:g}: too short; give at least 1 second, or 0 for no windows")
    return LoadedHead(open_head(Path(run), device), window)


def _waveform(audio: Any, sample_rate: int) -> np.ndarray:
    """Checked 16 kHz mono float32 `(samples,)`, from a file or an array."""
    try:
        if isinstance(audio, str | Path):
            return load_mono(audio)
        values = audio.detach().cpu().numpy() if isinstance(audio, Tensor) else np.asarray(audio)
        return to_speech(values, sample_rate, "the waveform")
    except (BadAudio, OSError) as error:
        raise UserError(str(error)) from error
