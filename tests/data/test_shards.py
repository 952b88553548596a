"""Shards and corpora: what goes in comes out, damage is noticed by name, bytes are reproducible."""

import json
from dataclasses import replace

import numpy as np
import pytest

from wavlm_lightning.data.corpus import Corpus, CorpusWriter
from wavlm_lightning.data.shards import Utterance, write_shard
from wavlm_lightning.data.shuffled_labels import permute_labels
from wavlm_lightning.data.subset import Subset
from wavlm_lightning.reports.cards import PERMUTED
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


def with_further_audio(count: int = 6) -> list[Utterance]:
    """Every utterance has a `clean` reference as long as it is, and all but the second an `enrolment`."""
    rng = np.random.default_rng(1)
    made = []
    for number, each in enumerate(utterances(count)):
        audio = {"clean": each.waveform / 2}
        if number != 1:
            audio["enrolment"] = rng.uniform(-0.5, 0.5, 1000 + number).astype("f4")
        made.append(replace(each, audio=audio))
    return made


@pytest.fixture
def further(tmp_path) -> Corpus:
    writer = CorpusWriter(tmp_path / "further", "test", "CC0", {}, shard_seconds=1.0)
    writer.write_split("train", with_further_audio())
    writer.write_split("valid", utterances(2))
    writer.finish({})
    return Corpus.open(tmp_path / "further")


def test_further_audio_comes_out_as_it_went_in(further):
    split = further.split("train")
    assert len(split.shards) > 1 and split.audio_members == ("clean", "enrolment")
    for number, wanted in enumerate(with_further_audio()):
        shard, place = split.locate(number)
        found = shard.further_audio(place)
        assert found.keys() == wanted.audio.keys()
        for name, waveform in wanted.audio.items():
            assert found[name].dtype == np.float32 and np.abs(found[name] - waveform).max() < 1e-4
            assert shard.member_samples(place, name) == len(waveform)
            part = shard.waveform(place, 300, 500, member=name)
            np.testing.assert_array_equal(part, found[name][300:800])
        np.testing.assert_array_equal(shard.waveform(place), shard.waveform(place, member=None))
    split.check_audio("clean", aligned=True)
    assert further.split("valid").audio_members == ()


def test_audio_that_an_utterance_lacks_is_one_sentence(further):
    split = further.split("train")
    shard, place = split.locate(1)
    with pytest.raises(UserError, match=r"'u01' has no audio 'enrolment' \(further audio: clean\)"):
        shard.waveform(place, member="enrolment")
    with pytest.raises(UserError, match="'u01' has no audio 'enrolment'"):
        split.check_audio("enrolment")
    with pytest.raises(UserError, match=r"no audio 'noisy' \(further audio: clean, enrolment\)"):
        split.check_audio("noisy")
    with pytest.raises(UserError, match=r"split valid: .*further audio: none"):
        further.split("valid").check_audio("clean")
    with pytest.raises(UserError, match="'u00' has 1,000 samples, the utterance 4,000"):
        Subset.of(split, [0], "").check_audio("enrolment", aligned=True)


def test_shards_with_further_audio_are_plain_webdataset(further):
    import webdataset

    shards = [str(shard.path) for shard in further.split("train").shards]
    samples = list(webdataset.WebDataset(shards, shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == [each.key for each in utterances(6)]
    assert {"flac", "json", "clean.flac"} <= samples[1].keys() and "enrolment.flac" not in samples[1]


def test_an_index_without_further_audio_is_as_it_was(corpus):
    shard = corpus.split("train").shards[0]
    content = json.loads(shard.index_path.read_text())
    assert list(content) == ["keys", "samples", "audio", "info", "sha256"]
    assert list(shard.summary()) == ["name", "utterances", "samples", "bytes", "sha256", "index_sha256"]


def test_the_hash_of_a_shard_with_further_audio_stays_last_in_its_index(further):
    content = json.loads(further.split("train").shards[0].index_path.read_text())
    assert list(content)[-1] == "sha256" and list(content["further"]) == ["clean", "enrolment"]


@pytest.mark.parametrize("name", ["Clean", "a.b", "", "1st", "a/b", "a-b"])
def test_unusable_names_of_further_audio(tmp_path, name):
    each = utterances(1)[0]
    with pytest.raises(UserError, match="not a valid name of further audio"):
        write_shard(tmp_path / "a.tar", [replace(each, audio={name: each.waveform})])


def test_bad_further_audio_is_named(tmp_path):
    each = utterances(1)[0]
    with pytest.raises(UserError, match=r"u00\.clean: silent"):
        write_shard(tmp_path / "a.tar", [replace(each, audio={"clean": np.zeros(100, "f4")})])


def test_permuted_labels_keep_further_audio(further, tmp_path):
    permuted = permute_labels(further, tmp_path / "permuted")
    assert permuted.name.endswith(PERMUTED)  # by which a card is one of a control
    split = permuted.split("train")
    assert split.audio_members == ("clean", "enrolment")
    for number in range(len(split)):
        (old, new) = (s.locate(number) for s in (further.split("train"), split))
        before, after = old[0].further_audio(old[1]), new[0].further_audio(new[1])
        assert before.keys() == after.keys()
        assert all(np.array_equal(before[name], after[name]) for name in before)


def test_silence_of_the_corpus_stays_when_labels_are_permuted(tmp_path):
    writer = CorpusWriter(tmp_path / "c", "test", "CC0", {})
    writer.write_split("train", [Utterance("a", np.zeros(800, "f4"), {"keyword": "_silence_"}, allow_silence=True)])
    assert permute_labels(writer.finish({}), tmp_path / "permuted").split("train").samples.tolist() == [800]
