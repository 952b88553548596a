"""A shard index, lengths, trials and notes that contradict their shard are refused where they are read first, and by check."""

from __future__ import annotations

import hashlib
import json
import shutil
import time

import numpy as np
import pytest

from wavlm_lightning.audio import BadAudio
from wavlm_lightning.codebooks.label_files import LabelHead
from wavlm_lightning.data import shard_index
from wavlm_lightning.data.corpus import Corpus, CorpusWriter
from wavlm_lightning.data.corpus_json import INDEX
from wavlm_lightning.data.lengths import Lengths, write_lengths
from wavlm_lightning.data.recordings import CorpusPlan, Recording
from wavlm_lightning.data.shards import Utterance
from wavlm_lightning.data.writing import write_corpus
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.workflows.corpus.check import check

INDEX_FILE = "train-000000.index.json"


@pytest.fixture
def corpus(tmp_path):
    """Two shards of three utterances of unlike lengths, with further audio and trials."""
    rng = np.random.default_rng(0)
    writer = CorpusWriter(tmp_path / "c", "test", "CC0", {}, shard_seconds=0.9)
    lengths = [4000, 5000, 6000, 4100, 5100, 6100]
    writer.write_split(
        "train",
        [
            Utterance(f"u{n}", rng.normal(0, 0.1, k).astype("f4"), {"n": n}, audio={"clean": np.full(k, 0.1, "f4")})
            for n, k in enumerate(lengths)
        ],
    )
    writer.finish({}, trials={"train": [(1, "u0", "u1"), (0, "u2", "u3")]})
    assert check(tmp_path / "c", jobs=1).error == ""
    shard_index._members.cache_clear()  # whatever is altered now is read by another process
    return tmp_path / "c"


def body(folder):
    return json.loads((folder / "corpus.json").read_text())


def rewrite(folder, change):
    content = body(folder)
    change(content["splits"]["train"])
    (folder / "corpus.json").write_text(json.dumps(content))


def make_old(folder):
    """As older versions wrote it: without the hash of the index."""
    rewrite(folder, lambda part: [shard.pop(INDEX) for shard in part["shards"]])


def make_fit(folder):
    """The index was altered, and its hash was written to match."""
    digest = hashlib.sha256((folder / INDEX_FILE).read_bytes()).hexdigest()
    rewrite(folder, lambda part: part["shards"][0].update({INDEX: digest}))


def keys_exchanged(index):
    index["keys"][0], index["keys"][1] = index["keys"][1], index["keys"][0]


def other_key(index):
    index["keys"][0] = "somebody"


def places_exchanged(index):
    index["audio"][0], index["audio"][1] = index["audio"][1], index["audio"][0]


def overlapping(index):
    index["audio"][1] = [index["audio"][0][0] + 100, index["audio"][1][1]]


def outside(index):
    index["audio"][0][0] = 10**9


def negative(index):
    index["samples"][0] = -4000


def before_the_file(index):
    index["audio"][0][0] = 0


def lengths_exchanged(index):
    index["samples"][0], index["samples"][1] = index["samples"][1], index["samples"][0]


def shorter(index):
    index["audio"][0][1] -= 7


def json_exchanged(index):
    index["info"][0], index["info"][1] = index["info"][1], index["info"][0]


def further_exchanged(index):
    clean = index["further"]["clean"]
    clean[0], clean[1] = clean[1], clean[0]


def a_list_short(index):
    index["samples"].pop()


def floats(index):
    index["samples"][0] = 4000.5


ALTERATIONS = [
    keys_exchanged, other_key, places_exchanged, overlapping, outside, negative, before_the_file, lengths_exchanged, shorter,
    json_exchanged, further_exchanged, a_list_short, floats,
]  # fmt: skip


def read_all(folder):
    split = Corpus.open(folder).split("train")
    for number in range(len(split)):
        shard, place = split.locate(number)
        shard.waveform(place)
        shard.meta(place)
        shard.further_audio(place)


@pytest.mark.parametrize("age", ["new", "old", "fits its hash"])
@pytest.mark.parametrize("alter", ALTERATIONS, ids=lambda alter: alter.__name__)
def test_an_altered_index_is_refused_when_it_is_read_and_by_check(corpus, alter, age):
    index = json.loads((corpus / INDEX_FILE).read_text())
    alter(index)
    index["sha256"] = index.pop("sha256")
    (corpus / INDEX_FILE).write_text(json.dumps(index))
    if age != "new":
        make_old(corpus) if age == "old" else make_fit(corpus)
    with pytest.raises((UserError, BadAudio), match=r"train-000000|train\.lengths"):
        read_all(corpus)
    assert "train-000000.tar" in check(corpus, jobs=1).error


