"""Codebooks of phones: labels are the alignments, and frames without alignment are never learnt from."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from wavlm_lightning.cli import main
from wavlm_lightning.codebooks import Codebook, LabelSet, label_corpus
from wavlm_lightning.codebooks.phones import class_names, phone_codebook, positional, without_stress
from wavlm_lightning.codebooks.quality import label_quality, quality_of
from wavlm_lightning.data.alignments import AlignmentSet, AlignmentWriter, Segment, frame_classes
from wavlm_lightning.data.corpus import Corpus, CorpusWriter
from wavlm_lightning.data.shards import Utterance
from wavlm_lightning.encoder import WavLMConfig
from wavlm_lightning.pretraining import PretrainingData
from wavlm_lightning.system.errors import UserError


@pytest.fixture
def corpus(tiny, tmp_path):
    shutil.copytree(tiny / "pretrain", tmp_path / "pretrain")
    return Corpus.open(tmp_path / "pretrain")


def later(phone: Segment, seconds: float) -> Segment:
    return phone._replace(end=phone.end + seconds)


def align(corpus: Corpus, without: int = 0, teacher: str = "t", shift: float = 0.0, words: bool = True) -> None:
    """Copy the corpus' own times into the set `forced`, all but those of the first utterances of each split."""
    own = AlignmentSet.open(corpus, "corpus")
    with AlignmentWriter(corpus, "forced", {"kind": "forced", "teacher": teacher, "settings": {}}) as writer:
        for split in corpus.splits:
            for shard in corpus.split(split).shards:
                rows = own.of_shard(shard)
                if shift:
                    rows = [row._replace(phones=[later(row.phones[0], -shift), *row.phones[1:]]) for row in rows]
                if not words:
                    rows = [row._replace(words=None) for row in rows]
                writer.write(shard, [None] * without + rows[without:])
        writer.close(labelled={"utterances": 7, "seconds": 12.5, "corpus": "seven"})


def test_labels_are_the_phones_of_the_corpus(corpus, tmp_path):
    book = tmp_path / "book"
    assert main(["codebook", "phones", str(corpus.directory), "--out", str(book)]) == 0
    assert main(["codebook", "apply", str(book), str(corpus.directory), "--name", "phones"]) == 0
    codebook = Codebook.load(book)
    assert (codebook.kind, codebook.rate, codebook.size, codebook.classes[0]) == (
        "phones",
        50.0,
        len(codebook.classes),
        "SIL",
    )
    labels = LabelSet.open(corpus, "phones", "train")
    times = AlignmentSet.open(corpus, "corpus")
    numbers = {name: number for number, name in enumerate(codebook.classes)}
    for samples, row, phones in zip(corpus.split("train").samples, labels.rows, times.rows("train"), strict=True):
        assert np.array_equal(row, frame_classes(phones, int(WavLMConfig().frames(samples)), 50, numbers))
    assert labels.codebook()["labelled"] == [codebook.fitted["labelled"]] == [times.labelled()]
    quality = label_quality(corpus, "phones", "train")
    assert quality.pnmi == pytest.approx(1)


def test_labels_at_100_hz_are_those_at_50_hz_between(corpus):
    for rate in (50.0, 100.0):
        label_corpus(corpus, phone_codebook(corpus, "corpus", rate), f"at{rate:g}")
    coarse, fine = (LabelSet.open(corpus, name, "train").rows for name in ("at50", "at100"))
    assert all(np.array_equal(one, other[::2]) for one, other in zip(coarse, fine, strict=True))
    with pytest.raises(UserError, match="the rate 50 or 100"):
        phone_codebook(corpus, "corpus", 25.0)


def test_utterances_without_alignment_are_refused_or_left_out(corpus):
    align(corpus, without=2)
    with pytest.raises(
        UserError, match=r"'forced' lack 4 of \d+ utterances; align them, or give --unaligned leave-out"
    ):
        phone_codebook(corpus, "forced")
    codebook = phone_codebook(corpus, "forced", unaligned="leave-out")
    label_corpus(corpus, codebook, "some")
    labels = LabelSet.open(corpus, "some", "train")
    assert (
        [len(row) > 0 for row in labels.rows]
        == labels.has_labels.tolist()
        == [False] * 2 + [True] * (len(labels.rows) - 2)
    )
    assert labels.labelled == ({"utterances": 7, "seconds": 12.5, "corpus": "seven"},)
    everything = PretrainingData(str(corpus.directory), "mfcc100", min_seconds=0.5)
    some = PretrainingData(str(corpus.directory), ["mfcc100", "some"], min_seconds=0.5)
    for data in (everything, some):
        data.setup("fit")
    assert some._parts["train"].numbers.tolist() == [n for n in everything._parts["train"].numbers.tolist() if n > 1]
    layout, part = some.layout(), some._parts["train"]  # a resumed run must have the same utterances
    some._parts["train"] = replace(part, numbers=part.numbers[1:])
    assert [key for key, value in some.layout().items() if value != layout[key]] == ["labelled_utterances"]
    assert "labelled_utterances" not in everything.layout()
    joined = LabelSet.join([labels, labels])
    assert joined.has_labels.tolist() == [*labels.has_labels] * 2
    assert joined.labelled == labels.labelled
    # Without the mark in `labels.json` an utterance without labels is damage.
    head = corpus.directory / "labels/some/labels.json"
    head.write_text(json.dumps({k: v for k, v in json.loads(head.read_text()).items() if k != "partial"}))
    with pytest.raises(UserError, match="has 0 labels for"):
        LabelSet.open(corpus, "some", "train")


