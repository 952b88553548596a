"""TextGrids, CTM and Kaldi's phone of each frame: written here from known times, read back, and refused when damaged."""

from itertools import groupby

import numpy as np
import pytest

from wavlm_lightning.data.alignments import Segment, frame_classes
from wavlm_lightning.data.alignments.ctm import read_ctm
from wavlm_lightning.data.alignments.kaldi_frames import read_kaldi_frames
from wavlm_lightning.data.alignments.text_grid import read_text_grid, read_text_grids
from wavlm_lightning.system.errors import UserError

PHONES = [
    Segment("", 0.0, 0.21),
    Segment("AH0", 0.21, 0.5),
    Segment('say "xmax = 3"', 0.5, 0.83),
    Segment("T", 0.83, 1.0),
]
WORDS = [Segment("", 0.0, 0.21), Segment("at", 0.21, 1.0)]


def long_form(tiers: dict[str, list[Segment]], seconds: float = 1.0) -> str:
    """As Praat and MFA write it."""
    lines = [
        'File type = "ooTextFile"',
        'Object class = "TextGrid"',
        "",
        "xmin = 0 ",
        f"xmax = {seconds} ",
        "tiers? <exists> ",
    ]
    lines += [f"size = {len(tiers)} ", "item []: "]
    for place, (name, rows) in enumerate(tiers.items(), start=1):
        lines += [
            f"    item [{place}]:",
            '        class = "IntervalTier" ',
            f'        name = "{name}" ',
            "        xmin = 0 ",
        ]
        lines += [f"        xmax = {seconds} ", f"        intervals: size = {len(rows)} "]
        for number, (label, start, end) in enumerate(rows, start=1):
            quoted = label.replace('"', '""')
            lines += [f"        intervals [{number}]:", f"            xmin = {start} ", f"            xmax = {end} "]
            lines += [f'            text = "{quoted}" ']
    return "\n".join(lines) + "\n"


def short_form(tiers: dict[str, list[Segment]], seconds: float = 1.0) -> str:
    """The same without words."""
    lines = [
        'File type = "ooTextFile"',
        'Object class = "TextGrid"',
        "",
        "0",
        str(seconds),
        "<exists>",
        str(len(tiers)),
    ]
    for name, rows in tiers.items():
        lines += ['"IntervalTier"', f'"{name}"', "0", str(seconds), str(len(rows))]
        for label, start, end in rows:
            lines += [str(start), str(end), '"{}"'.format(label.replace('"', '""'))]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("form", [long_form, short_form])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_both_forms_of_a_text_grid(tmp_path, form, encoding):
    path = tmp_path / "deep" / "one.TextGrid"
    path.parent.mkdir()
    path.write_text(
        form({"speaker - words": WORDS, "speaker - phones": [*PHONES[:3], Segment("ʔ", 0.83, 1.0)]}), encoding
    )
    (found,) = read_text_grids(tmp_path).items()
    assert found[0] == "deep/one"
    phones, words = found[1](16_000)
    assert phones == [*PHONES[1:3], Segment("ʔ", 0.83, 1.0)]
    assert words == WORDS[1:]


def test_points_comments_and_tiers_without_names_of_ours(tmp_path):
    path = tmp_path / "one.TextGrid"
    bells = '<exists> ! a remark with 7 in it\n2\n"TextTier"\n"bell"\n0\n1\n1\n.5\n"x"\n'
    text = short_form({"Phones": PHONES}).replace("<exists>\n1\n", bells)
    path.write_text(text)
    seconds, tiers = read_text_grid(path)
    assert seconds == 1.0
    assert [(tier.name, tier.segments) for tier in tiers] == [("Phones", PHONES[1:])]
    path.write_text(long_form({"segments": PHONES}))
    with pytest.raises(UserError, match=r"no tier `phones` \(its tiers of intervals: 'segments'"):
        read_text_grids(path)["one"](16_000)
    path.write_text(long_form({"a - phones": PHONES, "b - phones": PHONES}))
    with pytest.raises(UserError, match="several tiers of phones"):
        read_text_grids(path)["one"](16_000)


WHOLE = long_form({"phones": PHONES})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (WHOLE[: WHOLE.index("intervals [4]")], "ends before its last tier"),  # praatio and tgt return what is left
        (WHOLE[:-3], "a label that is not closed"),
        (WHOLE.replace("size = 4", "size = 5"), "ends before its last tier"),
        (WHOLE.replace("size = 4", "size = 3"), "goes on behind its last tier"),
        (WHOLE.replace("xmin = 0.83", "xmin = 0.7"), "'T' begins at 0.7 s, before"),
        (WHOLE.replace("xmin = 0.83", "xmin = 1.2"), "'T' lies from 1.2 to 1 s"),
        (WHOLE.replace("xmin = 0.83", "xmin = nan"), "where a number belongs"),
        (WHOLE.replace("<exists>", "<absent>"), "it has no tiers"),
        (WHOLE.replace("ooTextFile", "ooBinaryFile"), "does not begin as a TextGrid"),
        (WHOLE.replace("IntervalTier", "Sound"), "a tier of the class 'Sound'"),
        ("", "does not begin as a TextGrid"),
        (long_form({"phones": PHONES}, seconds=4.0), "lasts 4.00 s, and its utterance 1.00 s"),
    ],
)
def test_damaged_text_grids(tmp_path, text, said):
    path = tmp_path / "one.TextGrid"
    path.write_text(text)
    with pytest.raises(UserError, match=f"one.TextGrid: .*{said}"):
        read_text_grids(tmp_path)["one"](16_000)


