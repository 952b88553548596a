"""Which cards and results of utterances stand behind a figure of a report: folds, rates of trained encoders, controls."""

from __future__ import annotations

import csv
from dataclasses import replace

import numpy as np
import pytest

from wavlm_lightning.reports.aggregate import combine_folds
from wavlm_lightning.reports.cards import find_cards
from wavlm_lightning.reports.runs.comparison import against, best_against, compared, control_of, winners
from wavlm_lightning.reports.runs.curves import runs_of
from wavlm_lightning.reports.runs.report import write_run_report
from wavlm_lightning.reports.runs.results import collect
from wavlm_lightning.reports.significance import difference
from wavlm_lightning.reports.superb_table import superb_table
from wavlm_lightning.reports.utterances import UtteranceResults, described, join_folds, write_results


def results(task: str, share: float, count: int, corpus: str = "mini", split: str = "test") -> UtteranceResults:
    """Answers of which a share is right."""
    keys = tuple(f"u{number}" for number in range(count))
    right = (np.arange(count) < share * count).astype(float)
    of = {"task": task, "metric": "accuracy", "better": "higher", "scale": 100.0, "corpus": corpus, "split": split}
    return UtteranceResults(**of, keys=keys, errors=right, counts=np.ones(count))


def collected(folder, **options):
    cards, problems = find_cards([folder])
    return collect(cards, problems, str, **options)


@pytest.mark.usefixtures("unrendered")
@pytest.mark.parametrize("split", ["fold{}", "test"])
def test_folds_without_a_card_above_them_have_the_interval_of_all_of_them(card, tmp_path, split):
    """Of splits that are folds, and of a corpus for each fold, whose splits are all called the same."""
    folds, cards = [], []
    for number, share in enumerate((0.9, 0.5, 0.5, 0.5, 0.5), start=1):
        folds.append(results("ER", share, 100, split=split.format(number)))
        corpus = {**card().corpus, "name": f"mini{number}", "split": split.format(number), "utterances": 100}
        intervals = {"recall": described(folds[-1])}
        cards.append(card("ER", value=100 * share, corpus=corpus, interval=described(folds[-1]), intervals=intervals))
        write_results(tmp_path / f"fold{number}", folds[-1])
        cards[-1].write(tmp_path / f"fold{number}")
        (tmp_path / f"fold{number}" / "metrics.csv").write_text(f"step,valid/accuracy\n9,{share}\n")
    assert combine_folds(cards).intervals == {}  # no fold's is that of the mean
    found = collected(tmp_path)
    measured = found.results["pre-trained"]["ER"].measured["accuracy"]
    expected = described(join_folds(folds))
    assert measured.value == pytest.approx(58) and measured.interval == pytest.approx(
        (expected["low"], expected["high"])
    )
    assert measured.interval[0] < 58 < measured.interval[1]
    assert len(found.results["pre-trained"]["ER"].card.details["folds"]) == 5
    (result,) = found.of_task("ER").values()
    assert [folder.name for folder in runs_of(result.files[0], result.card)] == [f"fold{n}" for n in range(1, 6)]
    write_run_report([tmp_path], tmp_path / "report", lambda card: "not official")
    with (tmp_path / "report" / "report.csv").open(newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["metric"] == "accuracy"]
    figures = [(float(row["value"]), int(row["counted"]), bool(row["low"]), row["card"]) for row in rows]
    # The mean has a row of its own and alone an interval, as where `wavlm superb` has written a card of it.
    assert figures[0] == (90.0, 0, False, "../fold1/card.json") and len(rows) == 6
    assert figures[-1] == (pytest.approx(58), 1, True, "..") and not any(counted for _, counted, *_ in figures[:-1])


def of_content(card, folder, label: str, sha256: str, share: float, **changes):
    """A card and its results on a corpus of the name `mini` whose test split has this hash."""
    answers = replace(results("KS", share, 480), data=sha256)
    corpus = {**card().corpus, **({"sha256": sha256} if sha256 else {})}
    card("KS", label, 100 * share, corpus=corpus, interval=described(answers), **changes).write(folder)
    write_results(folder, answers)