def test_a_codebook_reads_no_other_alignments(corpus):
    align(corpus)
    codebook = phone_codebook(corpus, "forced")
    label_corpus(corpus, codebook, "forced")
    folder = corpus.directory / "alignments/forced"
    shutil.rmtree(folder)
    align(corpus, shift=0.01)
    with pytest.raises(UserError, match="alignments 'forced' have changed since the codebook was made"):
        label_corpus(corpus, codebook, "other")
    shutil.rmtree(folder)
    align(corpus, teacher="another")
    with pytest.raises(UserError, match="another kind, teacher or settings made its alignments 'forced'"):
        label_corpus(corpus, codebook, "other")
    with pytest.raises(UserError, match="has labels of another codebook"):
        label_corpus(corpus, phone_codebook(corpus, "forced"), "forced")


def test_positions_in_words(corpus):
    said = [
        Segment("SIL", 0, 0.1),
        Segment("AH", 0.1, 0.2),
        Segment("K", 0.2, 0.3),
        Segment("AE", 0.3, 0.4),
        Segment("T", 0.4, 0.5),
    ]
    words = [Segment("a", 0.1, 0.2), Segment("cat", 0.2, 0.5)]
    assert [phone.name for phone in positional(said, words, "x")] == ["SIL", "AH_S", "K_B", "AE_I", "T_E"]
    with pytest.raises(UserError, match=r"x: phone 'AE' at 0\.3 s lies in no word"):
        positional(said, [words[0], Segment("k", 0.2, 0.3)], "x")
    codebook = phone_codebook(corpus, "corpus", positions=True)
    assert codebook.size == 1 + 4 * (len(phone_codebook(corpus, "corpus").classes) - 1)
    label_corpus(corpus, codebook, "positional")
    plain = phone_codebook(corpus, "corpus")
    label_corpus(corpus, plain, "plain")
    rows = [LabelSet.open(corpus, name, "train").rows[0] for name in ("positional", "plain")]
    assert [codebook.classes[n].partition("_")[0] for n in rows[0]] == [plain.classes[n] for n in rows[1]]
    align(corpus, words=False)
    with pytest.raises(UserError, match="its alignment has no words; leave --positions out"):
        label_corpus(corpus, phone_codebook(corpus, "forced", positions=True), "none")


def test_stress():
    assert [without_stress(name) for name in ("AH0", "AH0_B", "SIL", "T_E", "2")] == ["AH", "AH_B", "SIL", "T_E", "2"]
    assert class_names(("AH0", "AH1", "SIL", "SPN", "B"), "drop") == ["SIL", "SPN", "AH", "B"]
    assert class_names(("AH0", "AH1", "B"), "keep") == ["SIL", "AH0", "AH1", "B"]


def test_kinds_of_other_versions_are_refused(corpus, tmp_path):
    phone_codebook(corpus, "corpus").save(tmp_path / "book")
    about = tmp_path / "book/codebook.json"
    about.write_text(json.dumps(json.loads(about.read_text()) | {"kind": "grapheme"}))
    with pytest.raises(UserError, match=r"a codebook of kind 'grapheme', and this version knows kmeans, .*; update"):
        Codebook.load(tmp_path / "book")


def test_one_class_says_nothing(tmp_path):
    """Silence alone is no target, and PNMI of one phone is no number."""
    writer = CorpusWriter(tmp_path / "silent", "silent", "CC0", {"recipe": "test"})
    noise = np.random.default_rng(0).normal(size=16_000).astype("f4") * 0.1
    writer.write_split("train", [Utterance("a", noise, {})])
    corpus = writer.finish({})
    with AlignmentWriter(corpus, "times", {"kind": "forced", "teacher": "0" * 64, "settings": {}}) as alignments:
        for shard in corpus.split("train").shards:
            alignments.write(shard, [[Segment("SIL", 0.0, 1.0)]])
    with pytest.raises(
        UserError, match=r"alignments 'times' have one class, 'SIL', so that there is nothing to predict"
    ):
        phone_codebook(corpus, "times")
    labels = np.arange(49) % 2
    assert quality_of([([("SIL", 0.0, 1.0)], labels)], 50.0) is None
    assert quality_of([([("SIL", 0.0, 0.5), ("A", 0.5, 1.0)], labels)], 50.0) is not None
