"""Every sweep file: commands as the W&B agent makes them parse, the metric is one that is logged, a trial runs."""

from __future__ import annotations

import importlib

import pytest
import yaml

from wavlm_lightning.cli import main
from wavlm_lightning.encoder import WavLMConfig
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.shipped_configs import configs_folder
from wavlm_lightning.workflows.fit.yaml_loader import load
from wavlm_lightning.workflows.sweep.file import read_sweep
from wavlm_lightning.workflows.sweep.runs import run_trial
from wavlm_lightning.workflows.sweep.study import SweepStudy

SWEEPS = sorted(str(path.relative_to(configs_folder())) for path in (configs_folder() / "sweeps").rglob("*.yaml"))
TINY = {"layers_and_heads": "ks", "asr": "pr"}
"""Which tiny corpus a sweep's trial is run on, where it does not have the sweep's name."""


def agents_words(content, values):
    """The command as the functions of W&B's own agent expand it."""
    from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args  # 3.7 s

    expanded = create_sweep_command_args({"args": {name: {"value": value} for name, value in values.items()}})
    expanded |= {"program": [content["program"]], "env": ["/usr/bin/env"], "interpreter": ["python"]}
    words = []
    for part in create_sweep_command(list(content["command"])):
        words += expanded.get(part[2:-1], []) if part.startswith("${") and part.endswith("}") else [part]
    return words


def values_of(sweep, tmp_path, count):
    """The first and the last points of a grid, or as many draws."""
    if sweep.method == "grid":
        grid = sweep.grid()
        return [grid[0], grid[-1]][:count]
    study = SweepStudy(tmp_path, sweep, [], seed=0)
    return [study.begin(slot).values for slot in range(count)]


@pytest.mark.parametrize("name", SWEEPS)
def test_every_command_of_a_sweep_parses(name, tmp_path, capsys):
    sweep = read_sweep(f"configs/{name}")
    for values in values_of(sweep, tmp_path, 2):
        words = sweep.words(values)
        assert words == agents_words(sweep.body, values)
        with pytest.raises(SystemExit) as stopped:
            main([*words[2:], "--print_config"])
        assert stopped.value.code in (None, 0)
        printed = yaml.safe_load(capsys.readouterr().out)
        assert printed["model"]["init_args"]["learning_rate"] == values["model.learning_rate"]
        assert printed["trainer"]["logger"]["class_path"].endswith("Wandb")


def test_the_layers_to_choose_from_are_those_of_the_demo():
    model = yaml.safe_load((configs_folder() / "pretrain" / "tiny.yaml").read_text())["model"]["init_args"]
    layers = WavLMConfig.preset(model["encoder"], **model.get("encoder_overrides", {})).layers
    choices = read_sweep("configs/sweeps/layers_and_heads.yaml").body["parameters"]["model.upstream.layers"]["values"]
    assert choices == [*([layer] for layer in range(layers + 1)), [*range(layers + 1)]]


@pytest.mark.parametrize("name", [name for name in SWEEPS if name.startswith("sweeps/superb/")])
def test_the_official_grid_selects_as_the_task_does(name):
    from wavlm_lightning.upstreams import Fbank

    sweep = read_sweep(f"configs/{name}")
    assert len(sweep.grid()) >= 7
    config = yaml.safe_load((configs_folder() / name.replace("sweeps/", "")).read_text())
    module, _, task = config["model"]["class_path"].rpartition(".")
    metric, mode = getattr(importlib.import_module(module), task)(Fbank()).monitor
    assert (sweep.metric, sweep.goal) == (metric, {"min": "minimize", "max": "maximize"}[mode])


@pytest.mark.parametrize("name", SWEEPS)
@pytest.mark.slow
def test_one_trial_of_every_sweep_runs(name, tiny, tmp_path):
    """In this process; what a pool of them does is tested by `test_sweep.py`."""
    sweep, kind = read_sweep(f"configs/{name}"), name.rsplit("/", 1)[-1].removesuffix(".yaml")
    study = SweepStudy(tmp_path, sweep, [], seed=1)
    trial = study.begin(0)
    options = [*sweep.options(trial.values), "--trainer.accelerator", "cpu", "--trainer.precision", "32-true"]
    corpus = tiny / TINY.get(kind, kind)
    batches = [
        "max_steps=1",
        "limit_val_batches=1",
        "val_check_interval=1",
        "accumulate_grad_batches=1",
        "logger=false",
    ]
    options += ["--data.corpus", str(corpus), "--data.num_workers=0", *(f"--trainer.{each}" for each in batches)]
    if kind != "pretrain":
        chosen = kind == "layers_and_heads"
        options += ["--model.upstream.upstream.source", "tiny"] if chosen else ["--model.upstream", "Fbank"]
        options += ["--data.cache", str(tmp_path / "cache")] if chosen else []
        options += ["--model.hidden=16"] if kind in ("asr", "sf") else []  # at full size a minute each
    run_trial(tmp_path, sweep, trial, options, test=False)
    ended = study.end(trial)
    assert ended.state == "done" and list(ended.reported) == [1] and ended.value is not None
    assert (tmp_path / trial.folder_name / "checkpoints" / "best.ckpt").is_file()


@pytest.mark.parametrize("command", ["3", "1e308", "wavlm fit", "{a: 1}"])
def test_a_command_that_is_no_list_is_refused(tmp_path, command):
    path = tmp_path / "sweep.yaml"
    metric = "metric: {name: valid/loss, goal: minimize}"
    path.write_text(f"method: grid\n{metric}\nparameters: {{seed: {{values: [1, 2]}}}}\ncommand: {command}\n")
    with pytest.raises(UserError, match=r"sweep\.yaml: command must be a list of words"):
        read_sweep(str(path))


@pytest.mark.parametrize("text", ["a: !!timestamp x", "a: !!int x", "[" * 3000])
def test_values_that_the_yaml_library_cannot_make_are_errors_of_yaml(text):
    with pytest.raises(yaml.YAMLError):
        load(text)
