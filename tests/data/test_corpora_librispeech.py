"""`wavlm prepare librispeech` and `librilight_limited` on miniatures of the archives' trees."""

import pytest
from miniature import prepare, refusal, sound

from wavlm_lightning.data.corpora.lexicon import PHONES
from wavlm_lightning.data.corpora.librispeech import OFFICIAL
from wavlm_lightning.data.corpus import Corpus

TEXTS = {"0000": "HE WALKS", "0001": "A LIGHT A LIGHT", "0002": "HE'S"}


def chapter(folder, speaker, number=7):
    for utterance in TEXTS:
        sound(folder / str(speaker) / str(number) / f"{speaker}-{number}-{utterance}.flac")
    texts = [f"{speaker}-{number}-{utterance} {text}\n" for utterance, text in TEXTS.items()]
    (folder / str(speaker) / str(number) / f"{speaker}-{number}.trans.txt").write_text("".join(texts))


@pytest.fixture
def librispeech(tmp_path):
    root = tmp_path / "data" / "LibriSpeech"
    for subset, speakers in {"train-clean-100": (103, 27), "train-other-500": (9,), "dev-clean": (84,)}.items():
        for speaker in speakers:
            chapter(root / subset, speaker)
    chapter(root / "test-clean", 61)
    return root


@pytest.fixture
def lexica(tmp_path):
    # Words in two files, one with tabs; the second pronunciation of LIGHT and of A is never taken.
    (tmp_path / "first.txt").write_text("HE\tHH IY1\nLIGHT\tL AY1 T\nLIGHT\tL IY0 T\nA\tAH0\n\n")
    (tmp_path / "second.txt").write_text("A  EY1\nWALKS  W AO1 K S\nHE'S  HH IY1 Z\n")
    return tmp_path / "first.txt", tmp_path / "second.txt"


def test_default_subsets_become_the_three_splits(librispeech, tmp_path, capsys):
    message = refusal(capsys, "librispeech", librispeech, tmp_path / "c")
    assert "train-clean-100 has 6 utterances instead of 28,539" in message and "--allow-partial" in message
    assert prepare("librispeech", librispeech, tmp_path / "c", "--allow-partial") == 0
    assert "test-clean has 3 utterances instead of 2,620" in capsys.readouterr().err
    corpus = Corpus.open(tmp_path / "c")
    assert {split: len(corpus.split(split)) for split in corpus.splits} == {"train": 6, "valid": 3, "test": 3}
    assert corpus.split("train").keys[:2] == ["103-7-0000", "103-7-0001"]
    meta = corpus.split("train").metas()[1]
    assert (meta["text"], meta["speaker"], meta["language"]) == ("A LIGHT A LIGHT", "103", "en")
    assert "phones" not in meta and "phones" not in corpus.inventories
    assert corpus.inventory("speakers") == {"train": ["27", "103"], "valid": ["84"], "test": ["61"]}
    assert corpus.body["source"]["recipe"] == "librispeech" and corpus.body["licence"] == "CC BY 4.0"


def test_other_subsets_and_the_folder_above(librispeech, tmp_path, monkeypatch):
    train = ("--train", "train-clean-100", "train-other-500")
    monkeypatch.setattr("wavlm_lightning.data.corpora.librispeech.OFFICIAL", {**OFFICIAL, **COUNTS})
    assert prepare("librispeech", librispeech.parent, tmp_path / "c", *train) == 0
    split = Corpus.open(tmp_path / "c").split("train")
    assert [meta["subset"] for meta in split.metas()] == ["train-clean-100"] * 6 + ["train-other-500"] * 3


COUNTS = {"train-clean-100": 6, "train-other-500": 3, "dev-clean": 3, "test-clean": 3}


def test_phones_of_the_first_pronunciations(librispeech, lexica, tmp_path):
    assert prepare("librispeech", librispeech, tmp_path / "c", "--allow-partial", "--lexicon", *lexica) == 0
    corpus = Corpus.open(tmp_path / "c")
    phones = [" ".join(phone for (phone,) in meta["phones"]) for meta in corpus.split("test").metas()]
    assert phones == ["HH IY1 W AO1 K S", "AH0 L AY1 T AH0 L AY1 T", "HH IY1 Z"]
    assert corpus.inventory("phones") == list(PHONES)


