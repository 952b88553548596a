"""`wavlm sweep`: what is drawn, what is given up, what is resumed, what is said."""

from __future__ import annotations

import csv
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from enhancement import TwoHeadlines
from small_cards import ks_card

from wavlm_lightning.cli import main
from wavlm_lightning.reports.cards import ResultCard
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.upstreams import Fbank
from wavlm_lightning.workflows.sweep.file import read_sweep
from wavlm_lightning.workflows.sweep.pruning import ReportToSweep
from wavlm_lightning.workflows.sweep.runs import _test_untested, mark_chosen, ranked, ranking, write_trials
from wavlm_lightning.workflows.sweep.study import SweepStudy

GRID = {
    "program": "wavlm",
    "method": "grid",
    "metric": {"name": "valid/loss", "goal": "minimize"},
    "parameters": {"model.learning_rate": {"values": [1e-2, 1e-5]}},
    "command": ["${env}", "${program}", "fit", "-c", "configs/superb/mini/ks.yaml", "${args}"],
}
DRAWN = GRID | {
    "method": "random",
    "parameters": {"model.learning_rate": {"distribution": "log_uniform_values", "min": 1e-5, "max": 1e-1}},
}


def written(folder: Path, **changes) -> Path:
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump(GRID | changes, sort_keys=False))
    return path


def study_of(folder: Path, seed: int = 0, **changes) -> SweepStudy:
    folder.mkdir(exist_ok=True)
    (folder.parent / "files").mkdir(exist_ok=True)
    return SweepStudy(folder, read_sweep(str(written(folder.parent / "files", **changes))), [], seed)


def test_a_configuration_that_has_changed_is_another_sweep(tmp_path):
    own = tmp_path / "own.yaml"
    own.write_text("trainer: {max_steps: 100}\n")
    command = ["${env}", "${program}", "fit", "-c", str(own), "${args}"]
    study_of(tmp_path / "sweep", command=command)
    study_of(tmp_path / "sweep", command=command)
    own.write_text("trainer: {max_steps: 5}\n")
    with pytest.raises(UserError, match="holds a sweep with other files"):
        study_of(tmp_path / "sweep", command=command)


def test_files_of_all_values_and_variables_of_the_command_are_known(tmp_path, monkeypatch):
    runs = [tmp_path / name for name in "ab"]
    for run in runs:
        (run / "checkpoints").mkdir(parents=True)
        (run / "checkpoints" / "last.ckpt").write_text("weights")
    words = ["${env}", "${program}", "fit", "--trainer.max_steps=${envvar:STEPS}", "${args}"]
    changes = {"command": words, "parameters": {"model.upstream.source": {"values": [*map(str, runs)]}}}
    monkeypatch.setenv("STEPS", "100")
    study_of(tmp_path / "sweep", **changes)
    study_of(tmp_path / "sweep", **changes)
    monkeypatch.setenv("STEPS", "5000")
    with pytest.raises(UserError, match="holds a sweep with other variables"):
        study_of(tmp_path / "sweep", **changes)
    monkeypatch.setenv("STEPS", "100")
    (runs[1] / "checkpoints" / "last.ckpt").write_text("trained on")
    with pytest.raises(UserError, match="holds a sweep with other files"):
        study_of(tmp_path / "sweep", **changes)


def test_other_shards_are_another_sweep_unless_an_older_version_began_it(tmp_path, monkeypatch):
    encoder = tmp_path / "encoder"
    encoder.mkdir()
    (encoder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "1.safetensors"}}')
    (encoder / "1.safetensors").write_text("weights")
    changes = {"parameters": {"model.upstream.source": {"values": [str(encoder)]}}}
    study_of(tmp_path / "sweep", **changes)
    with monkeypatch.context() as before:
        before.setattr("wavlm_lightning.workflows.sweep.study.shards_named", lambda options: {})
        study_of(tmp_path / "older", **changes)
    study_of(tmp_path / "sweep", **changes)
    study_of(tmp_path / "older", **changes)
    (encoder / "1.safetensors").write_text("of other training")
    with pytest.raises(UserError, match="holds a sweep with other shards"):
        study_of(tmp_path / "sweep", **changes)


