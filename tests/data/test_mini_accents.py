"""The mini data set `accents`: one accent in training, the same test sentences in every English condition, Spanish."""

from __future__ import annotations

from itertools import pairwise

from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.data.mini.full_stack.accents import CONDITIONS, HOME, accents, spanish_sentences
from wavlm_lightning.data.mini.plans import SIZES
from wavlm_lightning.data.mini.synthesis.voices import ACCENTS


def test_conditions_differ_by_the_reading_alone():
    size = SIZES["mini"]
    plan = accents(size, 0)
    counts = {split: len(part) for split, part in plan.splits.items()}
    assert counts == {"train": size.accents[0], "valid": size.accents[1], "test": size.accents[2] * len(CONDITIONS)}
    assert {script.speaker.accent for split in ("train", "valid") for script in plan.splits[split]} == {HOME}
    read = {
        name: [
            (s.text, s.speaker.name, s.speaker.variant) for s in plan.splits["test"] if s.labels["condition"] == name
        ]
        for name in CONDITIONS
    }
    english = [rows for name, rows in read.items() if CONDITIONS[name].language == "en"]
    assert len(english) == 7 and all(rows == english[0] for rows in english)
    assert [voice for _, *voice in read["es"]] == [voice for _, *voice in read[HOME]]
    assert not {text for text, *_ in read["es"]} & {text for text, *_ in read[HOME]}
    for split in ("train", "valid"):
        assert not {s.text for s in plan.splits[split]} & {text for text, *_ in read[HOME]}
        assert not {s.speaker.variant for s in plan.splits[split]} & {variant for *_, variant in read[HOME]}
    assert len({c.voice for c in CONDITIONS.values()} - {*ACCENTS, "es"}) == 2  # accents that pre-training never hears


def test_spanish_agrees_and_contracts():
    for text in spanish_sentences(300, 0):
        assert "de el " not in text and "{" not in text
        words = text.split()
        for noun, adjective in pairwise(words):
            if adjective in ("nueva", "vieja", "roja", "pequeña", "hermosa", "antigua"):
                assert words[words.index(noun) - 1] in ("la", "tu"), text


def test_rates_change_the_length(tiny):
    part = Corpus.open(tiny / "accents").split("test")
    found = {meta["condition"]: samples for meta, samples in zip(part.metas(), part.samples, strict=True)}
    assert [*found] == [*CONDITIONS] and found["fast"] < 0.8 * found[HOME] < 0.8 * found["slow"] / 1.2
    assert {meta["condition"]: meta["language"] for meta in part.metas()}["es"] == "es"
