"""RTTM and audio become a corpus whose turns lie within the audio."""

import numpy as np
import pytest
import soundfile
from spoken_files import prepare_foreign

from wavlm_lightning.cli import main
from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.system.errors import UserError

TURNS = {
    "m1": [("anna", 0.0, 1.5), ("ben", 1.2, 0.8)],
    "m2": [("SPEAKER_00", 0.25, 1.0)],
    "m3": [("anna", 0.0, 2.0)],
}


@pytest.fixture
def meetings(tmp_path):
    rng = np.random.default_rng(0)
    for place, name in enumerate([*TURNS, "alone"]):
        path = tmp_path / "audio" / f"day{place % 2}" / f"{name}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, rng.uniform(-0.3, 0.3, 32_000), 16_000)
    write(tmp_path / "all.rttm", TURNS)
    return tmp_path


def write(path, turns):
    path.write_text(
        "".join(
            f"SPEAKER {name} 1 {start} {seconds} <NA> <NA> {speaker} <NA> <NA>\n"
            for name, theirs in turns.items()
            for speaker, start, seconds in theirs
        )
    )


def prepare(folder, *arguments, out="c"):
    corpus = prepare_foreign("rttm", *arguments, "--audio", folder / "audio", "--out", folder / out)
    return {
        key: (len(w), meta["turns"]) for split in corpus.splits for key, w, meta in corpus.split(split).utterances()
    }


def test_turns_of_whole_recordings(meetings, capsys):
    found = prepare(meetings, meetings / "all.rttm")
    main(
        [
            "prepare",
            "rttm",
            *map(str, [meetings / "all.rttm", "--audio", meetings / "audio", "--out", meetings / "again"]),
            *("--workers", "1"),
        ]
    )
    assert found == {
        "m1": (32_000, [["anna", 0.0, 1.5], ["ben", 1.2, 2.0]]),
        "m2": (32_000, [["SPEAKER_00", 0.25, 1.25]]),
        "m3": (32_000, [["anna", 0.0, 2.0]]),
    }
    assert "left out 1 audio files in" in capsys.readouterr().out
    (meetings / "names").write_text("m1\nm2\nalone\n")
    assert prepare(meetings, meetings / "all.rttm", "--names", meetings / "names", out="n")["alone"] == (32_000, [])


def test_a_uem_and_pieces_cut_the_turns(meetings):
    (meetings / "all.uem").write_text("m1 1 0.5 1.5\nm2 1 0 2\nm3 1 0 1.0\n")
    found = prepare(meetings, meetings / "all.rttm", "--uem", meetings / "all.uem", "--split-by", "file")
    assert found["m1-00000500"] == (16_000, [["anna", 0.0, 1.0], ["ben", 0.7, 1.0]])
    assert len(found) == 3
    found = prepare(meetings, meetings / "all.rttm", "--pieces", "1.5", out="pieces")
    assert found["m1-00001000"] == (16_000, [["anna", 0.0, 0.5], ["ben", 0.2, 1.0]]) and len(found) == 6
    corpus = Corpus.open(meetings / "pieces")
    homes = {(meta["file"], split) for split in corpus.splits for meta in corpus.split(split).metas()}
    assert len(homes) == 3  # the pieces of a recording stay together


def test_a_file_for_each_split_trains_diarization(meetings):
    write(meetings / "a.rttm", {"m1": TURNS["m1"], "m2": TURNS["m2"]})
    write(meetings / "b.rttm", {"m3": TURNS["m3"]})
    prepare(meetings, "--split", f"train={meetings}/a.rttm", f"valid={meetings}/b.rttm")
    corpus = Corpus.open(meetings / "c")
    assert {split: len(corpus.split(split)) for split in corpus.splits} == {"train": 2, "valid": 1}


@pytest.mark.parametrize(
    ("turns", "message"),
    [
        ({"m1": [("anna", 0.0, 2.5)]}, r"1 recordings with a turn that ends after their audio \(m1\)"),
        ({"gone": [("anna", 0.0, 1.0)]}, r"1 recordings without an audio file in .* \(gone\)"),
        ({"m1": [("anna", "x", 1.0)]}, r"all.rttm: not readable as RTTM \(RTTM line 1 is not"),
        ({}, "no SPEAKER line"),
    ],
)
def test_what_does_not_fit_is_refused(meetings, turns, message):
    write(meetings / "all.rttm", turns)
    with pytest.raises(UserError, match=message):
        prepare(meetings, meetings / "all.rttm")


def test_wrong_uem_and_two_channels(meetings):
    (meetings / "x.uem").write_text("m1 1 0.5 0.2\n")
    with pytest.raises(UserError, match=r"x.uem, line 1: not readable as `NAME CHANNEL START END`"):
        prepare(meetings, meetings / "all.rttm", "--uem", meetings / "x.uem")
    (meetings / "x.uem").write_text("m1 1 0 0.2\nm1 1 0.1 0.5\n")
    with pytest.raises(UserError, match="stretches of 'm1' overlap"):
        prepare(meetings, meetings / "all.rttm", "--uem", meetings / "x.uem")
    with (meetings / "all.rttm").open("a") as file:
        file.write("SPEAKER m1 2 0 1 <NA> <NA> anna <NA> <NA>\n")
    with pytest.raises(UserError, match="'m1' has turns on the channels 1, 2"):
        prepare(meetings, meetings / "all.rttm")
