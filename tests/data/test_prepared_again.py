"""Preparing a corpus again after whatever went wrong the first time: whole shards stay, all others are made anew."""

from __future__ import annotations

import json
import resource
from pathlib import Path

import numpy as np
import pytest
import soundfile

from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.data.recordings import CorpusPlan, Recording
from wavlm_lightning.data.shards import Utterance, write_shard
from wavlm_lightning.data.writing import write_corpus
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.files import locked, write_bytes


@pytest.fixture
def plan(tmp_path) -> CorpusPlan:
    """Two shards of one recording each."""
    rng = np.random.default_rng(0)
    recordings = []
    for name in ("a", "b"):
        soundfile.write(tmp_path / f"{name}.wav", rng.uniform(-0.5, 0.5, 8000), 16_000)
        recordings.append(Recording(tmp_path / f"{name}.wav", name, {}))
    return CorpusPlan("x", "CC0", {"train": recordings}, {}, shard_files=1)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("train-000001.tar", cut),
        ("train-000001.tar", Path.unlink),
        ("train-000001.index.json", cut),
        ("train-000001.index.json", Path.unlink),
        ("train-000001.prepared.json", lambda path: path.write_text('{"stamp": "')),
        ("train-000001.prepared.json", lambda path: path.write_text("")),
    ],
)
def test_what_is_damaged_is_made_anew_and_nothing_else(plan, tmp_path, name, damage):
    first = write_corpus(plan, tmp_path / "c", workers=1)
    kept = (tmp_path / "c" / "train-000000.tar").stat().st_ino
    damage(tmp_path / "c" / name)
    again = write_corpus(plan, tmp_path / "c", workers=1)
    assert again.sha256 == first.sha256 and len(list(again.split("train").utterances())) == 2
    assert (tmp_path / "c" / "train-000000.tar").stat().st_ino == kept


def test_two_at_once_do_not_write_the_same_corpus(plan, tmp_path):
    (tmp_path / "c").mkdir()
    with locked(tmp_path / "c" / ".lock"), pytest.raises(UserError, match="another process is preparing this corpus"):
        write_corpus(plan, tmp_path / "c", workers=1)
    (tmp_path / "c" / "train-000000.tar.0123.tmp").write_text("left by a process that was killed")
    write_corpus(plan, tmp_path / "c", workers=1)
    assert not list((tmp_path / "c").glob("*.tmp"))


@pytest.fixture
def full():
    """Files may grow to 4 kB only, as on a disk that is nearly full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_said_and_leaves_nothing_half_written(tmp_path, full):
    rng = np.random.default_rng(0)
    path = tmp_path / "train-000000.tar"
    with pytest.raises(UserError, match=r"train-000000\.tar: cannot be written .*continues where it stopped"):
        write_shard(path, [Utterance("a", rng.uniform(-0.5, 0.5, 16_000).astype("f4"), {})])
    (tmp_path / "corpus.json").write_text("{}")
    with pytest.raises(UserError, match=r"corpus\.json: cannot be written"):
        write_bytes(tmp_path / "corpus.json", bytes(5000))
    assert [each.name for each in tmp_path.iterdir()] == ["corpus.json"]
    assert json.loads((tmp_path / "corpus.json").read_text()) == {}


def test_a_shard_without_utterances_leaves_no_file(tmp_path):
    assert write_shard(tmp_path / "train-000000.tar", []) is None and not list(tmp_path.iterdir())


def test_labels_and_kept_features_of_an_interrupted_machine(plan, tmp_path):
    """A machine that lost power leaves files of the right name without their content."""
    from wavlm_lightning.codebooks import Codebook, LabelSet, MfccFeatures, label_corpus
    from wavlm_lightning.codebooks.extraction import UtteranceSample

    corpus = write_corpus(plan, tmp_path / "c", workers=1)
    source = MfccFeatures()
    book = Codebook(np.random.default_rng(0).normal(size=(2, 39)).astype("f4"), 100.0, source.describe(), {})
    label_corpus(corpus, book, "k2")
    path = corpus.directory / "labels" / "k2" / "train-000001.safetensors"
    whole = path.read_bytes()
    for content in (b"", whole[:20], whole[:-2], whole[:8] + b"#" + whole[9:]):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"train-000001\.safetensors: damaged .*wavlm codebook apply"):
            LabelSet.open(Corpus.open(corpus.directory), "k2", "train")
    path.unlink()
    with pytest.raises(UserError, match="this shard has no labels"):
        LabelSet.open(Corpus.open(corpus.directory), "k2", "train")
    assert label_corpus(corpus, book, "k2") == 1 and path.read_bytes() == whole
    rows = LabelSet.open(corpus, "k2", "train").rows
    path.unlink()  # during a run
    with pytest.raises(UserError, match="this shard has no labels"):
        _ = rows[1]

    draw = UtteranceSample.make(corpus, source, "train", 1.0, 1.0, 0)
    features = draw.features(keep=tmp_path / "keep")
    for kept in (tmp_path / "keep").rglob("*.safetensors"):
        kept.write_bytes(kept.read_bytes()[:30])
    assert np.array_equal(draw.features(keep=tmp_path / "keep"), features)
