"""Opening a corpus reads no index, and still names what is missing, truncated, swapped or not its own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from wavlm_lightning.codebooks import LabelSet
from wavlm_lightning.data import shard_index
from wavlm_lightning.data.corpus import Corpus, CorpusWriter
from wavlm_lightning.data.shards import Utterance
from wavlm_lightning.data.subset import join_splits
from wavlm_lightning.system.errors import UserError


@pytest.fixture
def folder(tmp_path):
    """Six shards of two utterances."""
    rng = np.random.default_rng(0)
    writer = CorpusWriter(tmp_path / "c", "test", "CC0", {}, shard_seconds=0.4)
    lengths = rng.integers(4000, 6000, 12)
    writer.write_split(
        "train", [Utterance(f"u{n}", rng.normal(0, 0.1, k).astype("f4"), {}) for n, k in enumerate(lengths)]
    )
    writer.finish({})
    return tmp_path / "c"


@pytest.fixture
def parsed(monkeypatch):
    """Names of the indices that are parsed, from now on and not from the cache."""
    names: list[str] = []
    parse = shard_index._read_index

    def noted(path, *arguments):
        names.append(Path(path).name)
        return parse(path, *arguments)

    shard_index._members.cache_clear()
    monkeypatch.setattr(shard_index, "_read_index", noted)
    return names


def test_planning_reads_no_index_and_reading_only_its_own(folder, parsed):
    split = Corpus.open(folder).split("train")
    assert len(split) == 12 and split.samples.shape == (12,) and split.starts[-1] == 12
    assert parsed == []
    shard, place = split.locate(7)
    assert len(shard.waveform(place)) == split.samples[7]
    assert parsed == [shard.index_path.name]


def test_lengths_agree_with_the_indices_and_old_corpora_do_without(folder):
    split = Corpus.open(folder).split("train")
    wanted = split.samples
    body = json.loads((folder / "corpus.json").read_text())
    del body["splits"]["train"]["lengths"]
    (folder / "corpus.json").write_text(json.dumps(body))
    (folder / "train.lengths.npy").unlink()
    old = Corpus.open(folder).split("train")
    assert old.samples.tolist() == wanted.tolist() and old.samples.dtype == wanted.dtype
    assert join_splits("both", [split, old]).samples.tolist() == 2 * old.samples.tolist()


def test_damaged_lengths_are_refused(folder):
    path = folder / "train.lengths.npy"
    path.write_bytes(path.read_bytes()[:-4] + b"\1\0\0\0")
    with pytest.raises(UserError, match=r"train\.lengths\.npy: not the lengths that corpus.json describes"):
        _ = Corpus.open(folder).split("train").samples
    path.unlink()
    with pytest.raises(UserError, match="the lengths of this split are missing"):
        _ = Corpus.open(folder).split("train").samples


def members_gone(path):
    """Cut at a member boundary: what is left is a whole tar of fewer utterances."""
    import tarfile

    with tarfile.open(path) as tar:
        last = tar.getmembers()[-2]
    with path.open("r+b") as file:
        file.truncate(last.offset)


def test_a_tar_cut_at_a_member_boundary_is_named(folder):
    members_gone(folder / "train-000003.tar")
    with pytest.raises(UserError, match=r"train-000003\.tar: not the shard"):
        Corpus.open(folder).split("train")


def test_an_index_of_another_shard_is_named_even_where_the_tars_are_equally_large(folder):
    shutil.copy(folder / "train-000001.index.json", folder / "train-000002.index.json")
    with pytest.raises(UserError, match=r"train-000002\.tar: not the shard"):
        Corpus.open(folder).split("train")


def test_an_index_that_is_damaged_where_opening_does_not_look_is_named_when_it_is_read(folder, parsed):
    path = folder / "train-000002.index.json"
    path.write_text("{" + path.read_text())
    split = Corpus.open(folder).split("train")
    with pytest.raises(UserError, match=r"train-000002\.index\.json: not the index that corpus.json describes"):
        _ = split.keys
    assert parsed[-1] == path.name and len(parsed) == 3


def test_a_shard_that_goes_away_during_a_run_is_named(folder):
    split = Corpus.open(folder).split("train")
    shard, place = split.locate(5)
    shard.path.unlink()
    with pytest.raises(UserError, match=f"{shard.path.name}: this shard is missing"):
        shard.waveform(place)


def label(folder, name="k2", book="b", length=lambda n: n):
    """Labels of rate 100 for every shard, one a hundredth of a second."""
    split = Corpus.open(folder).split("train")
    labels = folder / "labels" / name
    labels.mkdir(parents=True)
    for shard in split.shards:
        starts = np.concatenate([[0], np.cumsum([length(n // 160) for n in shard.samples])]).astype(np.int64)
        meta = {"shard_sha256": shard.sha256, "codebook_sha256": book, "rate": "100.0"}
        tensors: dict[str, np.ndarray] = {"labels": np.arange(starts[-1]).astype(np.uint16), "starts": starts}
        save_file(tensors, labels / f"{shard.path.stem}.safetensors", metadata=meta)
    (labels / "labels.json").write_text(json.dumps({"size": 65536, "rate": 100.0, "codebook_sha256": book}))


def test_labels_stay_on_disk_and_are_those_of_their_utterance(folder, parsed):
    label(folder)
    corpus = Corpus.open(folder)
    parsed.clear()
    labels = LabelSet.open(corpus, "k2", "train")
    assert parsed == []
    samples = corpus.split("train").samples
    assert [len(row) for row in labels.rows] == [n // 160 for n in samples.tolist()]
    assert labels.rows[1][0] == samples[0] // 160  # its shard's second utterance begins where the first ends
    joined = LabelSet.join([labels, labels])
    assert len(joined.rows) == 24 and np.array_equal(joined.rows[13], labels.rows[1])


def test_labels_of_another_codebook_do_not_join(folder):
    label(folder)
    label(folder, "other", "c")
    corpus = Corpus.open(folder)
    with pytest.raises(UserError, match="one codebook on all corpora"):
        LabelSet.join([LabelSet.open(corpus, name, "train") for name in ("k2", "other")])


def test_labels_too_short_are_refused_when_opened(folder):
    label(folder, length=lambda n: n // 2)
    with pytest.raises(UserError, match=r"utterance 'u0' has \d+ labels for"):
        LabelSet.open(Corpus.open(folder), "k2", "train")


def test_everything_is_checked_and_the_first_fault_is_said():
    seen: list[int] = []
    shard_index.check_each(seen.append, range(10_000))
    assert sorted(seen) == list(range(10_000))

    def refuse(number: int) -> None:
        if number in (300, 9_000):
            raise UserError(f"shard {number}")

    with pytest.raises(UserError, match="shard 300"):
        shard_index.check_each(refuse, range(10_000))


def test_labels_of_a_shard_of_many_utterances_are_read_beyond_the_first_bytes(tmp_path):
    writer = CorpusWriter(tmp_path / "c", "test", "CC0", {}, shard_seconds=1e9)
    rng = np.random.default_rng(0)
    writer.write_split("train", [Utterance(f"u{n}", rng.normal(0, 0.1, 480).astype("f4"), {}) for n in range(700)])
    writer.finish({})
    label(tmp_path / "c")
    rows = LabelSet.open(Corpus.open(tmp_path / "c"), "k2", "train").rows
    assert rows[699].tolist() == [2097, 2098, 2099]
