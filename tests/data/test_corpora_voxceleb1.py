"""`wavlm prepare voxceleb1` on a miniature of the merged archives."""

from collections import Counter

import numpy as np
import pytest
import soundfile
from miniature import prepare, refusal, sound

from wavlm_lightning.audio import gain, trim_silence
from wavlm_lightning.data.corpora import voxceleb1
from wavlm_lightning.data.corpora.trials import draw_trials
from wavlm_lightning.data.corpus import Corpus

TRAINED = ("id10002", "id10001", "id11251")
TESTED = ("id10270", "id10309")


@pytest.fixture
def voxceleb(tmp_path):
    root = tmp_path / "voxceleb1"
    for speaker in (*TRAINED, *TESTED):
        for number in range(3):
            sound(root / "wav" / speaker / "Vi_d-eo" / f"0000{number}.wav", 2.2)
    # Of 2.4 s, the pause is cut out, and what is left is too short to train on.
    audio, _ = soundfile.read(root / "wav" / "id10001" / "Vi_d-eo" / "00000.wav")
    audio[8_000:16_000] = 0
    soundfile.write(root / "wav" / "id10001" / "Vi_d-eo" / "00000.wav", audio, 16_000)
    lines = [
        f"{1 + number} {speaker}/Vi_d-eo/0000{number}.wav\n" for speaker in (*TRAINED, *TESTED) for number in range(3)
    ]
    (root / "iden_split.txt").write_text("".join(lines))
    (root / "veri_test.txt").write_text(
        "1 id10270/Vi_d-eo/00000.wav id10270/Vi_d-eo/00001.wav\n"
        "0 id10270/Vi_d-eo/00000.wav id10309/Vi_d-eo/00002.wav\n"
        "0 id10309/Vi_d-eo/00002.wav id10270/Vi_d-eo/00001.wav\n"
    )
    return root


def test_identification(voxceleb, tmp_path, capsys, monkeypatch):
    message = refusal(capsys, "voxceleb1", voxceleb, tmp_path / "c", "--task", "sid")
    assert "train has 5 utterances instead of 138,361" in message
    monkeypatch.setattr(voxceleb1, "IDENTIFICATION", {"train": 5, "valid": 5, "test": 5})
    assert "5 speakers instead of 1,251" in refusal(capsys, "voxceleb1", voxceleb, tmp_path / "c", "--task", "sid")
    monkeypatch.setattr(voxceleb1, "SPEAKERS", 5)
    assert prepare("voxceleb1", voxceleb, tmp_path / "c", "--task", "sid") == 0
    corpus = Corpus.open(tmp_path / "c")
    assert corpus.inventory("speakers") == sorted((*TRAINED, *TESTED))
    assert [meta["speaker"] for meta in corpus.split("valid").metas()] == sorted((*TRAINED, *TESTED))
    assert corpus.split("test").keys[0] == "id10001-Vi_d-eo-00002"
    # Untouched audio: SID is not trimmed.
    audio, _ = soundfile.read(voxceleb / "wav" / "id10001" / "Vi_d-eo" / "00000.wav", dtype="float32")
    np.testing.assert_array_equal(next(corpus.split("train").utterances())[1], audio)


def test_verification(voxceleb, tmp_path, capsys):
    arguments = ("--task", "sv", "--valid-trials", 6, "--valid-speakers", 2)
    message = refusal(capsys, "voxceleb1", voxceleb, tmp_path / "c", *arguments)
    assert "train has 9 utterances instead of 148,642" in message and "test has" not in message
    assert prepare("voxceleb1", voxceleb, tmp_path / "c", *arguments, "--allow-partial") == 0
    said = capsys.readouterr()
    assert "veri_test.txt has 3 trials instead of 37,720" in said.err
    assert "train: left out 1 utterances that are too short" in said.out
    corpus = Corpus.open(tmp_path / "c")
    assert corpus.body["source"]["too_short"] == {"train": 1}
    assert "id10001-Vi_d-eo-00000" not in corpus.split("train").keys and len(corpus.split("train")) == 8
    assert len(corpus.split("test")) == 3
    assert corpus.trials("test") == [
        (1, "id10270-Vi_d-eo-00000", "id10270-Vi_d-eo-00001"),
        (0, "id10270-Vi_d-eo-00000", "id10309-Vi_d-eo-00002"),
        (0, "id10309-Vi_d-eo-00002", "id10270-Vi_d-eo-00001"),
    ]
    speakers = corpus.inventory("speakers")
    assert speakers["train"] == sorted(TRAINED) and speakers["test"] == sorted(TESTED)
    trials = corpus.trials("valid")
    assert Counter(same for same, _, _ in trials) == {1: 3, 0: 3}
    assert {key for _, *pair in trials for key in pair} == set(corpus.split("valid").keys)
    assert len(speakers["valid"]) == 2 and set(speakers["valid"]) < set(TRAINED)
    # Softer by 3 dB, and then trimmed.
    key, waveform, meta = next(corpus.split("test").utterances())
    audio, _ = soundfile.read(voxceleb / "wav" / meta["speaker"] / meta["video"] / f"{key[-5:]}.wav", dtype="float32")
    np.testing.assert_allclose(waveform, trim_silence(gain(audio, -3.0)), atol=2**-15)


