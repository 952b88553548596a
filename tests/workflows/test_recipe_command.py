"""`wavlm recipe`: one road from a corpus to an encoder, that is printed as it runs and goes on where it stopped."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml

from wavlm_lightning.cli import main
from wavlm_lightning.codebooks import Codebook
from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.upstreams.wavlm import load_encoder
from wavlm_lightning.workflows.recipe import run as recipe_run
from wavlm_lightning.workflows.recipe.chain import chain
from wavlm_lightning.workflows.recipe.stages import RecipeRun, option_groups, with_codebook

SMALL = {"conv_channels": [16] * 7, "dim": 32, "ffn_dim": 32, "layers": 2, "heads": 2, "pos_conv_groups": 2}


def configuration(folder: Path, name: str, codebook: dict | None, **data: object) -> Path:
    """A YAML file of three updates."""
    objectives = ["wavlm_lightning.pretraining.LogMelRegression", "wavlm_lightning.pretraining.FeaturePenalty"]
    if codebook is not None:
        objectives.insert(0, "wavlm_lightning.pretraining.MaskedPrediction")
    arguments = {"corpus": "nowhere", "labels": None, "batch_seconds": 10.0, "max_seconds": 2.5, **data}
    content = {
        "recipe": {"hours": 0.02, "codebook": codebook},
        "model": {
            "class_path": "wavlm_lightning.pretraining.WavLMPretraining",
            "init_args": {
                "encoder": "tiny",
                "encoder_overrides": SMALL,
                "objectives": [{"class_path": objective} for objective in objectives],
            },
        },
        "data": {"class_path": "wavlm_lightning.pretraining.PretrainingData", "init_args": arguments},
        "trainer": {"accelerator": "cpu", "max_steps": 3, "val_check_interval": 2, "check_val_every_n_epoch": None},
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture
def recipe(tmp_path) -> Path:
    """`second.yaml`, whose labels are clusters of layer 1 of the encoder of `first.yaml`."""
    configuration(tmp_path, "first", {"clusters": 8, "restarts": 1})
    codebook = {"clusters": 12, "encoder": "first.yaml", "layer": 1, "share": 0.5, "restarts": 1}
    return configuration(tmp_path, "second", codebook)


@pytest.fixture
def corpus(tiny, tmp_path) -> Path:
    """The pre-training corpus without labels."""
    shutil.copytree(tiny / "pretrain", tmp_path / "corpus", ignore=shutil.ignore_patterns("labels"))
    return tmp_path / "corpus"


@pytest.fixture
def ran(monkeypatch) -> list[str]:
    """The commands that ran; in this process, which saves their start."""
    commands: list[str] = []

    def run(*words: str) -> None:
        commands.append(shlex.join(["wavlm", *words]))
        if main(list(words)) != 0:
            raise UserError("the command failed")

    monkeypatch.setattr(recipe_run, "wavlm", run)
    return commands


def call(recipe: Path | str, corpus: Path, *options: str) -> int:
    return main(["recipe", str(recipe), "--corpus", str(corpus), "--out", str(corpus.parent / "out"), *options])


def printed(capsys, recipe: Path | str, corpus: Path, *options: str) -> list[str]:
    """The commands of a dry run."""
    capsys.readouterr()
    assert call(recipe, corpus, "--dry-run", *options) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(line.startswith(("# ", "wavlm ")) for line in lines)
    return [line for line in lines if line.startswith("wavlm ")]


@pytest.mark.slow
def test_two_iterations_from_corpus_to_encoder(recipe, corpus, ran, capsys):
    promised = printed(capsys, recipe, corpus)
    assert not (corpus.parent / "out").exists() and not (corpus / "labels").exists()
    assert call(recipe, corpus) == 0
    assert ran == promised and len(ran) == 7
    out = corpus.parent / "out"
    assert sorted(path.name for path in (corpus / "labels").iterdir()) == ["first-l1-k12", "mfcc-k8"]
    first, second = (
        torch.load(out / name / "checkpoints" / "last.ckpt", weights_only=True) for name in ("first", "second")
    )
    books = [Codebook.load(out / "codebooks" / name) for name in ("mfcc-k8", "first-l1-k12")]
    assert {name: book["sha256"] for name, book in first["codebooks"].items()} == {"mfcc-k8": books[0].sha256}
    assert {name: book["sha256"] for name, book in second["codebooks"].items()} == {"first-l1-k12": books[1].sha256}
    assert books[1].features["encoder"] == str(out / "first") and books[1].features["layer"] == 1
    utterances = len(Corpus.open(corpus).split("train"))
    assert books[1].fitted["utterances"] == -(-utterances // 2)
    exported, trained = (load_encoder(path).state_dict() for path in (out / "encoder", out / "second"))
    assert all(torch.equal(value, trained[name]) for name, value in exported.items())

    ran.clear()
    assert call(recipe, corpus) == 0
    assert ran == [] and printed(capsys, recipe, corpus) == []


@pytest.mark.slow
def test_an_interrupted_recipe_goes_on(recipe, corpus, ran, capsys, monkeypatch):
    whole = printed(capsys, recipe, corpus)
    run, ledger = recipe_run.wavlm, corpus.parent / "out" / "recipe.json"

    def interrupt_the_fit(*words: str) -> None:
        run(*words)
        if words[0] == "fit":
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(recipe_run, "wavlm", interrupt_the_fit)
        assert call(recipe, corpus) == 130
    body = json.loads(ledger.read_text())
    assert body["done"] == ["codebook/mfcc-k8", "labels/mfcc-k8"] and set(body["seconds"]) == {
        *body["done"],
        "fit/first",
    }
    rest = printed(capsys, recipe, corpus, "--until", "fit/first")
    assert rest == [f"{whole[2]} --ckpt_path last"]
    ran.clear()
    assert call(recipe, corpus, "--until", "fit/first") == 0
    assert ran == rest

    # Killed before it could write a checkpoint, and after the codebook was written but not noted.
    body = json.loads(ledger.read_text())
    body["done"].remove("fit/first")
    body["done"].remove("codebook/mfcc-k8")
    ledger.write_text(json.dumps(body))
    checkpoints = corpus.parent / "out" / "first" / "checkpoints"
    (checkpoints / "last.ckpt").rename(checkpoints / "best.ckpt")
    rest = printed(capsys, recipe, corpus, "--until", "fit/first")
    assert rest == [whole[2]]
    ran.clear()
    assert call(recipe, corpus, "--until", "fit/first") == 0
    assert ran == rest and (checkpoints / "last.ckpt").is_file()


def test_a_stage_that_fails_stops_the_road(recipe, corpus, ran, capsys):
    assert call(recipe, corpus, "--", "--trainer.max_steps", "0") == 2
    assert ran[-1].startswith("wavlm fit") and len(ran) == 3
    assert "fit/first" not in json.loads((corpus.parent / "out" / "recipe.json").read_text())["done"]


def test_what_would_give_other_weights_is_refused(recipe, corpus, ran, capsys):
    options = ["--until", "labels/mfcc-k8", "--"]
    assert call(recipe, corpus, *options, "--model.seed", "1", "--data.num_workers", "0") == 0
    assert call(recipe, corpus, *options, "--model.seed", "1", "--data.num_workers", "1") == 0
    # No fit has used it yet, as after one that refused a wrong option.
    assert (
        call(recipe, corpus, *options, "--model.seed", "3") == call(recipe, corpus, *options, "--model.seed", "1") == 0
    )
    assert len(ran) == 2  # codebook and labels are not made again
    newest = corpus.parent / "out" / "first" / "checkpoints" / "last.ckpt"
    newest.parent.mkdir(parents=True)
    newest.touch()
    capsys.readouterr()
    assert call(recipe, corpus, *options, "--model.seed", "2") == 2
    said = capsys.readouterr().err
    assert "holds a recipe with other settings (options of fit: ['--model.seed 1'], now ['--model.seed 2'])" in said
    recipe.write_text("# A remark changes nothing.\n" + recipe.read_text())
    assert call(recipe, corpus, *options, "--model.seed", "1") == 0
    recipe.write_text(recipe.read_text().replace("max_steps: 3", "max_steps: 4"))
    assert call(recipe, corpus, *options, "--model.seed", "1") == 2
    assert "configurations: " in capsys.readouterr().err


def test_a_folder_or_labels_of_something_else_are_left_alone(recipe, corpus, ran, capsys):
    out = corpus.parent / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    assert call(recipe, corpus) == 2
    assert "is not empty and holds no recipe.json" in capsys.readouterr().err
    (out / "notes.txt").unlink()
    (corpus / "labels" / "first-l1-k12").mkdir(parents=True)
    assert call(recipe, corpus) == 2
    assert "give --tag WORD" in capsys.readouterr().err
    assert ran == []
    assert call(recipe, corpus, "--tag", "b", "--until", "labels/b-mfcc-k8") == 0
    assert (corpus / "labels" / "b-mfcc-k8" / "labels.json").is_file()


def test_without_labels(tmp_path, corpus, ran):
    assert call(configuration(tmp_path, "alone", None, valid_split=None), corpus) == 0
    assert [command.split()[1] for command in ran] == ["fit", "export"] and "--data.labels" not in ran[0]
    assert load_encoder(tmp_path / "out" / "encoder").config.dim == SMALL["dim"]


def test_corpora_noise_and_encoders_from_elsewhere(tmp_path, capsys):
    configuration(tmp_path, "first", {"clusters": 8, "level_normalised": True})
    path = configuration(
        tmp_path, "noisy", {"clusters": 9, "encoder": "first.yaml", "layer": 1}, noise_corpus="data/noise"
    )
    options = [
        "--corpus-of",
        f"first={tmp_path / 'small'}",
        "--noise-corpus",
        "data/mine",
        "--memory",
        "9",
        "--jobs",
        "2",
    ]
    commands = printed(capsys, path, tmp_path / "large", *options)
    assert "--level-normalised --out" in commands[0] and "--memory 9" in commands[0]
    assert ["--jobs 2" in command for command in commands] == [True, True, False, True, True, False, False]
    assert [str(tmp_path / "small") in command for command in commands] == [True] * 3 + [False] * 4
    assert [str(tmp_path / "large") in command for command in commands] == [False] * 3 + [True] * 3 + [False]
    assert ["--data.noise_corpus data/mine" in command for command in commands] == [False] * 5 + [True, False]
    plain = "".join(printed(capsys, path, tmp_path / "large"))
    assert not any(word in plain for word in ("noise_corpus", "--memory", "--jobs"))
    assert call(tmp_path / "first.yaml", tmp_path / "large", "--noise-corpus", "x", "--dry-run") == 2
    assert "no configuration of this recipe names a noise corpus" in capsys.readouterr().err


def test_an_encoder_that_is_there_already(tmp_path, capsys):
    path = configuration(tmp_path, "more", {"clusters": 9, "checkpoint": "weights/base-v1.5", "layer": 9})
    commands = printed(capsys, path, tmp_path / "corpus")
    assert "--encoder weights/base-v1.5 --layer 9" in commands[0]
    assert "--data.labels base-v1.5-l9-k9" in commands[2] and len(commands) == 4


def test_going_on_from_another_encoder_changes_labels_and_weights_together(tmp_path, capsys):
    """Labels of one encoder for the weights of another would be a silent mistake."""
    corpus = tmp_path / "corpus"
    commands = printed(capsys, "continue", corpus, "--checkpoint", "other.pt")
    assert sum("other.pt" in command for command in commands) == 2  # k-means, and the fit
    assert not any("wavlm-base-plus" in command for command in commands)
    assert call("continue", corpus, "--dry-run", "--", "--model.encoder", "other.pt") == 2
    assert "the labels would come from another encoder; give --checkpoint" in capsys.readouterr().err
    assert call("tiny", corpus, "--dry-run", "--checkpoint", "other.pt") == 2
    assert "tiny begins with fresh weights" in capsys.readouterr().err


def test_another_layer_and_number_of_clusters(recipe, corpus, tmp_path, capsys):
    """They change the codebook of the recipe's own configuration, the name of its labels and what the ledger compares."""
    words = ["recipe", "continue", "--checkpoint", "runs/mine", "--corpus", str(corpus), "--out", str(tmp_path / "out")]
    assert main([*words, "--layer", "2", "--clusters", "20", "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert f"codebook fit {corpus} --clusters 20 --encoder runs/mine --layer 2 " in printed
    assert "--data.labels mine-l2-k20" in printed
    before, after = chain(str(recipe)), with_codebook(chain(str(recipe)), clusters=9)
    assert after[0] == before[0] and after[1].content["recipe"]["codebook"]["clusters"] == 9
    assert before[1].content["recipe"]["codebook"]["clusters"] != 9 and with_codebook(before) == before
    run = RecipeRun(after, corpus, tmp_path / "out")
    assert [run.label_set(each) for each in after] == ["mfcc-k8", "first-l1-k9"]
    for name, option, said in (
        ("tiny", "--layer", "the labels of tiny are made from log-mel with context"),
        ("tiny_waveform", "--layer", "the labels of tiny_waveform are made from MFCC"),
        ("wav2vec2_base", "--clusters", "trained without labels"),
    ):
        words = ["recipe", name, "--corpus", str(corpus), "--out", str(tmp_path / "out"), option, "3", "--dry-run"]
        assert main(words) == 2
        assert said in capsys.readouterr().err


def test_a_layer_less_its_mean(recipe, corpus, tmp_path, capsys):
    """Its labels have another name than those with the mean, so that neither takes the place of the other."""
    less = {"encoder": "first.yaml", "layer": 1, "clusters": 8, "restarts": 1, "mean_removed": True}
    path = configuration(tmp_path, "less", less)
    (fit,) = (command for command in printed(capsys, path, corpus) if "--layer 1" in command)
    assert "codebook fit" in fit and " --remove-mean " in fit and fit.endswith("/codebooks/first-l1-less-mean-k8")
    assert call(path, corpus, "--dry-run") == 0
    assert "less the mean of the utterance, from 100 % of" in capsys.readouterr().out
    assert all("--remove-mean" not in command for command in printed(capsys, recipe, corpus))


def test_clusters_and_labels_in_one_pass(tmp_path, capsys):
    """A short first iteration; the second hears the corpus once, and `codebook apply` finds its labels there."""
    commands = printed(capsys, "tiny_short_it2", tmp_path / "corpus")
    (fit,) = (command for command in commands if "--layer 1" in command)
    assert "codebook fit" in fit and " --apply tiny_short-l1-k100 " in fit
    assert any("codebook apply" in command and "--name tiny_short-l1-k100" in command for command in commands)
    assert sum("--apply" in command for command in commands) == 1
    updates = [each.content["trainer"]["max_steps"] for each in chain("tiny_short_it2")]
    assert sum(updates) == chain("tiny_waveform")[0].content["trainer"]["max_steps"]


def test_an_encoder_that_cannot_be_exported_is_refused_before_it_is_trained(tmp_path, capsys):
    words = ["recipe", "tiny", "--corpus", str(tmp_path), "--out", str(tmp_path / "out"), "--dry-run"]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert "the encoder of tiny does not fit into the transformers library: its front-end is log-mel" in said
    assert "add --until fit/tiny" in said and len(said.strip().splitlines()) == 1
    assert main([*words, "--until", "fit/tiny"]) == 0
    words[1] = "tiny_waveform"
    assert main(words) == 0
    mel = ["--", "--model.encoder_overrides.front_end", "log_mel"]
    assert main([*words, *mel]) == 2
    assert "the encoder of tiny_waveform does not fit into the transformers library" in capsys.readouterr().err


@pytest.mark.slow
def test_commands_run_by_hand_can_be_taken_over(recipe, corpus, ran, capsys):
    for command in printed(capsys, recipe, corpus)[:3]:  # codebook, labels, first pre-training
        assert main(shlex.split(command)[1:]) == 0
    assert call(recipe, corpus) == 2
    assert "give --adopt" in capsys.readouterr().err
    assert call(recipe, corpus, "--adopt") == 0
    assert not any(command.startswith("wavlm codebook fit") and "mfcc" in command for command in ran)
    assert any("--ckpt_path last" in command for command in ran)  # finds nothing left to do
    assert load_encoder(corpus.parent / "out" / "encoder").config.layers == 2


def test_how_an_option_is_written_does_not_matter_what_a_file_holds_does(recipe, corpus, ran, capsys, tmp_path):
    more = tmp_path / "more.yaml"
    more.write_text("trainer: {max_steps: 2}")
    assert call(recipe, corpus, "--until", "fit/first", "--", "--trainer.max_steps", "2", "-c", str(more)) == 0
    assert call(recipe, corpus, "--until", "fit/first", "--", "--trainer.max_steps=2", "-c", str(more)) == 0
    more.write_text("trainer: {max_steps: 3}")
    assert call(recipe, corpus, "--until", "fit/first", "--", "--trainer.max_steps=2", "-c", str(more)) == 2
    assert "other settings" in capsys.readouterr().err
    assert call(recipe, corpus, "--dry-run", "--", "--data.init_args.corpus", "elsewhere") == 2
    assert "the recipe sets this option" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name", ["wavlm_base", "wav2vec2_base", pytest.param("wavlm_large_v2", marks=pytest.mark.slow)]
)
def test_published_recipes_are_printed(tmp_path, capsys, name):
    """Options after -- reach every `wavlm fit` of pre-training and nothing else; fine-tunings follow the export."""
    commands = printed(capsys, name, tmp_path / "corpus", "--", "--trainer.devices", "8")
    reached = [("--trainer.devices 8" in command) for command in commands]
    assert reached == [" fit -c configs/pretrain/" in command for command in commands] and any(reached)
    (export,) = (number for number, command in enumerate(commands) if command.startswith("wavlm export"))
    assert f"wavlm fit -c configs/pretrain/{name}.yaml" in commands[export - 1]
    assert all(command.startswith(("wavlm fit", "wavlm test", "wavlm average")) for command in commands[export + 1 :])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--until", "fit/third"], "--until fit/third: no such stage; this recipe has codebook/mfcc-k8, "),
        (["--corpus-of", "third=x"], "--corpus-of third: this recipe trains first, second"),
        (["--corpus-of", "third"], "--corpus-of third: write CONFIGURATION=DIR"),
        (["--", "--data.labels=x"], "--data.labels: the recipe sets this option"),
        (["--", "8"], "'8' after -- is not an option"),
    ],
)
def test_mistakes_are_one_sentence(recipe, corpus, capsys, options, message):
    assert call(recipe, corpus, *options) == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith(f"wavlm recipe: {message}") and len(said.splitlines()) == 1
    assert not (corpus.parent / "out").exists()


