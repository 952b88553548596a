"""Plans of the mini size, before any sample is made: who, what and how many, and that no test item leaks."""

from collections import Counter
from typing import Any

import pytest

from wavlm_lightning.data.mini import DATASETS, grammar
from wavlm_lightning.data.mini.keywords import UNKNOWN, UNKNOWN_WORDS
from wavlm_lightning.data.mini.plans import SIZES, Plan
from wavlm_lightning.data.mini.prepare import _PLANS
from wavlm_lightning.data.mini.scripted_utterance import ScriptedUtterance
from wavlm_lightning.data.mini.synthesis.speech import spoken_words
from wavlm_lightning.data.mini.synthesis.voices import VARIANTS, speakers


@pytest.fixture(scope="module")
def plans() -> dict[str, Plan]:
    return {name: _PLANS[name](SIZES["mini"], 0) for name in DATASETS}


def takes(plan: Plan, split: str) -> list[ScriptedUtterance]:
    return [take for take in plan.splits[split] if isinstance(take, ScriptedUtterance)]


def test_the_registry_is_the_published_list() -> None:
    assert tuple(_PLANS) == DATASETS


def test_mini_has_the_counts_of_the_demo(plans: dict[str, Plan]) -> None:
    counts = {name: [len(split) for split in plan.splits.values()] for name, plan in plans.items()}
    assert counts["pretrain"] == [692, 60]
    assert counts["pr"] == [600, 100, 100]
    assert counts["ks"] == [720, 240, 480]
    assert counts["sid"] == [540, 180, 300]
    assert len({take.speaker.name for take in takes(plans["pretrain"], "train")}) == 80
    assert len(plans["sid"].inventories["speakers"]) == 60


@pytest.mark.parametrize("dataset", ["pretrain", "pr", "ks", "ic", "sv", "sf", "translation"])
def test_splits_share_neither_speaker_nor_variant(plans: dict[str, Plan], dataset: str) -> None:
    groups = [takes(plans[dataset], split) for split in plans[dataset].splits]
    for attribute in ("name", "variant"):
        sets = [{getattr(take.speaker, attribute) for take in group} for group in groups]
        assert sum(map(len, sets)) == len(set().union(*sets)), attribute


def test_folds_share_neither_speaker_nor_variant(plans: dict[str, Plan]) -> None:
    folds = [{t.speaker.variant for t in takes(plans["er"], fold)} for fold in plans["er"].splits]
    assert sum(map(len, folds)) == len(set().union(*folds)) == 10
    for fold in plans["er"].splits:
        counts = Counter((t.speaker.name, t.labels["emotion"]) for t in takes(plans["er"], fold))
        assert len(set(counts.values())) == 1


def test_identification_uses_voices_that_pretraining_never_hears(plans: dict[str, Plan]) -> None:
    heard = {t.speaker.variant for split in plans["pretrain"].splits for t in takes(plans["pretrain"], split)}
    asked = {t.speaker.variant for split in plans["sid"].splits for t in takes(plans["sid"], split)}
    assert not heard & asked
    rooms = [{t.rooms for t in takes(plans["sid"], split)} for split in plans["sid"].splits]
    assert sum(map(len, rooms)) == len(set().union(*rooms)) == 3


def test_pools_of_variants_are_disjoint() -> None:
    pools = list(VARIANTS.values())
    assert sum(map(len, pools)) == len(set().union(*pools))
    families = [{v.rstrip("0123456789").lower() for v in pool if v[0] not in "fm" or len(v) > 2} for pool in pools]
    assert not families[0] & families[1] and not families[0] & families[2] and not families[1] & families[2]


def test_test_sentences_are_in_no_training_set(plans: dict[str, Plan]) -> None:
    def read(split: str) -> set[str]:
        plan_names = ("pretrain", "pr", "sid", "sv")
        texts: set[str] = set()
        for name in plan_names:
            for take in takes(plans[name], split) if split in plans[name].splits else []:
                parts = [p for p in take.text.replace("?", ".").split(".") if p.strip()]
                texts |= {" ".join(spoken_words(part)) for part in parts}
        return texts

    train, valid, test = read("train"), read("valid"), read("test")
    assert len(train) > 2000 and len(test) > 500
    assert not train & test and not train & valid and not valid & test


def test_rare_words_are_rare_in_training_only(plans: dict[str, Plan]) -> None:
    def share(split: str) -> float:
        words = [w for take in takes(plans["pr"], split) for w in spoken_words(take.text)]
        return sum(w in grammar.rare_words() for w in words) / len(words)

    assert share("train") < 0.4 * share("test")


