"""`wavlm align`: true and decoded transcripts, the labelled part, interruption, what cannot be aligned, other aligners' files."""

from __future__ import annotations

import itertools
import json
import shutil

import pytest
import torch
from pseudo_corpora import pseudo_of

from wavlm_lightning.cli import main
from wavlm_lightning.data.alignments import AlignmentSet
from wavlm_lightning.data.corpus import Corpus, CorpusWriter
from wavlm_lightning.data.shards import Utterance
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks.content.letters import words_behind
from wavlm_lightning.workflows.align import Aligner, Unaligned, align_corpus, read_pronunciations


def trained(tiny, folder, task, *options):
    """A head on FBANK that has seen little: its alignments are whole, and its answers wrong."""
    arguments = [
        "fit",
        "-c",
        f"configs/superb/mini/{task}.yaml",
        "--data.corpus",
        str(tiny / "pr"),
        "--model.hidden",
        "24",
    ]
    arguments += ["--model.upstream", "wavlm_lightning.upstreams.Fbank", "--model.upstream.cmvn", "false"]
    arguments += ["--data.cache", "null", "--trainer.default_root_dir", str(folder / task), *options]
    arguments += ["--trainer.max_steps", "12", "--trainer.val_check_interval", "12"]
    arguments += ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]
    assert main(arguments) == 0
    return folder / task


@pytest.fixture(scope="module")
def pr(tiny, tmp_path_factory):
    run = trained(tiny, tmp_path_factory.mktemp("pr"), "pr", "--model.pauses", "true")
    path = run / "checkpoints" / "best.ckpt"
    state = torch.load(path, weights_only=True)
    silent = [0, 1, 2, state["task"]["labels"].index("SIL")]
    state["state_dict"]["classifier.bias"][silent] -= 20.0  # else, after so few updates, it would answer with nothing
    torch.save(state, path)
    return run


@pytest.fixture(scope="module")
def asr(tiny, tmp_path_factory):
    return trained(tiny, tmp_path_factory.mktemp("asr"), "asr")


@pytest.fixture
def corpus(tiny, tmp_path):
    """Several shards, as large corpora have."""
    shutil.copytree(tiny / "pr", tmp_path / "one")
    whole = Corpus.open(tmp_path / "one")
    writer = CorpusWriter(tmp_path / "corpus", "mine", "CC0", {}, shard_seconds=8.0)
    for split in ("train", "test"):
        writer.write_split(split, (Utterance(*row) for row in list(whole.split(split).utterances())[:8]))
    return writer.finish(whole.inventories)


def said(meta):
    return [phone for phone, *_ in meta["phones"] if phone != "SIL"]


def test_true_transcripts_then_the_same_command(tiny, pr, corpus, capsys, monkeypatch):
    command = ["align", str(pr), str(corpus.directory), "--name", "forced", "--splits", "train", "--device", "cpu"]
    shards = corpus.split("train").shards
    assert len(shards) > 1
    rows, calls = Aligner.rows, []

    def once(self, shard):
        if calls:
            raise KeyboardInterrupt
        calls.append(shard.path.name)
        return rows(self, shard)

    monkeypatch.setattr(Aligner, "rows", once)
    assert main(command) == 130
    assert "continues where it stopped" in capsys.readouterr().err
    first = corpus.directory / "alignments" / "forced" / f"{shards[0].path.stem}.jsonl"
    content = first.read_bytes()
    monkeypatch.setattr(Aligner, "rows", lambda self, shard: calls.append(shard.path.name) or rows(self, shard))
    assert main(command) == 0
    assert calls == [shard.path.name for shard in shards] and first.read_bytes() == content
    printed = capsys.readouterr().out
    assert "train: 8 of 8 utterances aligned" in printed and "frames have the right phone" in printed
    found = AlignmentSet.open(corpus, "forced")
    assert found.about["kind"] == "forced" and found.about["labelled"][0]["utterances"] == 8
    (taught,) = found.about["teacher_labelled"]
    assert taught["corpus"] == Corpus.open(tiny / "pr").name and found.about["labelled"][1:] == [taught]
    metas, samples = corpus.split("train").metas(), corpus.split("train").samples
    for row, words, meta, length in zip(found.rows("train"), found.words("train"), metas, samples, strict=True):
        assert row is not None and words is not None
        assert [name for name, *_ in row if name != "SIL"] == said(meta)
        assert row[0].start == 0 and row[-1].end == pytest.approx(length / 16_000, abs=1e-6)
        assert all(one.end == other.start for one, other in itertools.pairwise(row))
        assert [name for name, *_ in words] == [name for name, *_ in meta["words"]]
    calls.clear()
    assert main(command) == 0 and not calls
    assert main([*command, "--rate", "50"]) == 2 and "100 frames a second" in capsys.readouterr().err
    assert main([*command, "--transcripts", "decoded"]) == 2
    assert "choose another --name" in capsys.readouterr().err


