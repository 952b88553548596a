"""Switches give the configurations that they say, records are judged by the rules, and clocks count every attempt."""

from __future__ import annotations

import csv
import math
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import yaml
from scipy.stats import t as student

from wavlm_lightning.reports.curves import read_curves
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.run_folder import curve_files

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "experiments" / "speedrun"
MODULES = ("composing", "records", "run", "stages", "tables", "training")


@pytest.fixture
def speedrun(monkeypatch: pytest.MonkeyPatch):
    """The modules of the experiment, by name."""
    monkeypatch.syspath_prepend(str(FOLDER))

    def module(name: str) -> ModuleType:
        return __import__(name)

    yield module
    for name in MODULES:
        sys.modules.pop(name, None)


@pytest.fixture
def composing(speedrun):
    return speedrun("composing")


def result(seed: int, pr: float, ks: float, sid: float, **facts) -> dict:
    clocks = {
        "audio": 1e4,
        "encoder": 2e4,
        "flops": 3e15,
        "wall": 100.0 + seed,
        "cpu": 150.0,
        "attempts": 2,
        "commands": 2,
    }
    body = {"recipe": "some", "key": "some-1-abc", "switches": ["a"], "supervised": False, "budget": 1, "updates": 1}
    body |= {
        "seed": seed,
        "figures": {"pr": pr, "ks": ks, "sid": sid},
        "clocks": clocks,
        "threads": 2,
        "processor": "p",
    }
    return {**body, "date": "2026-11-29", "commit": "c0ffee", "jobs": 1, **facts}


def test_every_switch_changes_the_base(composing):
    track = composing.read_track("cpu-tiny")
    base = composing.compose(track, [])
    assert base.content == {**yaml.safe_load((ROOT / track["base"]).read_text()), "trainer": base.content["trainer"]}
    keys = {base.key}
    for name in composing.names("switches"):
        recipe = composing.compose(track, [name])
        assert recipe.content != base.content or recipe.updates != base.updates, name
        keys.add(recipe.key)
    assert len(keys) == 1 + len(composing.names("switches")) >= 13


def test_switches_together_and_what_cannot_be(composing):
    track = composing.read_track("cpu-tiny")
    both = composing.compose(track, ["ils", "context"], 100, config={"model": {"init_args": {"learning_rate": 1.0}}})
    names = [composing.class_name(each) for each in both.content["model"]["init_args"]["objectives"]]
    assert names == ["MaskedPrediction", "LogMelRegression", "FeaturePenalty", "MaskedPrediction"]
    assert list(both.codebooks) == ["context100"] and both.content["model"]["init_args"]["learning_rate"] == 1.0
    assert both.content["trainer"]["max_steps"] == both.content["trainer"]["val_check_interval"] == 100
    composing.rename_labels(both.content, {"context100": "context100-f00"})
    assert both.content["data"]["init_args"]["labels"] == "context100-f00"
    with pytest.raises(UserError, match=r"switches rate_low and rate_high both set model\.init_args\.learning_rate"):
        composing.compose(track, ["rate_low", "rate_high"])
    with pytest.raises(UserError, match=r"no switch 'contxt' .* did you mean 'context'"):
        composing.compose(track, ["contxt"])
    with pytest.raises(
        UserError, match="switch ils has the sizes of cpu-tiny and real-speech; write one for track gpu-base"
    ):
        composing.compose(composing.read_track("gpu-base"), ["ils"])
    with pytest.raises(UserError, match="nothing says how the labels 'none_such' are made"):
        composing.compose(track, [], config={"data": {"init_args": {"labels": "none_such"}}})


@pytest.mark.parametrize(
    ("chosen", "key"),
    [
        (["copies_2", "copies_4"], r"model\.init_args\.copies\.copies"),
        (["narrow_deep", "wide_shallow"], r"model\.init_args\.encoder_overrides\.layers"),
        (["mask_high", "mask_grows"], r"model\.init_args\.masking\.probability"),
        (["masked_only", "visible_annealed"], r"objectives\.MaskedPrediction\.unmasked_weight"),
    ],
)
def test_what_a_second_switch_would_undo_is_refused(composing, chosen, key):
    for order in (chosen, chosen[::-1]):
        with pytest.raises(UserError, match=f"switches {order[0]} and {order[1]} both set {key};"):
            composing.compose(composing.read_track("cpu-tiny"), order)