def test_an_old_corpus_is_read_as_ever(corpus):
    make_old(corpus)
    read_all(corpus)
    assert check(corpus, jobs=1).error == ""


def test_names_that_a_tar_header_cannot_hold(tmp_path):
    writer = CorpusWriter(tmp_path / "c", "test", "CC0", {})
    keys = ["é" * 20, "long-" * 30, "日本-" * 40, "plain"]
    writer.write_split("train", [Utterance(key, np.full(4000, 0.1, "f4"), {}) for key in keys])
    writer.finish({})
    read_all(tmp_path / "c")
    assert check(tmp_path / "c", jobs=1).error == ""


def put_lengths(folder, content: bytes):
    (folder / "train.lengths.npy").write_bytes(content)
    facts = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    rewrite(folder, lambda part: part["lengths"].update(facts))


def saved(array, **settings):
    import io

    buffer = io.BytesIO()
    (np.savez if settings else np.save)(buffer, array, allow_pickle=True)
    return buffer.getvalue()


RIGHT = np.array([4000, 5000, 6000, 4100, 5100, 6100], np.uint32)
HUGE = saved(RIGHT).replace(b"(6,), }" + b" " * 12, b"(6000000000000,), }")
WRONG_LENGTHS = {
    "other values": saved(RIGHT * 2),
    "exchanged in a shard": saved(RIGHT[[1, 0, 2, 3, 4, 5]]),
    "exchanged across shards": saved(RIGHT[[3, 1, 2, 0, 4, 5]]),
    "too few": saved(RIGHT[:5]),
    "a matrix": saved(RIGHT[:, None]),
    "one number": saved(np.uint32(4000)),
    "negative": saved(-RIGHT.astype(np.int64)),
    "float": saved(RIGHT.astype(np.float32)),
    "int64": saved(RIGHT.astype(np.int64)),
    "objects": saved(np.array([[1], "x", None, {}, (), 3], dtype=object)),
    "an archive": saved(RIGHT, archive=True),
    "a huge shape": HUGE,
    "cut": saved(RIGHT)[:-3],
    "nothing": b"",
}


@pytest.mark.parametrize("kind", WRONG_LENGTHS)
def test_lengths_that_fit_their_own_hash_and_nothing_else(corpus, kind):
    assert saved(RIGHT) != HUGE
    put_lengths(corpus, WRONG_LENGTHS[kind])
    begin = time.monotonic()
    with pytest.raises(UserError, match=r"train\.lengths\.npy"):
        read_all(corpus)
    assert time.monotonic() - begin < 5
    error = check(corpus, jobs=1).error
    assert "lengths" in error and "\n" not in error


def test_lengths_that_corpus_json_counts_alike_are_compared_with_the_index(corpus):
    """Hash, totals and lengths were all rewritten."""

    def change(part):
        part["shards"][0]["samples"] += 1000

    facts = write_lengths(corpus / "train.lengths.npy", RIGHT + np.array([1000, 0, 0, 0, 0, 0], np.uint32))
    rewrite(corpus, change)
    rewrite(corpus, lambda part: part["lengths"].update(facts))
    with pytest.raises(
        UserError, match=r"says 5,000 samples for utterance 'u0', the index of train-000000.tar says 4,000"
    ):
        read_all(corpus)


def test_right_lengths_are_read(corpus):
    split = Corpus.open(corpus).split("train")
    assert split.samples.dtype == np.int64 and split.samples.tolist() == RIGHT.tolist()
    file = Lengths(corpus / "train.lengths.npy", 6, 0, hashlib.sha256(saved(RIGHT)).hexdigest())
    assert file.read().tolist() == RIGHT.tolist()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda part: part["shards"][0].update(utterances=2**60), "no number of utterances"),
        (lambda part: part["shards"][0].update(utterances=4), "its shards 7"),
        (lambda part: part.update(utterances=2**40), "its shards 6"),
        (lambda part: part["shards"][0].update(samples=2**50), "cannot hold"),
        (lambda part: part["shards"][0].update({INDEX: "x"}), "index_sha256, not a hash"),
    ],
)
def test_counts_that_cannot_be(corpus, change, says):
    rewrite(corpus, change)
    with pytest.raises(UserError, match=says):
        Corpus.open(corpus).split("train")


