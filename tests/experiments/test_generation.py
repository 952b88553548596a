"""Corpora of real sounds: ratios are those asked for, parts add up, conditions share their clips and noises."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from wavlm_lightning.audio import SAMPLE_RATE

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch):
    for name in ("full_stack_speakers", "generation"):
        monkeypatch.syspath_prepend(str(ROOT / "experiments" / name))
    from real_sounds import make

    yield make
    for name in ("real_sounds", "real_voices"):
        sys.modules.pop(name, None)


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