def report(study: SweepStudy, trial, values) -> bool:
    """Report as a run's callback does; whether it was given up."""
    callback = ReportToSweep(study.folder, study.sweep, trial.number)
    for value in values:
        callback.validations += 1
        if callback.report(value):
            return True
    return False


@pytest.mark.parametrize(
    "words",
    [
        ["${env}", "${interpreter}", "${program}", "${args}"],
        ["python", "-m", "${program}", "${args_no_equals}", "x${args}"],
        ["${program}", "${args_no_hyphens}", "${envvar:HOME}/y", "${envvar:NOT_SET_ANYWHERE}", "${nonsense}"],
        ["a", "${args_no_boolean_flags}", "${args_json}", "${args_append_hydra}", "${args_override_hydra}"],
    ],
)
def test_words_are_those_of_the_agent(tmp_path, words):
    from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args  # 3.7 s

    sweep = read_sweep(str(written(tmp_path, command=words)))
    values = {"a.b": 1e-5, "c": True, "d": False, "e": [1, 2], "f": "g h", "i": None, "j": 0}
    theirs = create_sweep_command_args({"args": {name: {"value": value} for name, value in values.items()}})
    theirs |= {"program": ["wavlm"], "env": ["/usr/bin/env"], "interpreter": ["python"]}
    expected = []
    for part in create_sweep_command(list(words)):
        expected += (theirs.get(part[2:-1]) or []) if part.startswith("${") and part.endswith("}") else [part]
    assert sweep.words(values) == expected


def test_draws_depend_on_seed_and_slot_alone(tmp_path):
    parameters = {
        "lr": {"distribution": "log_uniform_values", "min": 1e-5, "max": 1e-1},
        "share": {"min": 0.0, "max": 1.0},
        "width": {"min": 8, "max": 64},
        "step": {"distribution": "q_uniform", "min": 0.0, "max": 1.0, "q": 0.1},
        "power": {"distribution": "log_uniform", "min": -5.0, "max": 0.0},
        "choice": {"values": [[1, 2], True, 1, None, "x"]},
        "fixed": {"value": 7},
    }
    changes = {"method": "random", "parameters": parameters}
    one, other = study_of(tmp_path / "a", **changes), study_of(tmp_path / "b", **changes)
    forwards = [one.begin(slot).values for slot in range(40)]
    assert [other.begin(slot).values for slot in reversed(range(40))] == forwards[::-1]
    assert study_of(tmp_path / "c", seed=1, **changes).begin(0).values != forwards[0]
    assert all(1e-5 <= v["lr"] <= 1e-1 and math.exp(-5) <= v["power"] <= 1 and v["fixed"] == 7 for v in forwards)
    assert {type(v["width"]) for v in forwards} == {int} and all(8 <= v["width"] <= 64 for v in forwards)
    assert {v["step"] for v in forwards} <= {n / 10 for n in range(11)} and len({v["step"] for v in forwards}) > 5
    assert {repr(v["choice"]) for v in forwards} == {"[1, 2]", "True", "1", "None", "'x'"}
    assert sum(v["lr"] < 1e-3 for v in forwards) in range(10, 31)  # even on a logarithmic scale


def test_bayes_draws_near_what_was_good_and_goes_on_as_if_never_stopped(tmp_path):
    def distances(method, stops=()):
        folder = tmp_path / f"{method}{len(stops)}"
        study = study_of(folder, seed=2, **(DRAWN | {"method": method}))
        for slot in range(30):
            if slot in stops:
                study = study_of(folder, seed=2, **(DRAWN | {"method": method}))
            trial = study.begin(slot)
            report(study, trial, [abs(math.log10(trial.values["model.learning_rate"]) + 3)])
            study.end(trial)
        return [trial.value for trial in study.trials()]

    bayes, random = distances("bayes"), distances("random")
    assert bayes[:10] == random[:10]  # which is all it knows in the beginning
    assert sum(bayes[10:]) < 0.7 * sum(random[10:])
    assert distances("bayes", stops=(5, 17)) == bayes


