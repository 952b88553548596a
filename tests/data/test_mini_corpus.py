"""The tiny size, made once by `tiny`: labels, alignment, sound, balance."""

import shutil
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.data.mini import DATASETS, prepare_mini
from wavlm_lightning.data.mini.keywords import KEYWORDS

RATE = 16_000


@dataclass
class Made:
    directory: Path
    corpora: dict[str, Corpus]
    utterances: dict[str, dict[str, list[tuple[str, np.ndarray, dict[str, Any]]]]]

    def all(self, dataset: str | None = None) -> list[tuple[str, np.ndarray, dict[str, Any]]]:
        chosen = self.utterances.values() if dataset is None else [self.utterances[dataset]]
        return [utterance for splits in chosen for split in splits.values() for utterance in split]


@pytest.fixture(scope="module")
def tiny(tiny: Path) -> Made:
    """The corpora of the whole session, read into memory."""
    corpora = {name: Corpus.open(tiny / name) for name in DATASETS}
    utterances = {
        name: {split: list(corpus.split(split).utterances()) for split in corpus.splits}
        for name, corpus in corpora.items()
    }
    return Made(tiny, corpora, utterances)


def test_tiny_stays_within_its_budget(tiny: Made) -> None:
    audio = sum(len(wave) for _, wave, _ in tiny.all()) / RATE
    assert 4.0 * 60 < audio < 14 * 60


def test_no_waveform_is_silent_clipped_or_broken(tiny: Made) -> None:
    for key, wave, _ in tiny.all():
        assert wave.dtype == np.float32 and wave.ndim == 1, key
        assert np.isfinite(wave).all(), key
        assert np.abs(wave).max() < 0.96, key
        assert np.sqrt(np.mean(wave**2)) > 10 ** (-60 / 20), key


def test_phones_are_contiguous_inside_the_waveform_and_in_the_inventory(tiny: Made) -> None:
    for dataset in set(DATASETS) - {"sd", "meetings", "separation"}:
        inventory = tiny.corpora[dataset].inventories["phones"]
        assert inventory == sorted(inventory) and len(inventory) == 39 and "SIL" not in inventory
        for key, wave, meta in tiny.all(dataset):
            phones = meta["phones"]
            assert phones[0][1] == 0.0, key
            assert phones[-1][2] == pytest.approx(len(wave) / RATE, abs=1e-3), key
            for (_, start, end), (_, after, _) in pairwise(phones):
                assert start < end and end == pytest.approx(after, abs=2e-4), key
            assert {name for name, _, _ in phones} <= {*inventory, "SIL"}, key


def test_words_are_the_text_in_order_and_hold_phones(tiny: Made) -> None:
    for dataset in set(DATASETS) - {"sd", "meetings", "separation"}:
        for key, wave, meta in tiny.all(dataset):
            assert " ".join(word for word, _, _ in meta["words"]) == meta["text"], key
            last = 0.0
            for word, start, end in meta["words"]:
                assert last - 2e-4 <= start < end <= len(wave) / RATE + 2e-4, (key, word)
                inside = [p for p, s, e in meta["phones"] if p != "SIL" and s < end - 1e-3 and e > start + 1e-3]
                assert inside, (key, word)
                last = end


def test_phones_are_louder_than_pauses(tiny: Made) -> None:
    contrasts = []
    for dataset in ("pretrain", "pr", "er"):
        for key, wave, meta in tiny.all(dataset):
            loud, quiet = [], []
            for name, start, end in meta["phones"]:
                if end - start > 0.02:
                    piece = wave[round(start * RATE) : round(end * RATE)]
                    (quiet if name == "SIL" else loud).append(10 * np.log10(np.mean(piece**2) + 1e-12))
            contrasts.append(np.median(loud) - np.median(quiet))
            assert contrasts[-1] > 0, key
    assert np.median(contrasts) > 10


