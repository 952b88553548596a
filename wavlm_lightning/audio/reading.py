"""Reading and writing audio: files to checked 16 kHz mono float32 waveforms, FLAC in memory, named errors for bad files."""

from __future__ import annotations

import io
import math
import os
import tempfile
from pathlib import Path

import numpy as np
import soundfile

from wavlm_lightning.audio.containers import Readable, fault, readable
from wavlm_lightning.audio.media import decode_media, is_media
from wavlm_lightning.system.errors import UserError

SAMPLE_RATE = 16_000  # samples per second in the whole project

SHORTEST = 400  # samples that one frame of an encoder or of filter banks needs (25 ms); less is no utterance

SILENCE_PEAK = 1e-4  # a waveform whose peak is below this (-80 dBFS) counts as silent

END_TOLERANCE = 0.1  # seconds by which a requested stretch may end after its file

# Formats whose stated length `fault` compares with the file. Of others libsndfile makes a shorter recording if they were cut.
CHECKED = {"WAV", "WAVEX", "RF64", "AIFF", "AU", "W64", "CAF", "OGG", "NIST", "FLAC", "MP3", "HTK", "SDS"}

RATES = 2_000, 1_000_000  # sampling rates in Hz that a header can mean
BLOCK = 1 << 20  # frames decoded at a time: memory follows what a file holds, not what its header promises
BEYOND = (
    1e-3  # share of samples beyond full scale that is clipped, as a lossy decoder makes them; more is another scale
)


class BadAudio(UserError, ValueError):
    """A file that cannot be used: not audio, truncated, empty, silent, or not finite."""


def load_mono(
    path: Path | str,
    sample_rate: int = SAMPLE_RATE,
    start: float = 0.0,
    end: float | None = None,
    allow_silence: bool = False,
    channel: int | None = None,
    called: str | None = None,
) -> np.ndarray:
    """Read any file that libsndfile supports (wav, flac, ogg, opus, mp3, w64, sph, ...), as checked mono audio at one rate.

    Containers such as m4a and webm are read by PyAV, the extra `[media]`.

    Args:
        path: the audio file.
        sample_rate: rate of the result in Hz; other rates are resampled (windowed sinc, torchaudio).
        start: start of the stretch to read, in seconds; only that stretch is decoded.
        end: its end, in seconds; None for the end of the file.
        allow_silence: see `check_waveform`.
        channel: the one to read, from 0; None averages all.
        called: name of the file in messages; `path` by default.

    Returns:
        float32 `(samples,)` in [-1, 1].

    Raises:
        BadAudio: the file is not audio, truncated, shorter than `end`, empty, silent, not at full scale 1 or holds NaN, or has
            no such channel; the message names the file.
    """
    path = Path(path)
    called = called or str(path)
    name = called if end is None and not start else f"{called} from {start:g} s"
    if not path.is_file():
        raise BadAudio(f"{called}: not a file" if path.exists() else f"{called}: no such file")
    if path.stat().st_size == 0:
        raise BadAudio(f"{called}: empty, it holds no bytes; copy it again")
    try:
        media = is_media(path)
        wrong = None if media else fault(path) or _shortened(path)
        source, skipped, least = Readable(b"") if media else readable(path)
    except OSError:
        raise
    except Exception as error:  # a header that ends, or counts, where nobody expected it
        raise BadAudio(f"{called}: its header is damaged ({error})") from error
    if wrong is not None:
        raise BadAudio(f"{called}: {wrong}")
    if media:
        audio, rate, first, wanted = _of_container(path, called, name, start, end, channel)
        return _usable(_complete(audio, rate, first, wanted, name), rate, sample_rate, name, allow_silence)
    try:
        with soundfile.SoundFile(source) as file:
            if file.format not in CHECKED:
                raise BadAudio(
                    f"{called}: a file of {file.format_info}; convert it to wav or flac, whose lengths are checked"
                )
            rate, total = file.samplerate, file.frames
            if not RATES[0] <= rate <= RATES[1]:
                raise BadAudio(f"{called}: its header says {rate} Hz; rates from {RATES[0]} to {RATES[1]} Hz are read")
            _check_channel(channel, file.channels, called)
            first = round(start * rate)
            wanted = None if end is None else max(round(end * rate) - first, 0)
            if first > total:
                raise BadAudio(f"{name}: the file ends at {total / rate:.2f} s, before the requested stretch")
            if skipped:  # the length is unknown, and so are places in it: decode from the start
                _skip(file, skipped + first)
            elif first:
                file.seek(first)
            audio, found = _decode(file, wanted, channel)
            if total < 2**40 and not skipped and first + found < total and (wanted is None or found < wanted):
                raise BadAudio(f"{called}: truncated after {first + found} samples")
            if first + found < least and (wanted is None or found < wanted):
                raise BadAudio(
                    f"{called}: damaged: its frames hold {least} samples, {first + found} can be decoded; copy it again"
                )
    except (BadAudio, MemoryError):
        raise
    except Exception as error:
        raise BadAudio(f"{called}: not readable as audio ({error})") from error
    return _usable(_complete(audio, rate, first, wanted, name), rate, sample_rate, name, allow_silence)


