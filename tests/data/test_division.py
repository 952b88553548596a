"""Recordings are divided so that neither a speaker nor a file is in two splits, and the decision is said."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from wavlm_lightning.cli import main
from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.data.division import Division
from wavlm_lightning.data.recordings import Recording


def voices(counts):
    """Recordings of files that are not there, by speaker; None has no speaker."""
    return [
        Recording(Path(f"{speaker}-{n}.wav"), f"{speaker}-{n}", {} if speaker is None else {"speaker": speaker})
        for speaker, count in counts.items()
        for n in range(count)
    ]


@pytest.mark.parametrize(
    ("counts", "unit", "said"),
    [
        ({"a": 9, "b": 9, "c": 9}, "speaker", "3 speakers, 1 to train, 1 to valid, 1 to test; no speaker is in two"),
        ({f"s{n}": 3 for n in range(40)}, "speaker", "40 speakers, 36 to train, 2 to valid, 2 to test"),
        ({"a": 9, "b": 9}, "file", "two speakers are too few to hold out whole ones, so each may be in several splits"),
        ({None: 9}, "file", "no speaker is known, so a voice may be in several splits"),
        ({"a": 9, None: 9}, "speaker", "no known speaker is in two splits; 9 recordings without a speaker"),
    ],
)
def test_what_auto_decides(counts, unit, said):
    divided = Division().divide(voices(counts), "list")
    assert divided.unit == unit and said in divided.said
    homes = {(r.meta.get("speaker"), split) for split, part in divided.splits.items() for r in part if r.meta}
    if unit == "speaker":
        assert len(homes) == len({speaker for speaker, _ in homes})
    assert sum(map(len, divided.splits.values())) == sum(counts.values())


def test_equal_files_and_stretches_of_a_file_stay_together(tmp_path):
    rng = np.random.default_rng(0)
    for n in range(12):
        soundfile.write(tmp_path / f"a{n:02d}.wav", rng.uniform(-0.3, 0.3, 4000), 16_000)
        shutil.copy(tmp_path / f"a{n:02d}.wav", tmp_path / f"copy{n:02d}.wav")
    recordings = [Recording(path, path.stem, {}) for path in sorted(tmp_path.glob("*.wav"))]
    recordings += [Recording(tmp_path / "a00.wav", "late", {}, 0.1, 0.2)]
    divided = Division(valid=0.3, test=0.3).divide(recordings, tmp_path)
    home = {r.key: split for split, part in divided.splits.items() for r in part}
    assert all(home[f"a{n:02d}"] == home[f"copy{n:02d}"] for n in range(12)) and home["late"] == home["a00"]
    assert "12 files, 4 to train, 4 to valid, 4 to test" in divided.said
    assert "12 files have the content of another one and stay with it" in divided.said


def test_the_command_says_what_was_decided_and_info_lists_classes(tmp_path, capsys):
    rng = np.random.default_rng(0)
    (tmp_path / "a").mkdir()
    rows = ["path,speaker,mood,text"]
    for n in range(8):
        soundfile.write(tmp_path / "a" / f"{n}.wav", rng.uniform(-0.3, 0.3, 4000), 16_000)
        rows.append(f"{n}.wav,s{n % 4},{'' if n == 7 else ['glad', 'sad'][n > 4]},text {n}")
    (tmp_path / "m.csv").write_text("\n".join(rows) + "\n")
    options = ["--manifest", str(tmp_path / "m.csv"), "--out", str(tmp_path / "c"), "--workers", "1"]
    main(["prepare", "folder", str(tmp_path / "a"), *options])
    assert (
        "splits: 4 speakers, 2 to train, 1 to valid, 1 to test; no speaker is in two splits" in capsys.readouterr().out
    )
    assert Corpus.open(tmp_path / "c").body["source"]["split_by"] == "speaker"
    main(["data", "info", str(tmp_path / "c")])
    said = capsys.readouterr().out
    assert "classes of mood: glad 5, sad 2; 1 utterances without" in said
    assert (
        "classes of speaker: s0 2, s1 2, s2 2, s3 2" in said.replace("s3 2, s0 2", "s0 2")
        or "classes of speaker: " in said
    )
    assert "classes of text" not in said
