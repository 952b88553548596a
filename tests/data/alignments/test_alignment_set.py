"""A set of alignments on disk: written shard by shard, read back, and refused where something does not belong."""

import json
import shutil
from itertools import pairwise

import numpy as np
import pytest
from three_alignments import ABOUT, ROWS, write

from wavlm_lightning.data.alignments import AlignmentSet, AlignmentWriter, Segment, alignment_sets
from wavlm_lightning.data.corpus import Corpus, CorpusWriter
from wavlm_lightning.data.shards import with_other_records
from wavlm_lightning.system.errors import UserError


def test_what_was_written_is_read(aligned):
    found = AlignmentSet.open(aligned, "times")
    assert found.about == ABOUT
    assert found.inventory == ("AH", "SIL", "T")
    rows = found.rows("train")
    assert [*rows] == [ROWS["a"].phones, None, ROWS["c"].phones]
    assert rows[2] == [Segment("T", 0.2, 0.4)]
    assert [*found.words("train")] == [[Segment("at", 0.1, 0.5)], None, None]
    assert found.coverage("train") == (3, 2, 1.5)
    assert alignment_sets(aligned) == ["times"]


def test_the_times_of_the_corpus_itself(tiny):
    corpus = Corpus.open(tiny / "pretrain")
    found = AlignmentSet.open(corpus, "corpus")
    metas = corpus.split("train").metas()
    assert [[tuple(one) for one in row] for row in found.rows("train")] == [[*map(tuple, m["phones"])] for m in metas]
    assert "SIL" in found.inventory
    assert found.labelled() == {
        "utterances": sum(len(corpus.split(split)) for split in corpus.splits),
        "seconds": round(sum(corpus.split(split).seconds for split in corpus.splits), 3),
        "corpus": corpus.name,
    }


def test_random_times_survive_the_file(corpus):
    rng = np.random.default_rng(0)
    edges = np.unique(rng.uniform(0, 0.5, 40))
    rows = [Segment(str(rng.integers(9)), *map(float, pair)) for pair in pairwise(edges)]
    shard = corpus.split("train").shards[0]
    writer = AlignmentWriter(corpus, "random", ABOUT)
    writer.write(shard, [rows] * shard.utterances)
    for other in corpus.split("train").shards[1:]:
        writer.write(other, [None] * other.utterances)
    writer.close(labelled={"utterances": 1})
    found = AlignmentSet.open(corpus, "random")
    assert found.labelled() == {"utterances": 1}
    back = found.rows("train")[0]
    assert [row.name for row in back] == [row.name for row in rows]
    assert np.allclose([row[1:] for row in back], [row[1:] for row in rows], atol=5.1e-7)


def test_an_interrupted_writer_goes_on(corpus, monkeypatch):
    first, second = corpus.split("train").shards
    with pytest.raises(KeyboardInterrupt), AlignmentWriter(corpus, "times", ABOUT) as writer:
        writer.write(first, [ROWS[key] for key in first.keys])
        raise KeyboardInterrupt
    with pytest.raises(UserError, match="no finished alignments here; run `wavlm align` again, it goes on"):
        AlignmentSet.open(corpus, "times")
    assert write(corpus) == [second.path.name]
    assert write(corpus) == []
    (corpus.directory / "alignments/times" / f"{first.path.stem}.jsonl").write_text("")  # a power failure
    assert write(corpus) == [first.path.name]


def test_other_records_of_the_same_audio_are_aligned_again(corpus, tmp_path):
    """A linked shard has its tar's hash whichever utterances it takes, and whatever they are said to say."""

    def linked(text):
        writer = CorpusWriter(tmp_path / "linked", "linked", "CC0", {"recipe": "test"})
        shard = corpus.split("train").shards[0]
        metas = [{"text": text}] * shard.utterances
        link = with_other_records(tmp_path / "linked" / "train-000000.tar", shard, range(shard.utterances), metas)
        writer.add_shard("train", link)
        return writer.finish({"phones": []})

    assert write(linked("ONE")) == ["train-000000.tar"]
    assert write(linked("ONE")) == []
    other = linked("TWO")
    with pytest.raises(UserError, match="made from another version of train-000000"):
        AlignmentSet.open(other, "times").rows("train")[0]
    assert write(other) == ["train-000000.tar"]


def test_one_set_has_one_origin(aligned):
    for changed in ({"teacher": "1" * 64}, {"settings": {"rate": 100}}, {"kind": "decoded"}):
        with pytest.raises(
            UserError, match="has alignments of another kind, teacher or settings; choose another --name"
        ):
            write(aligned, **changed)
    with pytest.raises(UserError, match="--name corpus"):
        write(aligned, "corpus")


def test_a_set_is_complete_when_it_is_closed(corpus):
    writer = AlignmentWriter(corpus, "times", ABOUT)
    with pytest.raises(UserError, match="this shard has no alignments yet; run the same command again"):
        writer.close()


def test_rows_that_are_no_alignment_are_not_written(corpus):
    shard = corpus.split("train").shards[0]
    writer = AlignmentWriter(corpus, "times", ABOUT)
    bad = [[Segment("T", 0.3, 0.2)]] * shard.utterances
    with pytest.raises(UserError, match=r"train-000000.tar: alignment of 'a': 'T' lies from 0.3 to 0.2 s"):
        writer.write(shard, bad)
    with pytest.raises(ValueError, match="0 alignments for"):
        writer.write(shard, [])


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda path: path.unlink(), "this shard has no alignments; make these alignments again"),
        (lambda path: path.write_bytes(path.read_bytes()[:-30]), "damaged .its lines are not those that were written"),
        (lambda path: path.write_text(path.read_text().replace("AH", "IH")), "damaged"),
        (lambda path: path.write_text("[]\n"), "not readable as alignments of a shard"),
        (lambda path: path.write_bytes(b"\xff\xfe"), "alignments of a shard"),
        (lambda path: shutil.copy(path.with_name("train-000001.jsonl"), path), "another version of train-000000.tar"),
    ],
)
def test_damaged_files_are_refused_where_they_are_read(aligned, damage, said):
    path = aligned.directory / "alignments/times/train-000000.jsonl"
    damage(path)
    rows = AlignmentSet.open(aligned, "times").rows("train")
    assert rows[2] == ROWS["c"].phones  # of another shard
    with pytest.raises(UserError, match=f"{path.name}.*{said}"):
        rows[0]


@pytest.mark.parametrize("key", ["about", "inventory", "splits", "format"])
def test_a_damaged_description_is_refused(aligned, key):
    path = aligned.directory / "alignments/times/alignments.json"
    whole = json.loads(path.read_text())
    for changed in ({k: v for k, v in whole.items() if k != key}, whole | {key: 3}, whole | {key: ["nothing"]}):
        path.write_text(json.dumps(changed))
        if key == "inventory" and changed.get(key) == ["nothing"]:
            rows = AlignmentSet.open(aligned, "times").rows("train")
            with pytest.raises(UserError, match=r"which alignments\.json does not list"):
                rows[0]
            continue
        with pytest.raises(UserError, match=r"alignments.json: .*make these alignments again"):
            AlignmentSet.open(aligned, "times")


def test_names_that_are_not_there(aligned):
    with pytest.raises(UserError, match="did you mean 'times'"):
        AlignmentSet.open(aligned, "time")
    with pytest.raises(UserError, match="there are times"):
        AlignmentSet.open(aligned, "mfa")
    with pytest.raises(UserError, match="its utterances have no phones"):
        AlignmentSet.open(aligned, "corpus")
    with pytest.raises(UserError, match="plain"):
        AlignmentSet.open(aligned, "../times")
