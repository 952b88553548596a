"""The mini data set `translation`: German by the rules, and what training does not know of the test."""

from __future__ import annotations

from collections import Counter

import pytest

from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.data.mini.full_stack.translation import (
    ANIMALS,
    PEOPLE,
    THINGS,
    UNSEEN,
    _Draw,
    number,
    time_of_day,
    translation,
)
from wavlm_lightning.data.mini.plans import SIZES, Plan
from wavlm_lightning.data.mini.scripted_utterance import ScriptedUtterance


@pytest.fixture(scope="module")
def plan() -> Plan:
    return translation(SIZES["mini"], 0)


def rows(plan: Plan, split: str, unseen: str = "") -> list[tuple[str, str]]:
    takes = [take for take in plan.splits[split] if isinstance(take, ScriptedUtterance)]
    return [
        (take.text, take.labels["translation"])
        for take in takes
        if not unseen or take.labels.get("condition") == unseen
    ]


def words(pairs: list[tuple[str, str]], side: int) -> set[str]:
    return {word for pair in pairs for word in pair[side].strip(".?").lower().replace(",", "").split()}


def test_numbers_and_times():
    assert [number(n)[1] for n in (2, 12, 16, 21, 37, 40)] == [
        "zwei",
        "zwölf",
        "sechzehn",
        "einundzwanzig",
        "siebenunddreißig",
        "vierzig",
    ]
    assert number(45)[0] == "forty five"
    assert len({number(n) for n in range(2, 50)}) == 48
    assert time_of_day(0, 1) == ("one o'clock", "ein Uhr")
    assert time_of_day(30, 12) == ("half past twelve", "halb eins")
    assert time_of_day(45, 12) == ("quarter to one", "Viertel vor eins")
    assert time_of_day(10, 3) == ("ten past three", "zehn nach drei")


@pytest.mark.parametrize(
    ("noun", "case", "article", "german"),
    [
        (PEOPLE[0], "nom", "the", "der alte Lehrer"),
        (PEOPLE[0], "acc", "the", "den alten Lehrer"),
        (PEOPLE[0], "nom", "my", "mein alter Lehrer"),
        (ANIMALS[0], "acc", "a", "einen alten Hund"),
        (THINGS[3], "acc", "a", "eine alte Lampe"),
        (THINGS[6], "acc", "my", "mein altes Buch"),
        (THINGS[6], "acc", "the", "das alte Buch"),
    ],
)
def test_articles_and_adjectives_follow_gender_and_case(noun, case, article, german):
    english, found = _Draw.named(noun, case, article, ("old", "alt"))
    assert found == german
    assert english == f"{'an' if article == 'a' else article} old {noun.english}"


def test_the_test_asks_for_what_training_lacks_with_its_words(plan):
    assert [len(plan.splits[split]) for split in plan.splits] == [1200, 90, 150]
    train, test = rows(plan, "train"), rows(plan, "test")
    english = [{text for text, _ in rows(plan, split)} for split in plan.splits]
    assert sum(map(len, english)) == len(set().union(*english)) == 1440
    assert Counter(take.labels["condition"] for take in plan.splits["test"]) == dict.fromkeys(UNSEEN, 50)
    assert not words(test, 0) - words(train, 0)  # every English word is known
    known = rows(plan, "test", "new_sentence")
    assert not words(known, 1) - words(train, 1)

    def beginnings(pairs: list[tuple[str, str]], size: int) -> set[tuple[str, ...]]:
        return {tuple(text.split()[:size]) for text, _ in pairs}

    assert not beginnings(rows(plan, "test", "new_pattern"), 4) & beginnings(train, 4)

    def numbers(pairs: list[tuple[str, str]]) -> set[str]:
        return {word for _, text in pairs for word in text.split() if "und" in word and word.endswith(("zig", "ßig"))}

    assert len(numbers(rows(plan, "test", "new_value"))) > 3
    assert not numbers(rows(plan, "test", "new_value")) & numbers(train)
    assert numbers(known) <= numbers(train)


def test_the_corpus_names_both_languages(tiny):
    corpus = Corpus.open(tiny / "translation")
    assert corpus.inventory("languages") == ["en"] and corpus.inventory("translation_languages") == ["de"]
    metas = corpus.split("test").metas()
    assert [meta["condition"] for meta in metas] == list(UNSEEN) * 2
    for meta in metas:
        assert meta["language"] == "en" and meta["translation_language"] == "de"
        assert meta["text"].islower() and meta["translation"][0].isupper() and meta["translation"][-1] in ".?"