def _complete(audio: np.ndarray, rate: int, first: int, wanted: int | None, name: str) -> np.ndarray:
    """`audio` `(samples,)` if it is as long as the stretch that was asked for."""
    # Segment tables are rounded, so a segment may end slightly after its file.
    if wanted is not None and len(audio) < wanted - END_TOLERANCE * rate:
        raise BadAudio(f"{name}: the file ends at {(first + len(audio)) / rate:.2f} s, before the requested stretch")
    return audio


def _of_container(
    path: Path, called: str, name: str, start: float, end: float | None, channel: int | None
) -> tuple[np.ndarray, int, int, int | None]:
    """A stretch of a file that PyAV reads: `(samples,)`, its rate, its first sample, and how many were asked for."""
    try:
        whole, rate = decode_media(path)
    except ValueError as error:
        raise BadAudio(f"{called}: {error}") from error
    if not RATES[0] <= rate <= RATES[1]:
        raise BadAudio(f"{called}: its header says {rate} Hz; rates from {RATES[0]} to {RATES[1]} Hz are read")
    _check_channel(channel, whole.shape[1], called)
    first = round(start * rate)
    wanted = None if end is None else max(round(end * rate) - first, 0)
    if first > len(whole):
        raise BadAudio(f"{name}: the file ends at {len(whole) / rate:.2f} s, before the requested stretch")
    part = whole[first : None if wanted is None else first + wanted]
    return part.mean(axis=1) if channel is None else part[:, channel].copy(), rate, first, wanted


def _check_channel(channel: int | None, channels: int, called: str) -> None:
    if channel is not None and not 0 <= channel < channels:
        raise BadAudio(f"{called}: channel {channel} is asked for (the first is 0), and it has {channels}")


def _shortened(path: Path) -> str | None:
    """Refuse NIST SPHERE files under Shorten's compression, which no library of ours reads."""
    with path.open("rb") as file:
        head = file.read(1024)
    if head.startswith(b"NIST_1A") and (b"shorten" in head or b"shortpack" in head):
        return "its samples are compressed with Shorten, which is not read; unpack it with `sph2pipe -f wav` first"
    return None


def stated_seconds(path: Path) -> float | None:
    """The length that the header of an audio file states, in seconds; None where libsndfile does not read the file."""
    try:
        with soundfile.SoundFile(os.fspath(path)) as file:
            return file.frames / file.samplerate if 0 < file.frames < 2**40 else None
    except (soundfile.SoundFileError, OSError, ZeroDivisionError):
        return None


def load_mono_bytes(data: bytes, suffix: str, name: str, allow_silence: bool = False) -> np.ndarray:
    """`load_mono` of a file in memory, such as a member of a tar or a cell of a parquet file.

    Args:
        data: the bytes of an audio file.
        suffix: of its name, such as `.mp3`; some formats are known by it alone.
        name: of the audio in messages.
        allow_silence: see `check_waveform`.

    Returns:
        float32 `(samples,)` in [-1, 1] at 16 kHz.
    """
    # A file for a moment, so that every check of a header is the one of `load_mono`.
    with tempfile.NamedTemporaryFile(prefix="wavlm-", suffix=suffix) as file:
        file.write(data)
        file.flush()
        return load_mono(file.name, allow_silence=allow_silence, called=name)


