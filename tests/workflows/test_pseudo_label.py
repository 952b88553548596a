"""`wavlm pseudo-label`: transcripts, scores, selection, records, interruption, and a student that is trained on them."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from itertools import groupby

import numpy as np
import pytest
import torch
import yaml

from wavlm_lightning.cli import main
from wavlm_lightning.data.corpus import Corpus, CorpusWriter
from wavlm_lightning.data.shards import Utterance
from wavlm_lightning.metrics.alignment import aligned
from wavlm_lightning.reports.cards import ResultCard
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks.components.beam_search import LanguageModel
from wavlm_lightning.workflows.predict.head import open_head
from wavlm_lightning.workflows.pseudo_label import Candidate, chosen, error_rate, pseudo_label
from wavlm_lightning.workflows.pseudo_label.hearing import Listener
from wavlm_lightning.workflows.pseudo_label.teacher import Teacher

CPU = ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]
FBANK = ["--model.upstream", "wavlm_lightning.upstreams.Fbank", "--model.upstream.cmvn", "false"]


@pytest.fixture(scope="module")
def teacher(tiny, tmp_path_factory):
    """A PR head on FBANK, trained on half of the tiny training split."""
    folder = tmp_path_factory.mktemp("teacher") / "pr"
    seconds = Corpus.open(tiny / "pr").split("train").seconds / 2
    options = ["--data.corpus", str(tiny / "pr"), "--data.train_seconds", f"{seconds:.1f}", "--data.cache", "null"]
    options += [
        "--trainer.max_steps",
        "40",
        "--trainer.val_check_interval",
        "20",
        "--trainer.default_root_dir",
        str(folder),
    ]
    options += ["--trainer.check_val_every_n_epoch", "null"]
    assert main(["fit", "-c", "configs/superb/mini/pr.yaml", *FBANK, *options, *CPU]) == 0
    return folder


def records(out):
    split = Corpus.open(out).split("train")
    return dict(zip(split.keys, split.metas(), strict=True))


def test_records_scores_truth_and_what_is_left_out(tiny, teacher, tmp_path, capsys):
    out = tmp_path / "pseudo"
    lines = pseudo_label(teacher, tiny / "pr", out, share=1.0, min_seconds=1.5, max_seconds=4.0)
    real, about = Corpus.open(tiny / "pr").split("train"), Corpus.open(out).body["source"]["pseudo_labels"]
    metas, true = records(out), dict(zip(real.keys, real.metas(), strict=True))
    samples = dict(zip(real.keys, real.samples.tolist(), strict=True))
    head = open_head(teacher, "cpu")
    labelled = head.task.trained["labelled"]
    assert 0 < labelled["utterances"] < len(real) and about["labelled"] == [labelled]
    left = about["left_out"]
    assert left["labelled"] == labelled["utterances"] and about["round"] == 1
    assert about["selected"] == len(metas) == about["usable"] and sum(left.values()) + len(metas) == len(real)
    assert all(1.5 * 16000 <= samples[key] <= 4 * 16000 for key in metas)
    # Each transcript, its scores and its errors, computed one utterance at a time.
    errors, units = 0, 0
    for key, meta in metas.items():
        number = real.keys.index(key)
        shard, place = real.locate(number)
        audio = torch.from_numpy(shard.waveform(place))[None]
        with torch.no_grad():
            outputs, lengths = head.task(type("Audio", (), {"audio": audio, "lengths": torch.tensor([audio.shape[1]])}))
        probabilities = outputs[0, : int(lengths[0])].softmax(-1)
        best, path = probabilities.max(-1)
        runs = [
            (s, [float(best[n]) for n, _ in group]) for s, group in groupby(enumerate(path.tolist()), lambda x: x[1])
        ]
        tokens = [(s, np.mean(values)) for s, values in runs if s > 2]
        assert [[head.task.labels[s]] for s, _ in tokens] == meta["phones"]
        source = meta["label_source"]
        assert source["kind"] == "pseudo" and source["teacher"] == about["teacher"]["sha256"]
        assert source["scores"]["confidence"] == pytest.approx(np.mean([value for _, value in tokens]), abs=1e-4)
        assert source["scores"]["fusion"] == pytest.approx(float(best.log().sum()) / len(tokens), abs=1e-3)
        assert {"frames", "low", "normalised"} <= source["scores"].keys()
        assert "text" not in meta and "words" not in meta and meta["speaker"] == true[key]["speaker"]
        spoken = [phone for phone, *_ in true[key]["phones"] if phone != "SIL"]
        found = aligned(spoken, [phone for (phone,) in meta["phones"]]).edits
        errors, units = errors + found.errors, units + found.units
    assert about["truth"]["all"] == about["truth"]["selected"] == pytest.approx(100 * errors / units, abs=1e-3)
    assert any(f"PER of the transcripts: {100 * errors / units:.2f} % selected" in line for line in lines)
    assert Corpus.open(out).inventories["phones"] == head.task.labels[3:]
    assert main(["data", "check", str(out)]) == 0
    # Where nothing is heard, all phones are missed; they have no score, and are in no tenth.
    (file,) = (out / "pseudo_labels").glob("train-*.jsonl")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    silent = next(row for row in rows if "text" in row)
    unheard = {"key": silent["key"], "why": "empty"}
    file.write_text("".join(json.dumps(unheard if row is silent else row) + "\n" for row in rows))
    lines = pseudo_label(teacher, tiny / "pr", out, share=1.0, min_seconds=1.5, max_seconds=4.0)
    truth, missed = Corpus.open(out).body["source"]["pseudo_labels"]["truth"], silent["units"]
    heard = [100 * (errors - silent["errors"]) / (units - missed), 100 * (errors - silent["errors"] + missed) / units]
    assert [truth["selected"], truth["all"]] == pytest.approx(heard, abs=1e-3)
    assert truth["units"] == units and truth["missed"] == missed
    assert any(f"{heard[1]:.2f} % all, with {missed:,} phones where nothing was heard" in line for line in lines)


def test_audio_is_linked_and_the_same(tiny, teacher, tmp_path):
    out = tmp_path / "pseudo"
    pseudo_label(teacher, tiny / "pr", out)
    real, split = Corpus.open(tiny / "pr").split("train"), Corpus.open(out).split("train")
    assert all(shard.path.is_symlink() for shard in split.shards)
    for number in range(len(split)):
        shard, place = split.locate(number)
        theirs, at = real.locate(real.keys.index(split.keys[number]))
        assert np.array_equal(shard.waveform(place), theirs.waveform(at))


def test_another_selection_hears_nothing_again(tiny, teacher, tmp_path, monkeypatch):
    out = tmp_path / "pseudo"
    pseudo_label(teacher, tiny / "pr", out, share=1.0)
    everything = records(out)
    before = Corpus.open(out).sha256
    monkeypatch.setattr(Teacher, "hear", lambda *_: pytest.fail("heard again"))
    for score in ("confidence", "low", "normalised"):
        pseudo_label(teacher, tiny / "pr", out, share=0.5, score=score)
        kept = records(out)
        ordered = sorted(everything, key=lambda key: (-everything[key]["label_source"]["scores"][score], key))
        assert set(kept) == set(ordered[: round(0.5 * len(ordered))])
    limit = sorted(meta["label_source"]["scores"]["low"] for meta in everything.values())[3]
    pseudo_label(teacher, tiny / "pr", out, threshold=limit, score="low")
    assert len(records(out)) == len(everything) - 3 and Corpus.open(out).sha256 != before
    with pytest.raises(UserError, match="no transcript is selected of"):
        pseudo_label(teacher, tiny / "pr", out, threshold=1.1)


def test_interrupted_it_goes_on_and_the_result_is_the_same(tiny, teacher, tmp_path, monkeypatch):
    splits = ["train", "more"]
    corpus = tmp_path / "two"
    shutil.copytree(tiny / "pr", corpus)
    body = json.loads((corpus / "corpus.json").read_text())
    body["splits"]["more"] = body["splits"]["valid"]  # a second shard to hear
    (corpus / "corpus.json").write_text(json.dumps(body))
    whole, out = tmp_path / "whole", tmp_path / "out"
    pseudo_label(teacher, corpus, whole, splits=splits)
    calls, write = [], Listener.__call__

    def killed(self, place):
        calls.append(place[:2])
        if len(calls) == 2:
            raise KeyboardInterrupt
        return write(self, place)

    monkeypatch.setattr(Listener, "__call__", killed)
    with pytest.raises(KeyboardInterrupt):
        pseudo_label(teacher, corpus, out, splits=splits)
    assert not (out / "corpus.json").exists()
    pseudo_label(teacher, corpus, out, splits=splits)
    assert calls == [("train", 0), ("more", 0), ("more", 0)]
    for name in ("corpus.json", "train-000000.index.json", "more-000000.index.json"):
        assert (out / name).read_bytes() == (whole / name).read_bytes()
    # In parts, and then all of it.
    parts = tmp_path / "parts"
    for part in ("2/2", "1/2"):
        pseudo_label(teacher, corpus, parts, splits=splits, part=part)
    pseudo_label(teacher, corpus, parts, splits=splits)
    assert (parts / "corpus.json").read_bytes() == (whole / "corpus.json").read_bytes()


def part_of(corpus, folder, name, parts):
    """A corpus of some utterances of a split: split of the new corpus -> which."""
    rows = list(Corpus.open(corpus).split("train").utterances())
    writer = CorpusWriter(folder, name, "CC0", {})
    for split, which in parts.items():
        writer.write_split(split, [Utterance(*row) for row in rows[which]])
    return writer.finish(Corpus.open(corpus).inventories)


def test_what_other_corpora_have_is_left_out(tiny, teacher, tmp_path, capsys):
    """The student hears it with its true text, or is judged by it."""
    out, command = tmp_path / "out", ["pseudo-label", str(teacher), str(tiny / "pr"), "--share", "1", "--device", "cpu"]
    assert main([*command, "--out", str(out)]) == 0
    before, known = set(records(out)), Corpus.open(out).body["source"]["pseudo_labels"]["left_out"]["labelled"]
    real = Corpus.open(tiny / "pr").split("train")
    other = part_of(tiny / "pr", tmp_path / "other", "other", {"train": slice(-3, -1), "test": slice(-1, None)})
    gone = {key for split in other.splits for key in other.split(split).keys}
    assert gone & before, "some of them are not the teacher's"
    capsys.readouterr()
    assert main([*command, "--out", str(out), "--exclude", str(other.directory), str(tiny / "ks")]) == 0
    printed = capsys.readouterr().out
    assert "excluded: 3 utterances that other has" in printed
    assert f"excluded: 0 utterances that {Corpus.open(tiny / 'ks').name} has" in printed
    assert set(records(out)) == before - gone
    about = Corpus.open(out).body["source"]["pseudo_labels"]
    assert about["left_out"]["excluded"] == len(gone & before) and about["left_out"]["labelled"] == known
    assert sum(about["left_out"].values()) + len(before - gone) == len(real)
    with pytest.raises(UserError, match=r"--exclude .* is the corpus that is transcribed"):
        pseudo_label(teacher, tiny / "pr", out, exclude=[tiny / "pr"])
    with pytest.raises(UserError, match=r"--out .* is the corpus that is transcribed"):
        pseudo_label(teacher, out, out)


def test_a_teacher_whose_corpus_is_gone(tiny, teacher, tmp_path):
    """Nobody knows what it has learned from, unless the user says it."""
    run = shutil.copytree(teacher, tmp_path / "run")
    config = run / "config.yaml"
    config.write_text(config.read_text().replace(str(tiny / "pr"), str(tmp_path / "gone")))
    with pytest.raises(
        UserError, match=r"its corpus .*gone is not there, so that its labelled utterances cannot be left"
    ):
        pseudo_label(run, tiny / "pr", tmp_path / "out")
    lines = pseudo_label(run, tiny / "ks", tmp_path / "ks", min_seconds=0)
    assert any("the corpus of the teacher" in line and "nothing was left out because of it" in line for line in lines)


def test_the_transcripts_of_another_teacher_are_no_truth(tiny, teacher, tmp_path):
    pseudo_label(teacher, tiny / "pr", tmp_path / "first", share=1.0)
    lines = pseudo_label(teacher, tmp_path / "first", tmp_path / "second", share=1.0)
    assert "truth" not in Corpus.open(tmp_path / "second").body["source"]["pseudo_labels"]
    assert not any("of the transcripts" in line for line in lines)


def test_what_the_teacher_was_judged_by_is_held_out(tiny, teacher, tmp_path):
    """Whatever the split is called."""
    corpus, run = shutil.copytree(tiny / "pr", tmp_path / "corpus"), shutil.copytree(teacher, tmp_path / "run")
    body = json.loads((corpus / "corpus.json").read_text())
    body["splits"]["later"] = body["splits"].pop("valid")
    (corpus / "corpus.json").write_text(json.dumps(body))
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["data"]["init_args"] |= {"corpus": str(corpus), "valid_split": "later"}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(UserError, match="--splits later: pseudo-labels are for training"):
        pseudo_label(run, corpus, tmp_path / "out", splits=["later"])


def test_ties_and_rates():
    rows = [Candidate("train", 0, n, key, "A", {"low": value}, 1, e, 4) for n, (key, value, e) in enumerate(
        [("d", 0.5, 1), ("b", 0.5, 2), ("c", 0.9, None), ("a", 0.5, 0)]
    )]  # fmt: skip
    ordered, best = chosen(rows, "low", 0.5, None)
    assert [each.key for each in ordered] == ["c", "a", "b", "d"] and [each.key for each in best] == ["c", "a"]
    assert chosen(rows[::-1], "low", 0.5, None) == (ordered, best)
    assert [each.key for each in chosen(rows, "low", None, 0.5)[1]] == ["c", "a", "b", "d"]
    assert error_rate(rows) == 25.0 and error_rate([rows[2]]) is None and chosen([], "low", None, None) == ([], [])


def test_what_is_refused(tiny, teacher, tmp_path, capsys):
    for options, match in (
        ({"score": "luck"}, "--score luck"),
        ({"share": 0.5, "threshold": 0.1}, "--share and --threshold both choose"),
        ({"share": 1.5}, "--share 1.5"),
        ({"min_seconds": 3, "max_seconds": 2}, "--min-seconds 3 and --max-seconds 2"),
        ({"splits": ["valid"]}, "--splits valid: pseudo-labels are for training"),
        ({"splits": ["test"]}, "--splits test: pseudo-labels are for training"),
        ({"lm": tmp_path / "none.arpa"}, "no such file; make one with `wavlm lm"),
    ):
        with pytest.raises(UserError, match=match):
            pseudo_label(teacher, tiny / "pr", tmp_path / "out", **options)
    copied = shutil.copytree(tiny / "ks", tmp_path / "ks")
    with pytest.raises(UserError, match="holds another corpus; choose another --out"):
        pseudo_label(teacher, tiny / "pr", copied)
    louder = shutil.copytree(tiny / "pr", tmp_path / "louder")
    body = json.loads((louder / "corpus.json").read_text())
    body["source"]["gain_db"] = -3.0
    (louder / "corpus.json").write_text(json.dumps(body))
    with pytest.raises(UserError, match="its audio was prepared with"):
        pseudo_label(teacher, louder, tmp_path / "out")
    assert main(["pseudo-label", str(tiny / "pr"), str(tiny / "pr"), "--out", str(tmp_path / "x")]) == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.slow  # two trainings
def test_a_student_teaches_the_next_one(tiny, teacher, tmp_path, capsys):
    out, run = tmp_path / "pseudo1", tmp_path / "student"
    assert (
        main(["pseudo-label", str(teacher), str(tiny / "pr"), "--out", str(out), "--share", "0.8", "--device", "cpu"])
        == 0
    )
    assert "PER by tenths" in capsys.readouterr().out
    options = ["--data.corpus", str(tiny / "pr"), "--data.pseudo_corpus", str(out), "--data.pseudo_share", "0.6"]
    options += ["--data.train_seconds", "20", "--data.cache", "null", "--trainer.max_steps", "6"]
    options += ["--trainer.val_check_interval", "3", "--trainer.check_val_every_n_epoch", "null"]
    options += ["--trainer.default_root_dir", str(run)]
    assert main(["fit", "-c", "configs/superb/mini/pr.yaml", *FBANK, *options, *CPU]) == 0
    assert main(["test", str(run), *CPU]) == 0
    card = ResultCard.read(run)
    chosen_ones = Corpus.open(out).split("train")
    assert card.labelled["seconds"] <= 20 and card.labelled["corpus"] == Corpus.open(tiny / "pr").name
    assert card.pseudo_labelled["utterances"] == len(chosen_ones) and card.pseudo_labelled["round"] == 1
    assert card.pseudo_labelled["share"] == 0.6 and "labelled" not in card.upstream, "a frozen FBANK has seen no label"
    assert main(["report", str(run), "-o", str(tmp_path / "report")]) == 0
    page = (tmp_path / "report" / "report.md").read_text()
    assert "pseudo-labels" in page and "round 1, 60 % of the audio" in page
    second = tmp_path / "pseudo2"
    pseudo_label(run, tiny / "pr", second, share=1.0)
    about = Corpus.open(second).body["source"]["pseudo_labels"]
    (first,) = Corpus.open(out).body["source"]["pseudo_labels"]["labelled"]
    assert about["round"] == 2 and about["labelled"] == [max(card.labelled, first, key=lambda entry: entry["seconds"])]
    assert Counter(meta["label_source"]["round"] for meta in records(second).values()).keys() == {2}


def test_a_beam_search_has_the_weights_of_the_run(tiny, teacher, tmp_path):
    pytest.importorskip("flashlight.lib.text.decoder.kenlm")
    lm = tmp_path / "phones.arpa"
    assert main(["lm", str(tiny / "pr"), "--units", "phones", "--order", "2", "--out", str(lm)]) == 0
    out = tmp_path / "pseudo"
    lines = pseudo_label(teacher, tiny / "pr", out, share=1.0, lm=lm)
    assert any("beam search, default weights" in line for line in lines)
    decoder = Corpus.open(out).body["source"]["pseudo_labels"]["decoder"]
    assert decoder["kind"] == "beam search" and len(decoder["model_sha256"]) == 64 and decoder["weight"] == 2.0
    head = open_head(teacher, "cpu")
    search = head.task.search_with(LanguageModel(None, str(lm)))
    split = Corpus.open(tiny / "pr").split("train")
    key, meta = next(iter(records(out).items()))
    shard, place = split.locate(split.keys.index(key))
    audio = torch.from_numpy(shard.waveform(place))[None]
    with torch.no_grad():
        outputs, lengths = head.task(type("Audio", (), {"audio": audio, "lengths": torch.tensor([audio.shape[1]])}))
    emissions = search.emissions(outputs[0, : int(lengths[0])])
    best, path = search.search_row(emissions)[0], search.best_path(emissions)
    assert best.text == path.text == " ".join(phone for (phone,) in meta["phones"])
    assert path.score == best.score and len(path.symbols) == int(lengths[0])
    assert float(emissions[range(len(emissions)), path.symbols].sum()) == pytest.approx(path.acoustic, abs=1e-3)
    assert meta["label_source"]["scores"]["fusion"] == pytest.approx(
        best.score / meta["label_source"]["tokens"], abs=1e-3
    )
    run = shutil.copytree(teacher, tmp_path / "tuned")
    (run / "language_model.yaml").write_text(f"model: {lm}\nweight: 0.5\nsearched: {{model_sha256: {'0' * 64}}}\n")
    with pytest.raises(UserError, match="were searched with another file"):
        pseudo_label(run, tiny / "pr", tmp_path / "other", lm=lm)
