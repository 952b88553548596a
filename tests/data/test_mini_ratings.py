"""The mini data set `mos`: what is unseen in the test, qualities that fall with severity, simulated listeners."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import signal

from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.data.mini.degradations import BEST, KNOWN, UNSEEN
from wavlm_lightning.data.mini.plans import SIZES
from wavlm_lightning.data.mini.ratings import EACH, LISTENERS, SCALE, listeners, mos
from wavlm_lightning.data.mini.seeding import generator

EVERY = {**KNOWN, **UNSEEN}


@pytest.fixture(scope="module")
def speech(tiny) -> np.ndarray:
    return next(
        wave for _, wave, meta in Corpus.open(tiny / "mos").split("valid").utterances() if meta["severity"] == 0
    )


def spectrum(waveform: np.ndarray) -> np.ndarray:
    """Log spectra of 20 ms, without the level."""
    log = np.log(np.abs(signal.stft(waveform, nperseg=320)[2]) + 1e-4)
    return log - log.mean()


@pytest.mark.parametrize("name", EVERY)
def test_a_degradation_grows_with_its_severity_and_keeps_time(speech, name):
    apart = []
    for severity in (0.1, 0.5, 1.0):
        heard = EVERY[name].apply(speech, severity, generator(0, name))
        assert heard.shape == speech.shape and np.isfinite(heard).all()
        again = EVERY[name].apply(speech, severity, generator(0, name))
        assert np.array_equal(heard, again)
        apart.append(float(np.abs(spectrum(heard) - spectrum(speech)).mean()))
    assert 0 < apart[0] < apart[1] < apart[2], name
    qualities = [EVERY[name].quality(severity) for severity in np.linspace(0, 1, 21)]
    assert qualities[0] == BEST and (np.diff(qualities) < 0).all() and qualities[-1] > SCALE[0]
    assert qualities[-1] == pytest.approx(EVERY[name].worst)


def test_the_test_has_unseen_degradations_and_speakers():
    plan = mos(SIZES["mini"], 0)
    assert {name: len(part) for name, part in plan.splits.items()} == {
        "train": 49 * 8,
        "valid": 49 * 2,
        "test": 25 * 6,
        "known": 49 * 2,
    }
    speakers = {split: set(names) for split, names in plan.inventories["speakers"].items()}
    assert not speakers["train"] & speakers["valid"] and not speakers["train"] & speakers["test"]
    assert speakers["known"] == speakers["test"] and not KNOWN.keys() & UNSEEN.keys()


def test_a_clip_is_rated_by_some_listeners(tiny):
    corpus = Corpus.open(tiny / "mos")
    assert corpus.inventory("rating_scale") == list(SCALE) and len(corpus.inventory("listeners")) == LISTENERS
    for split, types in (("train", KNOWN), ("valid", KNOWN), ("test", UNSEEN)):
        metas = corpus.split(split).metas()
        assert {meta["system"].rpartition("-")[0] or meta["system"] for meta in metas} == {"clean", *types}
        for meta in metas:
            scores = list(meta["ratings"].values())
            assert len(scores) == EACH and set(meta["ratings"]) <= set(corpus.inventory("listeners"))
            assert all(isinstance(score, int) and SCALE[0] <= score <= SCALE[1] for score in scores)
            assert meta["rating"] == np.mean(scores) and meta["system"] in corpus.inventory("systems")
            assert 1 <= meta["quality"] <= BEST and (meta["severity"] == 0) == (meta["system"] == "clean")


def test_listeners_differ_and_follow_the_quality():
    panel, rng = listeners(0), np.random.default_rng(0)
    scores = np.array([[np.mean([each.score(q, rng) for _ in range(60)]) for q in (1.5, 3.0, 4.5)] for each in panel])
    assert (np.diff(scores, axis=1) > 0.3).all()
    biases = np.array([listener.bias for listener in panel])
    assert np.corrcoef(scores[:, 1], biases)[0, 1] > 0.95 and biases.std() > 0.3
    assert listeners(0) == panel != listeners(1)
