"""A corpus behind a URL, as training, `wavlm data` and `wavlm codebook` meet it."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from unreliable import HASTY, fetched, shards

from wavlm_lightning.cli import main
from wavlm_lightning.codebooks import Codebook, LabelSet, MfccFeatures, label_corpus, labels
from wavlm_lightning.data.corpus import Corpus, CorpusWriter
from wavlm_lightning.data.remote import cache_space, transport
from wavlm_lightning.data.remote.mirror import mirror
from wavlm_lightning.data.shard_index import REMOTE_HANDLES, ShardIndex
from wavlm_lightning.data.shards import Utterance
from wavlm_lightning.pretraining import PretrainingData
from wavlm_lightning.system.errors import UserError


@pytest.fixture(scope="module")
def origin(origin):
    """The corpus, with labels."""
    source = MfccFeatures()
    centroids = np.random.default_rng(0).normal(size=(4, 39)).astype("f4")
    label_corpus(Corpus.open(origin / "c"), Codebook(centroids, source.rate, source.describe(), {}), "k4")
    return origin


@pytest.fixture(autouse=True)
def hasty(monkeypatch):
    monkeypatch.setattr(transport, "Patience", lambda: HASTY)


def batches(corpus: str, **changes) -> list:
    """An epoch of training."""
    settings = {"labels": "k4", "valid_split": None, "batch_seconds": 40.0, "shuffle_shards": 1, **changes}
    source = PretrainingData(corpus, **settings)
    source.setup("fit")
    return list(source.train_dataloader())


@pytest.mark.parametrize("workers", [0, 2])
def test_training_through_a_bad_line_is_training_from_the_folder(server, origin, monkeypatch, workers):
    rows = shards(origin)
    room = 2.2 * max(row["bytes"] for row in rows) / cache_space.GIB  # less than the corpus: shards go and come
    monkeypatch.setenv("WAVLM_CACHE_GIB", repr(room))
    for number, row in enumerate(rows):
        stem = row["name"].removesuffix(".tar")
        moods = (["drop", 500], ["slow"], [503, "stingy"])[number]
        for name in (row["name"], f"{stem}.index.json", f"{stem}.safetensors"):
            server.moods[name] = list(moods)
    for name in ("corpus.json", "train.lengths.npy", "labels.json"):
        server.moods[name] = [500, "drop"]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*evicted and brought again")
        theirs = batches(server.url + "c/", num_workers=workers)
    ours = batches(str(origin / "c"))
    assert len(ours) == len(theirs) > 2
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one.audio, other.audio) and torch.equal(one.labels["k4"], other.labels["k4"])
    assert not [name for name, moods in server.moods.items() if moods], "every trouble was met"


def test_a_server_that_goes_away_during_an_epoch_ends_the_run_with_its_name(server, origin):
    source = PretrainingData(server.url + "c/", labels="k4", valid_split=None, batch_seconds=40.0)
    source.setup("fit")
    for row in shards(origin):
        server.always[row["name"]] = 500
    with pytest.raises(UserError, match=r"train-00000\d\.tar: gave up after 4 attempts.*continues where it stopped"):
        list(source.train_dataloader())


def test_from_an_object_store_as_from_the_folder(origin, cache):
    import fsspec

    fsspec.filesystem("memory").put(str(origin / "c"), "/store/c", recursive=True)
    for one, other in zip(batches(str(origin / "c")), batches("memory://store/c"), strict=True):
        assert torch.equal(one.audio, other.audio) and torch.equal(one.labels["k4"], other.labels["k4"])


def test_what_s3_needs_is_said(cache, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "s3fs", None)
    with pytest.raises(UserError, match=r"^s3://bucket/c/corpus\.json: .*pip install 's3fs.*\(extra \[s3\]\)"):
        Corpus.open("s3://bucket/c")


def test_few_evicted_shards_stay_on_disk(tmp_path, cache):
    import fsspec

    rng = np.random.default_rng(0)
    writer = CorpusWriter(tmp_path / "c", "many", "CC0", {}, shard_seconds=0.05)
    count = REMOTE_HANDLES + 8
    writer.write_split("train", [Utterance(f"u{n}", rng.uniform(-1, 1, 800).astype("f4"), {}) for n in range(count)])
    writer.finish({})
    fsspec.filesystem("memory").put(str(tmp_path / "c"), "/many/c", recursive=True)
    split = Corpus.open("memory://many/c").split("train")
    assert len(split.shards) == count and len(list(split.utterances())) == count
    for shard in split.shards:
        shard.path.unlink()
    held = [str(link.readlink()) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    assert 0 < sum(str(cache) in name and "deleted" in name for name in held) <= REMOTE_HANDLES


def test_labels_that_another_process_evicts_come_again(server, monkeypatch):
    split = Corpus.open(server.url + "c/")
    rows = LabelSet.open(split, "k4", "train").rows
    wanted = rows[0].copy()
    fetch, gone = ShardIndex.fetch, []

    def evicted(self: ShardIndex, path: Path) -> Path:
        found = fetch(self, path)
        if path.suffix == ".safetensors" and len(gone) < 2 and path not in gone:
            gone.append(path)
            path.unlink()
        return found

    monkeypatch.setattr(ShardIndex, "fetch", evicted)
    assert np.array_equal(rows[0], wanted)  # it had been looked at before
    assert len(rows[11]) and len(gone) == 2  # it had not


def test_labels_of_a_remote_corpus_are_opened_once_however_often_they_are_used(server, monkeypatch):
    opened, open_ = [], labels.safe_open
    monkeypatch.setattr(labels, "safe_open", lambda path, **options: opened.append(path) or open_(path, **options))
    rows = LabelSet.open(Corpus.open(server.url + "c/"), "k4", "train").rows
    for _ in range(3):
        assert len(rows[0]) and len(rows[1])
    assert len(opened) == 1


def test_labels_are_made_where_the_corpus_lies(server, tmp_path, capsys):
    source, book = MfccFeatures(), tmp_path / "book"
    Codebook(np.zeros((2, 39), "f4"), source.rate, source.describe(), {}).save(book)
    command = ["codebook", "fit", server.url + "c/", "--out", str(tmp_path / "new"), "--part", "1/1", "--memory", "0.1"]
    assert main([*command, "--jobs", "1"]) == 0  # features of a remote corpus may be read
    assert main(["codebook", "apply", str(book), server.url + "c/", "--name", "k2"]) == 2
    assert "labels are written beside the shards" in capsys.readouterr().err
    assert not list(mirror(server.url + "c/").glob("labels/k2/*"))


def test_label_sets_behind_a_url_are_named(server, origin, capsys):
    url = server.url + "c/"
    assert main(["data", "info", url]) == 0
    assert "name them with --labels" in capsys.readouterr().out
    assert main(["data", "info", url, "--labels", "k4"]) == 0
    assert "frame labels k4: 4 units at 100 a second" in capsys.readouterr().out
    assert main(["data", "check", url, "--labels", "k4"]) == 0
    assert "3 shards are whole, with the labels k4" in capsys.readouterr().out
    assert {status for name in (origin / "c/labels/k4").iterdir() for _, status in fetched(server, name.name)} == {200}
    for verb in ("info", "check"):
        assert main(["data", verb, url, "--labels", "none"]) == 2
        error = capsys.readouterr().err
        assert "labels 'none'" in error
    assert main(["data", "check", url, "--quick"]) == 2
    assert "leave --quick out" in capsys.readouterr().err
    (mirror(url) / "labels/k4/train-000001.safetensors").unlink()
    server.always["train-000001.safetensors"] = 404
    assert main(["data", "check", url, "--labels", "k4"]) == 2
    assert "wrong labels k4: train-000001.tar" in capsys.readouterr().err
