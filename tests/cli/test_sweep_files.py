"""Every sweep file as the W&B agent expands it: each command parses, and the metric is one that the task logs."""

from __future__ import annotations

import itertools

import pytest
import yaml
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

from wavlm_lightning.cli import main
from wavlm_lightning.cli.configs import configs_folder

SWEEPS = sorted(path.relative_to(configs_folder()) for path in (configs_folder() / "sweeps").rglob("*.yaml"))


@pytest.mark.parametrize("sweep", SWEEPS, ids=str)
def test_every_command_of_a_sweep_parses(sweep, capsys, monkeypatch):
    content = yaml.safe_load((configs_folder() / sweep).read_text())
    assert content["method"] == "grid"
    names = list(content["parameters"])
    grid = list(itertools.product(*(content["parameters"][name]["values"] for name in names)))
    assert len(grid) >= 7
    for values in (grid[0], grid[-1]):
        trial = {"args": {name: {"value": value} for name, value in zip(names, values, strict=True)}}
        expanded = create_sweep_command_args(trial)["args"]
        template = create_sweep_command(content["command"])
        command = [
            word
            for part in template
            for word in (expanded if part == "${args}" else [part.replace("${program}", content["program"])])
        ]
        command = [word for word in command if word != "${env}" and word != "/usr/bin/env"]
        assert command[:2] == ["wavlm", "fit"]
        with pytest.raises(SystemExit) as stopped:
            main([*command[1:], "--print_config"])
        assert stopped.value.code in (None, 0)
        printed = yaml.safe_load(capsys.readouterr().out)
        assert printed["model"]["init_args"]["learning_rate"] == values[names.index("model.learning_rate")]
        assert printed["trainer"]["logger"]["class_path"].endswith("WandbLogger")


@pytest.mark.parametrize("sweep", SWEEPS, ids=str)
def test_the_metric_is_the_one_that_selects(sweep):
    import importlib

    from wavlm_lightning.upstreams import Fbank

    content = yaml.safe_load((configs_folder() / sweep).read_text())
    config = yaml.safe_load((configs_folder() / "superb" / sweep.name).read_text())
    module, _, name = config["model"]["class_path"].rpartition(".")
    task = getattr(importlib.import_module(module), name)(Fbank())
    metric, mode = task.monitor
    assert content["metric"] == {"name": metric, "goal": {"min": "minimize", "max": "maximize"}[mode]}