def test_vowels_are_louder_than_stop_closures(tiny: Made) -> None:
    # Would fail if times were not scaled by the vocal-tract factor: half a sentence is then off by many phones.
    vowels, stops = [], []
    for _, wave, meta in tiny.all("pretrain"):
        for name, start, end in meta["phones"][len(meta["phones"]) // 2 :]:
            level = 10 * np.log10(np.mean(wave[round(start * RATE) : round(end * RATE)] ** 2) + 1e-12)
            if name in ("AA", "AE", "AH", "EH", "IY", "EY", "OW"):
                vowels.append(level)
            elif name in ("P", "T", "K"):
                stops.append(level)
    assert np.median(vowels) > np.median(stops) + 6


def test_keyword_clips_last_one_second_and_classes_are_balanced(tiny: Made) -> None:
    assert tiny.corpora["ks"].inventories["keywords"] == list(KEYWORDS)
    for split, utterances in tiny.utterances["ks"].items():
        counts = Counter(meta["keyword"] for _, _, meta in utterances)
        assert set(counts) == set(KEYWORDS) and len(set(counts.values())) == 1, split
        for key, wave, meta in utterances:
            assert len(wave) == RATE, key
            if meta["keyword"] in KEYWORDS[:10]:
                assert meta["text"] == meta["keyword"]


def test_keywords_stand_at_random_places(tiny: Made) -> None:
    starts = [meta["words"][0][1] for _, _, meta in tiny.all("ks") if meta["words"]]
    assert np.std(starts) > 0.08


def test_every_data_set_has_its_labels(tiny: Made) -> None:
    for dataset in set(DATASETS) - {"sd", "meetings", "separation", "ks"}:
        for key, _, meta in tiny.all(dataset):
            assert meta["language"] == ("es" if meta.get("condition") == "es" else "en")
            assert meta["text"] and meta["speaker"] and meta["variant"], key
    intents = tiny.corpora["ic"].inventories["intents"]
    assert [len(intents[slot]) for slot in ("action", "object", "location")] == [6, 6, 4]
    for key, _, meta in tiny.all("ic"):
        assert all(meta["intent"][slot] in values for slot, values in intents.items()), key
    assert set(tiny.corpora["er"].splits) == {f"fold{i}" for i in range(1, 6)}
    emotions = tiny.corpora["er"].inventories["emotions"]
    for split in tiny.utterances["er"].values():
        assert len(set(Counter(meta["emotion"] for _, _, meta in split).values())) == 1
        assert {meta["emotion"] for _, _, meta in split} == set(emotions)
    closed = tiny.corpora["sid"].inventories["speakers"]
    for split in tiny.utterances["sid"].values():
        assert {meta["speaker"] for _, _, meta in split} == set(closed)


def test_emotions_share_their_texts(tiny: Made) -> None:
    texts: dict[str, set[str]] = {}
    for _, _, meta in tiny.all("er"):
        texts.setdefault(meta["emotion"], set()).add(meta["text"])
    assert len({frozenset(each) for each in texts.values()}) == 1


def test_slots_are_pieces_of_the_text_in_order(tiny: Made) -> None:
    inventory = tiny.corpora["sf"].inventories["slots"]
    for key, _, meta in tiny.all("sf"):
        position = 0
        assert meta["slots"], key
        for kind, value in meta["slots"]:
            assert kind in inventory, key
            position = f" {meta['text']} ".index(f" {value} ", position) + len(value)


def test_trials_are_balanced_and_name_existing_utterances(tiny: Made) -> None:
    for split in ("valid", "test"):
        speakers = {key: meta["speaker"] for key, _, meta in tiny.utterances["sv"][split]}
        rows = tiny.corpora["sv"].trials(split)
        assert sum(same for same, _, _ in rows) * 2 == len(rows) > 0
        assert len({(a, b) for _, a, b in rows}) == len(rows)
        for same, a, b in rows:
            assert (speakers[a] == speakers[b]) == bool(same) and a != b


def test_turns_match_what_is_heard_and_overlap(tiny: Made) -> None:
    for key, wave, meta in tiny.all("sd"):
        turns = meta["turns"]
        assert {name for name, _, _ in turns} == set(meta["speakers"]) and len(meta["speakers"]) == 2, key
        frames = len(wave) // 160
        active = np.zeros((2, frames), dtype=bool)
        for name, start, end in turns:
            assert 0 <= start < end <= len(wave) / RATE, key
            active[meta["speakers"].index(name), round(start * 100) : round(end * 100)] = True
        speech = active.any(axis=0)
        assert 0.10 <= active.all(axis=0).sum() / speech.sum() <= 0.25, key
        level = 10 * np.log10(np.mean(wave[: frames * 160].reshape(-1, 160) ** 2, axis=1) + 1e-12)
        assert np.median(level[speech]) > np.median(level[~speech]) + 3, key
        # No speaker overlaps with himself.
        for speaker in meta["speakers"]:
            own = [(s, e) for name, s, e in turns if name == speaker]
            assert all(end <= after for (_, end), (after, _) in pairwise(own)), key


def test_queries_occur_in_documents_read_by_other_voices(tiny: Made) -> None:
    qbe = tiny.utterances["qbe"]
    for key, _, meta in qbe["documents"]:
        assert all(f" {term}" in f" {meta['text']}" for term in meta["terms"]), key
    found = Counter(term for _, _, meta in qbe["documents"] for term in meta["terms"])
    asked = [meta["term"] for split in ("queries-valid", "queries-test") for _, _, meta in qbe[split]]
    assert len(set(asked)) == len(asked) and set(asked) == set(tiny.corpora["qbe"].inventories["terms"])
    assert all(found[term] for term in asked)
    variants = [{meta["variant"] for _, _, meta in split} for split in qbe.values()]
    assert not variants[0] & variants[1] and not variants[0] & variants[2] and not variants[1] & variants[2]


def test_other_workers_and_other_companions_change_nothing(tiny: Made, tmp_path: Path) -> None:
    chosen = ["sd", "ks", "pr"]
    prepare_mini(tmp_path, size="tiny", datasets=chosen, workers=3, progress=False)
    for name in chosen:
        again = Corpus.open(tmp_path / name)
        assert again.sha256 == tiny.corpora[name].sha256, name
        assert again.inventories == tiny.corpora[name].inventories


def test_another_seed_gives_another_corpus(tiny: Made, tmp_path: Path) -> None:
    prepare_mini(tmp_path, size="tiny", datasets=["pr"], seed=1, workers=2, progress=False)
    assert Corpus.open(tmp_path / "pr").sha256 != tiny.corpora["pr"].sha256


def test_an_interrupted_data_set_is_made_again_the_same(tiny: Made, tmp_path: Path) -> None:
    prepare_mini(tmp_path, size="tiny", datasets=["qbe"], workers=2, progress=False)
    (tmp_path / "qbe" / "corpus.json").unlink()
    (tmp_path / "qbe" / "documents-000000.tar").write_bytes(b"half")
    prepare_mini(tmp_path, size="tiny", datasets=["qbe"], workers=2, progress=False)
    assert Corpus.open(tmp_path / "qbe").sha256 == tiny.corpora["qbe"].sha256


def test_what_is_finished_is_left_alone(tiny: Made, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny.directory, tmp_path / "mini")
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}
    prepare_mini(folder, size="tiny", progress=False)
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()} == before