def test_the_hopeless_are_given_up_and_rank_by_their_best(tmp_path):
    study = study_of(tmp_path / "a", early_terminate={"type": "hyperband", "min_iter": 2, "eta": 2}, **DRAWN_PARTS)
    good, bad, lost = (study.begin(slot) for slot in range(3))
    assert not report(study, good, [1.0, 0.5, 0.2, 0.3])
    assert report(study, bad, [0.9, 0.8, 0.7])
    assert not report(study, lost, [math.nan])
    ended = [study.end(trial) for trial in (good, bad, lost)]
    assert [trial.state for trial in ended] == ["done", "given up", "done"]
    assert [trial.value for trial in ended] == [0.2, 0.8, math.inf]
    assert list(ended[1].reported) == [1, 2]  # at W&B's first bracket, which is min_iter
    assert [trial.slot for trial in ranked(study.trials(), study.sweep)] == [0, 1, 2]


DRAWN_PARTS = {"method": "random", "parameters": DRAWN["parameters"]}


def test_a_failed_trial_is_tried_again_with_its_values_and_an_interrupted_one_goes_on(tmp_path):
    study = study_of(tmp_path / "a", **DRAWN_PARTS)
    failed, interrupted = study.begin(0), study.begin(1)
    with pytest.raises(UserError, match=r"trial-000 never logged valid/loss at a validation; correct metric.name"):
        study.end(failed)
    again = study_of(tmp_path / "a", **DRAWN_PARTS)
    assert [trial.state for trial in again.trials()] == ["failed", "begun"]
    assert again.begin(1).number == interrupted.number
    retried = again.begin(0)
    assert retried.number != failed.number and retried.values == failed.values and not retried.reported
    with pytest.raises(UserError, match=r"a sweep with other seed; choose another --output"):
        study_of(tmp_path / "a", seed=3, **DRAWN_PARTS)
    with pytest.raises(UserError, match=r"a sweep with other metric; choose another --output"):
        study_of(tmp_path / "a", metric={"name": "valid/loss", "goal": "maximize"}, **DRAWN_PARTS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "bayesian"}, "method must be one of grid, random, bayes, not 'bayesian'; did you mean 'bayes'?"),
        ({"metric": {"name": "valid/loss"}}, "metric must name what ranks the trials"),
        ({"parametres": {}}, "unknown key 'parametres'; did you mean 'parameters'?"),
        ({"parameters": {"a": {"min": 1, "max": 1}}}, "parameters: a: min must be below max"),
        ({"parameters": {"a": {"min": "1e-5", "max": 1}}}, "YAML reads 1.0e-5 as a number, but not 1e-5"),
        ({"parameters": {"a": {"min": 0.1, "max": 0.2}}}, "a grid needs `values: [...]`, not a range"),
        ({"parameters": {"a": {"distribution": "beta", "min": 0, "max": 1}}}, "choose one of int_uniform, uniform"),
        ({"parameters": {"a": {"parameters": {"b": {"value": 1}}}}}, "write `a.KEY:` instead"),
        ({"early_terminate": {"type": "envelope"}}, "early_terminate must be `{type: hyperband"),
        (
            {"command": ["python", "train.py"]},
            "only `wavlm fit` can be swept here, and its command is `python train.py`",
        ),
        (DRAWN_PARTS, "method random has no end; give the number of trials with --trials or run_cap"),
    ],
)
def test_mistakes_are_one_sentence(tmp_path, capsys, changes, message):
    assert main(["sweep", str(written(tmp_path, **changes)), "--dry-run"]) == 2
    said = capsys.readouterr().err.strip()
    assert message in said and "\n" not in said


def test_dry_run_and_hosted(tmp_path, capsys):
    path = str(written(tmp_path))
    assert main(["sweep", path, "--dry-run", "--", "--trainer.max_steps", "3"]) == 0
    said = capsys.readouterr().out.splitlines()
    start = "wavlm fit -c configs/superb/mini/ks.yaml --model.learning_rate="
    assert said == [f"{start}{rate} --trainer.max_steps 3" for rate in ("0.01", "1e-05")]
    assert main(["sweep", path, "--hosted"]) == 0
    assert f"wandb sweep {path}" in capsys.readouterr().out


