"""`wavlm prepare libri2mix_separation` and `wham` on miniatures of what LibriMix and WHAM! generate."""

from __future__ import annotations

import random

import numpy as np
import pytest
import soundfile
from miniature import prepare, refusal

from wavlm_lightning.data.corpora.mixtures import libri2mix_separation
from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.data.recordings import Recording

LIBRI = {
    "train-100": ["1-1-0001_2-2-0001", "1-1-0002_3-3-0001"],
    "dev": ["5-5-0001_6-6-0001", "5-5-0002_6-6-0002", "5-5-0003_6-6-0003"],
    "test": ["7-7-0001_8-8-0001"],
}
WSJ = {"tr": ["011a0101_0.97_401a0101_-0.97"], "cv": ["012a0101_1.5_402a0101_-1.5"], "tt": ["050a0501_2_421a0101_-2"]}


def write(folder, mixtures, kinds):
    """A constant for each talker and the noise; a mixture is their sum."""
    parts = {"s1": 0.1, "s2": 0.2, "noise": 0.05}
    for kind, made_of in kinds.items():
        (folder / kind).mkdir(parents=True)
        for name in mixtures:
            level = sum(parts[part] for part in made_of)
            soundfile.write(folder / kind / f"{name}.wav", np.full(8000, level), 16_000)


@pytest.fixture
def libri(tmp_path):
    kinds = {"s1": ("s1",), "s2": ("s2",), "mix_clean": ("s1", "s2")}
    for subset, mixtures in LIBRI.items():
        write(tmp_path / "Libri2Mix" / "wav16k" / "min" / subset, mixtures, kinds)
    return tmp_path


@pytest.fixture
def wham(tmp_path):
    kinds = {"s1": ("s1",), "s2": ("s2",), "mix_clean": ("s1", "s2"), "mix_both": ("s1", "s2", "noise")}
    kinds["mix_single"] = ("s1", "noise")
    for subset, mixtures in WSJ.items():
        write(tmp_path / "2speakers_wham" / "wav16k" / "min" / subset, mixtures, kinds)
    return tmp_path


def contents(corpus, split):
    """(key, metadata, level of the mixture, level by further audio) of each utterance."""
    for shard in corpus.split(split).shards:
        for place, key in enumerate(shard.keys):
            levels = {name: round(float(wave[4000]), 3) for name, wave in shard.further_audio(place).items()}
            yield key, shard.meta(place), round(float(shard.waveform(place)[4000]), 3), levels


def test_the_sources_of_libri2mix_add_up(libri, capsys):
    message = refusal(capsys, "libri2mix_separation", libri, libri / "c")
    assert "train has 2 mixtures instead of 13,900" in message
    assert prepare("libri2mix_separation", libri, libri / "c", "--allow-partial") == 0
    corpus = Corpus.open(libri / "c")
    assert {split: corpus.split(split).keys for split in corpus.splits} == {
        "train": LIBRI["train-100"],
        "valid": LIBRI["dev"],
        "test": LIBRI["test"],
    }
    for _, meta, mixture, levels in contents(corpus, "train"):
        assert mixture == 0.3 and levels == {"s1": 0.1, "s2": 0.2} and len(meta["speakers"]) == 2
    assert corpus.inventory("speakers")["train"] == ["1", "2", "3"]
    (libri / "Libri2Mix" / "wav16k" / "min" / "test" / "s2" / "7-7-0001_8-8-0001.wav").unlink()
    message = refusal(capsys, "libri2mix_separation", libri, libri / "again", "--allow-partial")
    assert "s2/7-7-0001_8-8-0001.wav: no such file; it should be a talker of a mixture alone" in message


def test_the_mixtures_of_dev_are_those_that_s3prl_draws(monkeypatch, tmp_path):
    monkeypatch.setattr(libri2mix_separation, "VALID", 3)
    names = [f"{n:04d}" for n in range(20)]
    shuffled = [*names]
    random.seed(7)  # as s3prl: the module's own generator
    random.shuffle(shuffled)
    recordings = [Recording(tmp_path, name, {}) for name in reversed(names)]
    assert [each.key for each in libri2mix_separation.drawn(recordings)] == sorted(shuffled[:3])


@pytest.mark.parametrize(
    ("task", "mixture", "levels"),
    [
        ("sep_clean", 0.3, {"s1": 0.1, "s2": 0.2}),
        ("sep_noisy", 0.35, {"s1": 0.1, "s2": 0.2}),
        ("enh_single", 0.15, {"clean": 0.1}),
        ("enh_both", 0.35, {"clean": 0.3}),
    ],
)
def test_tasks_of_wham(wham, task, mixture, levels):
    assert prepare("wham", wham, wham / task, "--task", task, "--allow-partial") == 0
    corpus = Corpus.open(wham / task)
    found = [each for split in ("train", "valid", "test") for each in contents(corpus, split)]
    assert [key for key, *_ in found] == [
        "011a0101_0_97_401a0101_-0_97",
        "012a0101_1_5_402a0101_-1_5",
        "050a0501_2_421a0101_-2",
    ]
    assert all((heard, parts) == (mixture, levels) for _, _, heard, parts in found)
    assert found[0][1]["speakers"] == (["011"] if task == "enh_single" else ["011", "401"])


def test_mixtures_of_another_name_are_refused(wham, capsys):
    folder = wham / "2speakers_wham" / "wav16k" / "min" / "tr"
    for kind in ("mix_both", "s1", "s2"):
        next((folder / kind).iterdir()).rename(folder / kind / "mixture1.wav")
    assert "mixture1.wav: is not named after two utterances of WSJ0" in refusal(capsys, "wham", wham, wham / "c")
