"""Containers that libsndfile does not read, formats that it does, and the sentences where neither helps."""

import io
import sys

import numpy as np
import pytest
import soundfile

from wavlm_lightning.audio import BadAudio, load_mono
from wavlm_lightning.audio.media import is_media

RATE = 16_000


def chirp(seconds=1.0):
    times = np.arange(int(RATE * seconds)) / RATE
    return (0.5 * np.sin(2 * np.pi * (200 + 400 * times) * times)).astype("f4")


def encode(path, waveform, codec, rate=RATE):
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, layout="mono")
        frame = av.AudioFrame.from_ndarray(waveform[None], format="flt", layout="mono")
        frame.sample_rate, frame.pts = rate, 0
        resampler = av.AudioResampler(format=stream.format, layout="mono", rate=rate)
        for packet in [p for f in resampler.resample(frame) for p in stream.encode(f)] + stream.encode(None):
            container.mux(packet)


@pytest.mark.parametrize(("name", "codec", "rate"), [("a.m4a", "aac", RATE), ("a.webm", "libopus", 48_000)])
def test_containers_are_in_time_with_their_source(tmp_path, name, codec, rate):
    waveform = chirp()
    encode(tmp_path / name, np.repeat(waveform, rate // RATE), codec, rate)
    found = load_mono(tmp_path / name)
    assert is_media(tmp_path / name) and abs(len(found) - len(waveform)) <= 1
    both = min(len(found), len(waveform))
    assert np.corrcoef(found[:both], waveform[:both])[0, 1] > 0.98
    stretch = load_mono(tmp_path / name, start=0.25, end=0.5)
    assert len(stretch) == 4000 and np.corrcoef(stretch, waveform[4000:8000])[0, 1] > 0.98


def test_a_container_that_is_cut_or_damaged_is_refused(tmp_path):
    encode(tmp_path / "a.m4a", chirp(4.0), "aac")
    content = (tmp_path / "a.m4a").read_bytes()
    (tmp_path / "cut.m4a").write_bytes(content[: len(content) // 2])
    with pytest.raises(BadAudio, match=r"cut.m4a: (damaged or )?truncated"):
        load_mono(tmp_path / "cut.m4a")


def test_without_pyav_the_extra_is_named(tmp_path, monkeypatch):
    (tmp_path / "a.m4a").write_bytes(b"\0\0\0\x20ftypM4A \0\0\0\0" + bytes(100))
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(BadAudio, match=r"a.m4a: its container is read by PyAV; .*extra \[media\]"):
        load_mono(tmp_path / "a.m4a")


@pytest.mark.parametrize(("name", "kind"), [("a.w64", "W64"), ("a.sph", "NIST"), ("a.caf", "CAF")])
def test_formats_of_libsndfile_and_channels(tmp_path, name, kind):
    rng = np.random.default_rng(0)
    both = rng.uniform(-0.5, 0.5, (8000, 2)).astype("f4")
    soundfile.write(tmp_path / name, both, RATE, format=kind, subtype="PCM_16")
    for channel, expected in ((0, both[:, 0]), (1, both[:, 1]), (None, both.mean(1))):
        np.testing.assert_allclose(load_mono(tmp_path / name, channel=channel), expected, atol=2**-14)
    with pytest.raises(BadAudio, match="channel 2 is asked for"):
        load_mono(tmp_path / name, channel=2)


def test_sphere_under_shorten_is_refused_in_a_sentence(tmp_path):
    buffer = io.BytesIO()
    soundfile.write(buffer, chirp(), RATE, format="NIST", subtype="PCM_16")
    data = buffer.getvalue().replace(b"NIST_1A", b"NIST_1A", 1)
    head, samples = data[:1024], data[1024:]
    coded = head.rstrip(b" \0\n").replace(b"end_head", b"sample_coding -s26 pcm,embedded-shorten-v2.00\nend_head")
    (tmp_path / "a.sph").write_bytes(coded.ljust(1024, b" ") + samples)
    with pytest.raises(BadAudio, match=r"a.sph: its samples are compressed with Shorten.*sph2pipe -f wav"):
        load_mono(tmp_path / "a.sph")
