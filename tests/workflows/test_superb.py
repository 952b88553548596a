"""`wavlm superb`: any tasks on any upstreams, once; mistakes named; the table as it should be."""

from __future__ import annotations

import csv
import json
import shutil
from types import SimpleNamespace

import pytest

from wavlm_lightning.cli import main
from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.metrics.superb import TASKS
from wavlm_lightning.reports.cards import ResultCard
from wavlm_lightning.reports.utterances import RESULTS_NAME
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.shipped_configs import configs_folder
from wavlm_lightning.workflows.fit.head_runs import HeadRun
from wavlm_lightning.workflows.superb.benchmark import check_cells, settle
from wavlm_lightning.workflows.superb.cells import Cell, UpstreamSpec, parse_upstreams
from wavlm_lightning.workflows.superb.official import CORPORA, is_official
from wavlm_lightning.workflows.superb.suites import COST, check_tasks, config_name, official_rates

pytestmark = pytest.mark.usefixtures("quick_processes")


def stamps(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("card.json")}


@pytest.mark.slow
def test_tasks_of_every_kind_then_again_in_no_time(tiny, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["superb", "tiny", "FBANK=fbank", "--data", str(tiny), "--output", str(out), "--steps", "2"]
    arguments += ["--tasks", "er", "SD", "qbe", "--jobs", "2"]
    assert main(arguments) == 0
    said = capsys.readouterr()
    assert "Not comparable" in said.out and "random weights (tiny)" in said.out and "FBANK" in said.out
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
    assert after == before


@pytest.mark.slow
def test_the_rate_is_searched(tiny, tmp_path, capsys):
    arguments = ["superb", "fbank", "--data", str(tiny), "--output", str(tmp_path), "--steps", "4", "--tasks", "ks"]
    assert main([*arguments, "--search", "1e-3", "1e-6", "--jobs", "1"]) == 0
    card = json.loads((tmp_path / "fbank" / "ks" / "card.json").read_text())
    grid = card["details"]["learning_rates"]
    assert sorted(grid) == ["0.001", "1e-06"]
    best = max(grid, key=lambda rate: grid[rate]["valid"]["value"])
    assert card["learning_rate"] == float(best) and card["details"]["run"] == f"learning-rate-{best}"
    assert (tmp_path / "fbank" / "ks" / card["details"]["run"] / "checkpoints" / "best.ckpt").is_file()
    assert (card["rates_tried"], card["chosen_on"]) == (2, "valid")
    run = tmp_path / "fbank" / "ks" / card["details"]["run"]
    assert (run.parent / RESULTS_NAME).read_text() == (run / RESULTS_NAME).read_text()
    assert card["interval"] == json.loads((run / "card.json").read_text())["interval"]


def test_commands_are_printed(tiny, tmp_path, capsys):
    arguments = ["superb", "fbank", "--data", str(tiny), "--output", str(tmp_path / "out"), "--dry-run"]
    assert main([*arguments, "--search"]) == 0
    commands = capsys.readouterr().out.splitlines()
    assert len(commands) == 2 * (8 + 5) + 1  # eight trained tasks, five folds of ER; QbE is only tested
    rates = "'[0.1, 0.01, 0.001, 0.0001, 1e-05, 1e-06, 1e-07]'"
    assert sum(f"--model.learning_rate {rates}" in command for command in commands) == len(commands) - 1
    assert sum("qbe.yaml" in command for command in commands) == 1
    # Means over time of normalised features are all alike: no CMVN where the head averages.
    for command in commands:
        pooled = any(f"/{task}.yaml" in command for task in ("ks", "ic", "sid", "er"))
        assert f"--model.upstream.cmvn {str(not pooled).lower()}" in command
    assert not (tmp_path / "out").exists()


def test_every_task_has_both_configurations_and_a_place_in_the_order():
    assert {task.lower() for task in TASKS} == set(COST)
    for mini in (True, False):
        assert all((configs_folder().parent / config_name(task, mini)).is_file() for task in COST)
    assert check_tasks(["ASR", "ks"]) == ["ks", "asr"]
    with pytest.raises(UserError, match="'tts' is not one of SUPERB's tasks"):
        check_tasks(["tts"])
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
        (["fbank", "--data", str(tiny), "--tasks", "xx"], "'xx' is not one of SUPERB's tasks"),
    ):
        assert main(["superb", *arguments, *common]) == 2
        error = capsys.readouterr().err.strip()
        assert wanted in error and len(error.splitlines()) == 1


