"""Alignments of other aligners become a set: keys, names of phones, silence, and what is left over."""

import json

import pytest
from three_alignments import SAMPLES

from wavlm_lightning.data.alignments import AlignmentSet, Segment, import_alignments
from wavlm_lightning.data.alignments.renaming import Renaming
from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.system.errors import UserError

CTM = "a 1 0.1 0.1 AH0_B\na 1 0.2 0.1 sp\na 1 0.35 0.1 T_E\nc 1 0.0 0.9 spn\nz 1 0 1 T_E\n"
DROP = "# positions, stress and silence\nsp SIL\nspn SPN\n*_B *\n*_E *\n*0 *\n*9 *\nT T\n"


@pytest.fixture
def ctm(tmp_path):
    path = tmp_path / "phones.ctm"
    path.write_text(CTM)
    return path


def test_a_ctm_becomes_a_set(corpus, ctm, tmp_path):
    done = import_alignments("ctm", ctm, corpus, "mfa")
    assert (done.utterances, done.aligned, done.seconds) == (3, 2, 1.5)
    assert (done.without_alignment, done.without_utterance, done.unused) == (["b"], ["z"], [])
    found = AlignmentSet.open(corpus, "mfa")
    rows = found.rows("train")
    # Silences in a row are one, and it fills what lies between the phones and around them.
    assert rows[0] == [
        Segment("SIL", 0.0, 0.1),
        Segment("AH0_B", 0.1, 0.2),
        Segment("SIL", 0.2, 0.35),
        Segment("T_E", 0.35, 0.45),
        Segment("SIL", 0.45, 0.5),
    ]
    assert rows[1] is None
    assert rows[2] == [Segment("SPN", 0.0, 0.9), Segment("SIL", 0.9, 1.0)]
    assert found.labelled() == {"utterances": 2, "seconds": 1.5, "corpus": "three"}
    assert found.about["kind"] == "ctm"
    assert done.lines() == [
        f"{found.corpus.directory / 'alignments/mfa'}: 2 of 3 utterances aligned (0.00 h), 4 phones",
        "1 utterance without alignment: b",
        "1 alignment without utterance: z",
    ]
    ctm.write_text("a 1 0.1 0.3 T\n")  # imported again, from another version of the file
    assert import_alignments("ctm", ctm, corpus, "mfa").aligned == 1
    assert AlignmentSet.open(corpus, "mfa").rows("train")[2] is None


def test_labels_of_all_splits_are_counted(corpus, ctm):
    """A second call reads the alignments of a further split into the same set."""
    body = json.loads((corpus.directory / "corpus.json").read_text())
    first, second = body["splits"]["train"]["shards"]
    parts = {"train": first, "more": second}
    body["splits"] = {name: {"shards": [shard], "utterances": shard["utterances"]} for name, shard in parts.items()}
    (corpus.directory / "corpus.json").write_text(json.dumps(body))
    for split in parts:
        import_alignments("ctm", ctm, corpus.directory, "mfa", splits=[split])
    assert AlignmentSet.open(Corpus.open(corpus.directory), "mfa").labelled()["utterances"] == 2


def test_a_mapping_file(corpus, ctm, tmp_path):
    (tmp_path / "map").write_text(DROP)
    done = import_alignments("ctm", ctm, corpus, "mfa", tmp_path / "map")
    assert done.unused == ["*9"]
    assert "1 rule of the mapping matched nothing: *9" in done.lines()
    assert AlignmentSet.open(corpus, "mfa").inventory == ("AH", "SIL", "SPN", "T")
    with pytest.raises(UserError, match="another kind, teacher or settings"):  # of this name, by another mapping
        import_alignments("ctm", ctm, corpus, "mfa")


def test_phones_without_a_rule_are_counted_and_refused(corpus, ctm, tmp_path):
    (tmp_path / "map").write_text("sp SIL\nAH0_B AH\n")
    with pytest.raises(
        UserError, match=r"map: no rule for 2 names of phones, T_E \(1\), spn \(1\); add rules, or the line"
    ):
        import_alignments("ctm", ctm, corpus, "mfa", tmp_path / "map")
    with pytest.raises(UserError, match="no finished alignments"):
        AlignmentSet.open(corpus, "mfa")
    (tmp_path / "map").write_text("sp SIL\nAH0_B AH\n* *\n")
    assert import_alignments("ctm", ctm, corpus, "mfa", tmp_path / "map").phones == ("AH", "SIL", "T_E", "spn")


def test_rules_apply_one_after_the_other():
    rename = Renaming([("sil", "SIL"), ("*_B", "*"), ("*0", "*"), ("x*y", "*-x")])
    assert [rename(name) for name in ("AH0_B", "sil_B", "AH0_B_B", "xay", "x0y_B")] == [
        "AH",
        "SIL",
        "AH0_B",
        "a-x",
        "0-x",
    ]
    assert not rename.unmatched
    assert rename("T") == "T"
    assert rename.unmatched == {"T": 1}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a b c\n", "line 1"),
        ("a b\na c\n", "a second rule for 'a'"),
        ("a *\n", "line 1"),
        ("*_* *\n", "line 1"),
        ("# x\n", "no rule"),
    ],
)
def test_mapping_files_that_are_none(tmp_path, text, said):
    (tmp_path / "map").write_text(text)
    with pytest.raises(UserError, match=said):
        Renaming.read(tmp_path / "map")


def test_alignments_of_something_else(corpus, ctm, tmp_path):
    with pytest.raises(UserError, match="did you mean 'textgrid'"):
        import_alignments("textgrids", ctm, corpus, "mfa")
    ctm.write_text("q 1 0 1 T\n")
    with pytest.raises(UserError, match=r"none of its 1 alignments \(q\) belongs to an utterance of .* \(a, b, c\)"):
        import_alignments("ctm", ctm, corpus, "mfa")
    assert SAMPLES["a"] == 8000
    ctm.write_text("a 1 0 1 T\n")
    with pytest.raises(UserError, match=r"alignment of 'a': 'T' ends at 1 s, and the audio at 0\.5 s; correct it"):
        import_alignments("ctm", ctm, corpus, "mfa")
    ctm.write_text("a 1 0 .1 T\nfolder/a 1 0 .1 T\n")
    with pytest.raises(UserError, match="'a' and 'folder/a' both belong to utterance 'a'"):
        import_alignments("ctm", ctm, corpus, "mfa")