def test_corpora_of_one_name_with_other_recordings_are_not_the_same_test_data(card, tmp_path):
    """As two of `wavlm prepare mini` with two seeds, or a noisy copy: names, keys and lengths are the same."""
    for name, sha256, share in (
        ("one", "a" * 64, 0.5),
        ("two", "a" * 64, 0.6),
        ("other", "b" * 64, 0.9),
        ("old", "", 0.9),
    ):
        of_content(card, tmp_path / name, name, sha256, share, upstream={**card().upstream, "label": name})
    found = collected(tmp_path)
    (column,) = found.columns
    assert compared(found, column, "one", "two").utterances == compared(found, column, "one", "old").utterances == 480
    unlike = compared(found, column, "one", "other")
    assert (unlike.verdict, unlike.p_value, unlike.why) == ("level", None, "not the same test data")
    known = {name: row["KS"].measured["accuracy"] for name, row in found.results.items()}
    assert difference(known["one"], known["other"]).why == "not the same test data"
    assert difference(known["one"], known["two"]).verdict == "ahead"


def test_seeds_on_corpora_of_one_name_with_other_recordings_are_not_averaged(card, tmp_path):
    for seed, sha256 in enumerate(("a" * 64, "b" * 64, "b" * 64)):
        of_content(card, tmp_path / f"seed{seed}", "x", sha256, 0.5, seed=seed, created=f"2026-01-0{seed + 1}")
    found = collected(tmp_path)
    ((result,),) = (row.values() for row in found.results.values())
    assert [each.seed for each in result.cards] == [1, 2] and result.utterances is not None
    (said,) = found.problems
    assert "test data bbbbbb), and left out is" in said and "test data aaaaaa)" in said


def test_a_fold_of_an_older_version_leaves_out_what_it_lacks(card, tmp_path):
    both = {name: {"value": 50.0, "unit": "%", "better": "higher"} for name in ("accuracy", "unweighted_accuracy")}
    for number, weights in ((1, [0.5, 0.5]), (2, [0.2, 0.3, 0.5])):
        metrics = dict([*both.items()][: 3 - number])
        one = card("ER", metrics=metrics, headlines=[*metrics], layer_weights=weights)
        one.corpus["split"] = f"fold{number}"
        one.write(tmp_path / f"fold{number}")
    (result,) = collected(tmp_path).of_task("ER").values()
    assert list(result.card.metrics) == ["accuracy", "accuracy_spread"] and result.card.shown == ["accuracy"]


@pytest.mark.parametrize("group_seeds", [False, True])
def test_rates_of_a_trained_encoder_are_rates_and_not_encoders(card, tmp_path, group_seeds):
    """Its weights differ from run to run, as those of two pre-training seeds do."""
    for number, (rate, valid, test) in enumerate(((1e-5, 90.0, 88.0), (1e-2, 50.0, 50.0))):
        one = card(
            value=test,
            learning_rate=rate,
            selection={"metric": "valid/accuracy", "mode": "max", "value": valid, "split": "valid"},
        )
        one.upstream = {**one.upstream, "sha256": "ab"[number] * 64, "trained": True}
        one.write(tmp_path / str(number))
    found = collected(tmp_path, group_seeds=group_seeds).results
    assert list(found) == ["pre-trained"]
    result = found["pre-trained"]["KS"]
    assert (result.card.value, result.card.learning_rate, len(result.cards)) == (88.0, 1e-5, 1)


def test_a_control_on_permuted_labels_takes_no_lead_away(card, tmp_path):
    shares = {"pre-trained": 0.9, "random weights": 0.5, "pre-trained, permuted labels": 0.1}
    of, utterances = {}, {}
    for label, share in shares.items():
        name = "mini, labels permuted" if "permuted" in label else "mini"
        corpus = {"name": name, "path": "corpus", "split": "test", "utterances": 1000, "seconds": 1000.0}
        found = results("KS", share, 1000, corpus=name)
        one = card(label=label, value=100 * share, corpus=corpus, interval=described(found))
        one.upstream = {**one.upstream, "sha256": label.encode().hex().ljust(64, "0")[:64]}
        write_results(tmp_path / label, found)
        one.write(tmp_path / label)
        of[label], utterances[label] = {"KS": one}, {"KS": found}
    text = superb_table(of, ["KS"], utterances).to_markdown()
    assert "**90.0**" in text and text.count("**") == 2
    assert list(winners(collected(tmp_path)).values()) == ["pre-trained"]


