"""Headers are not believed: every cut file is refused, every unknown length is read to the end, odd rates cost no more."""

import io
import os
import struct
import time

import numpy as np
import pytest
import soundfile
import torch
from torchaudio.functional import resample

from wavlm_lightning.audio import BadAudio, load_mono
from wavlm_lightning.audio.containers import FLAC_HEADER_SUM, _check_sum, _first_mpeg_frame, _mpeg_length, fault
from wavlm_lightning.audio.reading import sinc_interpolation

FORMATS = {
    "wav": {},
    "rf64": {"format": "RF64"},
    "aiff": {},
    "au": {},
    "w64": {},
    "caf": {},
    "flac": {},
    "ogg": {},
    "opus": {"format": "OGG", "subtype": "OPUS"},
    "mp3": {},
    "nist": {"format": "NIST"},
    "rifx": {"format": "WAV", "endian": "BIG"},
}


def noise(samples: int = 32_000, seed: int = 0) -> np.ndarray:
    return 0.1 * np.random.default_rng(seed).standard_normal(samples).astype(np.float32)


def write(path, name: str, samples: int = 32_000) -> bytes:
    soundfile.write(path, noise(samples), 16_000, **FORMATS[name])
    return path.read_bytes()


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("share", [0.999, 0.9, 0.5])
def test_a_file_that_was_cut_is_refused(tmp_path, name, share):
    path = tmp_path / f"a.{name}"
    data = write(path, name)
    whole = load_mono(path)
    assert abs(len(whole) - 32_000) < 1500
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(BadAudio, match=r"truncated|not readable") as caught:
        load_mono(path)
    assert path.name in str(caught.value)


def put(data: bytes, marker: bytes, offset: int, value: bytes) -> bytes:
    place = data.index(marker) + offset
    return data[:place] + value + data[place + len(value) :]


@pytest.mark.parametrize(
    ("name", "marker", "offset", "value"),
    [
        ("wav", b"data", 4, b"\xff\xff\xff\xff"),
        ("wav", b"data", 4, b"\x00\x00\x00\x00"),
        ("wav", b"data", 4, struct.pack("<I", 0x7FFFFFFF - 44)),
        ("au", b".snd", 8, b"\xff\xff\xff\xff"),
        ("au", b".snd", 8, b"\x00" * 4),
        ("au", b".snd", 8, b"\x7f\xff\xff\xff"),
        ("rifx", b"data", 4, b"\x00" * 4),
        ("rifx", b"data", 4, b"\xff" * 4),
        ("rf64", b"ds64", 16, b"\x00" * 8),
        ("rf64", b"ds64", 16, b"\xff" * 8),
        ("w64", b"data\xf3", 16, b"\x00" * 8),
        ("w64", b"data\xf3", 16, struct.pack("<Q", 2**63 - 1)),
        ("w64", b"data\xf3", 16, b"\xff" * 8),
        ("caf", b"data", 4, b"\xff" * 8),
    ],
)
def test_an_unknown_length_is_read_to_the_end(tmp_path, name, marker, offset, value):
    path = tmp_path / f"a.{name}"
    path.write_bytes(put(write(path, name), marker, offset, value))
    assert len(load_mono(path)) == 32_000


def test_a_flac_without_a_length_is_read_to_the_end_and_one_with_a_false_length_costs_no_memory(tmp_path):
    path = tmp_path / "a.flac"
    data = bytearray(write(path, "flac"))
    data[21] &= 0xF0  # the 36 bits of STREAMINFO that count samples
    data[22:26] = bytes(4)
    path.write_bytes(data)
    assert len(load_mono(path)) == 32_000
    for promised in (b"\x7f\xff\xff\xff", struct.pack(">I", 40_000)):
        data[22:26] = promised
        path.write_bytes(data)
        with pytest.raises(BadAudio, match=r"truncated|not readable"):
            load_mono(path)
    data[22:26] = struct.pack(">I", 20_000)
    path.write_bytes(data)
    with pytest.raises(BadAudio, match="counts 20000 samples, but it holds 32000"):
        load_mono(path)


def test_samples_behind_the_counted_ones_are_not_dropped_silently(tmp_path):
    path = tmp_path / "a.wav"
    data = write(path, "wav")
    path.write_bytes(put(data, b"data", 4, struct.pack("<I", 8000)))
    with pytest.raises(BadAudio, match="more follow"):
        load_mono(path)
    path.write_bytes(data + b"LIST" + struct.pack("<I", 5000) + bytes(5000))  # a chunk behind the samples is usual
    assert len(load_mono(path)) == 32_000


