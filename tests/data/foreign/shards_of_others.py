"""WebDataset shards as other programs write them."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import soundfile

Member = tuple[str, bytes]


def sound(seed: int, seconds: float = 0.6, rate: int = 16_000, suffix: str = "wav", channels: int = 1) -> bytes:
    """An audio file of noise under a slow envelope."""
    rng = np.random.default_rng(seed)
    samples = int(seconds * rate) + 7 * (seed % 50)
    shape = (samples, channels) if channels > 1 else (samples,)
    waveform = rng.uniform(-0.4, 0.4, shape).astype("f4")
    buffer = io.BytesIO()
    form = {"opus": ("OGG", "OPUS"), "ogg": ("OGG", "VORBIS"), "mp3": ("MP3", "MPEG_LAYER_III")}
    name, coding = form.get(suffix, (suffix.upper(), "PCM_16"))
    soundfile.write(buffer, waveform, rate, format=name, subtype=coding)
    return buffer.getvalue()


def write_tar(path: Path, members: Iterable[Member], form: int = tarfile.GNU_FORMAT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def utterances(numbers: Sequence[int], speakers: int = 5, **settings) -> list[Member]:
    """Samples `SPEAKER/NAME.wav` with JSON that calls its fields by names of its own."""
    members: list[Member] = []
    for n in numbers:
        key = f"./spk{n % speakers}/utt_{n:05d}"
        about = {"transcript": f"sentence  number {n}", "spk": n % speakers, "mood": {"name": ("calm", "glad")[n % 2]}}
        suffix = settings.get("suffix", "wav")
        members += [(f"{key}.{suffix}", sound(n, **settings)), (f"{key}.json", json.dumps(about).encode())]
    return members
