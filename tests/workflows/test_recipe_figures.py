"""What configs/pretrain says of itself is what `wavlm plan` and `wavlm recipe` say."""

from __future__ import annotations

import json
import re
import shlex

import pytest
import yaml

from wavlm_lightning.cli import main
from wavlm_lightning.system.shipped_configs import configs_folder

FOLDER = configs_folder() / "pretrain"
NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml"))
# One of the chains with a teacher is enough for every day.
LONG = [name for name in NAMES if any(word in name for word in ("ctc_clustering", "pbert", "noisy_student"))][1:]
ROWS = {
    row[0].strip(" `"): [cell.strip() for cell in row[1:]]
    for line in (FOLDER / "README.md").read_text().splitlines()
    if len(row := line.strip("|").split("|")) == 9 and row[0].strip().startswith("`")
}


# With a teacher a chain has many stages, whose options are read one by one.
CHAINS = [pytest.param(name, marks=[pytest.mark.long] if name in LONG else []) for name in NAMES]


def _labels(labels: dict) -> str:
    return labels["source"] if labels["clusters"] is None else f"{labels['clusters']} of {labels['source']}"


def plan(name: str, capsys) -> list[dict]:
    capsys.readouterr()
    assert main(["plan", name, "--json"]) == 0
    return json.loads(capsys.readouterr().out)["stages"]


@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith("tiny")])
def test_headers_and_table_are_the_plan(name, capsys):
    stages = plan(name, capsys)
    labels, training = stages[-1]["labelling"], stages[-1]["training"]
    hours, gpus, update = training["gpu_hours"], training["gpus"], training["update_seconds"]
    parts = [each[key] for each in stages for key in ("teacher", "labelling", "training") if each[key] is not None]
    whole = sum(each["gpu_hours"] for each in parts)
    assert ROWS[name] == [
        "none" if labels is None else _labels(labels),
        f"{training['updates']:,}",
        f"{update:,.0f} s",
        str(gpus),
        f"{training['memory']['total'] / 1e9:.1f} GB",
        f"{hours:,.0f}",
        f"{hours / gpus:,.0f}",
        f"{whole:,.0f}",
    ]
    header = " ".join(re.findall(r"^# *(.*)$", (FOLDER / f"{name}.yaml").read_text(), flags=re.M))
    assert f"Expected: {hours:,.0f} A100-hours, {hours / gpus:,.0f} h on {gpus}, at 25 % of the peak" in header
    assert f"Audio per update: {update:,.0f} s" in header


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.slow
def test_the_recipe_makes_the_labels_that_the_configuration_names(name, tmp_path, monkeypatch, capsys):
    """`wavlm fit` alone must find what `wavlm recipe` leaves."""
    content = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
    labels, codebook = content["data"]["init_args"]["labels"], content["recipe"].get("codebook")
    assert (labels is None) == (codebook is None)
    if labels is None or name in ("tiny", "tiny_waveform"):  # they stand for commands of their headers
        return
    if isinstance(labels, list):
        assert main(["recipe", name, "--corpus", str(tmp_path), "--out", str(tmp_path / "out"), "--dry-run"]) != 0
        assert "data.labels names 2 label sets, but a recipe makes one" in capsys.readouterr().err
        return
    capsys.readouterr()
    words = ["recipe", name, "--corpus", str(tmp_path), "--out", str(tmp_path / "out"), "--dry-run"]
    log_mel = content["model"]["init_args"].get("encoder_overrides", {}).get("front_end") == "log_mel"
    assert main([*words, *(["--until", f"fit/{name}"] if log_mel else [])]) == 0
    assert f"--name {labels}" in capsys.readouterr().out


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.slow
def test_the_command_in_the_header_is_understood(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text = (FOLDER / f"{name}.yaml").read_text().replace("\\\n#", "")
    for command in re.findall(r"^# +(wavlm (?:recipe|plan) .*)$", text, flags=re.M):
        words = shlex.split(command)[1:]
        assert main([*words, *(["--dry-run"] if words[0] == "recipe" else [])]) == 0, command


def test_the_table_is_complete():
    assert set(ROWS) == {name for name in NAMES if not name.startswith("tiny")}


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("tiny")])
def test_the_corpus_of_a_tiny_configuration_has_its_labels(name):
    """`runs/demo` holds those of the demo, `runs/tiny` those of tiny_waveform; others are made by `wavlm recipe`."""
    contents = {each: yaml.safe_load((FOLDER / f"{each}.yaml").read_text()) for each in (name, "tiny", "tiny_waveform")}
    data = contents[name]["data"]["init_args"]
    at_hand = {
        contents[each]["data"]["init_args"]["corpus"]: contents[each]["data"]["init_args"]["labels"]
        for each in ("tiny", "tiny_waveform")
    }
    labels = data["labels"] if isinstance(data["labels"], list) else [data["labels"]]
    header = " ".join(re.findall(r"^# *(.*)$", (FOLDER / f"{name}.yaml").read_text(), flags=re.M))
    for each in filter(None, labels):
        assert each == at_hand[data["corpus"]] or f"--name {each}" in header or f"wavlm recipe {name} " in header, (
            f"{data['corpus']} has no labels {each}"
        )
