"""Recipes whose labels come from a model that saw a few labels: their commands, their cost, their mistakes, and whole runs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from string import ascii_uppercase
from typing import Any

import pytest
import yaml

from wavlm_lightning.cli import main
from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.encoder import WavLMConfig
from wavlm_lightning.pretraining.flops import encoder_flops
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.workflows.plan import fine_tuning_plans, plan
from wavlm_lightning.workflows.plan.costs import totals
from wavlm_lightning.workflows.plan.labels import BEAM_RATE, UTTERANCE_SECONDS
from wavlm_lightning.workflows.recipe import run as recipe_run
from wavlm_lightning.workflows.recipe.chain import chain, fine_tunings
from wavlm_lightning.workflows.recipe.checks import check_language_models
from wavlm_lightning.workflows.recipe.stages import RecipeRun, continued_from, with_codebook

SMALL = {"conv_channels": [16] * 7, "dim": 32, "ffn_dim": 32, "layers": 2, "heads": 2, "pos_conv_groups": 2}
TRAINER = {"accelerator": "cpu", "max_steps": 3, "val_check_interval": 2, "check_val_every_n_epoch": None}
LM = {"order": 2, "units": "phones", "trials": 3}
STUDENT = {"config": "again.yaml", "pseudo_labels": {"teacher": "words", "share": 0.5, "pseudo_share": 0.6}}
RECIPES: dict[str, dict[str, Any]] = {
    "ctc": {
        "codebook": {"encoder": "first.yaml", "teacher": {"config": "words.yaml"}, "layer": "auto", "clusters": 12}
    },
    "phones": {
        "codebook": {"kind": "phones", "encoder": "first.yaml", "teacher": {"config": "pr.yaml"}, "language_model": LM}
    },
}
RECIPES["student"] = {"codebook": {**RECIPES["phones"]["codebook"], "language_model": None}}  # greedy


def task(folder: Path, name: str, head: str, corpus: Path | str, **more: object) -> None:
    """The configuration of a recogniser with a trained encoder."""
    upstream = {"source": "random:tiny", "frozen": False, "fine_tuning": {"from_update": 1}}
    arguments = {
        "upstream": {"class_path": "wavlm_lightning.upstreams.WavLMUpstream", "init_args": upstream},
        "learning_rate": 1e-6,  # as good as random, whose greedy answers are never empty
        "protocol": "fixed",
    }
    data = {"corpus": str(corpus), "batch_size": 8, **more}
    content = {
        "model": {"class_path": f"wavlm_lightning.tasks.{head}", "init_args": arguments},
        "data": {"class_path": "wavlm_lightning.tasks.TaskData", "init_args": data},
        "trainer": TRAINER,
    }
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(content))


def pretraining(folder: Path, name: str, recipe: dict[str, Any], **arguments: Any) -> Path:
    """The configuration of a pre-training."""
    model = {
        "encoder": "tiny",
        "encoder_overrides": SMALL,
        "objectives": [{"class_path": "wavlm_lightning.pretraining.MaskedPrediction"}],
    }
    data = {"corpus": "nowhere", "labels": None, "batch_seconds": 10.0, "max_seconds": 2.5}
    content = {
        "recipe": {"hours": 0.02, **recipe},
        "model": {"class_path": "wavlm_lightning.pretraining.WavLMPretraining", "init_args": model},
        "data": {"class_path": "wavlm_lightning.pretraining.PretrainingData", "init_args": data | arguments},
        "trainer": TRAINER,
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def recipe_in(folder: Path, name: str, labelled: Path | str = "nowhere") -> Path:
    """One of `RECIPES`, whose chain begins with MFCC and which ends with a recogniser."""
    task(folder, "words", "FineTunedRecognition", labelled)
    task(folder, "again", "FineTunedRecognition", labelled, train_seconds=60.0)
    task(folder, "pr", "PhonemeRecognition", labelled)
    pretraining(folder, "first", {"codebook": {"clusters": 8, "restarts": 1}})
    later = [{"config": "words.yaml", "utterance_seconds": 2.0}]
    if name == "student":
        later.append({**STUDENT, "utterance_seconds": 2.0})
    return pretraining(folder, name, {**RECIPES[name], "fine_tuning": later})


def commands(recipe: Path | str, folder: Path, encoder: str | None = None, **options: Any) -> dict[str, list[str]]:
    """The commands of a recipe by the names of their stages."""
    configurations = chain(str(recipe))
    if encoder is not None:
        configurations = continued_from(configurations, encoder)
    run = RecipeRun(configurations, Path("unlabelled"), folder / "out", labelled=Path("labelled"), **options)
    return {stage.name: stage.words() for stage in run.stages}


def value(words: list[str], option: str) -> str:
    return words[words.index(option) + 1]


def test_ctc_clustering_clusters_what_the_labels_taught(tmp_path):
    stages = commands(recipe_in(tmp_path, "ctc"), tmp_path)
    name, out = "words-of-first-auto-k12", tmp_path / "out"
    assert list(stages) == [
        *("codebook/mfcc-k8", "labels/mfcc-k8", "fit/first"),
        *("fit/words-of-first", "test/words-of-first", f"codebook/{name}", f"labels/{name}"),
        *("fit/ctc", "export", "fit/words", "test/words"),
    ]
    assert value(stages["fit/words-of-first"], "--model.upstream.source") == str(out / "first")
    assert value(stages["fit/words"], "--model.upstream.source") == str(out / "encoder")
    for each in ("fit/words-of-first", "test/words-of-first", "fit/words", "test/words"):
        assert value(stages[each], "--data.corpus") == "labelled"
    assert value(stages[f"codebook/{name}"], "--encoder") == str(out / "words-of-first")
    assert stages[f"codebook/{name}"][2] == value(stages["fit/ctc"], "--data.corpus") == "unlabelled"
    assert value(stages["fit/ctc"], "--data.labels") == name


def test_phones_are_aligned_decoded_and_become_labels(tmp_path):
    stages = commands(recipe_in(tmp_path, "phones"), tmp_path)
    name, out = "pr-of-first-phones", tmp_path / "out"
    order = ["fit/pr-of-first", "test/pr-of-first", "lm/pr-of-first", "tune/pr-of-first", f"align/{name}"]
    assert list(stages)[3:11] == [*order, f"codebook/{name}", f"labels/{name}", "fit/phones"]
    lm = str(out / "lm" / "pr-of-first.arpa")
    assert stages["lm/pr-of-first"] == ["lm", "labelled", "--units", "phones", "--order", "2", "--out", lm]
    task(tmp_path, "pr", "PhonemeRecognition", "nowhere", train_split="small")
    assert commands(tmp_path / "phones.yaml", tmp_path)["lm/pr-of-first"][-2:] == ["--split", "small"]
    run = str(out / "pr-of-first")
    assert stages["tune/pr-of-first"] == ["lm", "tune", run, "--lm", lm, "--trials", "3"]
    align = ["align", run, "unlabelled", "--name", name, "--labelled", "labelled", "--transcripts", "decoded"]
    assert stages[f"align/{name}"] == [*align, "--lm", f"{run}/language_model.yaml"]
    book = str(out / "codebooks" / name)
    phones = ["codebook", "phones", "unlabelled", "--alignments", name, "--rate", "50", "--stress", "keep"]
    assert stages[f"codebook/{name}"] == [*phones, "--unaligned", "leave-out", "--out", book]
    assert stages[f"labels/{name}"] == ["codebook", "apply", book, "unlabelled", "--name", name]
    assert value(stages["fit/phones"], "--data.labels") == name


def test_a_student_learns_from_transcripts_of_its_teacher(tmp_path):
    stages, out = commands(recipe_in(tmp_path, "student"), tmp_path), tmp_path / "out"
    assert list(stages)[-5:] == ["fit/words", "test/words", "pseudo/again", "fit/again", "test/again"]
    pseudo = str(out / "pseudo" / "again")
    wanted = ["pseudo-label", str(out / "words"), "unlabelled", "--out", pseudo, "--share", "0.5"]
    assert stages["pseudo/again"] == [*wanted, "--exclude", "labelled"]  # heard with its true text
    same = commands(
        tmp_path / "student.yaml", tmp_path, corpus_of={"words": Path("unlabelled"), "again": Path("unlabelled")}
    )
    assert same["pseudo/again"] == wanted  # the command itself finds what the teacher has learned from
    fit = stages["fit/again"]
    assert (value(fit, "--data.corpus"), value(fit, "--data.pseudo_corpus")) == ("labelled", pseudo)
    assert value(fit, "--data.pseudo_share") == "0.6"
    assert value(fit, "--data.train_seconds") == "null"  # its configuration has 60, its teacher saw all
    # It begins with the pre-trained encoder, not with its teacher.
    assert value(fit, "--model.upstream.source") == str(out / "encoder") and "--model.start_from" not in fit


def test_a_second_round_sees_the_labels_of_the_first_teacher(tmp_path):
    """The configuration of the first student has 60 s, but it was trained on all."""
    recipe = recipe_in(tmp_path, "student")
    task(tmp_path, "third", "FineTunedRecognition", "nowhere", train_seconds=60.0)
    content = yaml.safe_load(recipe.read_text())
    content["recipe"]["fine_tuning"].append({"config": "third.yaml", "pseudo_labels": {"teacher": "again"}})
    recipe.write_text(yaml.safe_dump(content))
    stages = commands(recipe, tmp_path)
    assert stages["pseudo/third"][1] == str(tmp_path / "out" / "again")
    assert [value(stages[f"fit/{name}"], "--data.train_seconds") for name in ("again", "third")] == ["null", "null"]


def test_rounds_of_students(tmp_path):
    """`rounds` gives the commands of further entries, and the hash of the settings stays that of an older version."""
    recipe, out = recipe_in(tmp_path, "student"), tmp_path / "out"
    one = fine_tunings(chain(str(recipe))[-1])
    text = recipe.read_text()
    recipe.write_text(text.replace("share: 0.5", "share: 0.5\n      rounds: 3\n      later_share: 0.9"))
    stages = commands(recipe, tmp_path, corpus_of={"again": Path("elsewhere")})
    assert [name for name in stages if name.startswith("pseudo/")] == [
        *("pseudo/again", "pseudo/again-round2", "pseudo/again-round3")
    ]
    taught = {name: (value(words, "--share"), words[1]) for name, words in stages.items() if name.startswith("pseudo/")}
    assert taught["pseudo/again"] == ("0.5", str(out / "words"))
    assert taught["pseudo/again-round2"] == ("0.9", str(out / "again"))
    assert taught["pseudo/again-round3"] == ("0.9", str(out / "again-round2"))
    last = stages["fit/again-round3"]
    assert value(last, "--data.pseudo_corpus") == str(out / "pseudo" / "again-round3")
    assert value(last, "--data.corpus") == "elsewhere" and value(last, "--model.upstream.source") == str(
        out / "encoder"
    )
    assert [each.name for each in fine_tuning_plans(str(recipe))] == ["words", "again", "again-round2", "again-round3"]
    assert recipe_run._how(fine_tunings(chain(str(recipe))[-1])[1].recipe) == recipe_run._how(one[1].recipe)
    assert set(recipe_run._how(one[1].recipe)[-1]) == {"teacher", "share", "language_model", "pseudo_share"}


def test_an_encoder_that_is_there_takes_the_place_of_the_first_iteration(tmp_path):
    stages = commands(recipe_in(tmp_path, "ctc"), tmp_path, "weights/base.pt")
    assert list(stages)[:3] == ["fit/words-of-base", "test/words-of-base", "codebook/words-of-base-auto-k12"]
    assert value(stages["fit/words-of-base"], "--model.upstream.source") == "weights/base.pt"
    assert not any("first" in word for words in stages.values() for word in words)


def test_two_corpora_of_labels(tmp_path):
    """`--corpus-of` goes before `--labelled`."""
    stages = commands(recipe_in(tmp_path, "phones"), tmp_path, corpus_of={"pr": Path("other")})
    assert value(stages["fit/pr-of-first"], "--data.corpus") == value(stages["align/pr-of-first-phones"], "--labelled")
    assert value(stages["fit/pr-of-first"], "--data.corpus") == "other"
    assert value(stages["fit/words"], "--data.corpus") == "labelled"


def test_the_cost_counts_teachers_alignments_and_transcripts(tmp_path):
    recipe = recipe_in(tmp_path, "student")
    content = yaml.safe_load(recipe.read_text())
    content["recipe"]["codebook"]["teacher"]["utterance_seconds"] = 2.0
    content["recipe"]["codebook"]["language_model"] = LM
    content["recipe"]["fine_tuning"][1]["pseudo_labels"]["language_model"] = {"order": 3}
    recipe.write_text(yaml.safe_dump(content))
    first, last = plan(str(recipe))
    words, student = fine_tuning_plans(str(recipe))
    config = WavLMConfig.preset("tiny", **SMALL)
    pass_flops = encoder_flops(config, 0.02 * 3600 / UTTERANCE_SECONDS, round(16_000 * UTTERANCE_SECONDS)).forward
    assert first.labelling and last.labelling and last.teacher and student.decoding
    assert first.teacher is None and (last.teacher.name, last.teacher.updates) == ("pr", 3)
    assert last.labelling.flops == pytest.approx(pass_flops) and last.labelling.clusters is None
    assert last.labelling.cpu_hours == pytest.approx(0.02 * 3600 / BEAM_RATE / 3600)
    assert words.decoding is None and student.decoding.flops == pytest.approx(pass_flops)
    runs = first.training.flops + last.training.flops + last.teacher.flops + words.flops + student.flops
    total = totals([first, last], [words, student])
    assert total["flops"] == pytest.approx(runs + 2 * pass_flops)
    assert total["cpu_hours"] == pytest.approx(first.labelling.cpu_hours + 2 * last.labelling.cpu_hours)


def test_short_names_and_options_for_other_recipes(tmp_path):
    assert [stage.name for stage in chain("pbert")] == ["hubert_base_it1", "pbert_base"]
    with pytest.raises(UserError, match=r"--labelled: this recipe makes no labels by a teacher"):
        commands("tiny", tmp_path)
    with pytest.raises(UserError, match=r"--layer: the labels of phones are phones, not clusters"):
        with_codebook(chain(str(recipe_in(tmp_path, "phones"))), layer=2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "phones", "clusters": None}, r"kind: phones needs a teacher that aligns and decodes"),
        ({"kind": "phones", "teacher": {"config": "words.yaml"}}, r"needs an encoder or a checkpoint"),
        ({"teacher": {"config": "words.yaml"}}, r"recipe\.codebook\.teacher needs an encoder or a checkpoint"),
        ({"language_model": LM}, r"language_model is for kind: phones"),
        ({"positions": True}, r"positions is for kind: phones"),
        (
            {"kind": "phones", "encoder": "first.yaml", "teacher": {"config": "words.yaml"}},
            r"recipe\.codebook\.clusters is for k-means",
        ),
        (
            {
                "kind": "phones",
                "encoder": "first.yaml",
                "teacher": {"config": "words.yaml"},
                "clusters": None,
                "rate": 25,
            },
            r"rate must be 50 or 100, not 25",
        ),
        (
            {
                "kind": "phones",
                "encoder": "first.yaml",
                "teacher": {"config": "pr.yaml"},
                "clusters": None,
                "share": 0.1,
            },
            r"share is for k-means",
        ),
        ({"rate": 100}, r"rate is for kind: phones"),
        (
            {"encoder": "first.yaml", "layer": 1, "level_normalised": True},
            r"level_normalised is for labels without an encoder",
        ),
        ({"kind": "phone"}, r"recipe\.codebook"),
        ({"layer": "best"}, r"recipe\.codebook"),
    ],
)
def test_mistakes_of_labels_are_said_in_a_sentence_with_the_file(tmp_path, changes, message):
    recipe_in(tmp_path, "ctc")
    path = pretraining(tmp_path, "wrong", {"codebook": {"clusters": 8, **changes}})
    with pytest.raises(UserError, match=message) as raised:
        chain(str(path))
    assert "wrong.yaml" in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"pseudo_labels": {"teacher": "again"}},
            r"again learns from 'again'; name one that comes before it \(words\)",
        ),
        (
            {"pseudo_labels": {"teacher": "words", "share": 1.5}},
            r"pseudo_labels\.share of again must lie between 0 and 1",
        ),
        ({"folds": 2}, r"again has folds, for which there are no pseudo-labels"),
    ],
)
def test_mistakes_of_students(tmp_path, change, message):
    recipe = recipe_in(tmp_path, "student")
    content = yaml.safe_load(recipe.read_text())
    content["recipe"]["fine_tuning"][1].update(change)
    recipe.write_text(yaml.safe_dump(content))
    with pytest.raises(UserError, match=message):
        fine_tuning_plans(str(recipe))


def test_what_is_aligned_is_what_the_teacher_has_seen(tmp_path):
    recipe = recipe_in(tmp_path, "phones")
    task(tmp_path, "pr", "PhonemeRecognition", "nowhere", train_seconds=60.0)
    with pytest.raises(UserError, match=r"pr trains on 60 s of its corpus, but its transcripts are aligned from all"):
        commands(recipe, tmp_path)


def test_language_models_of_students(tmp_path):
    """The weights of a teacher's language model are one file, and what it is counted from are the labels that it has seen."""
    recipe = recipe_in(tmp_path, "student")
    content = yaml.safe_load(recipe.read_text())
    words, again = content["recipe"]["fine_tuning"]
    task(tmp_path, "third", "FineTunedRecognition", "nowhere")

    def given(model: dict[str, Any], other: dict[str, Any]) -> Path:
        students = [
            {**again, "pseudo_labels": {"teacher": "words", "language_model": model}},
            {**again, "config": "third.yaml", "pseudo_labels": {"teacher": "words", "language_model": other}},
        ]
        content["recipe"]["fine_tuning"] = [words, *students]
        recipe.write_text(yaml.safe_dump(content))
        return recipe

    assert len(fine_tuning_plans(str(given({"order": 3}, {"order": 3})))) == 3
    assert len(fine_tuning_plans(str(given({"order": 3}, {"order": 2, "trials": 0})))) == 3
    with pytest.raises(UserError, match=r"third and again learn from 'words' with two language models"):
        fine_tuning_plans(str(given({"order": 3}, {"order": 2})))
    task(tmp_path, "words", "FineTunedRecognition", "nowhere", train_seconds=60.0)
    with pytest.raises(
        UserError, match=r"words trains on 60 s of its corpus, but the language model of again is counted"
    ):
        fine_tuning_plans(str(recipe))


