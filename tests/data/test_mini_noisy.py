"""The mini data set `noisy`: every sentence of the test in every condition, at the ratio that the condition says."""

from __future__ import annotations

import numpy as np
import pytest

from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.data.mini.full_stack.noisy import CONDITIONS, LEVELS_DB, noisy
from wavlm_lightning.data.mini.plans import SIZES


def test_the_test_has_every_sentence_in_every_condition_and_unseen_speakers():
    plan = noisy(SIZES["mini"], 0)
    assert {name: len(part) for name, part in plan.splits.items()} == {"train": 480, "valid": 60, "test": 30 * 14}
    keys = [take.key for take in plan.splits["test"]]
    assert keys == [f"noisy-test-{number:04d}-{condition}" for number in range(30) for condition in CONDITIONS]
    voices = [set(names) for names in plan.inventories["speakers"].values()]
    assert sum(map(len, voices)) == len(set().union(*voices)) == 120


@pytest.fixture(scope="module")
def heard(tiny) -> dict[str, tuple[np.ndarray, np.ndarray, dict]]:
    """The first test sentence: condition -> what is heard, the clean reference at the same level, the metadata."""
    test = Corpus.open(tiny / "noisy").split("test")
    found = {}
    for place, (key, waveform, meta) in enumerate(test.utterances()):
        if key.startswith("noisy-test-0000-"):
            found[meta["condition"]] = (waveform, test.shards[0].waveform(place, member="clean"), meta)
    return found


def test_noise_is_at_its_level_and_the_same_at_all_levels(heard):
    assert list(heard) == list(CONDITIONS)
    for kind in ("seen", "unseen"):
        shapes = []
        for level in LEVELS_DB:
            waveform, clean, meta = heard[f"{kind}_{level}dB"]
            added = waveform - clean
            assert 10 * np.log10(np.mean(clean**2) / np.mean(added**2)) == pytest.approx(level, abs=0.05)
            assert meta["recording"]["snr_db"] == level and meta["text"] == heard["clean"][2]["text"]
            shapes.append(added / np.sqrt(np.mean(added**2)))
        assert all(np.corrcoef(shape, shapes[-1])[0, 1] > 0.999 for shape in shapes)
    assert heard["seen_0dB"][2]["recording"]["noise"] != heard["unseen_0dB"][2]["recording"]["noise"]


def test_speech_is_the_same_in_every_condition(heard):
    assert np.array_equal(*heard["clean"][:2])
    for waveform, clean, _ in heard.values():
        scaled = clean * np.dot(heard["clean"][1], clean) / np.dot(clean, clean)
        assert np.allclose(scaled, heard["clean"][1], atol=2e-4)  # of a 16-bit file
        assert np.abs(waveform).max() < 0.96
    # The room of a sentence is one and the same, with and without noise.
    wet = heard["room"][0] - heard["room"][1]
    louder = heard["room_20dB"][0] - heard["room_20dB"][1]
    assert np.std(wet) > 0.1 * np.std(heard["room"][1]) and np.corrcoef(wet, louder)[0, 1] > 0.9


def test_training_is_clean_and_validation_takes_turns(tiny):
    corpus = Corpus.open(tiny / "noisy")
    assert {meta["condition"] for meta in corpus.split("train").metas()} == {"clean"}
    assert [meta["condition"] for meta in corpus.split("valid").metas()] == ["clean", "seen_20dB"]
    assert "clean" in corpus.split("valid").audio_members and "clean" not in corpus.split("train").audio_members