def test_a_search_does_not_take_the_place_of_a_run_without_one(tmp_path):
    """Of an encoder that is trained, each rate has a run of its own, and the card of the best one goes above them."""
    spec, folder = UpstreamSpec.parse("fbank"), tmp_path / "mos"
    one = HeadRun(folder, ["-c", "x.yaml"])
    one.begin()
    several = [HeadRun(folder / f"learning-rate-{rate}", ["-c", "x.yaml"]) for rate in (0.1, 0.2)]
    check_cells([Cell("mos", spec, folder, [one], [])])
    with pytest.raises(UserError, match="holds a run without a search of the learning rate"):
        check_cells([Cell("mos", spec, folder, several, [0.1, 0.2], alone=True)])


@pytest.mark.parametrize(
    ("config", "own", "others"),
    [
        ("data: {class_path: wavlm_lightning.tasks.TaskData, init_args: {corpus: c}}", "test", ["valid", "test+valid"]),
        ("data: {class_path: TaskData, init_args: {test_split: a+b}}", "a+b", ["test", "a+b, limit_test_batches 1"]),
        (
            "{trainer: {limit_test_batches: 0.5}, data: {class_path: TaskData, init_args: {test_split: a}}}",
            "a, limit_test_batches 0.5",
            ["a", "a, limit_test_batches 2", "b, limit_test_batches 0.5"],
        ),
        ("trainer: {limit_test_batches: 1.0}", "test", ["test, limit_test_batches 1"]),
        ("data: {class_path: wavlm_lightning.tasks.FoldData}", "fold3", ["fold3, limit_test_batches 3"]),
        ("", "documents+queries-test", ["documents, limit_test_batches 3"]),
    ],
)
def test_a_card_of_another_split_is_no_result_of_the_run(tmp_path, config, own, others):
    """`wavlm test RUN --data.test_split OTHER` puts such a card in the place of that of the run."""
    folder = tmp_path / "ks"
    run = HeadRun(folder, ["-c", "x.yaml"])
    cell = Cell("ks", UpstreamSpec.parse("fbank"), folder, [run], [])
    run.begin()
    (folder / "config.yaml").write_text(config)
    card = official_card(path="c")
    for split in (own, *others):
        card.corpus["split"] = split
        card.write(folder)
        assert run.is_done == (split == own) and (settle(cell) is not None) == (split == own)
    (folder / "run.json").unlink()
    with pytest.raises(UserError, match="a result that another command made"):
        run.check()
    (folder / "card.json").write_text("{}")
    assert run.is_done  # and `settle` says what is wrong with it
    with pytest.raises(UserError, match=r"card\.json"):
        settle(cell)


def test_rows_and_folders_are_one_upstreams(tiny, tmp_path, capsys):
    common = ["--data", str(tiny), "--output", str(tmp_path / "out"), "--tasks", "ks"]
    for pair in (["fbank", "fbank"], ["x=tiny", "x=base"], ["a b=tiny", "a-b=tiny"]):
        assert main(["superb", *pair, *common]) == 2
        assert "would share a row or a folder" in capsys.readouterr().err
    assert len({spec.folder for spec in parse_upstreams(["fbank", "fbank_no_cmvn", "モデル=tiny", "tiny"])}) == 4


@pytest.mark.slow
def test_results_of_something_else_are_not_taken_over(tiny, tmp_path, capsys):
    arguments = ["superb", "fbank", "--data", str(tiny), "--output", str(tmp_path), "--tasks", "ks", "--jobs", "1"]
    assert main([*arguments, "--steps", "2"]) == 0
    capsys.readouterr()
    for other in (["--steps", "3"], ["--steps", "2", "--search", "1e-3"]):
        assert main([*arguments, *other]) == 2
        said = capsys.readouterr()
        assert "choose another" in said.err and "|" not in said.out
    # After `wavlm test RUN --data.test_split valid` the run is tested again.
    path = tmp_path / "fbank" / "ks" / "card.json"
    card = json.loads(path.read_text())
    path.write_text(json.dumps({**card, "corpus": {**card["corpus"], "split": "valid"}}))
    assert main([*arguments, "--steps", "2"]) == 0
    again = json.loads(path.read_text())
    assert again["corpus"] == card["corpus"] and again["metrics"] == card["metrics"]
    # A run that was killed before its first last.ckpt begins anew.
    (tmp_path / "fbank" / "ks" / "card.json").unlink()
    (tmp_path / "fbank" / "ks" / "checkpoints" / "last.ckpt").unlink()
    assert main([*arguments, "--steps", "2"]) == 0