def test_several_label_sets_are_not_for_a_recipe(tmp_path):
    path = configuration(tmp_path, "many", {"clusters": 8}, labels=["a", "b"])
    with pytest.raises(UserError, match=r"data\.labels names 2 label sets"):
        RecipeRun(chain(str(path)), Path("corpus"), Path("out"))


def test_options_keep_their_values():
    words = ["--a", "1", "--b=-2", "--c", "[1, 2]", "3"]
    assert option_groups(words) == [["--a", "1"], ["--b", "-2"], ["--c", "[1, 2]", "3"]]


@pytest.mark.slow
@pytest.mark.long
def test_ctrl_c_reaches_the_training_once(corpus):
    """In processes of their own: it ends after the update that is being made, and the same command goes on."""
    out = corpus.parent / "out"
    path = configuration(corpus.parent, "first", None, valid_split=None)
    command = [sys.executable, "-m", "wavlm_lightning", "recipe", str(path)]
    command += ["--corpus", str(corpus), "--out", str(out), "--", "--trainer.max_steps", "150"]
    log, newest = corpus.parent / "log", out / "first" / "checkpoints" / "last.ckpt"
    with log.open("w") as file:
        # A shell's background jobs ignore Ctrl-C, and so would what they start. A terminal sends it to the whole group.
        listen = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
        process = subprocess.Popen(
            [*command, "--checkpoint_every", "5"], stdout=file, stderr=file, preexec_fn=listen, process_group=0
        )
        deadline = time.monotonic() + 120
        while not newest.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)
        try:
            status = process.wait(timeout=120)
        finally:
            process.kill()
    said = log.read_text()
    assert status == 130, said[-2000:]
    assert said.count("stopping after this update") == 1 and "Traceback" not in said
    step = torch.load(newest, weights_only=True)["global_step"]
    assert 5 <= step < 150
    done = subprocess.run([*command, "--checkpoint_every", "500"], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-2000:]
    assert re.search(r"\$ wavlm fit .* --ckpt_path last$", done.stdout, flags=re.M)
    assert torch.load(newest, weights_only=True)["global_step"] == 150 and (out / "encoder" / "README.md").is_file()
