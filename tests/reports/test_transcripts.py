"""What a test leaves for `wavlm score`."""

from __future__ import annotations

from pathlib import Path

from wavlm_lightning.reports.transcripts import Transcripts, transcript_files, write_transcripts


def test_files_and_counts(tmp_path):
    rows = Transcripts(("a b", "c"), ("THE CAT", "A"), {"wer": ("THE", "A B"), "wer_lm": ("", "A")}, ("one x", "two"))
    assert rows.errors("wer", "words") == {"words": 3, "substitutions": 0, "deletions": 1, "insertions": 1}
    assert transcript_files(tmp_path)[1] == []
    write_transcripts(tmp_path, rows)
    reference, answers, speakers = transcript_files(tmp_path)
    assert reference.read_text() == "a_b THE CAT\nc A\n"
    assert [path.name for path in answers] == ["wer_lm.txt", "wer.txt"]
    assert answers[0].read_text() == "a_b\nc A\n" and speakers.read_text() == "a_b one_x\nc two\n"
    write_transcripts(tmp_path, Transcripts(("a",), ("X",), {"wer": ("X",)}, (None,)))
    assert sorted(path.name for path in Path(tmp_path / "transcripts").iterdir()) == ["reference.txt", "wer.txt"]
    assert transcript_files(tmp_path)[2] is None
    write_transcripts(tmp_path, None)
    assert transcript_files(tmp_path)[1] == []