def test_validation_apart(voxceleb, tmp_path):
    arguments = ("--task", "sv", "--valid-trials", 2, "--valid-speakers", 2, "--allow-partial")
    assert prepare("voxceleb1", voxceleb, tmp_path / "c", *arguments) == 0
    assert prepare("voxceleb1", voxceleb, tmp_path / "d", *arguments, "--valid-apart") == 0
    common, apart = Corpus.open(tmp_path / "c"), Corpus.open(tmp_path / "d")
    assert common.trials("valid") == apart.trials("valid")
    assert set(common.split("valid").keys) & set(common.split("train").keys)
    assert not set(apart.split("valid").keys) & set(apart.split("train").keys)


def test_parts_and_other_lists(voxceleb, tmp_path, capsys):
    cleaned = tmp_path / "veri_test2.txt"
    cleaned.write_text("".join((voxceleb / "veri_test.txt").read_text().splitlines(keepends=True)[:2]))
    (voxceleb / "wav" / "id10270" / "Vi_d-eo" / "00001.wav").unlink()
    arguments = ("--task", "sv", "--trials", cleaned)
    message = refusal(capsys, "voxceleb1", voxceleb, tmp_path / "c", *arguments)
    assert "test has 2 utterances instead of 3" in message
    assert prepare("voxceleb1", voxceleb, tmp_path / "c", *arguments, "--allow-partial") == 0
    # A trial with a missing recording cannot be judged.
    assert Corpus.open(tmp_path / "c").trials("test") == [(0, "id10270-Vi_d-eo-00000", "id10309-Vi_d-eo-00002")]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1 id10001/v/1.wav id10270/v/2.wav", "line 2: id10001 is a training speaker"),
        ("2 id10270/v/1.wav id10270/v/2.wav", "line 2: not a trial"),
        ("1 id10270/v/1.wav", "line 2: not a trial"),
        ("1 id10270 id10271", "line 2: not a trial"),
    ],
)
def test_wrong_trials(voxceleb, tmp_path, capsys, line, message):
    (voxceleb / "veri_test.txt").write_text(f"1 id10270/Vi_d-eo/00000.wav id10270/Vi_d-eo/00001.wav\n{line}\n")
    assert message in refusal(capsys, "voxceleb1", voxceleb, tmp_path / "c", "--task", "sv", "--allow-partial")


def test_missing_lists(voxceleb, tmp_path, capsys):
    (voxceleb / "iden_split.txt").unlink()
    (voxceleb / "veri_test.txt").unlink()
    for task, name in (("sid", "iden_split.txt"), ("sv", "veri_test.txt")):
        message = refusal(capsys, "voxceleb1", voxceleb, tmp_path / "c", "--task", task)
        assert f"{name}: no such file" in message
    with pytest.raises(SystemExit):
        prepare("voxceleb1", voxceleb, tmp_path / "c")


def test_drawn_trials():
    by_speaker = {f"s{i:02d}": [f"s{i:02d}-{n}" for n in range(1 + i % 5)] for i in range(30)}
    trials = draw_trials(by_speaker, 200, 20)
    assert trials == draw_trials(by_speaker, 200, 20) != draw_trials(by_speaker, 200, 20, seed=1)
    # 20 of these speakers have few pairs of their own: both kinds stop there.
    kinds = Counter(same for same, _, _ in trials)
    assert kinds[0] == kinds[1] > 10
    assert len({frozenset(pair) for _, *pair in trials}) == len(trials)
    assert all((a.split("-")[0] == b.split("-")[0]) == bool(same) and a != b for same, a, b in trials)
    assert len({key.split("-")[0] for _, *pair in trials for key in pair}) <= 20
    assert draw_trials({"a": ["a1", "a2"]}, 10, 5) == [] == draw_trials({}, 10, 5)
    # Every pair there is.
    assert len(draw_trials({"a": ["a1", "a2", "a3"], "b": ["b1"]}, 100, 5)) == 6