def test_target_and_rest_add_up_to_the_mixture_which_is_asked_for_both_talkers(tiny: Made) -> None:
    for split in tiny.corpora["target"].splits:
        part = tiny.corpora["target"].split(split)
        assert part.audio_members == ("clean", "enrolment", "other")
        rows = []
        for number in range(len(part)):
            shard, place = part.locate(number)
            further, meta = shard.further_audio(place), shard.meta(place)
            wave = shard.waveform(place)
            assert np.array_equal(further["clean"] + further["other"], wave), shard.keys[place]
            # A talker is silent outside of the own turns, and an enrolment is not a piece of the mixture.
            quiet = np.ones(len(wave), bool)
            for name, start, end in meta["turns"]:
                if name == meta["speaker"]:
                    quiet[max(0, int((start - 0.05) * RATE)) : int((end + 0.05) * RATE)] = False
            assert np.abs(further["clean"][quiet]).max(initial=0) < 0.02, shard.keys[place]
            assert {name for name, _, _ in meta["turns"]} == {meta["speaker"], meta["interferer"]}
            assert abs(meta["recording"]["ratio_db"]) <= 5 and 0 < meta["overlap"] < 1
            assert len(further["enrolment"]) != len(wave)
            rows.append((wave, meta, further))
        for (first, one, a), (second, other, b) in zip(rows[::2], rows[1::2], strict=True):
            assert np.array_equal(first, second) and one["speaker"] == other["interferer"]
            assert one["text"] != other["text"] and not np.array_equal(a["clean"], b["clean"])