@pytest.mark.slow
def test_one_failure_leaves_the_other_results(tiny, tmp_path, capsys):
    """A data set whose labels are broken fails; the other task is in the table, and the status says so."""
    data = tmp_path / "data"
    for name in ("ks", "er"):
        shutil.copytree(tiny / name, data / name)
    body = json.loads((data / "ks" / "corpus.json").read_text())
    body["inventories"]["keywords"] = ["yes", "no"]
    (data / "ks" / "corpus.json").write_text(json.dumps(body))
    out = tmp_path / "out"
    arguments = ["superb", "fbank", "--data", str(data), "--output", str(out), "--tasks", "ks", "er", "--steps", "1"]
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert "1 of 6 runs failed" in said.err and "log.txt" in said.err
    assert "| FBANK |" in said.out and "ER" in (out / "superb.md").read_text()


def official_card(path, split="test", trained=False, trials=37_720, sha256="", **changes) -> ResultCard:
    values = {
        "task": "SV",
        "metrics": {"eer": {"value": 5.0, "unit": "%", "better": "lower"}},
        "headline": "eer",
        "corpus": {"name": "c", "path": str(path), "split": split, "utterances": 10, "seconds": 20.0},
        "upstream": {"label": "u", "class": "U", "sha256": "", "parameters": 0, "frame_rate": 50.0, "layers": 3},
        "learning_rate": 1e-4,
        "seed": 0,
        "steps": 200_000,
        "best_step": 5,
        "protocol": "superb",
        "details": {"trials": trials},
    }
    card = ResultCard(**{**values, **changes})
    card.upstream |= {"trained": True} if trained else {}
    card.corpus |= {"sha256": sha256} if sha256 else {}
    return card


def test_only_the_official_run_may_be_compared(tiny, tmp_path):
    shutil.copytree(tiny / "sv", tmp_path / "sv")
    body = json.loads((tmp_path / "sv" / "corpus.json").read_text())

    def verdict(source, **changes):
        (tmp_path / "sv" / "corpus.json").write_text(json.dumps({**body, "source": source}))
        return is_official(official_card(path=tmp_path / "sv", **changes))

    whole = {"recipe": "voxceleb1", "valid_apart": False}
    assert verdict(whole) is None
    for source in ({"recipe": "mini"}, {**whole, "permuted": 0}, {**whole, "valid_apart": True}):
        assert "own corpus" in verdict(source)
    assert "incomplete" in verdict(whole, trials=100)
    assert "protocol: fixed" in verdict(whole, protocol="fixed")
    assert "20 updates instead of 200000" in verdict(whole, steps=20)
    assert "stopped after 20 of 200000" in verdict(whole, updates=20) and verdict(whole, updates=200_000) is None
    for split in ("valid", "test, limit_test_batches 5"):
        assert verdict(whole, split=split) == f"SV was tested on {split} instead of test"
    assert "encoder of SV was trained" in verdict(whole, trained=True)
    assert "pseudo-labels" in verdict(whole, pseudo_labelled={"utterances": 5})
    assert "began with other weights" in verdict(whole, started={"checkpoint": "a", "with": "head", "step": 1})
    assert "mean of checkpoints" in verdict(whole, averaged=[4, 5])
    test = Corpus.open(tmp_path / "sv").split("test")
    assert verdict(whole, sha256=test.version()) is None
    for tested in (test.version(["noise"]), "a" * 64):
        assert "other recordings or labels than its corpus has, or with data.eval_transforms" in verdict(
            whole, sha256=tested
        )


@pytest.mark.parametrize(
    ("task", "split", "changes", "reason"),
    [
        ("KS", "test", {"steps": 200_000, "labelled": {"utterances": 51_094}}, None),
        ("KS", "test", {"steps": 200_000, "labelled": {"utterances": 500}}, "500 utterances instead of 51094"),
        ("ER", "fold2, fold1, fold3, fold5, fold4", {"steps": 30_000}, None),
        ("ER", "fold1, fold2", {"steps": 30_000}, "tested on fold1, fold2 instead of all 5 folds"),
        ("QbE", "documents+queries-valid+queries-test", {"steps": 0}, None),
        ("QbE", "documents+queries-valid", {"steps": 0}, "instead of documents+queries-valid+queries-test"),
    ],
)
def test_the_official_test_and_training_data_are_those_of_the_task(monkeypatch, task, split, changes, reason):
    recipe, sizes = CORPORA[task]
    splits = {name: {"utterances": size} for name, size in sizes.items()}
    whole = SimpleNamespace(body={"source": {"recipe": recipe}, "splits": splits})
    monkeypatch.setattr(Corpus, "open", lambda path: whole)
    found = is_official(official_card("corpus", split, task=task, **changes))
    assert found is None if reason is None else reason in found
