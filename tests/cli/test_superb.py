"""`wavlm superb`: any tasks on any upstreams, once; mistakes named; the table as it should be."""

from __future__ import annotations

import csv
import json

import pytest

from wavlm_lightning.cli import main
from wavlm_lightning.cli import superb_runs as runs_module
from wavlm_lightning.cli.superb_runs import COST, UpstreamSpec, check_tasks, official_rates
from wavlm_lightning.errors import UserError
from wavlm_lightning.metrics.superb import TASKS


def stamps(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("card.json")}


@pytest.mark.slow
def test_tasks_of_every_kind_then_again_in_no_time(tiny, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["superb", "tiny", "FBANK=fbank", "--data", str(tiny), "--output", str(out), "--steps", "2"]
    arguments += ["--tasks", "er", "SD", "qbe", "--jobs", "2"]
    assert main(arguments) == 0
    said = capsys.readouterr()
    assert "not comparable" in said.out and "random weights (tiny)" in said.out and "FBANK" in said.out
    with (out / "superb.csv").open() as file:
        rows = {row["Method"]: row for row in csv.DictReader(file)}
    for row in rows.values():
        assert all(row[metric] for metric in ("ER", "SD", "QbE")) and not row["PR"]
    card = json.loads((out / "tiny" / "er" / "card.json").read_text())
    assert sorted(card["details"]["folds"]) == [f"fold{i}" for i in range(1, 6)]
    assert "accuracy_spread" in card["metrics"] and card["corpus"]["utterances"] == 20
    assert (out / "superb.md").read_text().startswith("| upstream | ER accuracy ↑ | QbE MTWV ↑ | SD DER ↓ |")
    before = stamps(out)
    assert len(before) == 2 * (6 + 1 + 1)
    assert main(arguments) == 0
    after = stamps(out)
    assert {p: t for p, t in after.items() if "fold" in str(p) or "er" not in p.parts} == {
        p: t for p, t in before.items() if "fold" in str(p) or "er" not in p.parts
    }


@pytest.mark.slow
def test_the_rate_is_searched(tiny, tmp_path, capsys):
    arguments = ["superb", "fbank", "--data", str(tiny), "--output", str(tmp_path), "--steps", "4", "--tasks", "ks"]
    assert main([*arguments, "--search", "1e-3", "1e-6", "--jobs", "1"]) == 0
    card = json.loads((tmp_path / "fbank" / "ks" / "card.json").read_text())
    grid = card["details"]["learning_rates"]
    assert sorted(grid) == ["0.001", "1e-06"]
    best = max(grid, key=lambda rate: grid[rate]["valid"]["value"])
    assert card["learning_rate"] == float(best)


def test_commands_are_printed(tiny, tmp_path, capsys):
    arguments = ["superb", "fbank", "--data", str(tiny), "--output", str(tmp_path / "out"), "--dry-run"]
    assert main([*arguments, "--search"]) == 0
    commands = capsys.readouterr().out.splitlines()
    assert len(commands) == 2 * (7 * 8 + 7 * 5) + 1  # eight trained tasks, five folds of ER; QbE is only tested
    assert sum("qbe.yaml" in command for command in commands) == 1
    # Means over time of normalised features are all alike: no CMVN where the head averages.
    for command in commands:
        pooled = any(f"/{task}.yaml" in command for task in ("ks", "ic", "sid", "er"))
        assert f"--model.upstream.cmvn {str(not pooled).lower()}" in command
    assert not (tmp_path / "out").exists()


def test_every_task_has_both_configurations_and_a_place_in_the_order():
    assert {task.lower() for task in TASKS} == set(COST)
    for mini in (True, False):
        assert runs_module.available(mini) == list(COST)
    assert check_tasks(["ASR", "ks"], mini=False) == ["ks", "asr"]
    with pytest.raises(UserError, match="'st' is none of SUPERB's tasks"):
        check_tasks(["st"], mini=True)
    assert official_rates("sid") == [10.0**-k for k in range(1, 8)]


def test_cmvn_that_was_asked_for_stays():
    assert "false" in UpstreamSpec.parse("X=fbank").options("ks")
    assert "true" in UpstreamSpec.parse("X=fbank").options("pr")
    assert "false" in UpstreamSpec.parse("fbank_no_cmvn").options("pr")


def test_mistakes_are_one_sentence(tiny, tmp_path, capsys):
    common = ["--output", str(tmp_path / "out")]
    for arguments, wanted in (
        (["fbnak", "--data", str(tiny)], "fbank"),
        (["fbank", "--data", str(tmp_path)], "no corpora there"),
        (["fbank", "--data", str(tiny), "--tasks", "xx"], "'xx' is none of SUPERB's tasks"),
    ):
        assert main(["superb", *arguments, *common]) == 2
        error = capsys.readouterr().err.strip()
        assert wanted in error and len(error.splitlines()) == 1