def test_switches_that_say_the_same_go_together(composing):
    both = composing.compose(composing.read_track("cpu-tiny"), ["log_mel", "log_mel_bins", "narrow_deep"])
    overrides = both.content["model"]["init_args"]["encoder_overrides"]
    assert overrides["mel_norm"] == "bins" and overrides["mel_channels"] == [128, 256] and overrides["layers"] == 8


def test_the_last_validation_is_at_the_end_of_a_run(composing):
    for track in map(composing.read_track, composing.names("tracks")):
        for updates in (20, 325, 650, 1300, 2600):
            trainer = composing.compose(track, [], updates).content["trainer"]
            batches = updates * trainer.get("accumulate_grad_batches", 1)
            assert batches % trainer["val_check_interval"] < 0.01 * batches
    assert composing.compose(composing.read_track("cpu-tiny"), []).content["trainer"]["val_check_interval"] == 200


def test_labels_of_a_first_run_are_those_of_its_recipe(composing, speedrun, tmp_path, monkeypatch):
    """A changed base gives other labels, and a corpus that two folders use has those of each."""
    training, track = speedrun("training"), composing.read_track("cpu-tiny")
    how = {"first_run": {"updates": 10}, "fit": {"layer": 1, "clusters": 9}}
    monkeypatch.setattr(training.Stage, "run", lambda *_, **__: None)
    monkeypatch.setattr(training.Speedrun, "pretrain", lambda *_: training.Clocks())
    monkeypatch.setattr(training.Speedrun, "_labelling_flops", lambda *_: 1.0)
    changed = {**track, "config": {"model": {"init_args": {"learning_rate": 1.0}}}}
    names = [
        training.Speedrun(one, tmp_path / out, SimpleNamespace(threads=1), given).make_labels("some", how, seed)[0]
        for one, out, given, seed in (
            (track, "a", None, 0),
            (track, "b", None, 0),
            (track, "a", None, 1),
            (changed, "a", None, 0),
            (track, "a", tmp_path, 0),
            (track, "b", tmp_path, 0),
        )
    ]
    assert names[0] == names[1] and len(set(names)) == 5


def test_a_corpus_of_another_size_makes_no_record(composing, speedrun, tiny, tmp_path):
    training, track = speedrun("training"), composing.read_track("cpu-tiny")
    with pytest.raises(UserError, match="pretrain is the mini corpus of size tiny, and these runs are of size mini;"):
        training.Speedrun(track, tmp_path, SimpleNamespace(threads=1), tiny).prepare()
    training.Speedrun(track, tmp_path, SimpleNamespace(threads=1), tiny, size="tiny").prepare()


def test_a_share_of_the_updates_and_an_objective_by_its_class(composing):
    track = composing.read_track("cpu-tiny")
    content = composing.compose(track, ["data2vec", "log_mel_annealed"], 400).content
    objectives = content["model"]["init_args"]["objectives"]
    assert [composing.class_name(each) for each in objectives] == ["LogMelRegression", "FeaturePenalty", "Data2Vec"]
    assert objectives[2]["init_args"]["decay_updates"] == 300
    assert content["trainer"]["callbacks"][0]["init_args"] == {
        "name": "objectives.0.weight", "start": 1.0, "end": 0.0, "from_update": 0, "to_update": 200,
    }  # fmt: skip
    content = composing.compose(track, ["ils", "visible_annealed"], 400).content
    moved = [each["init_args"]["name"] for each in content["trainer"]["callbacks"]]
    assert moved == ["objectives.0.unmasked_weight", "objectives.3.unmasked_weight"]  # of both layers
    with pytest.raises(
        UserError, match=r"moves objectives\.MaskedPrediction\.unmasked_weight, but the configuration has Log"
    ):
        composing.compose(track, ["data2vec", "visible_annealed"])


def test_a_folder_has_one_track_and_the_same_recordings(composing, speedrun, tmp_path):
    run, track = speedrun("run"), composing.read_track("real-speech")
    given = {"track": "real-speech", "out": tmp_path, "corpus": None, "size": None, "head_steps": None}
    for speech in (None, tmp_path / "one", None):  # the first call is told to name it
        run.one_kind(SimpleNamespace(**given, speech=speech), track)
    with pytest.raises(UserError, match=r"holds runs with speech '.*one', not '.*other'; choose another --out"):
        run.one_kind(SimpleNamespace(**given, speech=tmp_path / "other"), track)


