"""Audio in containers that libsndfile does not read (m4a, mp4, webm, mkv, aac, wma): decoded by PyAV, the extra `[media]`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from wavlm_lightning.system.errors import pip_install

# The first bytes of Matroska (webm), ASF (wma) and AMR; MP4 has its brand after four bytes of length.
BEGINNINGS = (b"\x1a\x45\xdf\xa3", b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", b"#!AMR")
SHORT_OF_STATED = 0.1  # seconds that may lack at the end: the length of a container is rounded to its last packet
PACKET = 2048  # samples of the largest packet of AAC


def is_media(path: Path) -> bool:
    """Whether the first bytes are those of a container that libsndfile does not read."""
    with path.open("rb") as file:
        head = file.read(12)
    adts = len(head) > 1 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0  # AAC; layer III of MPEG has other bits
    return head.startswith(BEGINNINGS) or head[4:8] == b"ftyp" or adts


def decode_media(path: Path) -> tuple[np.ndarray, int]:
    """Decode the audio stream of a container, with the delay of its encoder removed.

    Returns:
        float32 `(samples, channels)`, full scale 1, and the sampling rate in Hz.

    Raises:
        ValueError: PyAV is missing, there is no audio stream or more than one, a packet is damaged, the file is truncated;
            a reason without the name of the file.
    """
    try:
        import av
    except ImportError:
        raise ValueError(f"its container is read by PyAV; {pip_install('media')}") from None
    parts: list[np.ndarray] = []
    rates: set[int] = set()
    try:
        with av.open(os.fspath(path)) as container:
            if len(container.streams.audio) != 1:
                raise ValueError(f"it has {len(container.streams.audio)} audio streams; extract one to a file")
            stream = container.streams.audio[0]
            stated = _stated_seconds(container, stream)
            convert = av.AudioResampler(format="fltp")
            for frame in container.decode(stream):
                rates.add(frame.sample_rate)
                parts += [made.to_ndarray() for made in convert.resample(frame)]
            if parts:
                parts += [made.to_ndarray() for made in convert.resample(None)]
    except av.FFmpegError as error:
        raise ValueError(f"damaged or truncated ({error.strerror or error})") from error
    if len(rates) != 1 or len({part.shape[0] for part in parts}) != 1:
        raise ValueError("it holds no samples" if not rates else "its rate or its channels change on the way")
    audio = np.concatenate(parts, axis=1).T
    rate = rates.pop()
    if stated is not None and len(audio) / rate < stated - SHORT_OF_STATED:
        raise ValueError(f"truncated: it promises {stated:.2f} s, and {len(audio) / rate:.2f} s are there")
    if stated is not None and 0 < len(audio) - round(stated * rate) <= PACKET:
        audio = audio[: round(stated * rate)]  # the encoder filled its last packet
    return audio, rate


def _stated_seconds(container: Any, stream: Any) -> float | None:
    """The length that the container promises for its audio; None if it says nothing, as a browser's recorder does."""
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    # That of a whole container may be the length of its picture.
    return container.duration / 1e6 if container.duration and not container.streams.video else None