@pytest.mark.parametrize(
    ("name", "marker", "offset", "value"),
    [
        ("w64", b"data\xf3", 16, struct.pack("<Q", 2**62 + 5)),
        ("rf64", b"ds64", 16, struct.pack("<Q", 2**62 + 5)),
        ("rf64", b"ds64", 16, struct.pack("<Q", 24)),
        ("caf", b"data", 4, struct.pack(">Q", 2**62)),
        ("caf", b"data", 4, struct.pack(">Q", 24)),
        ("nist", b"sample_count -i 32000", 0, b"sample_count -i 10000"),
    ],
)
def test_a_false_length_is_refused(tmp_path, name, marker, offset, value):
    path = tmp_path / f"a.{name}"
    path.write_bytes(put(write(path, name), marker, offset, value))
    with pytest.raises(BadAudio, match=r"truncated|more follow"):
        load_mono(path)


@pytest.mark.parametrize("name", ["IRCAM", "SVX", "MAT4", "MAT5", "AVR", "PVF", "PAF", "VOC"])
def test_formats_whose_length_nobody_checks_are_refused(tmp_path, name):
    path = tmp_path / "a.audio"
    soundfile.write(path, noise(), 16_000, format=name, subtype="PCM_16")
    with pytest.raises(BadAudio, match="convert it to wav or flac"):
        load_mono(path)


def frames_of(data: bytes) -> list[bytes]:
    """The frames of an mp3 that soundfile wrote."""
    at, frames = 0, []
    while length := _mpeg_length(data[at : at + 4]):
        frames.append(data[at : at + length])
        at += length
    return frames


def test_a_gap_in_an_mp3_behind_which_the_decoder_gives_up_is_no_end(tmp_path):
    path = tmp_path / "a.mp3"
    frames = frames_of(write(path, "mp3", 480_000))
    gap = bytes([1]) * 1100  # mpg123 searches 1024 bytes; at this bit rate they would last less than 0.1 s
    seconds = len(frames) * 576 / 16_000
    assert 1100 / sum(map(len, frames)) * seconds > 0.1
    path.write_bytes(b"".join(frames[:100]) + gap + b"".join(frames[100:]))
    with pytest.raises(BadAudio, match="are no frames of an mp3"):
        load_mono(path)


@pytest.mark.parametrize("gap", [200, 1100])
def test_every_sample_behind_a_short_gap_in_an_mp3_is_read_or_it_is_refused(tmp_path, gap):
    path = tmp_path / "a.mp3"
    soundfile.write(path, noise(5 * 48_000), 48_000, bitrate_mode="CONSTANT", compression_level=0.0)  # 320 kbit/s
    frames = frames_of(path.read_bytes())[1:]
    path.write_bytes(b"".join(frames[:50]) + bytes([1]) * gap + b"".join(frames[50:]))
    if gap > 1024:
        with pytest.raises(BadAudio, match=r"its frames hold \d+ samples, \d+ can be decoded|not readable as audio"):
            load_mono(path)
    else:
        assert abs(len(load_mono(path)) - len(frames) * 1152 / 3) < 0.1 * 16_000


def test_an_mp3_whose_first_frames_are_overwritten_is_refused(tmp_path):
    path = tmp_path / "a.mp3"
    data = write(path, "mp3")
    path.write_bytes(bytes([7]) * 3000 + data[3000:])
    with pytest.raises(BadAudio, match=r"about 0\.\d+ s of it are no frames"):
        load_mono(path)


@pytest.mark.parametrize(("rate", "channels"), [(8_000, 1), (16_000, 2), (44_100, 1)])
def test_mp3_files_of_two_kinds_in_one_are_refused(tmp_path, rate, channels):
    one, other, both = tmp_path / "one.mp3", tmp_path / "other.mp3", tmp_path / "both.mp3"
    soundfile.write(other, np.repeat(noise()[:, None], channels, 1), rate)
    both.write_bytes(write(one, "mp3") + other.read_bytes())
    with pytest.raises(
        BadAudio, match=r"have another rate or number of channels than its first frame \(16000 Hz, mono\)"
    ):
        load_mono(both)


def test_a_damaged_delay_in_the_first_frame_of_an_mp3_cuts_nothing(tmp_path):
    path = tmp_path / "a.mp3"
    data = bytearray(write(path, "mp3"))
    place = data.index(b"Info") if b"Info" in data else data.index(b"Xing")
    data[place + 120 : place + 144] = b"\xff" * 24  # the encoder's tag: name, and the samples to cut at both ends
    path.write_bytes(data)
    assert len(load_mono(path)) >= 32_000


def without_header(data: bytes) -> bytes:
    """An mp3 without the frame that holds its table of contents."""
    place, header, counted = _first_mpeg_frame(io.BytesIO(data))
    assert counted is not None
    return data[data.index(header[:2], place + 4) :]


