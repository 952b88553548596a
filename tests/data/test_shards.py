"""Shards and corpora: what goes in comes out, damage is noticed by name, bytes are reproducible."""

import json

import numpy as np
import pytest

from wavlm_lightning.data.corpus import Corpus, CorpusWriter
from wavlm_lightning.data.shards import Utterance, write_shard
from wavlm_lightning.system.errors import UserError


def utterances(count: int = 12) -> list[Utterance]:
    rng = np.random.default_rng(0)
    return [
        Utterance(
            f"u{i:02d}",
            rng.uniform(-0.5, 0.5, 4000 + 777 * i).astype("f4"),
            {"speaker": f"s{i % 3}", "text": f"número {i}"},
        )
        for i in range(count)
    ]


@pytest.fixture
def corpus(tmp_path) -> Corpus:
    writer = CorpusWriter(tmp_path / "c", "test", "CC0", {"recipe": "test"}, shard_seconds=1.5)
    writer.write_split("train", utterances())
    writer.write_split("valid", utterances(2))
    return writer.finish({"speakers": ["s0", "s1", "s2"]}, trials={"valid": [(0, "u00", "u01")]})


def test_round_trip(corpus):
    split = Corpus.open(corpus.directory).split("train")
    assert len(split.shards) > 2
    for (key, waveform, meta), wanted in zip(split.utterances(), utterances(), strict=True):
        assert (key, meta) == (wanted.key, wanted.meta)
        assert np.abs(waveform - wanted.waveform).max() < 1e-4
    for number in range(len(split)):
        shard, place = split.locate(number)
        assert shard.keys[place] == f"u{number:02d}"
    assert split.samples.tolist() == [len(u.waveform) for u in utterances()]
    assert corpus.trials("valid") == [(0, "u00", "u01")]


def test_shards_are_plain_webdataset(corpus):
    import webdataset

    samples = list(webdataset.WebDataset(str(corpus.directory / "train-000000.tar"), shardshuffle=False))
    assert samples[0]["__key__"] == "u00"
    assert json.loads(samples[0]["json"])["text"] == "número 0"
    assert samples[0]["flac"][:4] == b"fLaC"


def test_same_utterances_same_bytes(tmp_path):
    first = write_shard(tmp_path / "a.tar", utterances())
    second = write_shard(tmp_path / "b.tar", iter(utterances()))
    assert first.sha256 == second.sha256


def test_unfinished_corpus_is_refused(tmp_path):
    writer = CorpusWriter(tmp_path, "test", "CC0", {})
    writer.write_split("train", utterances())
    with pytest.raises(UserError, match=r"no corpus\.json"):
        Corpus.open(tmp_path)


def cut(path):
    path.write_bytes(path.read_bytes()[:-10_240])


@pytest.mark.parametrize("damage", [cut, lambda p: p.unlink(), lambda p: p.with_suffix(".index.json").unlink()])
def test_damaged_shard_is_named(corpus, damage):
    damage(corpus.directory / "train-000001.tar")
    with pytest.raises(UserError, match=r"train-000001\.(tar|index)"):
        Corpus.open(corpus.directory).split("train")


def test_swapped_shards_are_noticed(corpus):
    a, b = corpus.directory / "train-000000.tar", corpus.directory / "train-000001.tar"
    for suffix in (".tar", ".index.json"):
        x, y = a.with_suffix(suffix), b.with_suffix(suffix)
        first = x.read_bytes()
        x.write_bytes(y.read_bytes())
        y.write_bytes(first)
    with pytest.raises(UserError, match="truncated or swapped"):
        Corpus.open(corpus.directory).split("train")


@pytest.mark.parametrize("key", ["a.b", "a/b", "", "a b"])
def test_unusable_keys(tmp_path, key):
    with pytest.raises(UserError, match="not a valid key"):
        write_shard(tmp_path / "a.tar", [Utterance(key, np.full(100, 0.1, "f4"), {})])


def test_keys_are_unique_in_a_split(tmp_path):
    writer = CorpusWriter(tmp_path, "test", "CC0", {})
    writer.write_split("train", [*utterances(2), *utterances(1)])
    with pytest.raises(UserError, match="'u00' occurs twice"):
        writer.finish({})
    assert not (tmp_path / "corpus.json").exists()


@pytest.mark.parametrize("bad", [np.zeros(0, "f4"), np.zeros(100, "f4"), np.full(100, np.nan, "f4")])
def test_no_broken_shard_for_a_bad_waveform(tmp_path, bad):
    with pytest.raises(UserError, match="x: "):
        write_shard(tmp_path / "a.tar", [*utterances(2), Utterance("x", bad, {})])
    assert not (tmp_path / "a.tar").exists()


def test_missing_split_and_inventory_name_what_there_is(corpus):
    with pytest.raises(UserError, match="it has train, valid"):
        corpus.split("test")
    with pytest.raises(UserError, match="it has: speakers"):
        corpus.inventory("keywords")