def test_a_result_says_how_its_encoder_was_trained(composing, speedrun, tmp_path, monkeypatch):
    """Not how the call worked that only went on with its heads."""
    training, track = speedrun("training"), composing.read_track("cpu-tiny")
    monkeypatch.setattr(training.Speedrun, "make_labels", lambda *_: ("labels", training.Clocks()))
    monkeypatch.setattr(training.Speedrun, "size_of", lambda *_: 100)
    monkeypatch.setattr(training, "training_costs", lambda _: {})
    monkeypatch.setattr(training, "masked_accuracy", lambda _: {})

    def stopped(*_):
        raise KeyboardInterrupt

    def call(threads: int, jobs: int):
        commands = SimpleNamespace(threads=threads, run=lambda *_: None)
        return training.Speedrun(track, tmp_path, commands, facts={"jobs": jobs, "commit": f"c{jobs}"})

    recipe = composing.compose(track, [], 20)
    monkeypatch.setattr(training.Speedrun, "probe", stopped)
    with pytest.raises(KeyboardInterrupt):
        call(threads=1, jobs=2).run(recipe, 0)
    monkeypatch.setattr(training.Speedrun, "probe", lambda *_: {"pr": 50.0})
    found = call(threads=8, jobs=1).run(recipe, 0)
    assert (found["threads"], found["jobs"], found["commit"]) == (1, 2, "c2")


def test_another_budget_leaves_the_curves_of_a_record(composing, speedrun):
    track, training = composing.read_track("cpu-tiny"), speedrun("training")
    recipes = [composing.read_record("tenth", track, updates) for updates in (None, 100, 200)]
    found = [training.curves_name(each, own=each.budget == 250) for each in recipes]
    assert found == ["tenth_curves.csv", "tenth_100_curves.csv", "tenth_200_curves.csv"]


def test_a_changed_switch_of_a_first_run_is_a_new_run(composing, monkeypatch):
    track, known = composing.read_track("cpu-tiny"), composing.read_switch
    before = {name: composing.compose(track, [name]).key for name in ("it2", "it2_less_mean")}
    other = {"model": {"init_args": {"encoder_overrides": {"front_end": "log_mel", "mel_channels": [64]}}}}

    def changed(name: str):
        return replace(known(name), config=other) if name == "log_mel" else known(name)

    monkeypatch.setattr(composing, "read_switch", changed)
    after = {name: composing.compose(track, [name]).key for name in before}
    assert after["it2"] == before["it2"] and after["it2_less_mean"] != before["it2_less_mean"]


def test_batches_of_half_the_audio_have_twice_the_updates(composing):
    track = composing.read_track("cpu-tiny")
    base, half = composing.compose(track, [], 100), composing.compose(track, ["batch_half"], 100)
    seconds = [each.updates * each.content["data"]["init_args"]["batch_seconds"] for each in (base, half)]
    assert seconds[0] == seconds[1] and base.budget == half.budget == 100


def test_a_record_holds_by_all_rules(speedrun):
    records = speedrun("records")
    target = {"pr": 47.2, "ks": 58.1, "sid": 38.3}
    baseline = [result(seed, 47.0, 58.0 + 2 * seed, 38.0 + seed) for seed in range(3)]  # deviations 2 and 1
    good = [result(seed, 46.0 + 0.1 * seed, 56.2, 37.4) for seed in range(3)]
    verdict = records.check(good, target, baseline)
    assert verdict.holds
    statistic = (46.1 - 47.2) / (0.1 / math.sqrt(3))
    assert verdict.p == pytest.approx(float(student(2).cdf(statistic)))
    for bad in (
        good[:2],  # too few seeds
        [result(seed, 46.9 + 0.3 * seed, 60.0, 40.0) for seed in range(3)],  # by chance
        [result(seed, 46.0 + 0.1 * seed, 56.0, 37.4) for seed in range(3)],  # KS more than one deviation below
        [result(seed, 46.0 + 0.1 * seed, 56.2, 37.2) for seed in range(3)],  # SID
        [{**each, "supervised": True} for each in good],
    ):
        assert not records.check(bad, target, baseline).holds
    assert not records.check(good, target, baseline[:2]).holds


