"""`wavlm prepare libri2mix` on a miniature of what s3prl/LibriMix makes."""

import numpy as np
import pytest
import soundfile

from wavlm_lightning.cli import main
from wavlm_lightning.data.corpus import Corpus

# Reader and utterance to (start, seconds), as in the alignments.
ALIGNED = {
    "train": {("1578", "6379-0038"): [(0.3, 0.2), (0.0, 0.123)], ("6415", "111615-0009"): [(0.1, 0.3)]},
    "dev": {("3536", "8226-0026"): [(0.0, 0.4)], ("1673", "143397-0009"): [(0.0, 0.4)]},
    "test": {("4077", "13754-0001"): [(0.2, 0.1)], ("5142", "33396-0065"): [(0.1, 0.1)]},
}
AUDIO = {"train": "train-100", "dev": "dev", "test": "test"}
ALIGNMENTS = {"train": "train_clean_100.rttm", "dev": "dev_clean.rttm", "test": "test_clean.rttm"}


def mixture(part):
    return "_".join("-".join(source) for source in ALIGNED[part])


@pytest.fixture
def mixtures(tmp_path):
    """The audio, with labels in both forms: `kaldi` and `alignments` beside it."""
    rng = np.random.default_rng(0)
    for part, sources in ALIGNED.items():
        wav = tmp_path / "Libri2Mix" / "wav16k" / "max" / AUDIO[part] / "mix_both" / f"{mixture(part)}.wav"
        wav.parent.mkdir(parents=True)
        soundfile.write(wav, rng.uniform(-0.1, 0.1, 8000), 16000)
        (tmp_path / "alignments").mkdir(exist_ok=True)
        (tmp_path / "kaldi" / part).mkdir(parents=True)
        with (tmp_path / "alignments" / ALIGNMENTS[part]).open("w") as file:
            for (reader, utterance), turns in sources.items():
                for start, seconds in turns:
                    file.write(f"SPEAKER {utterance} 1 {start:7.3f} {seconds:7.3f} <NA> <NA> {reader} <NA> <NA>\n")
        with (tmp_path / "kaldi" / part / "rttm").open("w") as file:
            for (reader, _), turns in sources.items():
                for start, seconds in turns:
                    file.write(f"SPEAKER\t{mixture(part)}\t1\t{start}\t{seconds}\t<NA>\t<NA>\t{reader}\t<NA>\n")
    return tmp_path


def prepare(folder, out, labels, *more):
    return main(
        ["prepare", "libri2mix", str(folder), "--out", str(out), "--labels", str(labels), "--workers", "1", *more]
    )


@pytest.mark.parametrize("labels", ["kaldi", "alignments"])
def test_turns_by_start_from_either_form_of_labels(mixtures, tmp_path, labels):
    folder = mixtures / "Libri2Mix" if labels == "kaldi" else mixtures
    assert prepare(folder, tmp_path / "c", mixtures / labels, "--allow-partial") == 0
    corpus = Corpus.open(tmp_path / "c")
    assert corpus.splits == ["train", "valid", "test"]
    assert corpus.split("train").keys == ["1578-6379-0038_6415-111615-0009"]
    (train,), (valid,), (test,) = (corpus.split(split).metas() for split in corpus.splits)
    # 0.1 + 0.3 is not 0.4: ends are kept as s3prl computes them.
    assert train["turns"] == [["1578", 0.0, 0.123], ["6415", 0.1, 0.1 + 0.3], ["1578", 0.3, 0.5]]
    assert train["speakers"] == ["1578", "6415"]
    # Both readers speak at the same time all the time.
    assert valid["turns"] == [["1673", 0.0, 0.4], ["3536", 0.0, 0.4]]
    assert [speaker for speaker, *_ in test["turns"]] == ["5142", "4077"] and test["speakers"] == ["4077", "5142"]
    assert corpus.inventory("speakers") == sorted(["1578", "6415", "3536", "1673", "4077", "5142"])


def test_each_reader_alone_if_asked_for(mixtures, tmp_path, capsys):
    more = ("--allow-partial", "--sources")
    assert prepare(mixtures, tmp_path / "c", mixtures / "kaldi", *more) == 2
    assert "s1: no such folder" in capsys.readouterr().err
    for level, name in ((0.1, "s1"), (0.2, "s2")):
        for both in mixtures.glob("Libri2Mix/wav16k/max/*/mix_both/*.wav"):
            (both.parents[1] / name).mkdir()
            soundfile.write(both.parents[1] / name / both.name, np.full(8000, level), 16000)
    assert prepare(mixtures, tmp_path / "c", mixtures / "kaldi", *more) == 0
    split = Corpus.open(tmp_path / "c").split("valid")
    split.check_audio("s1", aligned=True)
    audio = split.shards[0].further_audio(0)
    assert {name: round(float(each.mean()), 3) for name, each in audio.items()} == {"s1": 0.1, "s2": 0.2}


def test_counts_and_labels_are_checked(mixtures, tmp_path, capsys):
    assert prepare(mixtures, tmp_path / "c", mixtures / "kaldi") == 2
    assert "train has 1 mixtures instead of 13,900" in capsys.readouterr().err
    (mixtures / "kaldi" / "dev" / "rttm").write_text("")
    assert prepare(mixtures, tmp_path / "c", mixtures / "kaldi", "--allow-partial") == 2
    assert f"no turns for the mixture {mixture('dev')}" in capsys.readouterr().err
    (mixtures / "kaldi" / "dev" / "rttm").write_text("0.1 0.2\n")
    assert prepare(mixtures, tmp_path / "c", mixtures / "kaldi", "--allow-partial") == 2
    assert "is not a SPEAKER line" in capsys.readouterr().err
    assert prepare(mixtures, tmp_path / "c", mixtures, "--allow-partial") == 2
    assert "neither train/rttm nor train_clean_100.rttm is here" in capsys.readouterr().err
    assert prepare(tmp_path / "kaldi", tmp_path / "c", mixtures / "kaldi") == 2
    assert "Libri2Mix: no such folder" in capsys.readouterr().err