@pytest.mark.parametrize("label", ["FBANK", "FBANK, permuted labels"])
def test_figures_on_permuted_labels_have_a_row_of_their_own_and_are_no_rival(card, tmp_path, label):
    """Those of a run by hand have the label of the encoder alone, and may be newer than the real result."""
    card("KS", "FBANK", 40.0).write(tmp_path / "real")
    card("KS", "mine", 60.0).write(tmp_path / "mine")
    permuted = {**card().corpus, "name": "mini permuted"}
    of = {**card("KS", "FBANK").upstream, "label": label}
    card("KS", value=90.0, upstream=of, corpus=permuted, created="2026-02-01T00:00:00+00:00").write(
        tmp_path / "control"
    )
    found = collected(tmp_path)
    values = {name: row["KS"].card.value for name, row in found.results.items()}
    assert values == {"mine": 60.0, "FBANK": 40.0, "FBANK, permuted labels": 90.0} and found.problems == []
    assert control_of(found) == "FBANK" and best_against(found, "FBANK").upstream == "mine"


def newer(day: int) -> dict:
    return {"created": f"2026-01-{day:02}T00:00:00+00:00"}


def on_validation(value: float, split: str = "valid") -> dict:
    return {"selection": {"metric": "valid/accuracy", "mode": "max", "value": value, "split": split}}


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"trainable_parameters": 9001}, "trained parameters"),
        ({"labelled": {"utterances": 50, "corpus": "mini"}}, "labels"),
        ({"pseudo_labelled": {"utterances": 5, "round": 1}}, "pseudo-labels"),
        ({"averaged": [1, 2, 3]}, "averaged checkpoints"),
        ({"started": {"checkpoint": "runs/x", "with": "head", "step": 5}}, "the weights they began with"),
        ({}, None),
    ],
)
@pytest.mark.parametrize("marked", [False, True])
def test_another_system_is_no_rerun_and_does_not_win_by_its_date(card, tmp_path, change, part, marked):
    """The one that a sweep has chosen counts, else the best on validation."""
    told = {"labelled": {"utterances": 480, "corpus": "mini"}, **newer(1)}
    best = 90.0 if not marked else 50.0
    card(value=80.0, rates_tried=3 if marked else 1, **told, **on_validation(best)).write(tmp_path / "first")
    card(value=70.0, **{**told, **newer(2), **on_validation(60.0), **change}).write(tmp_path / "second")
    found = collected(tmp_path)
    (problem,) = found.problems
    assert found.results["pre-trained"]["KS"].card.value == (80.0 if part or marked else 70.0)
    if part is None:
        assert ("was chosen among 3 runs" if marked else "was run again") in problem
        return
    why = "was chosen among several runs" if marked else "is the best on validation"
    assert f"systems that differ in {part}; {tmp_path}/first/card.json {why} and counts" in problem
    assert problem.endswith(f"and left out is {tmp_path}/second/card.json.") and "again" not in problem


def test_a_test_of_other_weights_below_a_run_is_no_rerun(card, tmp_path):
    """`wavlm test RUN --ckpt_path last` writes `RUN/test-last/card.json`, later than the card of the best weights."""
    card(value=80.0, **newer(1)).write(tmp_path / "run")
    card(value=70.0, **newer(2)).write(tmp_path / "run" / "test-last")
    found = collected(tmp_path)
    assert found.results["pre-trained"]["KS"].card.value == 80.0
    left = f"and left out is {tmp_path}/run/test-last/card.json."
    assert found.problems == [f"Further tests of a run do not count, {left}"]


