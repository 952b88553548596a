"""The espeak-ng synthesiser: requests to its process, and phone and word alignment from its events."""

import contextlib
import importlib.util
import json
import struct
import subprocess
import sys
from typing import Any

import numpy as np
from scipy import fft

from wavlm_lightning.data.mini.synthesis.phones import SILENCE, STOPS, fold
from wavlm_lightning.data.mini.synthesis.speech import SAMPLE_RATE, Segment, Speech, SpeechRequest, spoken_words

_ENVELOPE_SECONDS = 0.005
_LONGEST_CLOSURE = 0.09
_SHORTEST = 0.015
_CLOSURE_DROP = 10.0 ** (-12 / 20)


class EspeakUnavailableError(Exception):
    """The optional extra `[corpus]` is missing or does not load."""


class EspeakProcess:
    """A synthesiser that runs espeak-ng in a child process, for one thread; `EspeakUnavailableError` if it does not load.

    Example:
        >>> voice = EspeakProcess()
        >>> speech = voice.speak(SpeechRequest("The cat sat.", "en-US", "f2", rate=160, pitch=50, pitch_range=50))
        >>> voice.close()
    """

    def __init__(self) -> None:
        if importlib.util.find_spec("espeakng_loader") is None:
            raise EspeakUnavailableError("the package espeakng-loader is not installed")
        command = [sys.executable, "-m", "wavlm_lightning.data.mini.synthesis.synthesiser"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        try:
            greeting, _ = self._receive()
        except RuntimeError as error:
            self.close()
            raise EspeakUnavailableError(str(error)) from error
        self.name = f"espeak-ng {greeting['version']}"

    def speak(self, request: SpeechRequest) -> Speech:
        job = {
            "text": request.text,
            "voice": f"{request.accent}+{request.variant}",
            # The output is played `tract` times faster: formants and pitch rise by that factor, and the tempo is as asked.
            "rate": round(request.rate / request.tract),
            "pitch": round(request.pitch),
            "range": round(request.pitch_range),
            "seed": request.seed,
        }
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(job).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise RuntimeError("the espeak-ng process ended unexpectedly") from None
        header, samples = self._receive()
        raw = np.frombuffer(samples, dtype="<i2").astype(np.float32) / 32768
        waveform, rate = resample(raw, header["rate"] * request.tract)
        phones, words = align(header["phones"], header["words"], request.text, raw, rate)
        seconds = len(waveform) / SAMPLE_RATE
        return Speech(waveform, _closed(phones, seconds), _closed(words, seconds))

    def close(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            if self._process.stdin is not None:
                self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def _receive(self) -> tuple[dict[str, Any], bytes]:
        assert self._process.stdout is not None
        lengths = self._process.stdout.read(8)
        if len(lengths) < 8:
            raise RuntimeError("the espeak-ng process ended unexpectedly")
        header_bytes, sample_bytes = struct.unpack("<II", lengths)
        header = json.loads(self._process.stdout.read(header_bytes))
        samples = self._process.stdout.read(sample_bytes)
        if "error" in header:
            raise RuntimeError(header["error"])
        return header, samples


def resample(raw: np.ndarray, rate: float) -> tuple[np.ndarray, float]:
    """Resample a waveform (samples,), to be played at `rate` Hz, to 16 kHz; the second result is the rate that it got.

    The rate is approximated within 1 %, by lengths whose transforms are fast.
    """
    pairs, length = [], len(raw) + 64
    for _ in range(24):
        length = fft.next_fast_len(length, real=True)
        pairs.append((length, fft.next_fast_len(round(0.996 * length * SAMPLE_RATE / rate), real=True)))
        length += 1
    length, resampled = min(pairs, key=lambda pair: abs(pair[1] / pair[0] * rate / SAMPLE_RATE - 1))
    bins = resampled // 2 + 1
    spectrum = fft.rfft(raw, length)
    kept = np.zeros(bins, dtype=spectrum.dtype)
    kept[: min(bins, len(spectrum))] = spectrum[:bins]
    waveform = fft.irfft(kept, resampled) * np.float32(resampled / length)
    met = SAMPLE_RATE * length / resampled
    return waveform[: round(len(raw) * SAMPLE_RATE / met)].astype(np.float32, copy=False), met


def align(
    phone_events: list[tuple[int, str]], word_events: list[tuple[int, int]], text: str, raw: np.ndarray, rate: float
) -> tuple[list[Segment], list[Segment]]:
    """Phone and word segments, in seconds, from espeak-ng's events; phones are contiguous from 0 to the end of `raw`.

    An event is a sample and the phone's name, or a sample and the word's position (characters) in the text. `raw` is
    the waveform before resampling, played at `rate` Hz.
    """
    seconds = len(raw) / rate
    word_starts = sorted({sample / rate for sample, _ in word_events})
    envelope = _envelope(raw, rate)
    starts: list[tuple[float, tuple[str, ...]]] = []
    for sample, name in phone_events:
        folded = fold(name)
        if not folded:
            continue
        start = sample / rate
        previous = starts[-1][0] if starts else 0.0
        # A word's event is exact; the event of its first phone comes late, after the closure or the onset of frication.
        word = [w for w in word_starts if previous < w <= start and start - w < _LONGEST_CLOSURE]
        if word and folded != (SILENCE,):
            start = word[-1]
        elif folded[0] in STOPS:
            start = _closure(envelope, previous, start)
        starts.append((start, folded))
    if not starts or (starts[0][0] > 2 * _ENVELOPE_SECONDS and starts[0][1] != (SILENCE,)):
        starts.insert(0, (0.0, (SILENCE,)))
    phones: list[Segment] = []
    ends = [start for start, _ in starts[1:]] + [seconds]
    for (start, folded), end in zip(starts, ends, strict=True):
        start = phones[-1].end if phones else 0.0
        end = min(end, seconds)
        if end - start < _SHORTEST:
            if folded == (SILENCE,):
                continue
            # 0.5 % of the events, mostly /l/ and /r/, have no length: they sound within the vowel before, so split it.
            if phones and phones[-1].name != SILENCE:
                start -= (phones[-1].end - phones[-1].start) / 3
                phones[-1] = phones[-1]._replace(end=start)
            if end - start < 1e-3:
                continue
        if folded == (SILENCE,) and phones and phones[-1].name == SILENCE:
            phones[-1] = Segment(SILENCE, phones[-1].start, end)
            continue
        edges = np.linspace(start, end, len(folded) + 1)
        phones += [Segment(name, float(edges[i]), float(edges[i + 1])) for i, name in enumerate(folded)]
    return phones, _words(word_events, text, phones, rate, seconds)


def _words(
    word_events: list[tuple[int, int]], text: str, phones: list[Segment], rate: float, seconds: float
) -> list[Segment]:
    # espeak-ng reports one event for clitic pairs ("in the"): a word without an event joins the one before it.
    tokens = spoken_words(text)
    ends, position = [], 0
    for token in tokens:
        position = text.lower().index(token, position) + len(token)
        ends.append(position)
    begins: dict[int, float] = {0: word_events[0][0] / rate} if word_events else {0: 0.0}
    for sample, character in word_events:
        index = next((i for i, end in enumerate(ends) if end > character), 0)
        if index > max(begins):
            begins[index] = sample / rate
    firsts = sorted(begins)
    words = []
    for first, after in zip(firsts, [*firsts[1:], len(tokens)], strict=True):
        start, end = begins[first], begins.get(after, seconds)
        # A pause between two words belongs to neither.
        voiced = [p for p in phones if p.name != SILENCE and p.start < end - 1e-3 and p.end > start + 1e-3]
        if voiced:
            start, end = max(start, voiced[0].start), min(end, voiced[-1].end)
        words.append(Segment(" ".join(tokens[first:after]), start, end))
    return words


def _envelope(raw: np.ndarray, rate: float) -> np.ndarray:
    hop = max(1, round(_ENVELOPE_SECONDS * rate))
    frames = raw[: len(raw) // hop * hop].reshape(-1, hop)
    return np.sqrt(np.mean(frames**2, axis=1))


def _closure(envelope: np.ndarray, previous: float, burst: float) -> float:
    first, last = int(previous / _ENVELOPE_SECONDS), min(int(burst / _ENVELOPE_SECONDS), len(envelope))
    if last - first < 4:
        return burst
    quiet = envelope[first:last].max() * _CLOSURE_DROP
    earliest = max(first + (last - first) // 3, last - round(_LONGEST_CLOSURE / _ENVELOPE_SECONDS))
    # Start before the frame of the burst, which may already be loud.
    frame = last - 1
    while frame > earliest and envelope[frame - 1] < quiet:
        frame -= 1
    return burst if frame == last - 1 else frame * _ENVELOPE_SECONDS


def _closed(segments: list[Segment], seconds: float) -> tuple[Segment, ...]:
    # Resampling rounds the duration to whole samples; end the last segment there.
    if segments and abs(segments[-1].end - seconds) < 1e-3:
        segments = [*segments[:-1], segments[-1]._replace(end=seconds)]
    return tuple(segments)
