"""Corpora of real sounds: ratios are those asked for, parts add up, conditions share their clips and noises."""

from __future__ import annotations

import csv
import json
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from wavlm_lightning.audio import SAMPLE_RATE
from wavlm_lightning.system.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch):
    for name in ("full_stack_speakers", "generation"):
        monkeypatch.syspath_prepend(str(ROOT / "experiments" / name))
    from real_sounds import make

    yield make
    for name in ("real_sounds", "real_voices", "rows", "convert_voices"):
        sys.modules.pop(name, None)


@pytest.fixture
def convert_voices(make, monkeypatch: pytest.MonkeyPatch):
    import convert_voices

    return convert_voices


@pytest.fixture
def speech(tmp_path: Path) -> Path:
    """Two speakers with three clips each, a noise, and one that is too short."""
    rng = np.random.default_rng(0)
    rows = []
    for speaker in ("ann", "bob"):
        for number in range(3):
            seconds = 1.6 + 0.1 * number
            path = tmp_path / f"{speaker}-{number}.flac"
            soundfile.write(path, 0.1 * rng.standard_normal(round(seconds * SAMPLE_RATE)).clip(-3, 3), SAMPLE_RATE)
            row = {"path": path.name, "speaker": speaker, "language": "en", "text": f"{speaker} {number}"}
            rows.append({**row, "seconds": seconds})
    with (tmp_path / "manifest.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    (tmp_path / "noise").mkdir()
    for name, seconds in (("rain", 0.7), ("click", 0.1)):
        noise = 0.2 * rng.standard_normal(round(seconds * SAMPLE_RATE)).clip(-3, 3)
        soundfile.write(tmp_path / "noise" / f"{name}.flac", noise, SAMPLE_RATE)
    return tmp_path


def test_real_sounds_have_the_ratios_of_their_conditions(make, speech: Path, tmp_path: Path):
    found = make(speech, tmp_path / "out", 4)
    texts = set()
    for condition, corpora in found.items():
        if "enhancement" not in corpora:
            continue
        ratio = int(condition.split(" at ")[1].split()[0])
        test = corpora["enhancement"].split("test")
        for place in range(len(test)):
            shard, at = test.locate(place)
            noisy, clean, meta = shard.waveform(at), shard.further_audio(at)["clean"], shard.meta(at)
            noise = noisy - clean
            assert 10 * np.log10(np.mean(clean**2) / np.mean(noise**2)) == pytest.approx(ratio, abs=0.05)
            assert meta["recording"] == {"noise": "rain", "snr_db": ratio}
        texts.add(tuple(meta["text"] for meta in test.metas()))
    assert len(found) == 4 and len(texts) == 1 and len(next(iter(texts))) == 4
    mixtures = found["two real voices at once"]["separation"].split("test")
    for place in range(len(mixtures)):
        shard, at = mixtures.locate(place)
        parts = shard.further_audio(at)
        assert np.array_equal(parts["s1"] + parts["s2"], shard.waveform(at))
        assert set(shard.meta(at)["speakers"]) == {"ann", "bob"}
    again = make(speech, tmp_path / "out", 4)
    assert {name: corpus.sha256 for part in again.values() for name, corpus in part.items()} == {
        name: corpus.sha256 for part in found.values() for name, corpus in part.items()
    }


def other_texts(speech: Path) -> None:
    table = speech / "manifest.csv"
    table.write_text(table.read_text().replace("ann 1", "ann one"))


def test_corpora_of_other_recordings_are_refused(make, speech: Path, tmp_path: Path):
    made = make(speech, tmp_path / "out", 4)
    other_texts(speech)
    with pytest.raises(UserError, match="made of other recordings than those of"):
        make(speech, tmp_path / "out", 4)
    for corpora in made.values():  # as older versions wrote them
        for corpus in corpora.values():
            body = json.loads((corpus.directory / "corpus.json").read_text())
            del body["source"]["speech"]
            (corpus.directory / "corpus.json").write_text(json.dumps(body))
    assert set(make(speech, tmp_path / "out", 4)) == set(made)


def test_conversions_of_other_recordings_are_made_again(convert_voices, speech: Path, tmp_path: Path, monkeypatch):
    made = []

    def convert(run, said, voice, out, audio_format):
        made.append(run)
        out.mkdir(parents=True)
        for path in said:
            (out / path.name).write_bytes(path.read_bytes())
            yield path

    with pytest.raises(UserError, match="3 usable clips of ann; conversions need more than 20 of a voice"):
        convert_voices.convert_all(speech, tmp_path / "out", {}, 2)
    monkeypatch.setattr(convert_voices, "KEPT_APART", 1)
    monkeypatch.setattr(convert_voices, "MOST", 1)
    monkeypatch.setattr(convert_voices, "can_judge", lambda name: False)
    monkeypatch.setattr(convert_voices, "convert_recordings", convert)
    for _ in range(2):
        convert_voices.convert_all(speech, tmp_path / "out", {"a vocoder": "runs/vocoder"}, 2)
    assert made == ["runs/vocoder"] * 2  # both ways, once
    other_texts(speech)
    convert_voices.convert_all(speech, tmp_path / "out", {"a vocoder": "runs/vocoder"}, 2)
    assert made == ["runs/vocoder"] * 4


@pytest.mark.parametrize("experiment", ["full_stack_speakers", "generation"])
def test_a_folder_that_cannot_be_used_is_refused_before_any_training(
    make, experiment: str, speech: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    table = speech / "manifest.csv"
    table.write_text(table.read_text().replace("seconds", "length"))
    monkeypatch.setattr(sys, "argv", ["run.py", "--out", str(tmp_path / "out"), "--speech", str(speech)])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "experiments" / experiment / "run.py"), run_name="__main__")
    assert (
        ended.value.code == f"run.py: {table}: has no column seconds; it needs path, speaker, language, text, seconds"
    )
    assert not [*(tmp_path / "out").iterdir()]


def test_encoders_beside_each_other_have_equal_updates(make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from rows import pretrain

    (tmp_path / "config.yaml").write_text("trainer: {max_steps: 3800}\n")
    made = []
    monkeypatch.setattr(subprocess, "run", lambda words, check: made.append(words))
    with pytest.raises(UserError, match="has 3800 updates, the encoder beside it would have 1000; give --updates 3800"):
        pretrain(tmp_path / "out", 1000, tmp_path, "mini")
    assert pretrain(tmp_path / "out", 1000, tmp_path, "mini", ["full"]) == {"pre-trained": tmp_path} and not made
    assert len(pretrain(tmp_path / "out", 3800, tmp_path, "mini")) == 2 and len(made) == 1