def test_no_text_grids(tmp_path):
    with pytest.raises(UserError, match=r"no file NAME.TextGrid in this folder"):
        read_text_grids(tmp_path)
    with pytest.raises(UserError, match="no such file or folder"):
        read_text_grids(tmp_path / "none")


def test_ctm(tmp_path):
    (tmp_path / "phones.ctm").write_text(
        ";; made by hand\na 1 0.00 0.13 SIL\na 1 0.12 0.30 AH 0.93\nb A 0.5 0.1 T\na 1 0.42 0.08 T_E\n"
    )
    (tmp_path / "words.ctm").write_text("a 1 0.12 0.38 at\n")
    found = read_ctm(tmp_path)
    assert [*found] == ["a", "b"]
    phones, words = found["a"](8000)
    assert [row.name for row in phones] == ["SIL", "AH", "T_E"]
    # Times with two digits overlap by up to one of them: the next segment counts.
    assert np.allclose([row[1:] for row in phones], [(0, 0.12), (0.12, 0.42), (0.42, 0.5)])
    assert words == [Segment("at", 0.12, 0.5)]
    assert read_ctm(tmp_path / "phones.ctm")["b"](8000).words is None


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("a 1 0.3 T", "line 2: 4 fields"),
        ("a 1 0.3 0.1 T 1 2", "line 2: 7 fields"),
        ("a 1 0.3 -0.1 T", "line 2: 'T' of 'a' begins at 0.3 and lasts -0.1"),
        ("a 1 x 0.1 T", "line 2: 'T' of 'a' begins at x"),
        ("a 1 0.3 inf T", "no stretch of time"),
        ("a 1 0.3 0.1 T", r"line 2: .*before the segment in front of it ends \(0.4 s\); sort the lines"),
        ("a 1 0.1 0.1 T", "before the segment in front"),
        ("a 2 0.5 0.1 T", "line 2: 'T' of 'a' is of channel 2, others of 1"),
    ],
)
def test_lines_that_are_no_ctm(tmp_path, line, said):
    path = tmp_path / "x.ctm"
    path.write_text(f"a 1 0.2 0.2 AH\n{line}\n")
    with pytest.raises(UserError, match=said):
        read_ctm(path)["a"](16_000)


def write_kaldi(folder, rows: dict[str, list[int]]) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "phones.txt").write_text("<eps> 0\nSIL 1\nAH_B 2\nT_E 3\n#0 4\n")
    (folder / "ali.1.txt").write_text("".join(f"{key} {' '.join(map(str, ids))} \n" for key, ids in rows.items()))


def test_frames_of_kaldi_come_back_as_they_were(tmp_path):
    """At 100 Hz all of them, and at 50 Hz every second; the grid follows from their number."""
    rng = np.random.default_rng(0)
    classes = {"SIL": 1, "AH_B": 2, "T_E": 3}
    for samples in (560, 4321, 16_000, 16_079, 16_080, 40_001):
        snipped, whole = (samples - 400) // 160 + 1, (samples + 80) // 160
        ids = np.repeat(rng.integers(1, 4, size=whole), rng.integers(1, 9, size=whole))[:whole]
        write_kaldi(tmp_path, {"a": ids[:snipped].tolist(), "b": ids.tolist()})
        found = read_kaldi_frames(tmp_path)
        segments = found["a"](samples).phones
        assert np.array_equal(frame_classes(segments, snipped, 100, classes), ids[:snipped])
        assert np.array_equal(frame_classes(segments, (snipped + 1) // 2, 50, classes), ids[:snipped:2])
        assert (segments[0].start, segments[-1].end) == (0.0, samples / 16_000)
        assert len(segments) == len([*groupby(ids[:snipped])])
        # Without --snip-edges frame k lies around .005 + .01 k s, so that 12.5 ms are in frame 1.
        assert np.array_equal(frame_classes(found["b"](samples).phones, snipped, 100, classes), ids[1 : snipped + 1])


def test_what_is_no_alignment_of_kaldi(tmp_path):
    with pytest.raises(UserError, match=r"phones.txt: no such file; copy"):
        read_kaldi_frames(tmp_path)
    write_kaldi(tmp_path, {"a": [1] * 33, "b": [9] * 98})
    found = read_kaldi_frames(tmp_path)
    with pytest.raises(
        UserError, match=r"ali.1.txt, line 1: 33 frames, and the utterance has 98 at 100 Hz \(100 without"
    ):
        found["a"](16_000)
    with pytest.raises(UserError, match="'9' is no id of phones"):
        found["b"](16_000)
    (tmp_path / "ali.2.txt").write_text("a 1 1\n")
    with pytest.raises(UserError, match=r"ali.2.txt, line 1: 'a' occurs twice"):
        read_kaldi_frames(tmp_path)
    (tmp_path / "phones.txt").write_text("SIL 1\nAH 1\n")
    with pytest.raises(UserError, match=r"phones.txt, line 2"):
        read_kaldi_frames(tmp_path)