@pytest.mark.usefixtures("unrendered")
def test_files_of_a_suite_for_one_head_are_columns_as_in_its_table(card, tmp_path):
    spanish = {**card().corpus, "name": "es"}
    systems = {
        "ks": {"steps": 600},
        "ks_joint": {"trainable_parameters": 90_000},
        "ks_es": {"corpus": spanish},
    }
    for label in ("A", "B"):
        for file, changes in systems.items():
            command = f"wavlm test -c configs/{file}.yaml --trainer.default_root_dir runs/x"
            card("KS", label, command=command, **changes).write(tmp_path / label / file)
    found = collected(tmp_path)
    assert found.tasks == ["KS", "KS (ks_es)", "KS (ks_joint)"] and found.problems == []
    assert all(len(found.of_task(task)) == 2 for task in found.tasks)
    write_run_report([tmp_path], tmp_path / "report", lambda card: "not official")


def test_files_for_each_upstream_or_seed_share_a_column(card, tmp_path):
    for place, (label, parameters) in enumerate((("A", 9000), ("B", 8000), ("A", 9000))):
        more = {"command": f"wavlm test -c mine/{place}.yaml", "trainable_parameters": parameters, "seed": place}
        card("KS", label, **more).write(tmp_path / str(place))
    found = collected(tmp_path)
    assert found.tasks == ["KS"] and len(found.results["A"]["KS"].cards) == 2


def test_without_a_common_validation_the_newest_system_counts(card, tmp_path):
    card(value=80.0, **newer(1), **on_validation(90.0)).write(tmp_path / "first")
    other = on_validation(60.0, "other")
    card(value=70.0, trainable_parameters=5, **newer(2), **other).write(tmp_path / "second")
    found = collected(tmp_path)
    assert found.results["pre-trained"]["KS"].card.value == 70.0 and "is the newest and counts" in found.problems[0]


def test_seeds_of_systems_that_began_elsewhere_are_seeds(card, tmp_path):
    """What depends on the seed of a run before is no other system; nor is a card that does not say how many labels it had."""
    for seed, labelled in enumerate(({"utterances": 480, "corpus": "mini"}, {})):
        started = {"checkpoint": f"runs/{seed}", "with": "head", "step": seed}
        pseudo = {"utterances": 90 + seed, "round": 1, "share": 0.5}
        more = {"started": started, "pseudo_labelled": pseudo, "averaged": [seed, seed + 2], "labelled": labelled}
        card(seed=seed, **more).write(tmp_path / str(seed))
    found = collected(tmp_path)
    assert len(found.results["pre-trained"]["KS"].cards) == 2 and found.problems == []


def test_a_test_below_a_run_is_no_part_of_it(card, tmp_path):
    """A further test on a noisy corpus leaves the run's own figure where it is; another seed counts beside the first."""
    card(value=80.0, **newer(1)).write(tmp_path / "ks")
    card(value=60.0, seed=2, **newer(2)).write(tmp_path / "ks" / "seed2")
    noisy = {**card().corpus, "name": "noisy"}
    card(value=20.0, corpus=noisy, **newer(3)).write(tmp_path / "ks" / "noisy")
    found = collected(tmp_path)
    assert found.results["pre-trained"]["KS"].card.value == 70.0
    (problem,) = found.problems
    assert "the newest counts (mini, test, 480 utterances, 600 updates)" in problem
    assert problem.endswith("noisy/card.json (noisy, test, 480 utterances, 600 updates).")


@pytest.mark.parametrize("of", [{"trained": True}, {}])
def test_fine_tuned_encoders_of_labels_with_a_number_are_seeds(card, tmp_path, of):
    """Weights that were trained with the head are not known; the labels tell them apart."""
    for number, value in enumerate((50.0, 53.0, 56.0)):
        one = card("KS", f"full-{number}", value)
        one.upstream |= {"sha256": str(number), **of}
        one.write(tmp_path / str(number))
    result = collected(tmp_path, group_seeds=True).results["full"]["KS"]
    assert (result.card.value, result.deviation("accuracy")) == (53.0, 3.0)
    assert {rate: sorted(values) for rate, values in result.rates.items()} == {1e-3: [50.0, 53.0, 56.0]}