@pytest.mark.parametrize("rate", [16_000, 44_100])
@pytest.mark.parametrize("channels", [1, 2])
def test_an_mp3_of_variable_bit_rate_without_a_header_is_read_to_the_end(tmp_path, rate, channels):
    quiet, loud = np.zeros((rate, channels), "f4"), np.repeat(noise(4 * rate)[:, None], channels, 1)
    whole, bare = tmp_path / "whole.mp3", tmp_path / "bare.mp3"
    # From quiet to loud, so that the first frames say nothing about the bit rate of the others.
    soundfile.write(whole, np.concatenate([quiet, loud]), rate, bitrate_mode="VARIABLE", compression_level=0.1)
    bare.write_bytes(without_header(whole.read_bytes()))
    expected, found = load_mono(whole), load_mono(bare)
    # Without the header nobody knows the delay of the encoder, so that the bare file has up to two frames more.
    assert 0 <= len(found) - len(expected) <= 3 * 1152 * 16_000 / rate
    if rate != 16_000:  # the delay is no whole number of samples at 16 kHz
        return
    shifts = range(len(found) - len(expected) + 1)
    assert min(np.abs(found[s : s + len(expected)] - expected).mean() for s in shifts) < 2e-3
    assert np.abs(load_mono(bare, start=2, end=3) - found[32_000:48_000])[100:-100].max() < 1e-5


def test_two_mp3_files_in_one_are_read_to_the_end(tmp_path):
    one, both = tmp_path / "one.mp3", tmp_path / "both.mp3"
    data = write(one, "mp3")
    both.write_bytes(data + data)
    assert 64_000 <= len(load_mono(both)) < 64_000 + 5 * 1152


@pytest.mark.parametrize("rate", [7, 1_999, 2_147_483_647])
def test_an_impossible_rate_is_refused(tmp_path, rate):
    path = tmp_path / "a.wav"
    path.write_bytes(put(write(path, "wav"), b"fmt ", 12, struct.pack("<I", rate)))
    with pytest.raises(BadAudio, match="Hz"):
        load_mono(path)


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000])
def test_interpolation_equals_torchaudio(rate):
    waveform = noise(rate)
    expected = resample(torch.from_numpy(waveform), rate, 16_000).numpy()
    found = sinc_interpolation(waveform, rate, 16_000)
    assert found.shape == expected.shape and np.abs(found - expected).max() < 2e-5


@pytest.mark.parametrize("rate", [22_051, 44_101, 47_999, 999_983])
def test_odd_rates_are_as_cheap_as_others(tmp_path, rate):
    path = tmp_path / "a.wav"
    seconds = 2
    soundfile.write(path, np.sin(2 * np.pi * 440 * np.arange(seconds * rate) / rate).astype("f4"), rate)
    begin = time.process_time()
    found = load_mono(path)
    assert time.process_time() - begin < 5
    inner = slice(1000, -1000)
    expected = np.sin(2 * np.pi * 440 * np.arange(seconds * 16_000) / 16_000)
    assert len(found) == seconds * 16_000 and np.abs(found - expected)[inner].max() < 2e-3


def test_floats_at_the_scale_of_integers_are_refused_and_an_overshoot_is_clipped(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, 20_000 * noise(), 16_000, subtype="FLOAT")
    with pytest.raises(BadAudio, match="divide them by 32768"):
        load_mono(path)
    soundfile.write(path, 40 * noise(), 16_000, subtype="FLOAT")
    with pytest.raises(BadAudio, match=r"\d+ of 32000 samples lie beyond full scale"):
        load_mono(path)
    waveform = noise()
    waveform[100] = 1.02
    soundfile.write(path, waveform, 16_000, subtype="FLOAT")
    assert load_mono(path)[100] == 1.0


@pytest.mark.timeout(30)
def test_a_pipe_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "a.wav")
    with pytest.raises(BadAudio, match="not a file"):
        load_mono(tmp_path / "a.wav")


def test_bytes_of_samples_that_look_like_the_header_of_a_frame_are_none(tmp_path):
    """Noise is stored as it is, so that any bytes can stand in a FLAC, also those of a header with its sum of 8 bits."""
    header = bytes([0xFF, 0xF8, 0x12, 0x08, 0x05])  # 192 samples at 176,400 Hz, the fifth frame
    samples = np.random.default_rng(0).integers(-32_768, 32_767, 6000, dtype=np.int16)
    samples[5000:5003] = np.frombuffer(header + bytes([_check_sum(header, *FLAC_HEADER_SUM)]), ">i2")
    path = tmp_path / "a.flac"
    soundfile.write(path, samples, 16_000, subtype="PCM_16")
    assert header in path.read_bytes()
    assert fault(path) is None and len(load_mono(path)) == 6000
    path.write_bytes(path.read_bytes() + b"TAG" + bytes(125))  # behind the last frame, as taggers leave it
    assert fault(path) is None