@pytest.mark.parametrize("line", ["2,u0,u1", "yes,u0,u1", "1,u0", "1,u0,u1,u2", "", "-1,u0,u1", "１,u0,u1"], ids=repr)
def test_trials_of_another_shape(corpus, line):
    path = corpus / "trials-train.csv"
    path.write_text(f"1,u0,u1\n{line}\n0,u2,u3\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"trials-train\.csv, line 2"):
        Corpus.open(corpus).trials("train")
    assert "trials-train.csv, line 2" in check(corpus, jobs=1).error


def test_trials_of_unknown_keys_and_keys_in_two_shards(corpus):
    (corpus / "trials-train.csv").write_text("1,u0,nobody\n")
    assert "names 'nobody'" in check(corpus, jobs=1).error
    (corpus / "trials-train.csv").unlink()
    content = body(corpus)
    part = content["splits"]["train"]
    other = CorpusWriter(corpus.parent / "d", "test", "CC0", {})
    other.write_split("train", [Utterance("u0", np.full(4000, 0.2, "f4"), {})])
    facts = other.finish({}).body["splits"]["train"]["shards"][0]
    for ending in (".tar", ".index.json"):
        shutil.copy(corpus.parent / "d" / f"train-000000{ending}", corpus / f"train-000001{ending}")
    part["shards"][1] = {**facts, "name": "train-000001.tar"}
    part["utterances"] = 4
    part["lengths"] = write_lengths(corpus / "train.lengths.npy", RIGHT[[0, 1, 2, 0]])
    (corpus / "corpus.json").write_text(json.dumps(content))
    assert "the key 'u0' occurs twice" in check(corpus, jobs=1).error


@pytest.mark.parametrize("length", [2**63, 2**40, 2**31, 10**4])
def test_a_label_file_whose_header_promises_too_much(tmp_path, length):
    path = tmp_path / "labels.safetensors"
    path.write_bytes(length.to_bytes(8, "little") + b"{}" * 100)
    with pytest.raises(ValueError, match="a header of"):
        LabelHead.read(path)


def test_a_label_file_nested_too_deeply(tmp_path):
    header = b"[" * 100_000
    (tmp_path / "labels.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(ValueError):
        LabelHead.read(tmp_path / "labels.safetensors")


@pytest.fixture
def plan(tmp_path):
    import soundfile

    rng = np.random.default_rng(0)
    (tmp_path / "rec").mkdir()
    recordings = []
    for number in range(4):
        path = tmp_path / "rec" / f"{number}.wav"
        soundfile.write(path, rng.normal(0, 0.1, 8000), 16_000)
        recordings.append(Recording(path, f"r{number}", {"file": path.name}))
    return CorpusPlan("mine", "CC0", {"train": recordings}, {})


@pytest.mark.parametrize(
    "change",
    [
        {"empty": True},
        {"empty": 1},
        {"empty": "no"},
        {"empty": True, "too_short": ["r0"]},
        {"too_short": ["r0", "r1", "r2", "r3"]},
        {"skipped": [{"file": "x", "key": "r1", "why": "y"}]},
        {"skipped": "r1"},
        {"skipped": [7]},
        {"too_short": {"r0": 1}},
        {"sounds": ["x"]},
        {"bytes": -1},
        {INDEX: 5},
    ],
    ids=str,
)
def test_a_note_with_odd_values_leaves_nothing_out(tmp_path, plan, change):
    out = tmp_path / "out"
    whole = write_corpus(plan, out, workers=1)
    wanted = (out / "train-000000.tar").read_bytes()
    note = out / "train-000000.prepared.json"
    note.write_text(json.dumps(json.loads(note.read_text()) | change))
    again = write_corpus(plan, out, workers=1)
    assert again.split("train").keys == whole.split("train").keys == ["r0", "r1", "r2", "r3"]
    assert (out / "train-000000.tar").read_bytes() == wanted and "skipped" in again.body["source"]
    assert again.body["source"]["skipped"] == [] and "too_short" not in again.body["source"]


def test_an_index_altered_between_two_calls_is_made_again(tmp_path, plan):
    out = tmp_path / "out"
    write_corpus(plan, out, workers=1)
    index = json.loads((out / INDEX_FILE).read_text())
    lengths_exchanged(index)
    index["samples"][0] += 1
    (out / INDEX_FILE).write_text(json.dumps(index))
    write_corpus(plan, out, workers=1)
    assert check(out, jobs=1).error == ""


@pytest.mark.parametrize("key", ["name", "licence", "source", "inventories"])
@pytest.mark.parametrize("value", [None, [1]])
def test_a_corpus_without_its_facts_is_refused(corpus, key, value):
    path = corpus / "corpus.json"
    body = json.loads(path.read_text())
    body = {**body, key: value} if value else {name: part for name, part in body.items() if name != key}
    path.write_text(json.dumps(body))
    with pytest.raises(UserError, match=rf"corpus\.json: its {key} is missing, or no (text|object)"):
        Corpus.open(corpus)
