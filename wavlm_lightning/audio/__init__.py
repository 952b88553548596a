"""Reading, checking and writing audio, and the classic spectral features; stands on the ground floor."""

from wavlm_lightning.audio.reading import (
    SAMPLE_RATE,
    BadAudio,
    check_waveform,
    decode_flac,
    encode_flac,
    load_mono,
)
from wavlm_lightning.audio.spectral import fbank, log_mel, mfcc, with_deltas

__all__ = [
    "SAMPLE_RATE",
    "BadAudio",
    "check_waveform",
    "decode_flac",
    "encode_flac",
    "fbank",
    "load_mono",
    "log_mel",
    "mfcc",
    "with_deltas",
]
