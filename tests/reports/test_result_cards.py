import json

import pytest

from wavlm_lightning.reports.cards import FORMAT, ResultCard, find_cards
from wavlm_lightning.system.errors import UserError


def test_a_card_comes_back_as_it_was_written(card, tmp_path):
    first = card()
    path = first.write(tmp_path / "run")
    assert path == tmp_path / "run" / "card.json"
    assert json.loads(path.read_text())["format"] == FORMAT
    assert ResultCard.read(path) == first == ResultCard.read(tmp_path / "run")
    assert first.value == 59.7
    assert first.main["better"] == "higher"


def test_writing_leaves_one_file_and_replaces_the_older_card(card, tmp_path):
    card(value=1.0).write(tmp_path)
    card(value=2.0).write(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["card.json"]
    assert ResultCard.read(tmp_path).value == 2.0


def test_the_smallest_card_needs_no_optional_field(card, tmp_path):
    content = json.loads(card().write(tmp_path).read_text())
    for name in ("selection", "layer_weights", "runtime_seconds", "command", "created", "versions"):
        del content[name]
    content["a_later_version_added_this"] = 1
    (tmp_path / "card.json").write_text(json.dumps(content))
    assert ResultCard.read(tmp_path).layer_weights == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": "other/card/9"}, ["other/card/9", FORMAT]),
        ({"task": None}, ["task", "NoneType"]),
        ({"task": ...}, ["task is missing"]),
        ({"headline": "wer"}, ["headline", "'wer'"]),
        ({"seed": True}, ["seed", "bool"]),
        ({"corpus": {"name": "mini"}}, ["corpus.path is missing"]),
        ({"upstream": []}, ["upstream is not an object"]),
        ({"metrics": {"accuracy": {"value": 1.0, "unit": "%", "better": "more"}}}, ["metrics.accuracy.better"]),
        ({"metrics": {"accuracy": {"value": "1", "unit": "%", "better": "higher"}}}, ["metrics.accuracy.value", "str"]),
        ({"layer_weights": [0.5, 0.2]}, ["layer_weights", "0.7000", "softmax"]),
        ({"layer_weights": ["a"]}, ["layer_weights.0"]),
        ({"selection": {"metric": "x"}}, ["selection.value is missing"]),
    ],
)
def test_a_wrong_field_is_named_with_its_file(card, tmp_path, change, words):
    path = card().write(tmp_path)
    content = {**json.loads(path.read_text()), **change}
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not ...}))
    with pytest.raises(UserError) as caught:
        ResultCard.read(path)
    for word in [str(path), *words]:
        assert word in str(caught.value)


@pytest.mark.parametrize("content", ["", "{", "[1]", '"card"', b"\xff\xfe\x00"])
def test_a_file_that_is_no_card_is_refused(tmp_path, content):
    path = tmp_path / "card.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=r"card\.json"):
        ResultCard.read(path)


def test_a_missing_card_says_how_to_get_one(tmp_path):
    with pytest.raises(UserError, match="wavlm test"):
        ResultCard.read(tmp_path / "nowhere" / "card.json")


def test_a_diverged_run_cannot_write_a_card(card, tmp_path):
    with pytest.raises(UserError, match=r"metrics\.accuracy\.value is nan.*diverged"):
        card(value=float("nan")).write(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_cards_are_found_once_each_in_order(card, tmp_path):
    card(task="B").write(tmp_path / "runs" / "2" / "deep")
    card(task="A").write(tmp_path / "runs" / "1")
    (tmp_path / "runs" / "0").mkdir()
    (tmp_path / "runs" / "0" / "card.json").write_text("[]")
    found, problems = find_cards([tmp_path / "runs", tmp_path / "runs" / "1", tmp_path / "runs" / "1" / "card.json"])
    assert [entry.task for entry in found.values()] == ["A", "B"]
    assert list(found) == [tmp_path / "runs" / "1" / "card.json", tmp_path / "runs" / "2" / "deep" / "card.json"]
    assert len(problems) == 1 and str(tmp_path / "runs" / "0" / "card.json") in problems[0]
    assert find_cards([]) == ({}, [])
    with pytest.raises(UserError, match="does not exist"):
        find_cards([tmp_path / "nowhere"])
