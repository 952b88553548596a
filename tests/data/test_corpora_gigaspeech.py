"""`wavlm prepare gigaspeech` on a miniature of the release."""

import json

import numpy as np
import pytest
import soundfile

from wavlm_lightning.cli import main
from wavlm_lightning.data.corpora.gigaspeech import clean
from wavlm_lightning.data.corpus import Corpus


def segment(sid, begin, end, text, *subsets, speaker="N/A"):
    tags = [f"{{{subset}}}" for subset in subsets]
    return {
        "sid": sid, "speaker": speaker, "begin_time": begin, "end_time": end, "text_tn": text, "subsets": tags
    }  # fmt: skip


AUDIOS = {
    "audio/podcast/P0001/POD1.opus": [
        segment("POD1_S0", 0.1, 0.5, "SMALL <COMMA> SET <PERIOD>", "XL", "L", "M", "S", "XS"),
        segment("POD1_S1", 0.5, 0.9, "LARGER", "XL", "L", "M"),
    ],
    "audio/youtube/P0002/YOU1.opus": [
        segment("YOU1_S0", 0.0, 0.4, "WHO <QUESTIONMARK>", "DEV", speaker="ann"),
        segment("YOU1_S1", 0.4, 0.6, "<MUSIC>", "DEV"),
        segment("YOU1_S2", 0.6, 1.0, "TEST", "TEST"),
    ],
}


@pytest.fixture
def release(tmp_path):
    root = tmp_path / "release"
    rng = np.random.default_rng(0)
    for name in AUDIOS:
        path = root / name
        path.parent.mkdir(parents=True)
        if "podcast" in name:
            soundfile.write(path, rng.uniform(-0.1, 0.1, 16000), 16000, format="OGG", subtype="OPUS")
        else:  # converted, as people do
            soundfile.write(path.with_suffix(".flac"), rng.uniform(-0.1, 0.1, 16000), 16000)
    audios = [{"aid": name[-9:-5], "path": name, "segments": segments} for name, segments in AUDIOS.items()]
    (root / "GigaSpeech.json").write_text(json.dumps({"dataset": "GigaSpeech", "version": "v1.0.0", "audios": audios}))
    return root


def prepare(root, out, subset, *more):
    return main(["prepare", "gigaspeech", str(root), "--out", str(out), "--subset", subset, "--workers", "1", *more])


def test_segments_of_a_subset(release, tmp_path, capsys):
    assert prepare(release, tmp_path / "c", "M", "--allow-partial") == 0
    assert "valid has 1 segments instead of 5,715" in capsys.readouterr().err
    corpus = Corpus.open(tmp_path / "c")
    assert {split: corpus.split(split).keys for split in corpus.splits} == {
        "train": ["POD1_S0", "POD1_S1"],
        "valid": ["YOU1_S0"],
        "test": ["YOU1_S2"],
    }
    assert [meta["text"] for meta in corpus.split("train").metas()] == ["SMALL SET", "LARGER"]
    assert corpus.split("valid").metas() == [{"text": "WHO", "language": "en", "speaker": "ann"}]
    assert "speaker" not in corpus.split("train").metas()[0]
    assert all(abs(samples - 6400) <= 1 for samples in corpus.split("train").samples)
    heard, _ = soundfile.read(release / "audio/youtube/P0002/YOU1.flac", start=9600, dtype="float32")
    assert np.abs(corpus.split("test").shards[0].waveform(0) - heard).max() < 1e-4
    assert prepare(release, tmp_path / "xs", "XS", "--allow-partial") == 0
    assert Corpus.open(tmp_path / "xs").split("train").keys == ["POD1_S0"]


def test_counts_audio_and_metadata_are_checked(release, tmp_path, capsys):
    assert prepare(release, tmp_path / "c", "M") == 2
    assert "valid has 1 segments instead of 5,715, test has 1 segments instead of 19,930" in capsys.readouterr().err
    (release / "audio/podcast/P0001/POD1.opus").unlink()
    assert prepare(release, tmp_path / "c", "M") == 2
    assert "train has 0 segments with their audio instead of 2" in capsys.readouterr().err
    (release / "GigaSpeech.json").write_text("{}")
    assert prepare(release, tmp_path / "c", "M") == 2
    assert "not readable as the metadata of GigaSpeech" in capsys.readouterr().err
    (release / "GigaSpeech.json").unlink()
    assert prepare(release, tmp_path / "c", "M") == 2
    assert "GigaSpeech.json: no such file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("A <COMMA> B <EXCLAMATIONPOINT>", "A B"),
        ("<PERIOD>", ""),
        ("<SIL>", ""),
        ("A <NOISE>", ""),  # the official recipe leaves such segments out too
        ("  A\tB ", "A B"),
        ("", ""),
    ],
)
def test_clean(text, cleaned):
    assert clean(text) == cleaned
