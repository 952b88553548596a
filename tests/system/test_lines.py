"""Lines of text files end where an editor ends them."""

from __future__ import annotations

import pytest

from wavlm_lightning.cli import main
from wavlm_lightning.system.reading import read_lines


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("last", ["", "end"])
def test_lines_end_at_line_breaks_alone(tmp_path, end, last):
    lines = ["one\u2028still one", "two\x0cstill two", "", "four\x85still four"]
    path = tmp_path / "text"
    path.write_bytes(end.join([*lines, last]).encode())
    assert read_lines(path) == (lines if last == "" else [*lines, last])


def test_a_separator_in_a_transcript_shifts_no_line(tmp_path, capsys):
    reference, answers = tmp_path / "reference", tmp_path / "answers"
    reference.write_text("a b\nc d\ne f\n", encoding="utf-8")
    answers.write_text("a\u2028b\nc d\ne f\n", encoding="utf-8")
    assert main(["score", "asr", str(reference), str(answers)]) == 0
    assert "WER 0.00 %" in capsys.readouterr().out
