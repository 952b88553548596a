from pathlib import Path

import pytest

from wavlm_lightning.reports.runs.results import collect
from wavlm_lightning.reports.runs.tables import measured_table
from wavlm_lightning.reports.tables import Cell, Table, duration, metric_title, two_columns


def table(cards):
    """The table of results of some cards, in Markdown."""
    files = {Path(f"runs/{number}/card.json"): card for number, card in enumerate(cards)}
    return measured_table(collect(files, [], str)).to_markdown().replace("\u00a0", " ")


def test_the_best_of_each_column_is_strong_whichever_way_is_better(cards):
    lines = table(cards).splitlines()
    assert lines[0].startswith(
        "| upstream | PR PER % ↓ | KS accuracy % ↑ | SID accuracy % ↑ | parameters of the upstream |"
    )
    assert lines[2:5] == [
        "| pre-trained | **43.70** | **59.70** | 54.20 | 2.1 M | – | 1 | – | 40 s |",
        "| random weights | 86.10 | 27.90 | 19.90 | 2.1 M | – | 1 | – | 40 s |",
        "| FBANK | 61.50 | 38.00 | **67.80** | – | – | 1 | – | 40 s |",
    ]
    assert lines[5].startswith("| test utterances | 480 | 480 | 480 |")


def test_chance_and_differing_test_sets_are_shown(card):
    chance = {"accuracy": {"value": 50.0, "unit": "%", "better": "higher", "chance": 8.3}}
    corpus = {"name": "mini", "path": "", "split": "test", "utterances": 12, "seconds": 1.0}
    found = table([card(metrics=chance), card("KS", "FBANK", 40.0, corpus=corpus)])
    assert "| chance | 8.30 |" in found
    assert "| test utterances | 480 / 12 |" in found


def test_missing_cards_ties_and_lone_results(card):
    found = table([card(value=50.0), card("KS", "FBANK", 50.001), card("SID", "other", 1.0)])
    assert "| pre-trained | 50.00 | – |" in found
    assert "| FBANK | 50.00 | – |" in found
    assert "**" not in table([card()])


def test_text_is_escaped():
    table = Table([Cell("<b>"), Cell("a|b")], [[Cell("x&y"), Cell("<script>", strong=True, note="n<")]])
    assert "<script>" not in table.to_html() + table.to_markdown()
    assert "a\\|b" in table.to_markdown()
    assert "<strong>&lt;script&gt;</strong><small>n&lt;</small>" in table.to_html()


def test_unknown_values_are_left_out():
    assert [row[0].text for row in two_columns([("a", "1"), ("b", "")]).rows] == ["a"]


def test_metric_titles():
    assert [metric_title(name) for name in ("per", "test/wer", "accuracy", "slot_f1")] == [
        "PER", "WER", "accuracy", "slot f1",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.44, "0.4 s"), (42, "42 s"), (59.7, "1 min 00 s"), (303, "5 min 03 s"), (86_820, "24 h 07 min")],
)
def test_durations(seconds, words):
    assert duration(seconds) == words