def test_words_of_no_lexicon(librispeech, lexica, tmp_path, capsys):
    arguments = ("--allow-partial", "--lexicon", lexica[0])
    capsys.readouterr()
    assert prepare("librispeech", librispeech, tmp_path / "c", *arguments) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert "no pronunciation of HE'S, WALKS;" in message and "--missing-words spn" in message
    assert prepare("librispeech", librispeech, tmp_path / "c", *arguments, "--missing-words", "spn") == 0
    metas = Corpus.open(tmp_path / "c").split("test").metas()
    assert [meta["phones"] for meta in metas][::2] == [[["HH"], ["IY1"], ["SPN"]], [["SPN"]]]


@pytest.mark.parametrize("line", ["HE HH IY", "HE", "HE HH IY1 3"])
def test_wrong_lexica(librispeech, tmp_path, capsys, line):
    (tmp_path / "wrong.txt").write_text(f"A AH0\n{line}\n")
    arguments = ("--allow-partial", "--lexicon", tmp_path / "wrong.txt")
    assert prepare("librispeech", librispeech, tmp_path / "c", *arguments) == 2
    assert "wrong.txt, line 2: HE is spoken" in capsys.readouterr().err


def test_the_71_phones():
    assert len(PHONES) == len(set(PHONES)) == 71
    assert PHONES[:5] == ("SIL", "SPN", "AA0", "AA1", "AA2") and PHONES[20:24] == ("B", "CH", "D", "DH")
    assert PHONES[-5:] == ("V", "W", "Y", "Z", "ZH") and list(PHONES[2:]) == sorted(PHONES[2:])
    assert sum(phone[-1].isdigit() for phone in PHONES) == 45


def test_missing_parts_are_named(librispeech, tmp_path, capsys):
    (librispeech / "dev-clean" / "84" / "7" / "84-7.trans.txt").unlink()
    assert "84-7.trans.txt" in refusal(capsys, "librispeech", librispeech, tmp_path / "c")
    message = refusal(capsys, "librispeech", librispeech, tmp_path / "c", "--valid", "dev-other")
    assert "the subset dev-other of LibriSpeech" in message
    assert "no such folder" in refusal(capsys, "librispeech", tmp_path / "nowhere", tmp_path / "c")


@pytest.fixture
def limited(tmp_path):
    root = tmp_path / "data" / "librispeech_finetuning"
    for fold in range(6):
        for kind in ("clean", "other"):
            for speaker in range(2):
                chapter(root / "1h" / str(fold) / kind, 100 * fold + speaker + (50 if kind == "other" else 1))
    for speaker in range(24):
        chapter(root / "9h" / ("clean" if speaker % 2 else "other"), 1000 + speaker)
    return root


@pytest.mark.parametrize(("subset", "count"), [("10min", 12), ("1h", 72), ("10h", 144)])
def test_limited_subsets(limited, tmp_path, capsys, subset, count):
    # As many speakers as there should be; the number of utterances is known from hearsay and only warned of.
    assert prepare("librilight_limited", limited, tmp_path / "c", "--subset", subset) == 0
    assert f"{subset} has {count} utterances, commonly" in capsys.readouterr().err
    corpus = Corpus.open(tmp_path / "c")
    assert corpus.splits == ["train"] and len(corpus.split("train")) == count
    assert corpus.split("train").metas()[2]["text"] == "HE'S"


def test_limited_with_other_splits_and_phones(limited, librispeech, lexica, tmp_path, capsys):
    more = (
        "--subset",
        "10min",
        "--fold",
        3,
        "--librispeech",
        librispeech,
        "--valid",
        "dev-clean",
        "--lexicon",
        *lexica,
    )
    assert "dev-clean has 3" in refusal(capsys, "librilight_limited", limited.parent, tmp_path / "c", *more)
    assert prepare("librilight_limited", limited.parent, tmp_path / "c", *more, "--allow-partial") == 0
    corpus = Corpus.open(tmp_path / "c")
    assert corpus.splits == ["train", "valid", "test"] and len(corpus.inventory("phones")) == 71
    assert {meta["subset"] for meta in corpus.split("train").metas()} == {"1h/3"}
    assert corpus.inventory("speakers")["train"] == ["301", "302", "350", "351"]


def test_limited_counts_its_speakers(limited, tmp_path, capsys):
    for path in sorted((limited / "1h" / "4" / "clean" / "401" / "7").iterdir()):
        path.unlink()
    (limited / "1h" / "4" / "clean" / "401" / "7").rmdir()
    assert "1h/4 has 3 speakers instead of 4" in refusal(
        capsys, "librilight_limited", limited, tmp_path / "c", "--subset", "1h"
    )