def test_the_labelled_part_keeps_its_text(tiny, pr, corpus, tmp_path):
    part = CorpusWriter(tmp_path / "part", "part", "CC0", {})
    rows = list(corpus.split("train").utterances())
    part.write_split("train", [Utterance(*row) for row in rows[::2]])
    part.finish(corpus.inventories)
    done = align_corpus(pr, corpus.directory, "mixed", labelled=tmp_path / "part", splits=["train"], device="cpu")
    found = AlignmentSet.open(corpus, "mixed")
    assert found.about["kind"] == "decoded" and found.about["labelled"][0]["utterances"] == 4
    assert [entry["corpus"] for entry in found.about["labelled"]] == ["part", Corpus.open(tiny / "pr").name]
    decoded = align_corpus(pr, corpus.directory, "heard", transcripts="decoded", splits=["train"], device="cpu")
    heard = AlignmentSet.open(corpus, "heard")
    assert heard.about["labelled"] == heard.about["teacher_labelled"] == found.about["teacher_labelled"]
    for number, (key, _, meta) in enumerate(rows):
        names = [None if row is None else [name for name, *_ in row if name != "SIL"] for row in
                 (found.rows("train")[number], heard.rows("train")[number])]  # fmt: skip
        assert (names[0] == said(meta)) if number % 2 == 0 else (names[0] == names[1] != said(meta)), key
    for lines, rows_of in ((done.lines, found), (decoded.lines, heard)):
        missing = sum(row is None for row in rows_of.rows("train"))
        assert f"train: {8 - missing} of 8 utterances aligned" in lines[0]
        assert any("nothing was heard" in line for line in lines) is bool(missing)
    # The text of its validation and test stays unread where it would be learned; that of a validation here may be read.
    writer = CorpusWriter(tmp_path / "judged", "judged", "CC0", {})
    writer.write_split("train", [Utterance(*rows[0])])
    writer.write_split(
        "test-clean", [Utterance(*rows[2]), *(Utterance(*row) for row in corpus.split("test").utterances())]
    )
    writer.finish(corpus.inventories)
    judged = align_corpus(pr, corpus.directory, "judged", labelled=tmp_path / "judged", device="cpu")
    one = AlignmentSet.open(corpus, "judged")
    assert one.rows("train")[0] == found.rows("train")[0] and one.rows("train")[2] == heard.rows("train")[2]
    assert one.about["labelled"][0]["utterances"] == 1 + sum(row is not None for row in one.rows("test"))
    assert any("decoded: 1 utterances of validation and test of judged" in line for line in judged.lines)
    with pytest.raises(UserError, match=r"'elsewhere' lasts .* so they are two recordings of one name"):
        writer = CorpusWriter(tmp_path / "same", "same", "CC0", {})
        writer.write_split("train", [Utterance("elsewhere", rows[0][1][:8000], rows[0][2])])
        writer.finish(corpus.inventories)
        align_corpus(pr, tmp_path / "same", "x", labelled=_other(tmp_path, rows[0]), device="cpu")
    with pytest.raises(UserError, match="none of its keys"):
        align_corpus(pr, tmp_path / "part", "x", labelled=tmp_path / "other", device="cpu")