def to_speech(waveform: np.ndarray, rate: int, name: str, allow_silence: bool = False) -> np.ndarray:
    """Check a waveform in memory and bring it to 16 kHz, as `load_mono` does with a file.

    Args:
        waveform: `(samples,)`, floats in [-1, 1]; or integers of 16 or 32 bits, which are scaled.
        rate: its sampling rate in Hz.
        name: of the waveform in messages.
        allow_silence: see `check_waveform`.

    Returns:
        float32 `(samples,)` in [-1, 1] at 16 kHz.

    Raises:
        BadAudio: it has another shape, type or rate, or cannot be used (see `load_mono`).
    """
    if waveform.ndim != 1:
        raise BadAudio(f"{name}: of shape {waveform.shape}; give one channel, (samples,)")
    if waveform.dtype in (np.int16, np.int32):
        waveform = waveform / np.float32(-np.iinfo(waveform.dtype).min)
    if not np.issubdtype(waveform.dtype, np.floating):
        raise BadAudio(f"{name}: of type {waveform.dtype}; give floats in [-1, 1], or integers of 16 or 32 bits")
    if not RATES[0] <= rate <= RATES[1]:
        raise BadAudio(f"{name}: {rate} Hz; rates from {RATES[0]} to {RATES[1]} Hz are read")
    return _usable(waveform.astype(np.float32), rate, SAMPLE_RATE, name, allow_silence)


def _usable(waveform: np.ndarray, rate: int, sample_rate: int, name: str, allow_silence: bool) -> np.ndarray:
    check_waveform(waveform, name, allow_silence)
    _check_scale(waveform, name)
    if rate != sample_rate:
        waveform = _resample(waveform, rate, sample_rate)
    return np.clip(waveform, -1.0, 1.0)


def _skip(file: soundfile.SoundFile, frames: int) -> None:
    while frames > 0 and (found := len(file.read(min(BLOCK, frames)))):
        frames -= found


def _decode(file: soundfile.SoundFile, wanted: int | None, channel: int | None) -> tuple[np.ndarray, int]:
    """Decode up to `wanted` frames (None: all that follow): a channel or the mean, float32 `(frames,)`, and their number."""
    parts, found = [], 0
    while wanted is None or found < wanted:
        block = file.read(BLOCK if wanted is None else min(BLOCK, wanted - found), dtype="float32", always_2d=True)
        if not len(block):
            break
        parts.append(block.mean(axis=1) if channel is None else block[:, channel])
        found += len(block)
    return np.concatenate(parts) if parts else np.zeros(0, np.float32), found


def _check_scale(waveform: np.ndarray, name: str) -> None:
    beyond = np.count_nonzero(np.abs(waveform) > 1.0)
    if beyond > BEYOND * waveform.size:
        peak = float(np.abs(waveform).max())
        hint = "; are they 16-bit integers stored as floats? divide them by 32768" if peak > 8 else "; scale it down"
        raise BadAudio(
            f"{name}: {beyond} of {waveform.size} samples lie beyond full scale (peak {peak:.4g}) and would be clipped{hint}"
        )


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


def check_length(waveform: np.ndarray, name: str, shortest: int = SHORTEST) -> None:
    """Refuse a waveform `(samples,)` at 16 kHz of less than one frame: it has no features, labels or predictions.

    The one place that decides what is too short: recipes, `data check` and `wavlm predict` call it or use `SHORTEST`.
    """
    if len(waveform) < shortest:
        raise BadAudio(f"{name}: {too_short(len(waveform), shortest)}")


def too_short(samples: int, shortest: int = SHORTEST) -> str:
    """Says that an utterance has less than one frame."""
    return f"too short, {samples} samples at 16 kHz where one frame needs {shortest} ({shortest / 16:g} ms)"


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


