"""`wavlm prepare speech_commands` on miniatures of the two archives."""

import hashlib
import re

import numpy as np
import pytest
import soundfile
from miniature import prepare, refusal, sound

from wavlm_lightning.data.corpora.speech_commands import KEYWORDS, OFFICIAL, split_of
from wavlm_lightning.data.corpus import Corpus

SPEAKERS = [hashlib.md5(str(i).encode()).hexdigest()[:8] for i in range(40)]
WORDS = ("yes", "bed", "go")


@pytest.fixture
def archive(tmp_path):
    root = tmp_path / "speech_commands_v0.01"
    for word in WORDS:
        for speaker in SPEAKERS:
            sound(root / word / f"{speaker}_nohash_0.wav", 0.1)
    for number in range(6):
        sound(root / "_background_noise_" / f"noise{number}.wav", 3.0)
    (root / "LICENSE").write_text("CC BY 4.0")
    test = tmp_path / "speech_commands_test_set_v0.01"
    sound(test / "yes" / "0a2b400e_nohash_1.wav.wav", 0.1)
    sound(test / "_unknown_" / "bed_0a2b400e_nohash_0.wav", 0.1)
    (test / "_silence_").mkdir()
    soundfile.write(test / "_silence_" / "0.wav", np.zeros(16_000), 16_000)
    return root


def expected(name):
    """The rule as the README of the data set states it: hash of the speaker, in per cent of its greatest value."""
    speaker = re.sub(r"_nohash_.*$", "", name)
    hashed = int(hashlib.sha1(speaker.encode()).hexdigest(), 16) % (2**27 - 1 + 1)
    percent = hashed * (100.0 / (2**27 - 1))
    return "valid" if percent < 10 else "left out" if percent < 20 else "train"


def test_protocol(archive, tmp_path, capsys):
    message = refusal(capsys, "speech_commands", archive, tmp_path / "c")
    assert "instead of 51,088" in message and "test has 3 utterances instead of 3,081" in message
    assert prepare("speech_commands", archive, tmp_path / "c", "--allow-partial") == 0
    corpus = Corpus.open(tmp_path / "c")
    assert corpus.inventory("keywords") == list(KEYWORDS)
    wanted = {split: {s for s in SPEAKERS if expected(f"{s}_nohash_0.wav") == split} for split in ("train", "valid")}
    assert wanted["train"] and wanted["valid"] and wanted["train"] | wanted["valid"] != set(SPEAKERS)
    for split, speakers in wanted.items():
        part = corpus.split(split)
        metas = dict(zip(part.keys, part.metas(), strict=True))
        words = {key: meta for key, meta in metas.items() if meta["keyword"] != "_silence_"}
        assert set(words) == {f"{word}-{speaker}_nohash_0" for word in WORDS for speaker in speakers}
        assert all(
            meta["keyword"] == ("_unknown_" if meta["word"] == "bed" else meta["word"]) for meta in words.values()
        )
        # The six noises in full length, in both.
        noises = [i for i, meta in enumerate(part.metas()) if meta["keyword"] == "_silence_"]
        assert len(noises) == 6 and set(part.samples[noises]) == {48_000}
    test = corpus.split("test")
    assert sorted(zip(test.keys, (meta["keyword"] for meta in test.metas()), strict=True)) == [
        ("_silence_-0", "_silence_"),
        ("_unknown_-bed_0a2b400e_nohash_0", "_unknown_"),
        ("yes-0a2b400e_nohash_1", "yes"),
    ]
    # Digital silence is a recording like any other here, and levels stay as published.
    waveforms = {key: waveform for key, waveform, _ in test.utterances()}
    assert not waveforms["_silence_-0"].any()
    path = archive.parent / "speech_commands_test_set_v0.01" / "yes" / "0a2b400e_nohash_1.wav.wav"
    np.testing.assert_array_equal(waveforms["yes-0a2b400e_nohash_1"], soundfile.read(path, dtype="float32")[0])


def test_whole_corpora_pass_and_noises_are_counted(archive, tmp_path, capsys, monkeypatch):
    splits = [expected(f"{speaker}_nohash_0.wav") for speaker in SPEAKERS]
    counts = {"train": 3 * splits.count("train"), "valid": 3 * splits.count("valid"), "test": 3}
    monkeypatch.setitem(OFFICIAL, "v0.01", counts)
    assert prepare("speech_commands", archive, tmp_path / "c") == 0
    (archive / "_background_noise_" / "noise3.wav").unlink()
    assert "_background_noise_ has 5 files instead of 6" in refusal(capsys, "speech_commands", archive, tmp_path / "d")


def test_another_version_and_test_folder(archive, tmp_path, capsys):
    message = refusal(capsys, "speech_commands", archive, tmp_path / "c", "--version", "v0.02")
    assert "speech_commands_test_set_v0.02: no such folder" in message and "--test-dir" in message
    test = archive.parent / "speech_commands_test_set_v0.01"
    message = refusal(capsys, "speech_commands", archive, tmp_path / "c", "--version", "v0.02", "--test-dir", test)
    assert "instead of 84,843" in message


def test_a_tenth_each_is_held_out():
    splits = [split_of(f"{number:08x}_nohash_{number % 5}.wav") for number in range(20_000)]
    assert all(split_of(f"{n:08x}_nohash_9.wav") == split for n, split in enumerate(splits[:100]))
    assert splits.count("valid") == pytest.approx(2_000, rel=0.1)
    assert splits.count(None) == pytest.approx(2_000, rel=0.1)
    assert sum(OFFICIAL["v0.01"].values()) - 3_081 + 6_835 == 64_721  # with the words of its testing_list.txt, all