def test_the_log_keeps_one_row_a_recipe_and_commit(speedrun, tmp_path):
    records = speedrun("records")
    target = {"pr": 47.2, "ks": 58.1, "sid": 38.3}
    for name, factor in (("baseline", 1.0), ("fast", 0.25), ("fast", 0.25), ("baseline", 1.0)):
        seeds = [result(seed, 46.0 + 0.1 * seed, 60.0, 40.0, recipe=name) for seed in range(3)]
        for each in seeds:
            each["clocks"] = {clock: factor * value for clock, value in each["clocks"].items()}
        records.append(tmp_path, records.row_of(seeds, records.check(seeds, target, seeds)))
    rows = list(csv.DictReader((tmp_path / "records.csv").open()))
    assert [row["record"] for row in rows] == ["baseline", "fast"]
    assert "| 2500 (1/4) | 5000 (1/4) | 0.75 (1/4) | 25.25 (1/4) | yes |" in (tmp_path / "records.md").read_text()
    assert (tmp_path / "records.png").stat().st_size > 10_000


def test_the_table_counts_seeds_that_beat_the_baseline(speedrun):
    tables = speedrun("tables")
    runs = [result(seed, 50.0 + seed, 50.0, 30.0, recipe="baseline", key="b", switches=[]) for seed in range(3)]
    runs += [result(seed, 51.0, 52.0, 30.0) for seed in range(3)]
    text = "\n".join(tables.switch_lines(runs))
    assert "| `baseline` | 51.0 ± 1.0 | 50.0 ± 0.0 | 30.0 ± 0.0 |" in text
    assert "| `some` | 51.0 ± 0.0 (1/3) | 52.0 ± 0.0 (3/3) | 30.0 ± 0.0 (0/3) |" in text


def test_what_a_gain_is_worth_in_audio(speedrun):
    tables = speedrun("tables")
    runs = []
    for budget, audio in ((100, 1000.0), (200, 2000.0), (400, 4000.0)):
        one = result(0, 80.0 * (audio / 1000) ** -0.25, 50.0, 30.0, recipe="baseline", key=f"b{budget}", budget=budget)
        runs.append({**one, "clocks": {**one["clocks"], "audio": audio}})
    assert tables.slope(runs) == pytest.approx(0.25)
    assert tables.slope(runs[:1]) is None
    other = result(0, 40.0, 50.0, 30.0, budget=100)  # half of the error: the audio times 2 ** (1 / 0.25)
    line = next(line for line in tables.switch_lines([*runs, other]) if line.startswith("| `some`"))
    assert "| 16.0 |" in line


@pytest.fixture
def stages(speedrun, monkeypatch, tmp_path):
    """The module, whose commands are a shell script that says its words and works for a moment."""
    stages = speedrun("stages")
    script = tmp_path / "python"
    script.write_text(
        '#!/bin/sh\nshift 2\necho "$@"\n[ "$1" != fails ] || exit 3\n[ "$1" != long ] || exec sleep 60\nsleep 0.1\n'
    )
    script.chmod(0o755)
    monkeypatch.setattr(stages, "sys", SimpleNamespace(executable=str(script)))
    return stages