def test_a_teacher_is_no_fine_tuning_after_the_export(tmp_path):
    recipe = recipe_in(tmp_path, "ctc")
    recipe.write_text(recipe.read_text().replace("config: words.yaml\n", "config: words.yaml\n      folds: 2\n", 1))
    with pytest.raises(UserError, match=r"recipe\.codebook\.teacher: folds belongs to recipe\.fine_tuning"):
        plan(str(recipe))


def test_a_language_model_that_is_missing_is_said_before_anything_runs(tmp_path):
    recipe = recipe_in(tmp_path, "phones")
    check_language_models(RecipeRun(chain(str(recipe)), Path("unlabelled"), tmp_path / "out"))
    recipe.write_text(recipe.read_text().replace("order: 2", "file: nowhere.arpa"))
    with pytest.raises(UserError, match=r"language_model\.file nowhere\.arpa does not exist"):
        check_language_models(RecipeRun(chain(str(recipe)), Path("unlabelled"), tmp_path / "out"))


@pytest.mark.slow
def test_other_labels_are_other_settings(tmp_path, tiny, monkeypatch, capsys):
    """The teacher's configuration and its corpus decide the weights."""
    recipe, out = recipe_in(tmp_path, "ctc"), tmp_path / "out"
    corpus = shutil.copytree(tiny / "pretrain", tmp_path / "corpus", ignore=shutil.ignore_patterns("labels"))
    monkeypatch.setattr(recipe_run, "wavlm", lambda *words: None)
    command = ["recipe", str(recipe), "--corpus", str(corpus), "--out", str(out), "--until", "fit/first"]
    assert main([*command, "--labelled", str(tiny / "pr")]) == 0
    assert set(json.loads((out / "recipe.json").read_text())["settings"]["teachers"]) == {"words"}
    assert main([*command, "--labelled", str(tiny / "ks")]) == 2
    assert "teachers: " in capsys.readouterr().err
    task(tmp_path, "words", "PhonemeRecognition", "nowhere")
    assert main([*command, "--labelled", str(tiny / "pr")]) == 2