def test_the_newest_run_of_a_rate_is_in_the_picture_of_rates(card, tmp_path):
    for name, rate, value, day in (("a", 1e-2, 40.0, 1), ("b", 1e-2, 70.0, 3), ("c", 1e-3, 80.0, 2)):
        card(value=value, learning_rate=rate, **newer(day), **on_validation(value)).write(tmp_path / name)
    result = collected(tmp_path).results["pre-trained"]["KS"]
    assert result.rates == {1e-3: [80.0], 1e-2: [70.0]} and result.card.value == 80.0


@pytest.mark.parametrize(("name", "split"), [("mini", "other"), ("noisy", "test")])
def test_further_metrics_of_other_test_data_are_level(card, tmp_path, name, split):
    figures = {each: {"value": 50.0, "unit": "%", "better": "higher"} for each in ("accuracy", "f1")}
    card("OWN", metrics=figures, headlines=[*figures]).write(tmp_path / "one")
    better = {each: {**figure, "value": 60.0} for each, figure in figures.items()}
    corpus = {**card().corpus, "name": name, "split": split}
    card("OWN", "FBANK", metrics=better, headlines=[*figures], corpus=corpus).write(tmp_path / "two")
    found = against(collected(tmp_path), "FBANK", "pre-trained").columns.values()
    assert [(each.verdict, each.why) for each in found] == [("level", "not the same test data")] * 2


@pytest.mark.usefixtures("unrendered")
def test_a_headline_that_one_seed_lacks_is_left_out(card, tmp_path):
    """Its package was not installed where that seed was tested."""
    figures = {name: {"value": 2.0, "unit": "", "better": "higher"} for name in ("si_sdr", "pesq")}
    for seed, names in enumerate((["si_sdr", "pesq"], ["si_sdr"])):
        some = {name: figures[name] for name in names}
        card("SE", metrics=some, headline="si_sdr", headlines=names, seed=seed).write(tmp_path / str(seed))
    assert [column.metric for column in collected(tmp_path).columns] == ["si_sdr"]
    write_run_report([tmp_path], tmp_path / "report", lambda card: "not official")


@pytest.mark.usefixtures("unrendered")
@pytest.mark.parametrize(
    ("mode", "curve", "update"),
    [
        ("max", ((99, 0.5), (499, 0.6), (599, 0.59)), None),
        ("max", ((499, 0.6), (899, 0.7), (999, 0.65)), "900"),  # the run went on
        ("min", ((499, 0.6), (899, 0.7)), None),
        ("min", ((99, 0.5), (499, 0.6), (899, 0.4)), "900"),
    ],
)
def test_a_run_that_went_on_after_its_test_is_named(card, tmp_path, mode, curve, update):
    """Card, transcripts and examples are of the earlier weights, the curves are not."""
    selection = {"metric": "valid/accuracy", "mode": mode, "value": 0.6, "split": "valid"}
    card(selection=selection, best_step=500).write(tmp_path / "ks")
    rows = "".join(f"{step},{value}\n" for step, value in curve)
    (tmp_path / "ks" / "metrics.csv").write_text(f"step,valid/accuracy\n{rows}")
    _, problems = write_run_report([tmp_path], tmp_path / "report", lambda card: "not official")
    said = f"ks/card.json is of update 500, and validation was better at update {update}: if the run went on"
    assert len(problems) == bool(update) and all(said in problem for problem in problems)


def test_a_run_that_was_stopped_is_named(card, tmp_path):
    for label, updates in (("stopped", 30), ("whole", 1000), ("unknown", None)):
        card("KS", label, steps=1000, updates=updates).write(tmp_path / label)
    (problem,) = collected(tmp_path).problems
    assert (
        problem
        == f"KS on stopped: the training of {tmp_path / 'stopped' / 'card.json'} was stopped after 30 of 1,000 updates."
    )