def test_project_and_entity_of_wandb(tmp_path, capsys):
    """Those of the file, those of the command instead of them, and nothing else than names."""
    path = str(written(tmp_path, project="keywords", entity="my-team"))
    assert read_sweep(path).wandb_names == {"WANDB_PROJECT": "keywords", "WANDB_ENTITY": "my-team"}
    assert read_sweep(str(written(tmp_path))).wandb_names == {}
    assert main(["sweep", path, "--hosted", "--project", "of the command", "--entity", "me"]) == 0
    said = capsys.readouterr().out
    assert f"wandb sweep --project 'of the command' --entity me {path}" in said
    assert "wandb agent me/'of the command'/SWEEP" in said
    for wrong in ("a/b", "-x/", ""):
        assert main(["sweep", path, "--hosted", f"--entity={wrong}"]) == 2
        assert "is no name of a W&B entity" in capsys.readouterr().err
    assert main(["sweep", str(written(tmp_path, project=3)), "--hosted"]) == 2
    assert "project 3 is no name of a W&B project" in capsys.readouterr().err


def test_values_are_shown_in_the_unit_of_the_task(tmp_path):
    task = TwoHeadlines(Fbank(cmvn=False), learning_rate=1e-3)
    for metric, goal, values, texts in [
        ("si_sdr", "maximize", [9.3456, -1.0], ["9.3 dB", "-1.0 dB"]),
        ("wer", "minimize", [0.25, 0.5], ["25.00 %", "50.00 %"]),
    ]:
        study = study_of(tmp_path / metric, metric={"name": f"valid/{metric}", "goal": goal})
        for slot, value in enumerate(values):
            trial = study.begin(slot)
            callback = ReportToSweep(study.folder, study.sweep, trial.number)
            callback.setup(None, task, "fit")
            callback.report(value)
            study.end(trial)
        assert [trial.text for trial in study.trials()] == texts
        text = ranking(study.trials(), study.sweep)
        assert f"valid/{metric} {'↑' if goal == 'maximize' else '↓'}" in text and texts[0] in text.splitlines()[1]
        write_trials(study.folder, study.trials(), study.sweep, [])
        with (study.folder / "trials.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert [row["shown"] for row in rows] == texts
        assert [float(row[f"valid/{metric}"]) for row in rows] == values


def test_a_goal_against_the_direction_of_the_metric_is_refused(tmp_path):
    study = study_of(tmp_path / "study", metric={"name": "valid/si_sdr", "goal": "minimize"})
    callback = ReportToSweep(study.folder, study.sweep, 0)
    with pytest.raises(UserError, match=r"valid/si_sdr of SE is good if higher; set goal: maximize"):
        callback.setup(None, TwoHeadlines(Fbank(cmvn=False), learning_rate=1e-3), "fit")


@pytest.mark.parametrize(("metric", "head"), [("valid/accuracy", ""), ("ks-seed-1/valid/accuracy", "ks-seed-1")])
def test_the_card_of_the_chosen_trial_says_so_also_of_several_heads(tmp_path, metric, head):
    """Trials of several heads have a card for each; they are tested once, and chosen by the head that the metric names."""
    study = study_of(tmp_path / "study", metric={"name": metric, "goal": "maximize"})
    ended = []
    for value in (0.1, 0.2):
        trial = study.begin(len(ended))
        report(study, trial, [value])
        ended.append(study.end(trial))
        chosen_by = {"split": "valid", "metric": "valid/accuracy", "mode": "max", "value": 0.1}
        ks_card(rates_tried=1, selection=chosen_by).write(study.folder / ended[-1].folder_name / head)
    assert _test_untested(study, [], 1) == []  # there is nothing left to test
    mark_chosen(study.folder, ranked(ended, study.sweep), study.sweep)
    cards = [ResultCard.read(study.folder / trial.folder_name / head) for trial in ended]
    assert [(card.rates_tried, card.chosen_on) for card in cards] == [(1, ""), (2, "valid")]


@pytest.mark.usefixtures("quick_processes")
@pytest.mark.slow
def test_a_sweep_runs_is_tested_and_is_not_repeated(tiny, tmp_path, capsys):
    options = ["--model.upstream", "Fbank", "--data.corpus", str(tiny / "ks"), "--data.cache", str(tmp_path / "cache")]
    options += ["--trainer.accelerator", "cpu", "--trainer.max_steps", "6", "--trainer.val_check_interval", "2"]
    out = tmp_path / "out"
    command = ["sweep", str(written(tmp_path)), "--output", str(out), "--jobs", "2", "--test", "--", *options]
    assert main(command) == 0
    said = capsys.readouterr().out
    with (out / "trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["trial"], row["state"], row["validations"]) for row in rows] == [
        ("trial-000", "done", "3"),
        ("trial-001", "done", "3"),
    ]
    best = min(rows, key=lambda row: float(row["valid/loss"]))
    assert f"The best is {out / best['trial'] / 'checkpoints' / 'best.ckpt'}" in said and "wandb sweep " in said
    assert best["command"].startswith("wavlm fit -c configs/superb/mini/ks.yaml --model.learning_rate=")
    cards = {path: path.stat().st_mtime_ns for path in out.glob("*/card.json")}
    replaced = min(cards)  # by `wavlm test RUN --data.test_split valid`
    card = json.loads(replaced.read_text())
    replaced.write_text(json.dumps({**card, "corpus": {**card["corpus"], "split": "valid"}}))
    assert main(command) == 0
    assert json.loads(replaced.read_text())["corpus"] == card["corpus"]
    cards[replaced] = replaced.stat().st_mtime_ns
    assert len(cards) == 2
    tried = {path.parent.name: ResultCard.read(path) for path in cards}
    assert {name: (card.rates_tried, card.chosen_on) for name, card in tried.items()} == {
        best["trial"]: (2, "valid"),
        **{row["trial"]: (1, "") for row in rows if row is not best},
    }
    assert main(command) == 0
    assert {path: path.stat().st_mtime_ns for path in out.glob("*/card.json")} == cards
    for path in cards:  # as if the first call had been without --test
        path.unlink()
    assert main(command) == 0
    assert {path.parent.name: ResultCard.read(path).metrics for path in out.glob("*/card.json")} == {
        name: card.metrics for name, card in tried.items()
    }


@pytest.mark.slow
@pytest.mark.long
def test_a_killed_sweep_goes_on_where_it_was(tiny, tmp_path):
    options = ["--model.upstream", "Fbank", "--data.corpus", str(tiny / "ks"), "--data.cache", str(tmp_path / "cache")]
    options += ["--trainer.accelerator=cpu", "--trainer.val_check_interval=20", "--checkpoint_every=5"]
    options += ["--trainer.log_every_n_steps=1", "--trainer.max_steps=100"]
    path, out = written(tmp_path), tmp_path / "out"
    command = [sys.executable, "-m", "wavlm_lightning", "sweep", str(path), "--output", str(out), "--jobs", "1", "--"]
    command += options
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + 120
        while not (out / "trial-000" / "checkpoints" / "last.ckpt").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    study = SweepStudy(out, read_sweep(str(path)), options, 0)
    assert [(trial.state, trial.number) for trial in study.trials()] == [("begun", 0)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr[-2000:]
    first, second = study.trials()
    assert (first.state, second.state, first.number) == ("done", "done", 0)
    assert list(first.reported) == [1, 2, 3, 4, 5]
    versions = sorted(folder.name for folder in (out / "trial-000" / "curves").iterdir())
    assert versions == ["version_0", "version_1"]
    with (out / "trial-000" / "curves" / "version_1" / "metrics.csv").open() as file:
        assert int(next(csv.DictReader(file))["step"]) >= 5  # from the checkpoint, not from the start
