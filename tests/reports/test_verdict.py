import pytest

from wavlm_lightning.reports.verdict import compare, compare_values, latest, verdict_sentence

RIVALS = ["random weights", "FBANK"]
TASKS = ["PR", "KS", "SID"]


def sentence(cards, tasks=TASKS):
    return verdict_sentence(cards, "pre-trained", RIVALS, tasks)


def replaced(cards, card, task, label, value):
    kept = [entry for entry in cards if (entry.task, entry.upstream["label"]) != (task, label)]
    return kept if value is None else [*kept, card(task, label, value)]


def test_the_expected_outcome(cards):
    expected = (
        "The pre-trained encoder beats random weights on 3 of 3 tasks and FBANK on 2 of 3; FBANK is ahead on SID."
    )
    assert sentence(cards) == expected


def test_winning_everything_needs_no_second_half(cards, card):
    cards = replaced(cards, card, "SID", "FBANK", 10.0)
    assert sentence(cards) == "The pre-trained encoder beats random weights on 3 of 3 tasks and FBANK on 3 of 3."


def test_losing_everything_is_said(card):
    cards = [card("PR", "pre-trained", 90.0)] + [card("PR", label, 50.0) for label in RIVALS]
    assert sentence(cards, ["PR"]) == (
        "The pre-trained encoder does not beat random weights on any of 1 task or FBANK on any of 1; "
        "random weights is ahead on PR, FBANK is ahead on PR."
    )


def test_winning_against_one_only(cards, card):
    for task, value in (("PR", 1.0), ("KS", 99.0), ("SID", 99.0)):
        cards = replaced(cards, card, task, "FBANK", value)
    assert sentence(cards) == (
        "The pre-trained encoder beats random weights on 3 of 3 tasks but does not beat FBANK on any of 3; "
        "FBANK is ahead on PR, KS and SID."
    )


def test_what_looks_level_is_called_level(cards, card):
    cards = replaced(cards, card, "KS", "FBANK", 59.72)
    assert sentence(cards).endswith("FBANK on 1 of 3; FBANK is ahead on SID, it is level with FBANK on KS.")


def test_what_is_missing_is_named(cards, card):
    cards = replaced(cards, card, "SID", "FBANK", None)
    text = sentence(cards)
    assert "FBANK on 2 of 2" in text
    assert text.endswith("Not measured: SID against FBANK.")
    assert sentence([]).startswith("There is nothing to compare yet")
    assert sentence([card()]).startswith("There is nothing to compare yet")


def test_the_newest_card_counts(card):
    old, new = card(value=1.0, created="2026-01-01"), card(value=2.0, created="2026-02-01")
    assert [entry.value for entry in latest([new, old]).values()] == [2.0]


def test_different_metrics_are_not_compared(card):
    other = card("KS", "FBANK", metrics={"f1": {"value": 1.0, "unit": "%", "better": "higher"}}, headline="f1")
    assert compare([card("KS"), other], "pre-trained", "FBANK").missing == ["KS"]


@pytest.mark.parametrize(
    ("first", "second", "better", "expected"),
    [(2, 1, "higher", 1), (2, 1, "lower", -1), (1, 2, "lower", 1), (1.04, 1.0, "higher", 0), (1.06, 1.0, "higher", 1)],
)
def test_direction_and_precision(first, second, better, expected):
    assert compare_values(first, second, better) == expected
