"""Audio files, SoX's effects and classic spectral features.

`reading` (files to checked 16 kHz mono waveforms, FLAC), `media` (containers that PyAV reads), `effects` (gain and silence
removal as SoX does them), `spectral` (filter banks, cepstra, log-mel), `mel` (the log-mel of synthesis, Griffin-Lim). Imports
nothing of ours. Tests: `tests/audio/`.
"""

from wavlm_lightning.audio.effects import amplified, gain, trim_silence
from wavlm_lightning.audio.mel import MEL_BINS, griffin_lim, synthesis_mel
from wavlm_lightning.audio.reading import (
    SAMPLE_RATE,
    SHORTEST,
    BadAudio,
    check_length,
    check_waveform,
    decode_flac,
    decode_stretch,
    encode_flac,
    load_mono,
    load_mono_bytes,
    stated_seconds,
    to_speech,
    too_short,
)
from wavlm_lightning.audio.spectral import fbank, log_mel, mfcc, spectrogram_db, with_deltas

__all__ = [
    "MEL_BINS",
    "SAMPLE_RATE",
    "SHORTEST",
    "BadAudio",
    "amplified",
    "check_length",
    "check_waveform",
    "decode_flac",
    "decode_stretch",
    "encode_flac",
    "fbank",
    "gain",
    "griffin_lim",
    "load_mono",
    "load_mono_bytes",
    "log_mel",
    "mfcc",
    "spectrogram_db",
    "stated_seconds",
    "synthesis_mel",
    "to_speech",
    "too_short",
    "trim_silence",
    "with_deltas",
]
