"""`wavlm prepare covost2` and `sbcsae`, and SUPERB-SG's rules for Common Voice, on miniatures of the published folders."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
from miniature import prepare, refusal, sound

from wavlm_lightning.data.corpora.languages.covost2 import _moses, attached, comparable, source_text
from wavlm_lightning.data.corpora.languages.sbcsae import Unit, counted_text, spoken_alone
from wavlm_lightning.data.corpora.languages.superb_sg import superb_sg_text
from wavlm_lightning.data.corpus import Corpus

SENTENCES = {
    "1": ("train", "The cat sat.", "Die Katze saß."),
    "2": ("train_covost", "Where is it ?", "Wo ist es?"),
    "3": ("dev", '"Well," he said.', '"Nun", sagte er.'),
    "4": ("test", "Yes.", "Ja, das ist wirklich so gewesen, damals."),
    "5": ("test", "Good morning.", "Guten Morgen."),
    "6": ("dev_covost", "Left out.", "Ausgelassen."),
}


def table(path, header, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join("\t".join(row) + "\n" for row in (header, *rows)), encoding="utf-8")


@pytest.fixture
def covost(tmp_path):
    release = tmp_path / "cv-corpus-4-2019-12-10"
    rows = [(f"client{n}", f"clip{n}.wav", text) for n, (_, text, _) in SENTENCES.items()]
    table(release / "en" / "validated.tsv", ("client_id", "path", "sentence"), rows)
    for _, name, _ in rows:
        sound(release / "en" / "clips" / name)
    translated = [(f"clip{n}.wav", german.replace('"', '\\"'), split) for n, (split, _, german) in SENTENCES.items()]
    # A clip that this release of Common Voice lacks.
    translated.append(("clip9.wav", "Weg.", "test"))
    table(tmp_path / "covost" / "covost_v2.en_de.tsv", ("path", "translation", "split"), translated)
    return tmp_path


def options(folder, *more):
    return ("--translations", folder / "covost", "--allow-partial", *more)


def test_both_texts_of_the_extended_training_and_the_tests(covost, capsys):
    release = covost / "cv-corpus-4-2019-12-10"
    message = refusal(capsys, "covost2", release, covost / "c", "--translations", covost / "covost")
    assert "train has 2 sentences instead of 289,430" in message
    assert prepare("covost2", release, covost / "c", *options(covost)) == 0
    corpus = Corpus.open(covost / "c")
    assert {split: corpus.split(split).keys for split in corpus.splits} == {
        "train": ["clip1", "clip2"],
        "valid": ["clip3"],
        "test": ["clip4", "clip5"],
    }
    meta = corpus.split("valid").metas()[0]
    assert (meta["text"], meta["translation"]) == ('"Well," he said.', '"Nun", sagte er.')
    assert (meta["language"], meta["translation_language"]) == ("en", "de")
    assert corpus.inventory("languages") == ["en"] and corpus.inventory("translation_languages") == ["de"]
    # Of other pairs no count is published: what the translations list and the release lacks is told.
    whole = covost / "covost" / "covost_v2.en_de.tsv"
    whole.with_name("covost_v2.en_ca.tsv").write_text(whole.read_text())
    other = ("--translations", covost / "covost", "--target", "ca")
    assert "test has 2 sentences instead of 3" in refusal(capsys, "covost2", release, covost / "e", *other)
    # The tables that get_covost_splits.py makes say the same.
    header = ("path", "sentence", "translation", "client_id")
    for name, kept in (("train", "12"), ("dev", "3"), ("test", "45")):
        rows = [(f"clip{n}.wav", *SENTENCES[n][1:], f"client{n}") for n in kept]
        table(covost / "split" / f"covost_v2.en_de.{name}.tsv", header, rows)
    assert prepare("covost2", release, covost / "d", "--translations", covost / "split", "--allow-partial") == 0
    again = Corpus.open(covost / "d")
    assert all(again.split(split).metas() == corpus.split(split).metas() for split in corpus.splits)


def test_rules_of_superb_sg_for_both_sides(covost, capsys, monkeypatch):
    release = covost / "cv-corpus-4-2019-12-10"
    monkeypatch.setitem(sys.modules, "sacremoses", None)
    message = refusal(capsys, "covost2", release, covost / "c", *options(covost, "--text", "superb_sg"))
    assert "the package sacremoses makes punctuation uniform and is missing; pip install sacremoses" in message

    class Normaliser:  # what is asked of sacremoses, which the tests do not install
        def __init__(self, lang, pre_replace_unicode_punct, post_remove_control_chars):
            assert lang in ("en", "de") and pre_replace_unicode_punct and post_remove_control_chars

        def normalize(self, text):
            return text.replace('"', "“")

    monkeypatch.setitem(sys.modules, "sacremoses", SimpleNamespace(MosesPunctNormalizer=Normaliser))
    assert prepare("covost2", release, covost / "c", *options(covost, "--text", "superb_sg")) == 0
    corpus = Corpus.open(covost / "c")
    texts = {split: [(m["text"], m["translation"]) for m in corpus.split(split).metas()] for split in corpus.splits}
    assert texts["train"] == [("the cat sat", "Die Katze saß."), ("where is it", "Wo ist es?")]
    assert texts["valid"] == [("“well“ he said", "“Nun“, sagte er.")]
    assert texts["test"] == [("good morning", "Guten Morgen.")]  # one word against seven is left out
    assert corpus.body["source"]["left_out"] == {"train": 0, "valid": 0, "test": 1}


def test_sacremoses_is_called_as_it_is():
    pytest.importorskip("sacremoses")
    assert _moses("de")("„Nun“ – sagte er … 1,5") == '"Nun" - sagte er ... 1,5'


def test_pairs_and_their_signs():
    assert comparable("one two", "a b c d e f g h i j") and not comparable("one", "a b c d e f")
    assert not comparable("", "a") and not comparable("one", "REMOVE")
    assert attached("I do n't know , he ?") == "I don't know, he?"
    assert source_text("It's a well-known (old) rule!") == "it's a well-known old rule"


TRANSCRIPT = (
    "0.00 4.00\tLENORE: \t... So you don't need to go .. borrow equipment,\n"
    "4.00 6.50\t        \t(H) you have your own.\n"
    "6.50 8.00\tDORIS:  \t[Yeah=].\n"
    "9.00 9.05\tDORIS:  \tMhm.\n"
    "10.00 12.00 DORIS:\tAnd I said okay.\n"
    "11.50 13.00\tLENORE: \tRight there.\n"
    "20.00\t22.00\tDORIS:\tHe was X over there.\n"
    "22.00\t24.00\tDORIS:\tThey don\udc92t.\n"
    "24.00 25.00 \tDORIS:\tThree fields but no two times.\n"
    "25.00 26.00\tDORIS:\tA \\ sign.\n"
    "30.00 50.00\tDORIS:  \tToo long to count.\n"
    "no times here\n"
)


@pytest.fixture
def conversations(tmp_path):
    for number in (1, 47, 54):
        sound(tmp_path / "mp3" / f"{number:02d}.mp3", seconds=60)
        (tmp_path / "trn").mkdir(exist_ok=True)
        (tmp_path / "trn" / f"SBC{number:03d}.trn").write_bytes(TRANSCRIPT.encode("utf-8", "surrogateescape"))
    return tmp_path


def test_conversations_are_divided_and_doubtful_units_left_out(conversations, capsys):
    message = refusal(capsys, "sbcsae", conversations, conversations / "c")
    assert "train has 1 conversations instead of 46, valid has 1 conversations instead of 7" in message
    assert prepare("sbcsae", conversations, conversations / "c", "--allow-partial") == 0
    corpus = Corpus.open(conversations / "c")
    train = corpus.split("train")
    assert train.keys == ["SBC001_000000-000400", "SBC001_000400-000650", "SBC001_002200-002400"]
    texts = ["SO YOU DON'T NEED TO GO BORROW EQUIPMENT", "YOU HAVE YOUR OWN", "THEY DONT"]
    assert [meta["text"] for meta in train.metas()] == texts
    assert [meta["speaker"] for meta in train.metas()] == [*["SBC001-LENORE"] * 2, "SBC001-DORIS"]
    assert train.samples == pytest.approx([64_000, 40_000, 32_000], abs=2)
    assert [corpus.split(split).keys[0][:6] for split in ("valid", "test")] == ["SBC047", "SBC054"]


def test_units_that_overlap_lose_all_of_them():
    def unit(start, end):
        return Unit(start, end, "", "")

    # The third overlaps both before it, and none of the three stays.
    assert spoken_alone([unit(0, 1), unit(1, 2), unit(0.5, 3), unit(3, 4)]) == [unit(3, 4)]
    assert counted_text("(LAUGH) It's ~Mary, XX") is None and counted_text("@@@ ~Mary=y said") == "MARYY SAID"
    assert counted_text("I") is None and counted_text("<X probably X>") is None


@pytest.mark.parametrize(
    ("language", "written", "kept"),
    [
        ("es", "¡Él dijo: «¿Qué?» — y’a!", "ÉL DIJO QUÉ Y'A"),
        ("es", "La palabra 箱 no", None),
        ("zh-CN", "你好，世 界。ㄧ", "你好世界一"),
        ("zh-CN", "他说OK", None),
        ("zh-CN", "Ｔ恤", None),  # NFKC makes it Latin
        ("ar", "مرحبا، كيف؟", "مرحبا كيف"),
        ("ar", "قال 'نعم'", None),
        ("es", " ... ", None),
    ],
)
def test_texts_of_superb_sg(language, written, kept):
    assert superb_sg_text(written, language) == kept


def test_common_voice_by_the_rules_of_superb_sg(tmp_path, capsys):
    folder = tmp_path / "cv-corpus-7.0-2021-07-21" / "es"
    header = ("client_id", "path", "sentence", "accent")
    rows = {
        "train": [
            ("a", "1.wav", "¿Qué tal?", "mexicano"),
            ("b", "2.wav", "Vale.", "norte"),
            ("c", "3.wav", "箱.", "mexicano"),
        ],
        "dev": [("d", "4.wav", "Sí, señor.", "mexicano")],
        "test": [("e", "5.wav", "No.", "mexicano"), ("f", "6.wav", "Sí.", "")],
    }
    for name, some in rows.items():
        table(folder / f"{name}.tsv", header, some)
        for _, clip, *_ in some:
            sound(folder / "clips" / clip)
    given = ("--language", "es", "--text", "superb_sg")
    assert prepare("common_voice", folder, tmp_path / "c", *given) == 0
    corpus = Corpus.open(tmp_path / "c")
    assert {split: [m["text"] for m in corpus.split(split).metas()] for split in corpus.splits} == {
        "train": ["QUÉ TAL"],
        "valid": ["SÍ SEÑOR"],
        "test": ["NO"],
    }
    source = corpus.body["source"]
    assert source["left_out"] == {"train": 2, "valid": 0, "test": 1} and source["accent"] == "mexicano"
    message = refusal(capsys, "common_voice", folder, tmp_path / "d", *given, "--accent", "andino")
    assert "train.tsv: no clip with the accent 'andino'; it names mexicano, norte" in message
    # As written, nothing is left out, and texts stay.
    assert prepare("common_voice", folder, tmp_path / "e", "--language", "es") == 0
    assert [m["text"] for m in Corpus.open(tmp_path / "e").split("train").metas()] == ["¿Qué tal?", "Vale.", "箱."]