def _other(tmp_path, row):
    writer = CorpusWriter(tmp_path / "other", "other", "CC0", {})
    writer.write_split("train", [Utterance("elsewhere", row[1], row[2])])
    writer.finish({})
    return tmp_path / "other"


def test_pseudo_labels_are_no_labels_of_people(tiny, pr, tmp_path):
    pseudo = pseudo_of(
        tiny / "pr", tmp_path / "pseudo", about={"labelled": [{"utterances": 3, "seconds": 9.0, "corpus": "few"}]}
    )
    align_corpus(pr, pseudo, "forced", device="cpu")
    about = AlignmentSet.open(Corpus.open(pseudo), "forced").about
    assert about["labelled"] == [{"utterances": 3, "seconds": 9.0, "corpus": "few"}, *about["teacher_labelled"]]


def test_letters_and_words(asr, corpus):
    done = align_corpus(asr, corpus.directory, "letters", splits=["test"], device="cpu")
    assert "boundaries of words" in done.lines[-1] and "right phone" not in done.lines[-1]
    found = AlignmentSet.open(corpus, "letters")
    for row, words, meta in zip(found.rows("test"), found.words("test"), corpus.split("test").metas(), strict=True):
        spelled = [word.upper() for word in meta["text"].split()]
        assert [name for name, *_ in row] == list("".join(f"{word}|" for word in spelled))
        assert [name for name, *_ in words] == spelled
    with pytest.raises(UserError, match="--realign"):
        align_corpus(asr, corpus.directory, "again", realign=True, device="cpu")


def test_what_cannot_be_aligned_is_counted_and_named(pr, corpus, tmp_path):
    rows = list(corpus.split("train").utterances())
    writer = CorpusWriter(tmp_path / "odd", "odd", "CC0", {})
    quick = {"phones": [["B"], ["AE"]] * 200}
    strange = {"phones": [["B"], ["QQ"]]}
    metas = {"good": rows[0][2], "quick": quick, "strange": strange, "silent": {}}
    writer.write_split("train", [Utterance(key, rows[0][1], meta) for key, meta in metas.items()])
    odd = writer.finish(corpus.inventories)
    lines = align_corpus(pr, odd.directory, "forced", device="cpu").lines
    assert "train: 1 of 4 utterances aligned" in lines[0]
    assert "1 utterance (quick): too few frames for its labels" in lines[1]
    assert "2 utterances (strange, silent): no transcript" in lines[1]
    failed = [json.loads(line) for line in (odd.directory / "alignments/forced/failed.jsonl").read_text().splitlines()]
    assert [row["key"] for row in failed] == ["quick", "strange", "silent"] and "'QQ'" in failed[1]["why"]
    assert [row is None for row in AlignmentSet.open(odd, "forced").rows("train")] == [False, True, True, True]
    nothing = CorpusWriter(tmp_path / "none", "none", "CC0", {})
    nothing.write_split("train", [Utterance("a", rows[0][1], {})])
    nothing.finish(corpus.inventories)
    with pytest.raises(UserError, match="none of 1 utterances could be aligned"):
        align_corpus(pr, tmp_path / "none", "forced", device="cpu")
    assert str(Unaligned("too short", "2")) == "too short (2)"


def test_a_second_round_keeps_the_phones(pr, corpus):
    lines = align_corpus(pr, corpus.directory, "twice", splits=["train"], realign=True, device="cpu").lines
    assert "8 of 8" in lines[0] and "right phone" in lines[-1]
    first, second = (AlignmentSet.open(corpus, name) for name in ("twice-first", "twice"))
    assert second.about["settings"]["realign"] and second.about["labelled"] == first.about["labelled"]
    moved = 0
    for meta, one, other, words in zip(
        corpus.split("train").metas(), first.rows("train"), second.rows("train"), second.words("train"), strict=True
    ):
        assert [name for name, *_ in other if name != "SIL"] == said(meta)
        assert [name for name, *_ in words] == [name for name, *_ in meta["words"]]
        moved += one != other
    assert moved


