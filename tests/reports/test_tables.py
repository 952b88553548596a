from wavlm_lightning.reports.tables import Cell, Table, metric_title, results_table, two_columns


def test_the_best_of_each_column_is_strong_whichever_way_is_better(cards):
    lines = results_table(cards).to_markdown().splitlines()
    assert lines[0].replace("\u00a0", " ") == "| upstream | PR PER % ↓ | KS accuracy % ↑ | SID accuracy % ↑ |"
    assert lines[2:5] == [
        "| pre-trained | **43.7** | **59.7** | 54.2 |",
        "| random weights | 86.1 | 27.9 | 19.9 |",
        "| FBANK | 61.5 | 38.0 | **67.8** |",
    ]
    assert lines[5] == "| test utterances | 480 | 480 | 480 |"


def test_chance_and_differing_test_sets_are_shown(card):
    chance = {"accuracy": {"value": 50.0, "unit": "%", "better": "higher", "chance": 8.3}}
    corpus = {"name": "mini", "path": "", "split": "test", "utterances": 12, "seconds": 1.0}
    table = results_table([card(metrics=chance), card("KS", "FBANK", 40.0, corpus=corpus)]).to_markdown()
    assert "| chance | 8.3 |" in table
    assert "| test utterances | 480 / 12 |" in table


def test_missing_cards_ties_and_lone_results(card):
    table = results_table([card(value=50.0), card("KS", "FBANK", 50.01)], ["pre-trained", "FBANK"], ["KS", "SID"])
    assert "| pre-trained | **50.0** | – |" in table.to_markdown()
    assert "| FBANK | **50.0** | – |" in table.to_markdown()
    assert "**" not in results_table([card()]).to_markdown()
    assert results_table([]).to_markdown().startswith("| upstream |")


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