@pytest.mark.slow
def test_changed_corpora_of_fine_tuning_are_noticed(tmp_path, tiny, monkeypatch, capsys):
    """The labelled corpus, and the pseudo-labels that a stage has made; a folder of an older version has no hashes of them."""
    recipe, out = recipe_in(tmp_path, "student"), tmp_path / "out"
    corpus = shutil.copytree(tiny / "pretrain", tmp_path / "corpus", ignore=shutil.ignore_patterns("labels"))
    labelled = shutil.copytree(tiny / "pr", tmp_path / "labelled")
    other = tmp_path / "other"
    shutil.copytree(tiny / "ks", other)

    def wavlm(*words: str) -> None:
        if words[0] == "pseudo-label":
            shutil.copytree(tiny / "er", value(list(words), "--out"))

    monkeypatch.setattr(recipe_run, "wavlm", wavlm)
    command = ["recipe", str(recipe), "--corpus", str(corpus), "--out", str(out)]
    # The teacher of the labels has a corpus of its own, which is a setting.
    ours = [*command, "--corpus-of", f"pr={tiny / 'pr'}"]
    given = [*ours, "--labelled", str(labelled)]
    assert main([*given, "--until", "fit/again"]) == 0
    ledger = json.loads((out / "recipe.json").read_text())
    two = {"the labelled corpus", "the pseudo-labelled corpus"}
    assert ledger["facts"]["fit/again"].keys() == two
    capsys.readouterr()
    assert main([*ours, "--labelled", str(other), "--dry-run"]) == 2
    assert "the labelled corpus has changed since the stage fit/words" in capsys.readouterr().err
    pseudo = out / "pseudo" / "again"
    shutil.rmtree(pseudo)
    shutil.copytree(tiny / "ks", pseudo)
    assert main(given) == 2
    assert "the pseudo-labelled corpus has changed since the stage pseudo/again" in capsys.readouterr().err
    del ledger["facts"]
    (out / "recipe.json").write_text(json.dumps(ledger))
    assert main(given) == 0
    written = json.loads((out / "recipe.json").read_text())
    assert written["facts"].keys() == set(written["done"]) and written["facts"]["fit/again"].keys() == two


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("name", RECIPES)
def test_interrupted_in_every_stage_it_goes_on(name, tmp_path, tiny, monkeypatch):
    """Each stage is interrupted before it does anything, and again after it wrote everything but is not noted as done.

    `phones` pre-trains on the labelled speech, which is aligned with its transcripts: with a language model these recognisers
    hear nothing. `student` decodes another corpus.
    """
    recipe, out = recipe_in(tmp_path, name), tmp_path / "out"
    unlabelled = tiny / ("pr" if name == "phones" else "pretrain")
    corpus = shutil.copytree(unlabelled, tmp_path / "corpus", ignore=shutil.ignore_patterns("labels"))
    reached: list[tuple[str, ...]] = []

    def interrupted(*words: str) -> None:
        plain = tuple(word for word in words if word not in ("--ckpt_path", "last"))
        reached.append(plain)
        if reached.count(plain) > 1:
            assert main(list(words)) == 0
        if reached.count(plain) < 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(recipe_run, "wavlm", interrupted)
    command = ["recipe", str(recipe), "--corpus", str(corpus), "--labelled", str(tiny / "pr"), "--out", str(out)]
    stages = 0
    while (status := main(command)) == 130:
        stages += 1
        assert stages < 100
    assert status == 0
    done = json.loads((out / "recipe.json").read_text())["done"]
    assert len(done) == len(set(reached)) and stages >= len(done)
    card = json.loads((out / ("again" if name == "student" else "words") / "card.json").read_text())
    assert card["task"] == "ASR-FT" and card["metrics"]["wer"]["value"] > 0
    assert Corpus.open(corpus).splits  # it is whole
    reached.clear()
    assert main(command) == 0 and not reached


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("name", ["student", "phones"])
def test_second_rounds(name, tmp_path, tiny, monkeypatch):
    """Two rounds of a student that decodes with an n-gram; and P-BERT whose teacher is a fine-tuned P-BERT."""
    recipe, out = recipe_in(tmp_path, name), tmp_path / "out"
    unlabelled = tiny / ("pr" if name == "phones" else "pretrain")
    corpus = shutil.copytree(unlabelled, tmp_path / "corpus", ignore=shutil.ignore_patterns("labels"))
    content = yaml.safe_load(recipe.read_text())
    if name == "student":
        # These recognisers know nothing: they say something only if letters cost nothing.
        letters = [*ascii_uppercase, "'", "|"]
        rows = ["-99\t<s>\t0", "-9\t<unk>\t0", "0\t</s>", *(f"0\t{letter}\t0" for letter in letters)]
        arpa = tmp_path / "letters.arpa"
        grams = [f"ngram 1={len(rows)}", "ngram 2=1", "", "\\1-grams:", *rows, "", "\\2-grams:", "0\t<s> A"]
        arpa.write_text("\n".join(["\\data\\", *grams, "", "\\end\\", ""]))
        model = {"file": str(arpa), "trials": 2}
        content["recipe"]["fine_tuning"][1]["pseudo_labels"] |= {
            "rounds": 2,
            "later_share": 0.9,
            "language_model": model,
        }
        recipe.write_text(yaml.safe_dump(content))
    else:
        second = {**RECIPES["phones"]["codebook"], "encoder": "phones.yaml"}
        recipe = pretraining(tmp_path, "second", {"codebook": second, "fine_tuning": [{"config": "words.yaml"}]})

    def here(*words: str) -> None:
        assert main(list(words)) == 0

    monkeypatch.setattr(recipe_run, "wavlm", here)
    command = ["recipe", str(recipe), "--corpus", str(corpus), "--labelled", str(tiny / "pr"), "--out", str(out)]
    assert main(command) == 0
    done = json.loads((out / "recipe.json").read_text())["done"]
    if name == "student":
        assert done[-8:] == [
            f"{each}/{student}" for student in ("again", "again-round2") for each in ("tune", "pseudo", "fit", "test")
        ]
        pseudo = [
            Corpus.open(out / "pseudo" / each).body["source"]["pseudo_labels"] for each in ("again", "again-round2")
        ]
        assert [each["round"] for each in pseudo] == [1, 2] and [each["share"] for each in pseudo] == [0.5, 0.9]
        assert [each["decoder"]["kind"] for each in pseudo] == ["beam search"] * 2
        assert Path(pseudo[1]["teacher"]["run"]) == out / "again"
        card = json.loads((out / "again-round2" / "card.json").read_text())
        assert card["pseudo_labelled"]["round"] == 2
    else:
        assert {"fit/pr-of-first", "fit/phones", "fit/pr-of-phones", "align/pr-of-phones-phones", "fit/second"} <= set(
            done
        )
        card = json.loads((out / "words" / "card.json").read_text())
        assert len(card["upstream"]["labelled"]) >= 1
