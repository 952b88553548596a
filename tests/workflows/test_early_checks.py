"""What is wrong is found before anything is computed: no cache, no run folder, no trial, no stage."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from quiet import quiet_trainer

from wavlm_lightning.cli import main
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks import KeywordSpotting
from wavlm_lightning.upstreams import Fbank
from wavlm_lightning.workflows.fit.early_checks import check_monitored

KS = ["-c", "configs/superb/mini/ks.yaml", "--trainer.accelerator", "cpu"]
FBANK = ["--model.upstream", "Fbank", "--model.upstream.cmvn", "false"]
SWEEP = {
    "program": "wavlm",
    "method": "grid",
    "metric": {"name": "valid/accuracy", "goal": "maximize"},
    "parameters": {"model.learning_rate": {"values": [1e-2, 1e-3]}},
    "command": ["${env}", "${program}", "fit", "-c", "configs/superb/mini/ks.yaml", "${args}"],
}


def refused(capsys, *words: str | Path) -> str:
    """The one sentence with which a command ends."""
    capsys.readouterr()
    assert main([str(word) for word in words]) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith(f"wavlm {words[0]}: ")
    return last


def changed(corpus: Path, copy: Path, **inventories: object) -> Path:
    """A copy of a corpus with other label sets."""
    shutil.copytree(corpus, copy)
    body = json.loads((copy / "corpus.json").read_text())
    body["inventories"] |= inventories
    (copy / "corpus.json").write_text(json.dumps(body))
    return copy


@pytest.mark.parametrize(
    ("inventory", "message"),
    [
        ([], "has no 'keywords' labels"),
        (["yes"], "the corpus has 1 of keywords"),
        (["yes", "no"], "not among"),
    ],
)
def test_labels_are_checked_before_features_are_cached(tiny, tmp_path, capsys, inventory, message):
    corpus, cache = changed(tiny / "ks", tmp_path / "ks", keywords=inventory), tmp_path / "cache"
    words = ["--data.corpus", corpus, "--data.cache", cache, "--trainer.default_root_dir", tmp_path / "run"]
    said = refused(capsys, "fit", *KS, *FBANK, *words)
    assert not list(tmp_path.glob("cache/**/*.safetensors"))
    assert message in said


def test_a_monitored_metric_that_is_never_logged(tiny, tmp_path, capsys):
    words = [
        "--data.corpus",
        tiny / "ks",
        "--data.cache",
        tmp_path / "cache",
        "--trainer.default_root_dir",
        tmp_path / "run",
    ]
    stop = ["--trainer.callbacks", "EarlyStopping", "--trainer.callbacks.monitor", "valid/acuracy"]
    said = refused(capsys, "fit", *KS, *FBANK, *words, *stop)
    assert "EarlyStopping monitors 'valid/acuracy', which KS does not log; did you mean 'valid/accuracy'?" in said
    assert not (tmp_path / "cache").exists()


def test_checkpoints_that_another_callback_writes_cannot_be_kept(tiny, tmp_path, capsys):
    own = {"class_path": "ModelCheckpoint", "init_args": {"monitor": "valid/accuracy", "mode": "max"}}
    where = ["--trainer.callbacks", json.dumps([own])]
    words = ["--data.corpus", tiny / "ks", "--data.cache", "null", "--trainer.default_root_dir", tmp_path / "run"]
    said = refused(capsys, "fit", *KS, *FBANK, *words, *where, "--keep_checkpoints", "7", "--checkpoint_every", "3")
    assert "--keep_checkpoints has no effect here" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["plan", "wavlm_base", "--cluster", "slurm", "--json"], "--json is of the cost"),
        (["superb", "fbank", "--data", "somewhere", "--output", "out", "--size", "tiny"], "--size is of the corpora"),
        (
            ["units", "--data", "c", "--out", "o", "--items", "f.item", "--unit", "phone"],
            "--unit is of items from phone",
        ),
    ],
)
def test_options_without_effect_are_refused(capsys, words, said):
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2 and said in capsys.readouterr().err


def test_checkpoints_may_be_chosen_by_their_update():
    """`keep_checkpoints` keeps the newest ones; Lightning gives its checkpoints the count that no task logs."""
    task = KeywordSpotting(Fbank(cmvn=False))
    check_monitored(quiet_trainer(callbacks=[ModelCheckpoint(monitor="step", mode="max", save_top_k=2)]), task)
    with pytest.raises(UserError, match="EarlyStopping monitors 'step', which KS does not log"):
        check_monitored(quiet_trainer(callbacks=[EarlyStopping("step")]), task)


@pytest.mark.parametrize(
    ("changes", "extra", "message"),
    [
        ({"parameters": {"model.learning_rat": {"values": [1]}}}, [], "did you mean 'learning_rate'?"),
        ({"parameters": {"model.learning_rate": {"values": [1e-3, "fast"]}}}, [], "expected float, not fast"),
        (
            {"metric": {"name": "valid/acc", "goal": "maximize"}},
            [],
            "metric.name is 'valid/acc', which KS does not log",
        ),
        ({"metric": {"name": "valid/accuracy", "goal": "minimize"}}, [], "set goal: maximize"),
        ({}, ["--data.batchsize", "3"], "batch_size"),
        ({}, ["--data.train_split", "trian"], "no split 'trian', which data.train_split names"),
        (
            {
                "parameters": {"model.upstream.layers": {"values": [[0], [9]]}},
                "command": [
                    *("wavlm", "fit", "-c", "configs/superb/mini/ks.yaml", "--model.upstream", "ChosenLayers"),
                    *("--model.upstream.upstream", "WavLMUpstream", "--model.upstream.upstream.source", "random:tiny"),
                    "${args}",
                ],
            },
            [],
            "upstream.layers: [9]: give some of the 5 layers of random:tiny",
        ),
    ],
)
def test_a_sweep_is_checked_before_its_first_trial(tiny, tmp_path, capsys, changes, extra, message):
    path = tmp_path / "sweep.yaml"
    path.write_text(yaml.safe_dump(SWEEP | changes, sort_keys=False))
    words = ["--", "--data.corpus", tiny / "ks", *extra]
    assert message in refused(capsys, "sweep", path, "--output", tmp_path / "out", *words)
    assert not (tmp_path / "out").exists()
    assert message in refused(capsys, "sweep", path, "--dry-run", *words)


@pytest.mark.slow
def test_a_hosted_sweep_needs_a_chosen_encoder(capsys, monkeypatch, tmp_path):
    file = "configs/sweeps/superb/ks.yaml"
    said = refused(capsys, "sweep", file, "--hosted")
    assert "names no encoder, so that heads would be trained on random weights (base)" in said
    for chosen in (["--model.upstream.source", "random:base"], ["--model.upstream", "Fbank"]):
        assert main(["sweep", file, "--hosted", "--", *chosen]) == 0
        assert f"wandb sweep {file}" in capsys.readouterr().out.replace(str(Path.cwd()) + "/", "")
    # An agent starts `wavlm fit` with the options of the file.
    monkeypatch.setenv("WANDB_SWEEP_ID", "s")
    monkeypatch.setenv("WANDB_RUN_ID", "r")
    words = ["-c", "configs/superb/ks.yaml", "--trainer.accelerator", "cpu", "--trainer.default_root_dir", tmp_path]
    assert "a trial of a W&B sweep names no encoder" in refused(capsys, "fit", *words)


def test_superb_checks_tasks_splits_and_labels_first(tiny, tmp_path, capsys):
    changed(tiny / "ks", tmp_path / "data" / "ks", keywords=[])
    common = ["--data", tmp_path / "data", "--output", tmp_path / "out"]
    assert "has no 'keywords' labels" in refused(capsys, "superb", "fbank", *common, "--tasks", "ks")
    assert "has no 'keywords' labels" in refused(capsys, "superb", "fbank", *common, "--tasks", "ks", "--dry-run")
    assert "'sidd' is not one of SUPERB's tasks" in refused(capsys, "superb", "fbank", *common, "--tasks", "sidd")
    body = json.loads((tmp_path / "data" / "ks" / "corpus.json").read_text())
    del body["splits"]["test"]
    (tmp_path / "data" / "ks" / "corpus.json").write_text(json.dumps(body))
    assert "no split 'test'" in refused(capsys, "superb", "fbank", *common, "--tasks", "ks")
    assert not (tmp_path / "out" / "fbank").exists()


def recipe(folder: Path, layer: int = 1, **model: object) -> Path:
    """`second.yaml`, whose labels are clusters of a layer of the encoder of `first.yaml`."""
    for name, codebook in (
        ("first", {"clusters": 8}),
        ("second", {"encoder": "first.yaml", "layer": layer, "clusters": 8}),
    ):
        arguments = {"encoder": "tiny", "encoder_overrides": {"layers": 2}, **(model if name == "second" else {})}
        content = {
            "recipe": {"hours": 0.02, "codebook": codebook},
            "model": {"class_path": "wavlm_lightning.pretraining.WavLMPretraining", "init_args": arguments},
            "data": {
                "class_path": "wavlm_lightning.pretraining.PretrainingData",
                "init_args": {"corpus": "nowhere", "batch_seconds": 10.0},
            },
            "trainer": {"accelerator": "cpu", "max_steps": 3},
        }
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content))
    return folder / "second.yaml"


@pytest.mark.parametrize("also", [[], ["--dry-run"]])
def test_a_recipe_is_checked_to_its_end_before_its_first_stage(tiny, tmp_path, capsys, also):
    corpus = shutil.copytree(tiny / "pretrain", tmp_path / "corpus")
    common = ["--corpus", corpus, "--out", tmp_path / "out", *also]
    said = refused(capsys, "recipe", recipe(tmp_path, learning_rat=1.0), *common)
    assert said.startswith("wavlm recipe: fit/second: ") and "learning_rate" in said
    said = refused(capsys, "recipe", recipe(tmp_path, layer=3), *common)
    assert "recipe.codebook.layer is 3, but first.yaml has layers 0 to 2" in said
    said = refused(capsys, "recipe", recipe(tmp_path), *common, "--", "--data.batch_second", "3")
    assert "fit/first: " in said and "batch_seconds" in said
    said = refused(capsys, "recipe", recipe(tmp_path), *common, "--", "--data.valid_split", "dev")
    assert "has no split 'dev', which data.valid_split names" in said
    assert not (tmp_path / "out").exists()
