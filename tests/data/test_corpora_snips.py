"""`wavlm prepare snips` on a miniature of the folder that s3prl's preprocessing makes."""

import numpy as np
import pytest
import soundfile

from wavlm_lightning.cli import main
from wavlm_lightning.data.corpora.snips import spans
from wavlm_lightning.data.corpus import Corpus

LINES = {
    "train-0": ("PLAY ROCK & ROLL BY ABBA", "O genre genre genre O artist", "PlayMusic"),
    "train-1": ("WHAT'S ON ?", "O O O", "SearchScreeningEvent"),
    "valid-0": ("BOOK SPOT FOR TWO", "O O O party_size_number", "BookRestaurant"),
    "test-0": ("ADD IT , TO MY LIST", "O entity_name O O O playlist", "AddToPlaylist"),
}


@pytest.fixture
def folder(tmp_path):
    base = tmp_path / "SNIPS"
    rng = np.random.default_rng(0)
    annotation = []
    for voice in ("Ivy", "Joanna", "Amy", "Brian", "Stranger"):
        for name, (text, tags, intent) in LINES.items():
            wav = base / name.split("-")[0] / f"{voice}-snips-{name}.wav"
            wav.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(wav, rng.uniform(-0.1, 0.1, 4800), 16000)
            # The tag of BOS is O, and the intent stands where that of EOS would be.
            annotation.append(f"{wav.stem} BOS {text} EOS\tO {tags} {intent}\n")
    (base / "all.iob.snips.txt").write_text("".join(annotation))
    (base / "slots.txt").write_text("O\nplaylist\ngenre\nartist\nparty_size_number\nentity_name")
    return base


def prepare(folder, out, *more):
    return main(["prepare", "snips", str(folder), "--out", str(out), "--workers", "1", *more])


@pytest.mark.parametrize("inside", [True, False])
def test_voices_texts_and_slots(folder, tmp_path, inside):
    assert prepare(folder if inside else folder.parent, tmp_path / "c", "--allow-partial") == 0
    corpus = Corpus.open(tmp_path / "c")
    keys = {split: corpus.split(split).keys for split in corpus.splits}
    assert keys == {
        "train": [f"{voice}-snips-train-{n}" for voice in ("Ivy", "Joanna") for n in (0, 1)],
        "valid": ["Amy-snips-valid-0"],
        "test": ["Brian-snips-test-0"],
    }
    assert corpus.inventory("slots") == ["playlist", "genre", "artist", "party_size_number", "entity_name"]
    assert corpus.inventory("speakers") == ["Amy", "Brian", "Ivy", "Joanna"]
    first, second, *_ = corpus.split("train").metas()
    assert first == {
        "speaker": "Ivy",
        "language": "en",
        "text": "PLAY ROCK AND ROLL BY ABBA",
        "slots": [["genre", "ROCK AND ROLL"], ["artist", "ABBA"]],
        "tagged": [
            ["PLAY", "O"],
            ["ROCK", "genre"],
            ["&", "genre"],
            ["ROLL", "genre"],
            ["BY", "O"],
            ["ABBA", "artist"],
        ],
        "domain": "PlayMusic",
    }
    assert second["text"] == "WHAT'S ON" and second["slots"] == [] and second["tagged"][-1] == ["?", "O"]
    assert corpus.split("test").metas()[0]["slots"] == [["entity_name", "IT"], ["playlist", "LIST"]]


def test_without_a_list_the_slots_of_train_count(folder, tmp_path):
    (folder / "slots.txt").unlink()
    assert prepare(folder, tmp_path / "c", "--allow-partial") == 0
    assert Corpus.open(tmp_path / "c").inventory("slots") == ["artist", "genre"]


def test_counts_and_annotations_are_checked(folder, tmp_path, capsys):
    assert prepare(folder, tmp_path / "c") == 2
    message = capsys.readouterr().err
    assert "train has 4 utterances instead of 104,672" in message and "test has 1 utterances" in message
    (folder / "slots.txt").write_text("O\nplaylist\nartist")
    assert prepare(folder, tmp_path / "c", "--allow-partial") == 2
    assert "slots that are not listed here: entity_name, genre, party_size_number" in capsys.readouterr().err
    annotation = folder / "all.iob.snips.txt"
    annotation.write_text(annotation.read_text().replace("O genre genre genre O artist", "O genre genre O artist"))
    assert prepare(folder, tmp_path / "c", "--allow-partial") == 2
    assert "Ivy-snips-train-0: 6 words but 5 tags" in capsys.readouterr().err
    annotation.write_text("Ivy-snips-train-0 BOS HI EOS\tO O PlayMusic\n")
    assert prepare(folder, tmp_path / "c", "--allow-partial") == 2
    assert "no line for Ivy-snips-train-1.wav" in capsys.readouterr().err
    annotation.unlink()
    assert prepare(folder, tmp_path / "c", "--allow-partial") == 2
    assert "all.iob.snips.txt: no such file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "tags", "slots"),
    [
        ("", "", []),
        ("A B C", "O O O", []),
        ("A B C", "x x y", [["x", "A B"], ["y", "C"]]),
        ("A B", "x x", [["x", "A B"]]),  # two slots of one type that touch cannot be told from one
        ("A , B", "x O x", [["x", "A"], ["x", "B"]]),
        ("A , B", "x x x", [["x", "A B"]]),
        (". A", "x x", [["x", "A"]]),
        ("; A", "x O", []),
    ],
)
def test_spans(words, tags, slots):
    assert spans([list(pair) for pair in zip(words.split(), tags.split(), strict=True)]) == slots
