"""What a recipe does with its encoder: fine-tunings after the export, their commands, their cost, and wrong ones."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import pytest
import yaml

from wavlm_lightning.cli import main
from wavlm_lightning.encoder import WavLMConfig
from wavlm_lightning.pretraining.flops import encoder_flops
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.workflows.plan import fine_tuning_plans
from wavlm_lightning.workflows.recipe import run as recipe_run
from wavlm_lightning.workflows.recipe.chain import chain, fine_tunings

SMALL = {"conv_channels": [16] * 7, "dim": 32, "ffn_dim": 32, "layers": 2, "heads": 2, "pos_conv_groups": 2}
TUNING = {"from_update": 1, "learning_rate": 1e-4}
LATER = [
    {"config": "words.yaml", "average": 2},
    {"config": "again.yaml", "start_from": "words"},
    {"config": "er.yaml", "folds": 2},
]


def task(folder: Path, name: str, head: str, data: str, corpus: Path | str = "nowhere", **arguments: object) -> None:
    """The configuration of two updates of a task with a trained encoder."""
    upstream = {"source": "random:tiny", "frozen": False, "fine_tuning": TUNING}
    model = {"upstream": {"class_path": "wavlm_lightning.upstreams.WavLMUpstream", "init_args": upstream}}
    content = {
        "checkpoint_every": 1,
        "keep_checkpoints": 2,
        "model": {"class_path": f"wavlm_lightning.tasks.{head}", "init_args": {**model, "learning_rate": 1e-3}},
        "data": {"class_path": f"wavlm_lightning.tasks.{data}", "init_args": {"corpus": str(corpus), **arguments}},
        "trainer": {"accelerator": "cpu", "max_steps": 2, "val_check_interval": 1, "check_val_every_n_epoch": None},
    }
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(content))


def recipe_in(folder: Path, tiny: Path | None = None, later: list | None = None) -> Path:
    """A recipe of two updates, with two runs of KS and two folds of ER after it."""
    for name in ("words", "again"):
        task(folder, name, "KeywordSpotting", "TaskData", "nowhere" if tiny is None else tiny / "ks", batch_size=8)
    task(folder, "er", "EmotionRecognition", "FoldData", "nowhere" if tiny is None else tiny / "er", batch_size=4)
    content = {
        "recipe": {
            "hours": 0.02,
            "codebook": {"clusters": 8, "restarts": 1},
            "fine_tuning": LATER if later is None else later,
        },
        "model": {
            "class_path": "wavlm_lightning.pretraining.WavLMPretraining",
            "init_args": {
                "encoder": "tiny",
                "encoder_overrides": SMALL,
                "objectives": [{"class_path": "wavlm_lightning.pretraining.MaskedPrediction"}],
            },
        },
        "data": {
            "class_path": "wavlm_lightning.pretraining.PretrainingData",
            "init_args": {"corpus": "nowhere", "labels": None, "batch_seconds": 10.0, "max_seconds": 2.5},
        },
        "trainer": {"accelerator": "cpu", "max_steps": 2, "val_check_interval": 2, "check_val_every_n_epoch": None},
    }
    (folder / "whole.yaml").write_text(yaml.safe_dump(content))
    return folder / "whole.yaml"


@pytest.mark.slow
def test_the_commands_of_a_dry_run(tmp_path, capsys):
    recipe, out = recipe_in(tmp_path), tmp_path / "out"
    words = ["recipe", str(recipe), "--corpus", "data", "--out", str(out), "--corpus-of", "er=data/er", "--dry-run"]
    assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    stages = [line.split(": ")[0].split()[-1] for line in lines if line.startswith("# ")]
    assert stages == [
        *("codebook/mfcc-k8", "labels/mfcc-k8", "fit/whole", "export"),
        *("fit/words", "average/words", "test/words", "fit/again", "test/again"),
        *("fit/er-fold1", "test/er-fold1", "fit/er-fold2", "test/er-fold2"),
    ]
    commands = dict(zip(stages, (shlex.split(line)[1:] for line in lines if line.startswith("wavlm ")), strict=True))
    for name in ("words", "again", "er-fold1", "er-fold2"):
        fit, test = commands[f"fit/{name}"], commands[f"test/{name}"]
        averaged = ["test", str(out / "words-average")]
        assert fit[0] == "fit" and test[0] == "test"
        assert test == averaged if name == "words" else test[-2:] == ["--ckpt_path", "best"]
        assert fit[fit.index("--model.upstream.source") + 1] == str(out / "encoder")
        assert fit[fit.index("--trainer.default_root_dir") + 1] == str(out / name)
        assert ("--model.start_from" in fit) == (name == "again")
        assert fit[fit.index("--data.corpus") + 1] == ("data/er" if name.startswith("er") else "nowhere")
    assert commands["fit/again"][-1] == str(out / "words-average") and commands["fit/er-fold2"][-2:] == [
        "--data.fold",
        "2",
    ]
    # Options of pre-training are no options of its tasks.
    assert main([*words, "--", "--data.max_seconds", "2"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "--data.max_seconds" in line]
    assert len(lines) == 1 and "whole.yaml" in lines[0]


@pytest.mark.slow
def test_from_a_corpus_to_tested_heads(tiny, tmp_path, monkeypatch):
    shutil.copytree(tiny / "pretrain", tmp_path / "corpus", ignore=shutil.ignore_patterns("labels"))
    recipe, out, ran = recipe_in(tmp_path, tiny), tmp_path / "out", []

    def here(*words: str) -> None:
        ran.append(words)
        assert main(list(words)) == 0

    monkeypatch.setattr(recipe_run, "wavlm", here)
    command = ["recipe", str(recipe), "--corpus", str(tmp_path / "corpus"), "--out", str(out)]
    # A corpus that is missing is said before weeks of pre-training, unless its stages are left out.
    assert main([*command, "--corpus-of", "er=nowhere"]) == 2 and not ran
    assert main([*command, "--until", "export"]) == 0 and len(ran) == 4
    assert main(command) == 0 and len(ran) == 13
    cards = [
        json.loads((out / name / "card.json").read_text())
        for name in ("words-average", "again", "er-fold1", "er-fold2")
    ]
    assert [card["task"] for card in cards] == ["KS", "KS", "ER", "ER"]
    assert {"accuracy", "unweighted_accuracy"} == set(cards[2]["metrics"])
    assert main(command) == 0 and len(ran) == 13


@pytest.mark.slow
def test_an_older_ledger_goes_on_and_changed_fine_tuning_is_refused(tiny, tmp_path, monkeypatch):
    shutil.copytree(tiny / "pretrain", tmp_path / "corpus", ignore=shutil.ignore_patterns("labels"))
    recipe, out = recipe_in(tmp_path, tiny), tmp_path / "out"
    monkeypatch.setattr(recipe_run, "wavlm", lambda *words: None)
    command = ["recipe", str(recipe), "--corpus", str(tmp_path / "corpus"), "--out", str(out)]
    assert main([*command, "--until", "export"]) == 0
    ledger = out / "recipe.json"
    content = json.loads(ledger.read_text())
    assert set(content["settings"].pop("fine-tuning")) == {"words", "again", "er"}
    ledger.write_text(json.dumps(content))
    assert main(command) == 0
    assert json.loads(ledger.read_text())["done"][4:6] == ["fit/words", "average/words"]
    task(tmp_path, "words", "KeywordSpotting", "TaskData", tiny / "ks", batch_size=4)
    assert main(command) == 2


@pytest.mark.parametrize(
    ("later", "message"),
    [
        ([{"config": "missing.yaml"}], r"the configuration missing\.yaml does not exist"),
        ([{"config": "whole.yaml"}], r"names 'whole' twice"),
        ([{"config": "words.yaml"}, {"config": "words.yaml"}], r"names 'words' twice"),
        ([{"config": "again.yaml", "start_from": "words"}], r"again starts from 'words'; name one that comes before"),
        ([{"config": "words.yaml", "folds": -1}], r"folds of words must be 0 or more, not -1"),
        ([{"config": "words.yaml", "gpus": 0}], r"gpus of words must be 1 or more"),
        ([{"config": "words.yaml", "utterance_seconds": 0}], r"utterance_seconds of words must be above 0"),
        ([{"config": "words.yaml", "average": 3}], r"average of words must be 0, or from 2 to the 2 checkpoints"),
        (
            [{"config": "er.yaml", "folds": 2}, {"config": "again.yaml", "start_from": "er"}],
            r"again has 0 folds, but er, from which it starts, has 2",
        ),
    ],
)
def test_mistakes_are_said_in_a_sentence_with_the_file(tmp_path, later, message):
    recipe = recipe_in(tmp_path, later=later)
    with pytest.raises(UserError, match=message) as raised:
        fine_tunings(chain(str(recipe))[-1])
    assert "whole.yaml" in str(raised.value) and "\n" not in str(raised.value)


def test_a_file_without_a_task_is_refused(tmp_path):
    recipe = recipe_in(tmp_path, later=[{"config": "empty.yaml"}])
    (tmp_path / "empty.yaml").write_text("trainer: {max_steps: 1}")
    with pytest.raises(UserError, match=r"empty\.yaml has no `model` and `data`"):
        fine_tunings(chain(str(recipe))[-1])


def test_the_cost_counts_forward_passes_first(tmp_path, capsys):
    later = [{"config": "words.yaml", "utterance_seconds": 1.0, "gpus": 2}, {**LATER[2], "utterance_seconds": 2.0}]
    recipe = recipe_in(tmp_path, later=later)
    words, emotions = fine_tuning_plans(str(recipe))
    step = encoder_flops(WavLMConfig.preset("tiny", **SMALL, layer_drop=0.0, feature_grad_mult=0.0), 8, 16_000)
    assert words.flops == pytest.approx(2 * (step.forward + step.training))
    assert (words.update_seconds, words.updates, words.head_updates, words.gpus) == (16.0, 2, 1, 2)
    assert (emotions.runs, emotions.update_seconds) == (2, 8.0)
    assert emotions.gpu_hours == pytest.approx(emotions.flops / (312e12 * 0.25) / 3600)

    assert main(["plan", str(recipe), "--json"]) == 0
    body = json.loads(capsys.readouterr().out)
    assert [each["name"] for each in body["fine_tunings"]] == ["words", "er"]
    whole = body["stages"][0]["training"]["flops"] + words.flops + emotions.flops
    assert body["total"]["flops"] == pytest.approx(whole)
    assert main(["plan", str(recipe)]) == 0
    assert "er: 2 x 2 updates" in capsys.readouterr().out

    with pytest.raises(UserError, match=r"words\.yaml: data\.batch_size counts utterances.*set utterance_seconds"):
        fine_tuning_plans(str(recipe_in(tmp_path, later=[{"config": "words.yaml"}])))