def test_a_quarter_of_the_trials_are_hard_impostors(plans: dict[str, Plan]) -> None:
    speaker = {t.key: t.speaker for t in takes(plans["sv"], "test")}
    trials = plans["sv"].trials["test"]
    assert len(trials) == 4000 and sum(same for same, _, _ in trials) == 2000
    hard = [
        (speaker[a].accent, speaker[a].pitch_class) == (speaker[b].accent, speaker[b].pitch_class)
        for same, a, b in trials
        if not same
    ]
    assert sum(hard) / len(hard) == pytest.approx(0.5, abs=0.02)


def test_unknown_words_of_the_test_are_partly_new(plans: dict[str, Plan]) -> None:
    def unknown(split: str) -> set[str]:
        return {spoken_words(t.text)[0] for t in takes(plans["ks"], split) if t.labels["keyword"] == UNKNOWN}

    assert len(unknown("test")) == 25 and len(unknown("test") & unknown("train")) == 15
    assert not set(UNKNOWN_WORDS["test only"]) & unknown("train")
    assert unknown("valid") <= unknown("train")


def test_commands_hold_out_phrasings_and_combinations(plans: dict[str, Plan]) -> None:
    def seen(split: str) -> set[tuple[Any, ...]]:
        return {tuple(t.labels["intent"].values()) for t in takes(plans["ic"], split)}

    new = seen("test") - seen("train")
    assert 4 <= len(new) <= 12 and not seen("valid") - seen("train")
    for slot in range(3):
        assert {c[slot] for c in seen("test")} <= {c[slot] for c in seen("train")}


def test_documents_and_queries_have_three_groups_of_voices(plans: dict[str, Plan]) -> None:
    groups = [{t.speaker.variant for t in takes(plans["qbe"], split)} for split in plans["qbe"].splits]
    assert sum(map(len, groups)) == len(set().union(*groups))
    found = Counter(term for t in takes(plans["qbe"], "documents") for term in t.labels["terms"])
    assert set(found) == set(plans["qbe"].inventories["terms"]) and len(found) == 80
    assert max(found.values()) <= 40 and sum(" " in term for term in found) >= 8


def test_an_inflected_term_is_in_the_document(plans: dict[str, Plan]) -> None:
    """Their label was that of a document without the term, in which every system that hears it raised a false alarm."""
    documents = {t.text.lower(): t.labels["terms"] for t in takes(plans["qbe"], "documents")}
    inflected = {
        w
        for text, terms in documents.items()
        for w in text.replace(".", "").split()
        if w[:-1] in terms and w[-1] == "s"
    }
    assert {"ladders", "kittens"} <= inflected
    for text, terms in documents.items():
        assert ("ladder" in terms) is ("ladder" in text)


def test_slot_values_are_partly_held_out(plans: dict[str, Plan]) -> None:
    def values(split: str) -> set[tuple[str, str]]:
        return {(kind, value) for t in takes(plans["sf"], split) for kind, value in t.labels["slots"]}

    assert values("test") - values("train") and values("test") & values("train")
    assert {kind for kind, _ in values("test")} == {kind for kind, _ in values("train")}


def test_a_larger_group_of_speakers_begins_with_the_smaller() -> None:
    assert speakers("train", "t", 200, 0)[:30] == speakers("train", "t", 30, 0)


def test_keys_are_unique_and_usable(plans: dict[str, Plan]) -> None:
    for name, plan in plans.items():
        for split, items in plan.splits.items():
            keys = [item.key for item in items]
            assert len(set(keys)) == len(keys), (name, split)
            assert not any(set(key) & set("./\\ ") for key in keys), (name, split)


def test_converted_sentences_are_new_and_sources_are_no_targets(plans: dict[str, Plan]) -> None:
    plan = plans["voices"]
    assert len(plan.splits) == 15
    named = plan.inventories["speakers"]
    assert [len(named[part]) for part in ("targets", "valid", "test")] == [5, 2, 4]
    assert len(set(named["targets"]) | set(named["valid"]) | set(named["test"])) == 11
    texts = [{take.text for take in takes(plan, f"train_{n}")} for n in range(1, 6)]
    assert sum(map(len, texts)) == len(set().union(*texts)) == 700
    variants = {take.speaker.variant for n in range(1, 6) for take in takes(plan, f"train_{n}")}
    assert len(variants) == 5 and variants <= set(VARIANTS["test"])
    assert [len(plan.splits[f"{split}_3"]) for split in ("valid", "test")] == [8, 16]
