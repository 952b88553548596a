"""`wavlm prepare noise` on a tree as people have it."""

import numpy as np
import pytest
import soundfile

from wavlm_lightning.cli import main
from wavlm_lightning.data.corpus import Corpus

SECONDS = {f"street/{number:02d}.wav": 0.5 + number / 4 for number in range(9)} | {"a.b.flac": 2.5, "a_b.flac": 1.0}


@pytest.fixture
def noises(tmp_path):
    rng = np.random.default_rng(0)
    for name, seconds in SECONDS.items():
        path = tmp_path / "noises" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, rng.uniform(-0.1, 0.1, round(seconds * 8000)), 8000)
    return tmp_path / "noises"


def prepare(noises, out, *more):
    return main(["prepare", "noise", str(noises), "--out", str(out), "--workers", "1", *more])


def test_pieces_by_file(noises, tmp_path):
    arguments = ["--piece-seconds", "1", "--valid", "0.2", "--test", "0.2", "--licence", "CC0"]
    assert prepare(noises, tmp_path / "c", *arguments) == 0
    corpus = Corpus.open(tmp_path / "c")
    assert corpus.splits == ["train", "valid", "test"]
    sources = {split: [meta["source"] for meta in corpus.split(split).metas()] for split in corpus.splits}
    everything = [source for part in sources.values() for source in part]
    assert sum(len(set(part)) for part in sources.values()) == len(set(everything))  # no file in two splits
    # A second each; what is left at the end of a file is dropped, as is a file under a second.
    assert {name: everything.count(name) for name in SECONDS} == {name: int(SECONDS[name]) for name in SECONDS}
    assert all(samples == 16000 for split in corpus.splits for samples in corpus.split(split).samples)
    assert all(set(meta) == {"source"} for meta in corpus.split("train").metas())
    assert corpus.body["source"]["files_too_short"] == 2 and corpus.body["licence"] == "CC0"
    keys = [key for split in corpus.splits for key in corpus.split(split).keys]
    assert len(set(keys)) == len(keys)


def test_the_end_of_a_file_counts_if_it_is_long_enough(noises, tmp_path):
    assert prepare(noises, tmp_path / "c", "--piece-seconds", "1.25", "--name", "din") == 0
    corpus = Corpus.open(tmp_path / "c")
    samples = {
        (meta["source"], number)
        for split in corpus.splits
        for meta, number in zip(corpus.split(split).metas(), corpus.split(split).samples, strict=True)
    }
    assert {number for source, number in samples if source == "a.b.flac"} == {20000}
    assert {number for source, number in samples if source == "street/07.wav"} == {20000, 16000}
    assert corpus.name == "din"


def test_the_split_of_a_file_does_not_depend_on_the_pieces(noises, tmp_path):
    sources = []
    for seconds in ("1", "2"):
        assert prepare(noises, tmp_path / seconds, "--piece-seconds", seconds) == 0
        corpus = Corpus.open(tmp_path / seconds)
        sources.append({split: {meta["source"] for meta in corpus.split(split).metas()} for split in corpus.splits})
    assert sources[0] == sources[1]


def test_bad_files_and_settings(noises, tmp_path, capsys):
    (noises / "bad.wav").write_text("no audio")
    soundfile.write(noises / "silent.wav", np.zeros(24000), 8000)
    assert prepare(noises, tmp_path / "c") == 2
    assert "--on-error skip" in capsys.readouterr().err
    assert prepare(noises, tmp_path / "c", "--on-error", "skip") == 0
    skipped = Corpus.open(tmp_path / "c").body["source"]["skipped"]
    assert sorted(entry["file"].rsplit("/", 1)[-1] for entry in skipped) == ["bad.wav", "silent.wav"]
    assert prepare(noises, tmp_path / "c", "--piece-seconds", "0.5") == 2
    assert "pieces under 1 s are dropped" in capsys.readouterr().err
    assert prepare(noises, tmp_path / "c", "--valid", "0.9", "--test", "0.1") == 2
    assert "would hold out all 13 recordings" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert prepare(tmp_path / "empty", tmp_path / "c") == 2
    assert "file here or below" in capsys.readouterr().err
