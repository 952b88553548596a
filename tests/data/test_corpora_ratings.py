"""`wavlm prepare bvcc` and `wavlm prepare ratings` on little folders."""

from __future__ import annotations

import pytest
from miniature import prepare, refusal, sound

from wavlm_lightning.data.corpus import Corpus

MEANS = {"train": ("sysA-u1.wav,2.5", "sysB-u1.wav,4.0"), "val": ("sysA-u2.wav,3.0", "sysB-u2.wav,3.5")}


@pytest.fixture
def bvcc(tmp_path):
    base = tmp_path / "DATA"
    (base / "sets").mkdir(parents=True)
    for split, rows in MEANS.items():
        (base / "sets" / f"{split}_mos_list.txt").write_text("\n".join(rows) + "\n")
        for row in rows:
            sound(base / "wav" / row.partition(",")[0])
    (base / "sets" / "TRAINSET").write_text(
        "sysA,sysA-u1.wav,2,na,x_1_L7_f\nsysA,sysA-u1.wav,3,na,x_1_L3_m\nsysB,sysB-u1.wav,4,na,x_1_L7_f\n"
    )
    return base


@pytest.mark.parametrize("up", [False, True])
def test_bvcc_has_means_and_listeners(bvcc, tmp_path, up):
    assert prepare("bvcc", bvcc.parent if up else bvcc, tmp_path / "c", "--allow-partial") == 0
    corpus = Corpus.open(tmp_path / "c")
    assert corpus.splits == ["train", "valid"] and corpus.inventory("listeners") == ["L3", "L7"]
    assert corpus.inventory("systems") == ["sysA", "sysB"] and corpus.inventory("rating_scale") == [1.0, 5.0]
    first, second = corpus.split("train").metas()
    assert first == {"system": "sysA", "rating": 2.5, "ratings": {"L7": 2.0, "L3": 3.0}}
    assert second == {"system": "sysB", "rating": 4.0, "ratings": {"L7": 4.0}}
    assert corpus.split("valid").metas()[0] == {"system": "sysA", "rating": 3.0}


def test_bvcc_says_what_is_wrong(bvcc, tmp_path, capsys):
    out = tmp_path / "c"
    assert "train has 2 utterances instead of 4,974" in refusal(capsys, "bvcc", bvcc, out)
    singles = bvcc / "sets" / "TRAINSET"
    singles.write_text("sysA,sysA-u1.wav,2\n")
    assert "TRAINSET, line 1" in refusal(capsys, "bvcc", bvcc, out, "--allow-partial")
    singles.write_text("sysA,sysA-u1.wav,7,na,x_1_L7_f\n")
    assert "the score '7' is not a number from 1 to 5" in refusal(capsys, "bvcc", bvcc, out, "--allow-partial")
    singles.unlink()
    (bvcc / "sets" / "train_mos_list.txt").write_text("sysA-u1.wav\n")
    assert "is not `FILE,MEAN`" in refusal(capsys, "bvcc", bvcc, out, "--allow-partial")


def rated(folder, rows, header="path,rating,listener,system,speaker"):
    for name in "abcdefgh":
        sound(folder / f"{name}.wav")
    folder.joinpath("ratings.csv").write_text("\n".join([header, *rows]) + "\n")
    return folder


ROWS = ["a.wav,3,kim,tts,s1", "a.wav,4,lee,tts,s1", "a.wav,5,lee,tts,s1", "b.wav,1,kim,vc,s2"]
ROWS += [f"{name}.wav,{2 + place % 3},lee,vc,s{place}" for place, name in enumerate("cdefgh", 3)]


def test_a_table_of_ratings(tmp_path):
    assert prepare("ratings", rated(tmp_path / "in", ROWS), tmp_path / "c") == 0
    corpus = Corpus.open(tmp_path / "c")
    metas = {meta["file"]: meta for split in corpus.splits for meta in corpus.split(split).metas()}
    assert metas["a.wav"] == {
        "speaker": "s1",
        "file": "a.wav",
        "system": "tts",
        "rating": 4.0,
        "ratings": {"kim": 3.0, "lee": 4.5},
    }
    assert len(metas) == 8 and corpus.splits == ["train", "valid", "test"]
    heard = {name for meta in corpus.split("train").metas() for name in meta["ratings"]}
    assert corpus.inventory("listeners") == sorted(heard) and corpus.inventory("systems") == ["tts", "vc"]


def test_means_on_another_scale_without_systems(tmp_path):
    folder = rated(
        tmp_path / "in", [f"{name}.wav\t{10 * place}" for place, name in enumerate("abcdefgh")], "wav\tscore"
    )
    table = (folder / "ratings.csv").rename(tmp_path / "scores.tsv")
    options = ["--table", table, "--scale", 0, 100, "--path-column", "wav", "--rating-column", "score"]
    assert prepare("ratings", folder, tmp_path / "c", *options) == 0
    corpus = Corpus.open(tmp_path / "c")
    assert corpus.inventory("rating_scale") == [0.0, 100.0] and len(corpus.inventory("systems")) == 8
    assert all("ratings" not in meta for meta in corpus.split("train").metas())


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("a.wav,6,kim,tts,s1", "line 12: the score '6' is not a number from 1 to 5"),
        ("a.wav,good,kim,tts,s1", "line 12: the score 'good'"),
        ("a.wav,3,kim,vc,s1", "line 12: a.wav has system 'vc' here and 'tts' in a row before"),
        ("z.wav,3,kim,tts,s1", "z.wav: no such file"),
    ],
)
def test_a_wrong_row_is_named(tmp_path, capsys, row, said):
    folder = rated(tmp_path / "in", [*ROWS, row])
    assert said in refusal(capsys, "ratings", folder, tmp_path / "c")


def test_a_wrong_table_is_named(tmp_path, capsys):
    folder, out = rated(tmp_path / "in", ROWS), tmp_path / "c"
    assert "no column `score`" in refusal(capsys, "ratings", folder, out, "--rating-column", "score")
    assert "no column `model`" in refusal(capsys, "ratings", folder, out, "--system-column", "model")
    assert "lowest score first" in refusal(capsys, "ratings", folder, out, "--scale", 5, 1)
    (folder / "ratings.csv").write_text("path,rating\n")
    assert "rates no recording" in refusal(capsys, "ratings", folder, out)
