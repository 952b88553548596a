"""Error rates by condition in a report: the figures of the cards, means over seeds, curves over the levels of noise."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pytest

from wavlm_lightning.reports import plots
from wavlm_lightning.reports.runs.conditions import condition_blocks
from wavlm_lightning.reports.runs.results import Collection, Result


@pytest.fixture
def results(card, tmp_path):
    """Upstream -> the error rates of its conditions, a dict for each seed."""

    def make(rates):
        collection = Collection()
        for upstream, seeds in rates.items():
            cards = []
            for cells in seeds:
                counted = {name: {"utterances": 2, "phones": 9, "per": value} for name, value in cells.items()}
                cards.append(card("PR", upstream, 40.0, details={"conditions": counted} if cells else {}))
            collection.results[upstream] = {"PR": Result(cards, [tmp_path / str(n) for n in range(len(cards))], {})}
        return collection

    return make


def test_a_table_has_the_figures_of_the_cards(results, tmp_path, unrendered):
    one = [{"clean": 0.1, "seen_20dB": 0.25, "seen_0dB": 0.5}, {"clean": 0.2, "seen_20dB": 0.25, "seen_0dB": 0.75}]
    other = [{"clean": 0.3, "seen_20dB": 0.2, "seen_0dB": 0.9}]
    heading, _, table, drawing = condition_blocks(tmp_path, results({"A": one, "B": other, "C": [{}]}))
    assert table.to_markdown().splitlines() == [
        "| condition | PR, A PER % ↓ | PR, B PER % ↓ |",
        "| --- | ---: | ---: |",
        "| clean | **15.00** | 30.00 |",
        "| seen 20dB | 25.00 | **20.00** |",
        "| seen 0dB | **62.50** | 90.00 |",
    ]
    assert "Condition by condition" in heading.to_html() and len(drawing.panels) == 1


def test_of_many_lines_the_best_and_the_worst_have_a_name():
    axes = plt.figure().add_subplot()
    plots.draw_levels(axes, "seen", "%", {f"E{n}": {0: 50.0, 20: 5.0 + n} for n in range(9)}, "lower")
    assert len(axes.lines) == 9 and list(axes.lines[3].get_xdata()) == [0, 20]
    assert axes.get_legend_handles_labels()[1] == ["E0", "E8"]


def test_other_conditions_are_another_table(results, tmp_path, unrendered):
    blocks = condition_blocks(tmp_path, results({"A": [{"dt05_real": 0.1}], "B": [{"slow": 0.1}], "C": [{}]}))
    assert [type(block).__name__ for block in blocks] == ["Heading", "Paragraph", "Table", "Table"]
    assert condition_blocks(tmp_path, results({"C": [{}], "D": [{"a": 0.1}, {"b": 0.2}]})) == []