def test_a_lexicon_pronounces_the_text(pr, corpus, tmp_path):
    lexicon = tmp_path / "lexicon.txt"
    spoken: dict[str, str] = {}
    for meta in corpus.split("test").metas():
        for word, start, end in meta["words"]:
            phones = [name for name, begin, _ in meta["phones"] if start - 1e-3 <= begin < end - 1e-3 and name != "SIL"]
            if " " in word:  # the synthesiser says some pairs as one
                spoken |= {part: spoken.get(part, "B") for part in word.upper().split()}
            else:
                spoken[word.upper()] = " ".join(phones)
    lexicon.write_text(
        ";;; a comment\n" + "".join(f"{word} {phones}\n{word}(2) B\n" for word, phones in spoken.items())
    )
    align_corpus(pr, corpus.directory, "lexicon", splits=["test"], lexicon=lexicon, device="cpu")
    found = AlignmentSet.open(corpus, "lexicon")
    for row, words, meta in zip(found.rows("test"), found.words("test"), corpus.split("test").metas(), strict=True):
        assert [name for name, *_ in words] == " ".join(word.upper() for word, *_ in meta["words"]).split()
        names = {name for name, *_ in row} - {"SIL"}
        assert names <= {"B", *said(meta)} | {phone for phones in spoken.values() for phone in phones.split()}
    labels = ["<pad>", "<eos>", "<unk>", "AH", "B"]
    lexicon.write_text("A AH0\nA(2) AH1\nAB AH0 B\n")
    assert read_pronunciations(lexicon, labels) == {"A": [(3,)], "AB": [(3, 4)]}
    lexicon.write_text("A X\n")
    with pytest.raises(UserError, match="line 1: the head has no phone 'X'"):
        read_pronunciations(lexicon, labels)


def test_a_model_of_phones_decodes(pr, corpus, tmp_path):
    pytest.importorskip("flashlight.lib.text.decoder.kenlm")
    lm = tmp_path / "lm.arpa"
    assert main(["lm", str(corpus.directory), "--units", "phones", "--order", "2", "--out", str(lm)]) == 0
    done = align_corpus(pr, corpus.directory, "lm", transcripts="decoded", lm=lm, splits=["test"], device="cpu")
    assert AlignmentSet.open(corpus, "lm").about["settings"]["language_model"]["beam"] == 20 and done.lines
    words, lexicon = tmp_path / "words.arpa", tmp_path / "lexicon.txt"
    assert main(["lm", str(corpus.directory), "--order", "2", "--out", str(words)]) == 0
    lexicon.write_text("THE B AE\nTHE(2) AE\nAND AE B\n")
    options = {"transcripts": "decoded", "lm": words, "lexicon": lexicon, "splits": ["test"], "device": "cpu"}
    align_corpus(pr, corpus.directory, "words", **options)
    found = AlignmentSet.open(corpus, "words")
    heard = [row for row in found.words("test") if row]
    assert heard and {word.name for row in heard for word in row} <= {"THE", "AND"}
    assert {name for row in found.rows("test") if row for name, *_ in row} <= {"AE", "B", "SIL"}
    with pytest.raises(UserError, match="--lm: true transcripts are not decoded"):
        align_corpus(pr, corpus.directory, "x", lm=lm, device="cpu")


def test_files_of_another_aligner(corpus, tmp_path, capsys):
    key, _, meta = next(corpus.split("test").utterances())
    (tmp_path / "times.ctm").write_text(
        "".join(f"{key} 1 {start} {end - start:.4f} {phone}\n" for phone, start, end in meta["phones"])
    )
    command = ["align", "--from", "ctm", str(tmp_path / "times.ctm"), str(corpus.directory), "--name", "theirs"]
    assert main([*command, "--splits", "test"]) == 0
    assert "1 of 4 utterances aligned" in capsys.readouterr().out
    assert AlignmentSet.open(corpus, "theirs").about["kind"] == "ctm"
    assert main([*command, "--realign"]) == 2 and "--realign" in capsys.readouterr().err


def test_words_end_behind_their_last_letter():
    words = words_behind([0, 1, 2, 1], ["a", "b", "|"], "|")
    assert [(word.name, word.labels) for word in words] == [("ab", (0, 1, 2)), ("b", (1,))]
