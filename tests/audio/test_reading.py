"""Every way a file can be bad has a name, and everything else comes out as 16 kHz mono."""

import numpy as np
import pytest
import soundfile

from wavlm_lightning.audio import BadAudio, decode_flac, encode_flac, load_mono


def tone(seconds: float = 0.5, rate: int = 16000, hertz: float = 440.0) -> np.ndarray:
    return 0.3 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate).astype(np.float32)


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
@pytest.mark.parametrize("rate", [8000, 16000, 44100])
def test_any_format_and_rate_becomes_16_khz_mono(tmp_path, suffix, rate):
    path = tmp_path / f"a.{suffix}"
    stereo = np.stack([tone(rate=rate), tone(rate=rate)], axis=1)
    soundfile.write(path, stereo, rate)
    waveform = load_mono(path)
    assert waveform.dtype == np.float32 and waveform.ndim == 1
    assert abs(len(waveform) - 8000) < 2000  # lossy coders pad
    spectrum = np.abs(np.fft.rfft(waveform[: 16000 // 4]))
    assert abs(np.argmax(spectrum) * 4 - 440) <= 8  # the tone is still at 440 Hz: the signal was resampled


def test_channels_are_averaged(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, np.stack([tone(), -0.5 * tone()], axis=1), 16000, subtype="FLOAT")
    assert np.allclose(load_mono(path), 0.25 * tone(), atol=1e-6)


def write_text(path):
    path.write_text("this is no audio")


def write_cut_flac(path):
    path.write_bytes(encode_flac(tone(2.0) + 0.01 * np.random.default_rng(0).normal(size=32000).astype("f4"))[:9000])


def write_cut_wav(path):
    soundfile.write(path, tone(2.0), 16000)
    path.write_bytes(path.read_bytes()[:20000])


@pytest.mark.parametrize(
    ("name", "write", "why"),
    [
        ("empty.wav", lambda p: soundfile.write(p, np.zeros(0), 16000), "empty"),
        ("nothing.wav", lambda p: p.write_bytes(b""), "empty"),
        ("text.wav", write_text, "not readable"),
        ("silent.wav", lambda p: soundfile.write(p, np.zeros(1000), 16000), "silent"),
        ("nan.wav", lambda p: soundfile.write(p, np.full(1000, np.nan), 16000, subtype="FLOAT"), "NaN"),
        ("cut.wav", write_cut_wav, "truncated"),
        ("cut.flac", write_cut_flac, "truncated|not readable"),
    ],
)
def test_bad_files_are_named(tmp_path, name, write, why):
    path = tmp_path / name
    write(path)
    with pytest.raises(BadAudio, match=why) as caught:
        load_mono(path)
    assert name in str(caught.value)


def test_a_stretch_is_decoded_without_the_rest():
    waveform = np.random.default_rng(0).uniform(-0.5, 0.5, 50_000).astype(np.float32)
    data = encode_flac(waveform)
    stretch = decode_flac(data, 12_345, 4_321)
    assert np.abs(stretch - waveform[12_345 : 12_345 + 4_321]).max() < 1e-4
