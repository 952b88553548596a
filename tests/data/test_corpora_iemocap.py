"""`wavlm prepare iemocap` on a miniature of the release's tree."""

import numpy as np
import pytest
import soundfile

from wavlm_lightning.cli import main
from wavlm_lightning.data.corpora import iemocap
from wavlm_lightning.data.corpus import Corpus

TURNS = [("impro01_F000", "neu"), ("impro01_M000", "exc"), ("impro01_M001", "fru"), ("script02_2_M007", "hap")]
TURNS += [("script02_2_F001", "ang"), ("script02_2_F002", "xxx"), ("script02_2_F003", "sad")]


@pytest.fixture
def release(tmp_path):
    rng = np.random.default_rng(0)
    for session in range(1, 6):
        labels = tmp_path / "release" / f"Session{session}" / "dialog" / "EmoEvaluation"
        labels.mkdir(parents=True)
        (labels / f"._Ses0{session}F_impro01.txt").write_bytes(b"\x00\x05\x16\x07[\xff\t\t\n")
        for turn, emotion in TURNS:
            turn = f"Ses0{session}F_{turn}"
            dialogue = turn.rsplit("_", 1)[0]
            wav = tmp_path / "release" / f"Session{session}" / "sentences" / "wav" / dialogue / f"{turn}.wav"
            wav.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(wav, rng.uniform(-0.1, 0.1, 4800), 16000)
            with (labels / f"{dialogue}.txt").open("a") as file:
                file.write(f"[6.2901 - 8.2357]\t{turn}\t{emotion}\t[2.5000, 2.5000, 2.5000]\n")
                file.write("C-E2:\tNeutral;\t()\nA-E3:\tval 3; act 2; dom  2;\t()\n\n")
    return tmp_path / "release"


def prepare(release, out, *more):
    return main(["prepare", "iemocap", str(release), "--out", str(out), "--workers", "1", *more])


def test_sessions_become_folds_and_classes_merge(release, tmp_path, capsys):
    assert prepare(release, tmp_path / "c", "--allow-partial") == 0
    assert "fold1 has 5 utterances instead of 1,085" in capsys.readouterr().err
    corpus = Corpus.open(tmp_path / "c")
    assert corpus.splits == ["fold1", "fold2", "fold3", "fold4", "fold5"]
    assert corpus.inventory("emotions") == ["neutral", "happy", "angry", "sad"]
    assert len(corpus.inventory("speakers")) == 10
    split = corpus.split("fold3")
    metas = dict(zip(split.keys, split.metas(), strict=True))
    assert {key: meta["emotion"] for key, meta in metas.items()} == {
        "Ses03F_impro01_F000": "neutral",
        "Ses03F_impro01_M000": "happy",
        "Ses03F_script02_2_F001": "angry",
        "Ses03F_script02_2_F003": "sad",
        "Ses03F_script02_2_M007": "happy",
    }
    # The dialogue is named after the actor with the markers; the turn says who speaks.
    man = metas["Ses03F_script02_2_M007"]
    assert (man["speaker"], man["act"], man["session"]) == ("Ses03M", "scripted", 3)
    assert metas["Ses03F_impro01_F000"]["act"] == "improvised"


def test_other_counts_are_refused(release, tmp_path, capsys):
    assert prepare(release, tmp_path / "c") == 2
    message = capsys.readouterr().err
    assert "fold5 has 5 utterances instead of 1,241" in message and "--allow-partial" in message
    assert not (tmp_path / "c" / "corpus.json").exists()
    assert prepare(tmp_path / "nowhere", tmp_path / "c") == 2
    assert "nowhere: no such folder" in capsys.readouterr().err


def test_official_counts_add_up():
    assert sum(iemocap.FOLDS.values()) == sum(iemocap.OF_EMOTION.values()) == 5531
