"""RTTM lines there and back."""

from __future__ import annotations

import pytest

from wavlm_lightning.metrics import parse_rttm, rttm_lines


def test_there_and_back():
    segments = [("anna", 0.5, 2.0), ("ben", 1.0004, 1.7496), ("anna", 3.0, 3.25)]
    lines = rttm_lines("talk", segments)
    assert lines[1] == "SPEAKER talk 1 1.000 0.750 <NA> <NA> ben <NA> <NA>"
    back = parse_rttm([";; a comment", "", *lines, "SPKR-INFO talk 1 <NA> <NA> <NA> unknown anna <NA> <NA>"])
    assert list(back) == ["talk"]
    for (speaker, start, end), (name, onset, offset) in zip(segments, back["talk"], strict=True):
        assert speaker == name
        assert (onset, offset) == pytest.approx((start, end), abs=5.1e-4)


def test_several_recordings_and_nine_fields():
    lines = ["SPEAKER b 1    0.10    0.20 <NA> <NA> b_0 <NA>", *rttm_lines("a", [("x", 1, 2)])]
    assert parse_rttm(lines) == {"b": [("b_0", 0.1, pytest.approx(0.3))], "a": [("x", 1.0, 2.0)]}


def test_too_short_to_write():
    assert rttm_lines("talk", [("anna", 1.0, 1.0), ("anna", 1.0001, 1.0003)]) == []
    assert rttm_lines("talk", []) == []


@pytest.mark.parametrize("name", ["two words", "", " anna"])
def test_refuses_names_with_spaces(name):
    with pytest.raises(ValueError, match="white space"):
        rttm_lines(name, [])
    with pytest.raises(ValueError, match="white space"):
        rttm_lines("talk", [(name, 0, 1)])


@pytest.mark.parametrize(
    "line", ["SPEAKER talk 1 0.0", "SPEAKER talk 1 zero 1 <NA> <NA> anna <NA>", "SPEAKER t 1 0 -1 <NA> <NA> a <NA>"]
)
def test_refuses_broken_lines(line):
    with pytest.raises(ValueError, match="RTTM line 2"):
        parse_rttm(["", line])