def decode_stretch(
    data: bytes, suffix: str, name: str, count: int, start: int = 0, samples: int = -1, out: np.ndarray | None = None
) -> np.ndarray:
    """A stretch of any audio file in memory, counted in samples of the 16 kHz mono waveform that `load_mono_bytes` gives.

    Of wav and FLAC at 16 kHz only the stretch is decoded; all else is decoded, and resampled, as a whole each time.

    Args:
        data: the bytes of a file that `load_mono_bytes` has read before.
        suffix: of its name, such as `.mp3`.
        name: of the audio in messages.
        count: samples that the whole has at 16 kHz.
        start: first sample.
        samples: number of samples; -1 for all that follow.
        out: float32 array to write into, as long as the stretch; a new array by default.

    Returns:
        float32 `(samples,)` in [-1, 1].

    Raises:
        BadAudio: it cannot be decoded, or has another length than `count`.
    """
    end = count if samples < 0 else min(start + samples, count)
    part = _plain_stretch(data, count, start, end) if data[:4] in (b"RIFF", b"fLaC") else None
    if part is None:
        waveform = load_mono_bytes(data, suffix, name, allow_silence=True)
        if len(waveform) != count:
            raise BadAudio(f"{name}: {len(waveform):,} samples at 16 kHz, its index says {count:,}")
        part = waveform[start:end]
    if out is None:
        return part
    if len(part) < len(out):
        raise BadAudio(f"{name}: {len(part)} samples instead of {len(out)}")
    out[:] = part
    return out


def _plain_stretch(data: bytes, count: int, start: int, end: int) -> np.ndarray | None:
    """Samples `start` to `end` of a wav or FLAC; None if its header is not to be believed, so `load_mono` has to read it."""
    with soundfile.SoundFile(io.BytesIO(data)) as file:
        if file.samplerate == SAMPLE_RATE:
            if file.frames != count:
                return None
            if start:
                file.seek(start)
            part, _ = _decode(file, end - start, None)
            return np.clip(part, -1.0, 1.0)
        audio, _ = _decode(file, None, None)
        waveform = np.clip(_resample(audio, file.samplerate, SAMPLE_RATE), -1.0, 1.0)
    return waveform[start:end] if len(waveform) == count else None


def _resample(waveform: np.ndarray, rate: int, wanted: int) -> np.ndarray:
    if rate // math.gcd(rate, wanted) > LARGEST_KERNEL_RATE:
        return sinc_interpolation(waveform, rate, wanted)
    import torch
    from torchaudio.functional import resample

    return resample(torch.from_numpy(np.ascontiguousarray(waveform)), rate, wanted).numpy()


# torchaudio's kernel has rate * wanted / gcd^2 numbers: 12 GB at 44,101 Hz. The usual rates reduce to at most 441.
LARGEST_KERNEL_RATE = 2_000


def sinc_interpolation(
    waveform: np.ndarray, rate: int, wanted: int, zeros: int = 6, rolloff: float = 0.99
) -> np.ndarray:
    """Resample by a sinc under a Hann window, computed for each output sample, so that odd rates cost no more than others.

    The formula is that of `torchaudio.functional.resample`, which keeps one kernel for each phase.

    Args:
        waveform: float32 `(samples,)` at `rate` Hz.
        rate: in Hz.
        wanted: rate of the result in Hz.
        zeros: zero crossings of the sinc on either side.
        rolloff: the cut-off frequency as a share of the lower Nyquist frequency.

    Returns:
        float32 `(ceil(samples * wanted / rate),)`.
    """
    cutoff = min(rate, wanted) * rolloff
    width = math.ceil(zeros * rate / cutoff)
    padded = np.pad(waveform.astype(np.float64), (width, width + 1))
    offsets = np.arange(-width, width + 1)
    found = np.empty(-(-len(waveform) * wanted // rate), np.float32)
    step = max(1, (1 << 22) // len(offsets))
    for begin in range(0, len(found), step):
        numbers = np.arange(begin, min(begin + step, len(found)), dtype=np.int64)
        whole, part = np.divmod(numbers * rate, wanted)  # integers: no rounding grows with the length
        phase = np.clip((part[:, None] / wanted - offsets) * (cutoff / rate), -zeros, zeros)
        window = np.cos(phase * (np.pi / zeros / 2)) ** 2
        kernel = np.sinc(phase) * window * (cutoff / rate)
        found[numbers] = (padded[whole[:, None] + offsets + width] * kernel).sum(1)
    return found
