"""Metrics that are not percentages, from the task to card, table and picture."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import matplotlib.pyplot as plt
import pytest
from enhancement import Denoiser, TwoHeadlines
from quiet import quiet_trainer

from wavlm_lightning.callbacks.progress import readable
from wavlm_lightning.callbacks.results import WriteResultCard
from wavlm_lightning.reports import plots
from wavlm_lightning.reports.aggregate import combine_folds
from wavlm_lightning.reports.cards import ResultCard, scale
from wavlm_lightning.reports.runs import figures
from wavlm_lightning.reports.runs.report import write_run_report
from wavlm_lightning.reports.runs.results import collect
from wavlm_lightning.reports.superb_table import board_values
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks import TaskData, Unit
from wavlm_lightning.upstreams import Fbank
from wavlm_lightning.workflows.fit.closing import result_line


@pytest.fixture(scope="module")
def card(tiny, tmp_path_factory) -> ResultCard:
    folder = tmp_path_factory.mktemp("se")
    task = Denoiser(Fbank(cmvn=False, label="FBANK"), learning_rate=1e-3)
    quiet_trainer(callbacks=[WriteResultCard(folder, "wavlm test")]).test(
        task, TaskData(str(tiny / "ks")), verbose=False
    )
    return ResultCard.read(folder)


def test_a_card_holds_the_figure_in_its_unit(card):
    assert card.metrics["si_sdr"] == {"value": 9.3456, "unit": "dB", "better": "higher", "scale": 1.0, "decimals": 1}
    assert card.metrics["pesq"] == {"value": 2.6149, "unit": "", "better": "higher", "scale": 1.0, "decimals": 2}
    assert card.metrics["wer"] == {"value": 25.0, "unit": "%", "better": "lower"}
    assert [scale(card.metrics[name]) for name in ("si_sdr", "pesq", "wer")] == [1, 1, 100]


def test_a_card_of_an_older_version_is_a_percentage(card, tmp_path):
    card.write(tmp_path)
    content = json.loads((tmp_path / "card.json").read_text())
    for metric in content["metrics"].values():
        metric.pop("scale", None), metric.pop("decimals", None)
    content["metrics"]["si_sdr"]["unit"] = "%"
    (tmp_path / "card.json").write_text(json.dumps(content))
    assert scale(ResultCard.read(tmp_path).main) == 100


def test_the_page_shows_units_and_decimals(card, tmp_path):
    """Two encoders that differ by less than the decimals are level."""
    worse = {**card.metrics, "si_sdr": {**card.metrics["si_sdr"], "value": 9.31}}
    card.write(tmp_path / "runs" / "a")
    replace(card, upstream={**card.upstream, "label": "other"}, metrics=worse).write(tmp_path / "runs" / "b")
    write_run_report([tmp_path / "runs"], tmp_path, lambda card: "not official")
    text = (tmp_path / "report.md").read_text()
    assert re.search(r"SE SI-SDR dB\u00a0↑", text)
    assert "9.3" in text and "**9.3" not in text
    assert "9.35" not in text and "930" not in text
    assert "level" in text


@pytest.mark.parametrize(("values", "texts"), [((9.3456, -2.25), {"9.3", "-2.2"}), ((2.0, 1.0), {"2.0", "1.0"})])
def test_bars_show_the_decimals_and_reach_below_zero(card, values, texts):
    cards = [
        replace(
            card,
            upstream={**card.upstream, "label": str(number)},
            metrics={**card.metrics, "si_sdr": {**card.metrics["si_sdr"], "value": value}},
        )
        for number, value in enumerate(values)
    ]
    figure, axes = plt.subplots()
    plots.draw_results(axes, cards, ["0", "1"])
    assert {text.get_text() for text in axes.texts} == texts
    assert axes.get_xlim()[0] <= min(0, *values)
    assert "dB" in axes.get_xlabel()
    plt.close(figure)


def test_a_unit_of_an_unknown_metric_is_refused(tiny):
    class Wrong(Denoiser):
        units = {"pesk": Unit("", 1.0, 2)}

    with pytest.raises(UserError, match="SE: `units` names pesk, which is not a metric"):
        Wrong(Fbank(cmvn=False), learning_rate=1e-3).build(["a", "b"])


@pytest.fixture(scope="module")
def both(tiny, tmp_path_factory) -> ResultCard:
    """The card of a task with two headlines."""
    folder = tmp_path_factory.mktemp("both")
    task = TwoHeadlines(Fbank(cmvn=False, label="FBANK"), learning_rate=1e-3)
    quiet_trainer(callbacks=[WriteResultCard(folder, "wavlm test")]).test(
        task, TaskData(str(tiny / "ks")), verbose=False
    )
    return ResultCard.read(folder)


def test_a_card_of_one_headline_is_written_as_before(card, both, tmp_path):
    assert (card.shown, both.shown, both.headline) == (["si_sdr"], ["si_sdr", "wer"], "si_sdr")
    assert "headlines" not in json.loads(card.write(tmp_path / "one.json").read_text())
    assert json.loads(both.write(tmp_path / "two.json").read_text())["headlines"] == ["si_sdr", "wer"]
    with pytest.raises(UserError, match="headlines names 'stoi', which is not among the metrics"):
        replace(both, headlines=["stoi"]).write(tmp_path)


def test_both_headlines_are_columns_panels_and_lines(both, tmp_path):
    """Each with its own winner; the other metric is in the CSV alone."""
    other = {**both.metrics, "wer": {**both.metrics["wer"], "value": 12.5}, "si_sdr": {**both.main, "value": 7.0}}
    for name, card in {
        "a": both,
        "b": replace(both, upstream={**both.upstream, "label": "other"}, metrics=other),
    }.items():
        card.write(tmp_path / "runs" / name)
    write_run_report([tmp_path / "runs"], tmp_path, lambda card: "not official")
    text = (tmp_path / "report.md").read_text()
    assert "SE SI-SDR dB\u00a0↑" in text and "SE WER %\u00a0↓" in text
    assert "**9.3**" in text and "**12.50**" in text
    assert "[SE SI-SDR 9.3 dB, WER 25.00 %](" in text and "PESQ" not in text
    rows = [line.split(",") for line in (tmp_path / "report.csv").read_text().splitlines()[1:]]
    assert {row[2]: row[6] for row in rows} == {"si_sdr": "1", "pesq": "0", "wer": "1"}
    files = {path: ResultCard.read(path) for path in (tmp_path / "runs").rglob("card.json")}
    panels, _ = figures.bar_panels(collect(files, [], str))
    figure, axes = plt.subplots(1, len(panels))
    for draw, place in zip(panels, axes, strict=True):
        draw(place)
    assert [place.get_xlabel() for place in axes] == ["SI-SDR dB, higher is better", "WER %, lower is better"]
    plt.close(figure)


def test_folds_spread_in_the_unit_of_each_headline(both):
    folds = [
        replace(both, corpus={**both.corpus, "split": name}, metrics=dict(both.metrics)) for name in ("one", "two")
    ]
    folds[1].metrics["si_sdr"] = {**both.main, "value": both.value + 2.0}
    found = combine_folds(folds).metrics
    assert found["si_sdr_spread"] == {**both.main, "value": pytest.approx(2.0**0.5), "better": "lower"}
    assert found["wer_spread"] == {"value": 0.0, "unit": "%", "better": "lower"} and "pesq_spread" not in found


def test_the_line_after_a_test_and_the_progress_bar_show_units(tiny, tmp_path):
    task = TwoHeadlines(Fbank(cmvn=False), learning_rate=1e-3)
    quiet_trainer(callbacks=[WriteResultCard(tmp_path, "wavlm test")]).test(
        task, TaskData(str(tiny / "ks")), verbose=False
    )
    path = tmp_path / "card.json"
    assert result_line(ResultCard.read(path), path) == f"SE: SI-SDR 9.3 dB (95 %: 9.3 to 9.3), WER 25.00 %, in {path}"
    shown = readable({"valid/si_sdr": 9.3456, "valid/wer": 0.25, "train/loss": 0.25}, task)
    assert shown == {"valid/si_sdr": "9.3 dB", "valid/wer": "25.00 %", "train/loss": 0.25}


def test_the_board_is_in_percent_whatever_the_unit_of_a_card(both):
    values = {"per": {"value": 0.125, "unit": "", "better": "lower", "scale": 1.0, "decimals": 3}}
    assert board_values({"PR": replace(both, task="PR", metrics=values)}) == {"PR": 12.5}


@pytest.mark.parametrize("wrong", [("pesq",), ("si_sdr", "stoi")])
def test_headlines_that_are_no_metrics_are_refused(wrong):
    class Wrong(Denoiser):
        headlines = wrong

    with pytest.raises(UserError, match=r"SE: `headlines` are .*; name `metric` \(si_sdr\) and any of `others`"):
        Wrong(Fbank(cmvn=False), learning_rate=1e-3).build(["a", "b"])
