"""Reading and writing audio: files to checked 16 kHz mono float32 waveforms, FLAC in memory, named errors for bad files."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import soundfile

SAMPLE_RATE = 16_000  # samples per second in the whole project

SILENCE_PEAK = 1e-4  # a waveform whose peak is below this (-80 dBFS) counts as silent

END_TOLERANCE = 0.1  # seconds by which a requested stretch may end after its file


class BadAudio(ValueError):
    """A file that cannot be used: not audio, truncated, empty, silent, or not finite."""


def load_mono(
    path: Path | str,
    sample_rate: int = SAMPLE_RATE,
    start: float = 0.0,
    end: float | None = None,
    allow_silence: bool = False,
) -> np.ndarray:
    """Read any file that libsndfile supports (wav, flac, ogg, opus, mp3, ...), as checked mono audio at one rate.

    Args:
        path: the audio file; channels are averaged.
        sample_rate: rate of the result in Hz; other rates are resampled (windowed sinc, torchaudio).
        start: start of the stretch to read, in seconds; only that stretch is decoded.
        end: its end, in seconds; None for the end of the file.
        allow_silence: see `check_waveform`.

    Returns:
        float32 `(samples,)` in [-1, 1].

    Raises:
        BadAudio: the file is not audio, truncated, shorter than `end`, empty, silent or holds NaN; the message names
            the file.
    """
    path = Path(path)
    name = str(path) if end is None and not start else f"{path} from {start:g} s"
    try:
        with soundfile.SoundFile(str(path)) as file:
            total, rate = file.frames, file.samplerate
            first, last = round(start * rate), total if end is None else round(end * rate)
            # Segment tables are rounded, so a segment may end slightly after its file.
            if first > total or last > total + END_TOLERANCE * rate:
                raise BadAudio(f"{name}: the file ends at {total / rate:.2f} s, before the requested stretch")
            promised = min(last, total) - first
            if first:
                file.seek(first)
            audio = file.read(max(promised, 0), dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise BadAudio(f"{path}: not readable as audio ({error})") from error
    if len(audio) < promised or _wav_is_cut(path):
        raise BadAudio(f"{path}: truncated after {first + len(audio)} samples")
    waveform = audio.mean(axis=1)
    check_waveform(waveform, name, allow_silence)
    if rate != sample_rate:
        waveform = _resample(waveform, rate, sample_rate)
    return np.clip(waveform, -1.0, 1.0)


def check_waveform(waveform: np.ndarray, name: str, allow_silence: bool = False) -> None:
    """Refuse waveforms that would harm training.

    Args:
        waveform: `(samples,)`.
        name: of the waveform in the message.
        allow_silence: accept a peak below -80 dBFS; corpora with a silence class contain digital zeros.

    Raises:
        BadAudio: empty, not finite, or silent (peak below -80 dBFS).
    """
    if waveform.size == 0:
        raise BadAudio(f"{name}: empty, it holds no samples")
    if not np.isfinite(waveform).all():
        raise BadAudio(f"{name}: holds NaN or infinite samples")
    if not allow_silence and np.abs(waveform).max() < SILENCE_PEAK:
        raise BadAudio(f"{name}: silent, its peak is below -80 dBFS")


def encode_flac(waveform: np.ndarray, sample_rate: int = SAMPLE_RATE) -> bytes:
    """16-bit FLAC bytes of a mono float waveform `(samples,)` in [-1, 1]."""
    buffer = io.BytesIO()
    soundfile.write(buffer, waveform, sample_rate, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def decode_flac(data: bytes, start: int = 0, samples: int = -1, out: np.ndarray | None = None) -> np.ndarray:
    """Decode a stretch of an encoded file, seeking inside the stream instead of decoding all of it.

    Args:
        data: the bytes of a FLAC (or any libsndfile) file, mono.
        start: first sample to decode.
        samples: number of samples; -1 for all that follow.
        out: float32 array to decode into, as long as the stretch; a new array by default.

    Returns:
        float32 `(samples,)`.

    Raises:
        BadAudio: the file ends before `out` is full.
    """
    with soundfile.SoundFile(io.BytesIO(data)) as file:
        if start:
            file.seek(start)
        found = file.read(samples, dtype="float32", out=out)
        if out is not None and len(found) < len(out):
            raise BadAudio(f"{len(found)} samples instead of {len(out)}")
        return found


def _resample(waveform: np.ndarray, rate: int, wanted: int) -> np.ndarray:
    import torch
    from torchaudio.functional import resample

    return resample(torch.from_numpy(np.ascontiguousarray(waveform)), rate, wanted).numpy()


def _wav_is_cut(path: Path) -> bool:
    """Whether a RIFF file declares more data than it holds, which libsndfile does not report."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(12)
        if len(head) < 12 or head[:4] != b"RIFF" or head[8:] != b"WAVE":
            return False
        while True:
            chunk = file.read(8)
            if len(chunk) < 8:
                return False
            name, length = struct.unpack("<4sI", chunk)
            if name == b"data":
                # Streaming recorders leave 0xFFFFFFFF (or 0) for an unknown length.
                return length not in (0, 0xFFFFFFFF) and file.tell() + length > size
            file.seek(length + (length & 1), io.SEEK_CUR)  # RIFF pads chunks to an even length
