"""The benchmark's table beside the published rows, and cards combined over folds and rates."""

from __future__ import annotations

import csv
import io
from dataclasses import replace

import pytest

from wavlm_lightning.metrics.superb import METRICS, TASKS, published_entries
from wavlm_lightning.reports.aggregate import best_rate, combine_folds
from wavlm_lightning.reports.cards import ResultCard
from wavlm_lightning.reports.superb_table import METRIC_OF, board_verdict, no_board, superb_csv, superb_table
from wavlm_lightning.system.errors import UserError

LOWER = {"PR", "ASR", "SF_CER", "SV", "SD"}


def card(task: str, values: dict[str, float], **changes) -> ResultCard:
    columns = TASKS[task]
    metrics = {
        METRIC_OF[c]: {"value": values[c], "unit": "%", "better": "lower" if c in LOWER else "higher"} for c in columns
    }
    made = ResultCard(
        task=task,
        metrics=metrics,
        headline=METRIC_OF[columns[0]],
        corpus={"name": "c", "path": "c", "split": "test", "utterances": 10, "seconds": 20.0},
        upstream={"label": "u", "class": "U", "sha256": "", "parameters": 0, "frame_rate": 50.0, "layers": 3},
        learning_rate=1e-3,
        seed=0,
        steps=10,
        best_step=5,
    )
    return replace(made, **changes)


def published(name: str) -> dict[str, ResultCard]:
    values = next(entry.values for entry in published_entries() if entry.name == name)
    return {task: card(task, values) for task in TASKS}


def test_a_published_row_gets_its_published_score_and_rank():
    (line,) = board_verdict({"WavLM Large": published("WavLM Large")})
    assert "Score 1145, Rank 22.80 " in line and "place 1 of 19" in line
    (line,) = board_verdict({"HuBERT Base": published("HuBERT Base")})
    assert "Score 941, Rank 16.50 " in line


def test_some_tasks_have_no_score():
    some = {task: made for task, made in published("WavLM Base").items() if task in ("PR", "SF")}
    (line,) = board_verdict({"mine": some})
    assert "2 of 10 tasks (PR, SF)" in line and "no official Score" in line and "WavLM Large leads" in line


def test_other_corpora_are_not_compared():
    (line,) = board_verdict({"mine": published("WavLM Base")}, "these are others")
    assert "Not comparable" in line and "these are others" in line and "Score 1" not in line


def test_best_of_each_column_is_strong_and_missing_cells_are_dashes():
    one, other = published("WavLM Base"), published("APC")
    del other["SV"]
    text = superb_table({"one": one, "other": other}, list(TASKS)).to_markdown()
    first, second = text.splitlines()[2:4]
    assert first.count("**") == 2 * (len(METRICS) - 1) and "**" not in second and "–" in second
    rows = list(csv.DictReader(io.StringIO(superb_csv({"one": one, "other": other}))))
    assert float(rows[0]["SF_CER"]) == pytest.approx(22.86) and rows[1]["SV"] == ""


def test_other_tasks_stand_in_their_own_units_and_beside_no_published_row():
    def extraction(value: float) -> ResultCard:
        metrics = {
            "si_sdri": {"value": value, "unit": "dB", "better": "higher", "decimals": 1, "scale": 1.0, "chance": 0.0},
            "pesq": {"value": 1.234, "unit": "", "better": "higher", "decimals": 2, "scale": 1.0},
        }
        made = card("PR", {"PR": 1.0}, metrics=metrics, headline="si_sdri", headlines=["si_sdri", "pesq"])
        return replace(made, task="TSE")

    results = {"one": {"PR": card("PR", {"PR": 5.0}), "TSE": extraction(9.04)}, "two": {"TSE": extraction(-1.26)}}
    table = superb_table(results, ["TSE", "PR"], chance=True)
    assert table.to_markdown().splitlines() == [
        "| upstream | PR PER ↓ | TSE SI-SDRi dB ↑ | TSE PESQ ↑ |",
        "| --- | ---: | ---: | ---: |",
        "| one | 5.00 | **9.0** | 1.23 |",
        "| two | – | -1.3 | 1.23 |",
        "| chance | – | 0.0 | – |",
    ]
    rows = list(csv.DictReader(io.StringIO(superb_csv(results))))
    assert rows[1]["PR"] == "" and rows[1]["TSE_si_sdri (dB)"] == "-1.2600" and rows[0]["TSE_pesq"] == "1.2340"
    assert board_verdict({"two": results["two"]}) == []
    assert no_board(results) == ["TSE has no published leaderboard here: compare the rows of this table."]
    (line,) = board_verdict(results)
    assert "1 of 10 tasks (PR)" in line


def test_folds_become_their_mean_and_spread():
    cards = [
        card(
            "ER",
            {"ER": value},
            corpus={"name": "c", "path": "c", "split": f"fold{i}", "utterances": i, "seconds": 1.0},
            selection={"metric": "valid/accuracy", "mode": "max", "value": value / 200, "split": "v"},
            layer_weights=[i / 10, 1 - i / 10],
        )
        for i, value in enumerate((60.0, 64.0, 71.0), start=1)
    ]
    combined = combine_folds(cards)
    assert combined.value == 65 and combined.metrics["accuracy_spread"]["value"] == pytest.approx(5.5677643628)
    assert combined.corpus["utterances"] == 6 and combined.details["folds"]["fold3"] == 71
    assert combined.selection is not None and combined.selection["value"] == pytest.approx(0.325)
    assert combined.layer_weights == pytest.approx([0.2, 0.8])


@pytest.mark.parametrize(("mode", "best"), [("max", 1e-2), ("min", 1e-3)])
def test_the_rate_is_chosen_on_validation_alone(mode, best):
    def tried(valid: float, test: float) -> list[ResultCard]:
        selection = {"metric": "valid/x", "mode": mode, "value": valid, "split": "v"}
        return [card("KS", {"KS": test}, selection=selection)]

    diverged = tried(float("nan"), 50.0)
    assert best_rate({1e-1: diverged, 1e-3: tried(0.2, 90.0), 1e-2: tried(0.3, 10.0)}) == best
    with pytest.raises(UserError, match="no learning rate of KS"):
        best_rate({1e-1: diverged, 1e-2: diverged})
