"""`wavlm prepare voxceleb2`, `musan` and `rirs_noises` on miniatures of the published trees."""

import pytest
from miniature import prepare, refusal, sound

from wavlm_lightning.data.corpora import musan, voxceleb2
from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.workflows.corpus.check import check

SPEAKERS = ("id00012", "id00015", "id09999")


@pytest.fixture
def archives(tmp_path):
    for speaker in SPEAKERS:
        for number in range(3):
            sound(tmp_path / "vox2" / "dev" / "aac" / speaker / "-vi_d" / f"0000{number}.flac")
    for speaker in ("id10001", "id10270", "id10309"):
        for number in range(2):
            sound(tmp_path / "vox1" / "wav" / speaker / "v" / f"0000{number}.wav")
    own, other = "1 id10270/v/00000.wav id10270/v/00001.wav\n", "0 id10270/v/00000.wav id10309/v/00000.wav\n"
    lists = {"o": own + other, "e": own + other + "0 id10001/v/00000.wav id10309/v/00001.wav\n", "h": own + other}
    for name, text in lists.items():
        (tmp_path / "vox1" / voxceleb2.LISTS[name]).write_text(text)
    return tmp_path


def test_training_speakers_and_three_lists(archives, tmp_path, capsys):
    words = ("--voxceleb1", archives / "vox1", "--valid-trials", 4, "--valid-speakers", 2)
    message = refusal(capsys, "voxceleb2", archives / "vox2", tmp_path / "c", *words)
    assert "train has 9 utterances instead of 1,092,009" in message
    assert prepare("voxceleb2", archives / "vox2", tmp_path / "c", *words, "--allow-partial") == 0
    said = capsys.readouterr().err
    assert "3 speakers instead of 5,994" in said and "e has 3 trials instead of 579,818" in said
    corpus = Corpus.open(tmp_path / "c")
    assert len(corpus.split("train")) == 9 and corpus.inventory("speakers")["train"] == sorted(SPEAKERS)
    assert corpus.trial_lists("test") == ["e", "h"] and corpus.trial_lists("valid") == []
    assert len(corpus.trials("test")) == 2 and len(corpus.trials("test_e")) == 3
    assert corpus.trials("test_e")[2] == (0, "id10001-v-00000", "id10309-v-00001")
    assert len(corpus.split("test")) == 5  # all that a list names, once
    path = tmp_path / "c" / "trials-test_h.csv"
    path.write_text(path.read_text() + "1,nobody,id10270-v-00000\n")
    assert "trials-test_h.csv names 'nobody'" in check(tmp_path / "c", jobs=1).error


def test_speakers_of_valid_may_stay_out_of_train(archives, tmp_path, capsys):
    words = ("--valid-trials", 4, "--valid-speakers", 2, "--unseen-valid", "--allow-partial")
    assert prepare("voxceleb2", archives / "vox2", tmp_path / "c", *words) == 0
    corpus = Corpus.open(tmp_path / "c")
    named = corpus.inventory("speakers")
    assert len(named["train"]) == 1 and not set(named["train"]) & set(named["valid"]) and "test" not in corpus.splits
    assert prepare("voxceleb2", archives / "vox2", tmp_path / "d", "--valid-trials", 60, *words[4:]) == 2
    assert "lower --valid-speakers" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert "no idNNNNN/VIDEO" in refusal(capsys, "voxceleb2", tmp_path / "empty", tmp_path / "e")


def test_kinds_of_musan_are_splits(tmp_path, capsys, monkeypatch):
    for kind in musan.FILES:
        sound(tmp_path / "musan" / kind / "free" / f"{kind}-0.wav", 2.5)
    words = ("--piece-seconds", 1)
    message = refusal(capsys, "musan", tmp_path / "musan", tmp_path / "c", *words)
    assert "music has 1 files instead of 660" in message and "noise has 1 files instead of 930" in message
    monkeypatch.setattr(musan, "FILES", dict.fromkeys(musan.FILES, 1))
    assert prepare("musan", tmp_path / "musan", tmp_path / "c", *words) == 0
    corpus = Corpus.open(tmp_path / "c")
    assert sorted(corpus.splits) == ["music", "noise", "speech"] and len(corpus.split("noise")) == 2
    assert "--piece-seconds 0.5" in refusal(capsys, "musan", tmp_path / "musan", tmp_path / "d", "--piece-seconds", 0.5)


def test_sizes_of_rooms_are_splits(tmp_path, capsys):
    root = tmp_path / "RIRS_NOISES"
    for size in ("smallroom", "mediumroom"):
        sound(root / "simulated_rirs" / size / "Room001" / "Room001-00001.wav", 0.5)
    assert "largeroom: no" in refusal(capsys, "rirs_noises", root, tmp_path / "c")
    assert prepare("rirs_noises", root, tmp_path / "c", "--allow-partial") == 0
    corpus = Corpus.open(tmp_path / "c")
    assert sorted(corpus.splits) == ["mediumroom", "smallroom"]
    assert corpus.split("smallroom").metas()[0]["source"] == "smallroom/Room001/Room001-00001.wav"