def test_the_parts_of_noisy_speech_and_of_mixtures_add_up(tiny: Made) -> None:
    for split in tiny.corpora["enhancement"].splits:
        part = tiny.corpora["enhancement"].split(split)
        for number in range(len(part)):
            shard, place = part.locate(number)
            wave, clean, meta = shard.waveform(place), shard.further_audio(place)["clean"], shard.meta(place)
            ratio = 10 * np.log10(np.mean(np.square(clean)) / np.mean(np.square(wave - clean)))
            assert abs(ratio - meta["recording"]["snr_db"]) < 0.1, shard.keys[place]
            assert (meta["recording"]["noise"] in ("motor", "ticking")) == (split == "test")
    for split in tiny.corpora["separation"].splits:
        part = tiny.corpora["separation"].split(split)
        assert part.audio_members == ("s1", "s2")
        for number in range(len(part)):
            shard, place = part.locate(number)
            further, meta = shard.further_audio(place), shard.meta(place)
            assert np.array_equal(further["s1"] + further["s2"], shard.waveform(place)), shard.keys[place]
            assert len(set(meta["speakers"])) == 2 and abs(meta["recording"]["ratio_db"]) <= 5


def test_conversions_have_the_same_sources_beside_every_target_who_reads_what_they_say(tiny: Made) -> None:
    corpus, heard = tiny.corpora["voices"], {}
    for split in ("valid", "test"):
        for number, name in enumerate(corpus.inventories["speakers"]["targets"], start=1):
            (own,) = {meta["speaker"] for meta in corpus.split(f"train_{number}").metas()}
            part = corpus.split(f"{split}_{number}")
            for place in range(len(part)):
                shard, at = part.locate(place)
                meta, target = shard.meta(at), shard.further_audio(at)["target"]
                assert meta["target_speaker"] == own == name != meta["speaker"]
                said = shard.waveform(at)
                first = heard.setdefault((meta["speaker"], meta["text"]), said)
                assert np.array_equal(first, said) and not np.array_equal(first, target)
    assert len(heard) == 2  # one sentence of a source in valid, and of another in the test


def test_meetings_have_two_to_four_speakers_who_all_speak_and_overlap(tiny: Made) -> None:
    heard: dict[str, set[str]] = {}
    for split in tiny.corpora["meetings"].splits:
        part = tiny.corpora["meetings"].split(split)
        for number, meta in enumerate(part.metas()):
            shard, place = part.locate(number)
            seconds = len(shard.waveform(place)) / RATE
            names = {name for name, _, _ in meta["turns"]}
            assert names == set(meta["speakers"]) and len(names) == (2, 3, 4)[number % 3]
            assert 0.03 < meta["overlap"] < 0.4 and max(end for *_, end in meta["turns"]) <= seconds
            heard.setdefault(split, set()).update(names)
    assert not heard["test"] & (heard["train"] | heard["valid"])