def test_a_track_of_cpu_cores_has_no_gpu(stages, tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\necho gpus: $CUDA_VISIBLE_DEVICES\n")
    for gpu in (True, False):
        stages.Commands(1, gpu).run(["fit"], tmp_path / "log.txt")
    assert (tmp_path / "log.txt").read_text() == "gpus: 3\ngpus:\n"


def test_a_stage_is_done_once_and_counts_its_attempts(stages, tmp_path):
    path, log = tmp_path / "stage.json", tmp_path / "log.txt"
    with pytest.raises(UserError, match="`wavlm fails` ended with status 3"):
        stages.Stage(path).run(stages.Commands(1), log, ["good"], ["fails"])
    first = stages.Stage(path)
    assert not first.done and first.body["seconds"] > 0.1
    for _ in range(2):
        stages.Stage(path).run(stages.Commands(1), log, ["good", 1])
    last = stages.Stage(path)
    assert last.done and last.body["attempts"] == 2 and last.body["seconds"] > first.body["seconds"] + 0.1
    assert log.read_text() == "good\nfails\ngood 1\n"


def test_a_stop_ends_what_runs_and_starts_nothing_more(stages, tmp_path):
    commands, stage = stages.Commands(1), stages.Stage(tmp_path / "stage.json")
    ended = []

    def work() -> None:
        try:
            stage.run(commands, tmp_path / "log.txt", ["long"], ["good"])
        except KeyboardInterrupt:
            ended.append(time.perf_counter())

    thread = threading.Thread(target=work)
    thread.start()
    while not (tmp_path / "log.txt").is_file() or not (tmp_path / "log.txt").read_text():
        time.sleep(0.01)
    commands.stop()
    thread.join(10)
    assert ended and not stage.done and (tmp_path / "log.txt").read_text() == "long\n"


def test_ctrl_c_ends_a_command_of_the_main_thread(stages, tmp_path):
    """As while the corpora are made: the command is not left to go on without its caller."""
    commands, log, here = stages.Commands(1), tmp_path / "log.txt", threading.get_ident()

    def interrupt() -> None:
        while not commands._running or not log.read_text():
            time.sleep(0.1)
        time.sleep(0.1)  # until it waits
        signal.pthread_kill(here, signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            commands.run(["long"], log)
    finally:
        thread.join(10)
        signal.signal(signal.SIGINT, before)
    (process,) = commands._running
    assert process.returncode == -signal.SIGTERM


SOME = ["log_mel", "copies_4", "muon", "dinosr", "crops_grow"]


@pytest.mark.parametrize(
    "chosen", [pytest.param(SOME, marks=pytest.mark.slow), pytest.param(None, marks=pytest.mark.long)]
)
def test_fit_accepts_recipes_and_plan_counts_them(composing, speedrun, tmp_path, chosen):
    """Keys and values of `wavlm fit`, and the arithmetic of `wavlm plan`; the baselines of all tracks, and switches."""
    from wavlm_lightning.workflows.fit import read_options

    training = speedrun("training")
    for name in composing.names("tracks"):
        track = composing.read_track(name)
        runs = training.Speedrun(track, tmp_path / name, None)
        for switch in (
            [None, *(chosen or composing.switches_of(track))] if chosen is None or name == "cpu-tiny" else [None]
        ):
            recipe = composing.compose(track, [] if switch is None else [switch])
            assert runs.bill(recipe).flops > 0
            read_options("-c", str(tmp_path / name / "plans" / f"{recipe.key}.yaml"))


@pytest.mark.long
@pytest.mark.timeout(900)
def test_switches_and_a_record_from_beginning_to_end(tmp_path):
    command = [sys.executable, str(FOLDER / "run.py")]
    trial = ["--out", str(tmp_path), "--size", "tiny", "--updates", "25", "--head-steps", "10"]
    trial += ["--seeds", "1", "--jobs", "2"]
    subprocess.run([*command, "switches", "random_codes", *trial], check=True, cwd=ROOT)
    table = (tmp_path / "switches.md").read_text()
    assert "| `baseline` |" in table and "| `random_codes`: random codes" in table
    rows = list(csv.DictReader((tmp_path / "runs.csv").open()))
    assert len(rows) == 2
    for row in rows:
        run = tmp_path / "runs" / row["key"] / f"seed{row['seed']}"
        logged = read_curves(curve_files(run))["health/audio_seconds"]
        assert logged.last > 200 and float(row["audio"]) == pytest.approx(logged.last)  # both after the last update
        assert 0.9 < float(row["encoder"]) / float(row["audio"]) <= 1.0
        assert (
            float(row["wall"]) > 0
            and float(row["cpu"]) > 0
            and float(row["flops"]) > 1e11
            and row["attempts"] == row["commands"]
        )
    said = subprocess.run(
        [*command, "record", "baseline", *trial], check=True, cwd=ROOT, capture_output=True, text=True
    )
    assert "baseline: misses the target" in said.stdout and "1 seeds of the 3" in said.stdout
    assert (tmp_path / "records.csv").is_file()  # a trial is not logged in the experiment's folder
