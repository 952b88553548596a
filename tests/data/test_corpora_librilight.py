"""`wavlm prepare librilight`: long recordings in pieces that begin and end with speech."""

import json
from itertools import pairwise

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from miniature import prepare, refusal, sound

from wavlm_lightning.data.corpora.librilight import HOURS, LONGEST_PAUSE, cut
from wavlm_lightning.data.corpus import Corpus

ACTIVITY = [[0.2, 0.9], [1.0, 1.4], [1.5, 2.0], [4.5, 4.7]]


@pytest.fixture
def librilight(tmp_path):
    root = tmp_path / "librilight"
    for speaker in range(100, 112):
        path = sound(root / "small" / str(speaker) / "a_book.64kb" / "part.01.flac", 5.0)
        path.with_suffix(".json").write_text(json.dumps({"snr": 5.4, "voice_activity": ACTIVITY}))
        sound(root / "small" / str(speaker) / "another" / "bare.flac", 2.2)
    sound(root / "medium" / "100" / "third" / "x.flac", 1.0)
    return root


def test_pieces_and_speakers(librilight, tmp_path, capsys):
    arguments = ("--piece-seconds", 1.0, "--min-seconds", 0.3, "--valid", 0.1)
    assert "small has 0 hours instead of 577" in refusal(capsys, "librilight", librilight, tmp_path / "c", *arguments)
    assert prepare("librilight", librilight, tmp_path / "c", *arguments, "--allow-partial") == 0
    corpus = Corpus.open(tmp_path / "c")
    assert corpus.splits == ["train", "valid"]
    speakers = corpus.inventory("speakers")
    assert len(speakers["valid"]) == 2 and len(speakers["train"]) == 10
    assert not set(speakers["train"]) & set(speakers["valid"])
    split = corpus.split("train")
    utterances = {
        key: (waveform, meta) for key, waveform, meta in split.utterances() if meta["speaker"] == speakers["train"][0]
    }
    name = f"small-{speakers['train'][0]}"
    assert sorted(utterances) == [
        *(f"{name}-a_book_64kb-part_01-{number:04d}" for number in range(2)),
        *(f"{name}-another-bare-{number:04d}" for number in range(3)),
    ]
    # 0.2 to 0.9, then 1.0 to 2.0 with its pause; 4.5 to 4.7 is too short. Samples are those of the file.
    whole, _ = soundfile.read(librilight / "small" / speakers["train"][0] / "a_book.64kb" / "part.01.flac", dtype="f4")
    for number, (start, end) in enumerate([(0.2, 0.9), (1.0, 2.0)]):
        waveform, meta = utterances[f"{name}-a_book_64kb-part_01-{number:04d}"]
        np.testing.assert_array_equal(waveform, whole[round(start * 16_000) : round(end * 16_000)])
        assert (meta["snr"], meta["book"], meta["subset"]) == (5.4, "a_book.64kb", "small")
    bare = [utterances[f"{name}-another-bare-{number:04d}"][0] for number in range(3)]
    original, _ = soundfile.read(librilight / "small" / speakers["train"][0] / "another" / "bare.flac", dtype="f4")
    np.testing.assert_array_equal(np.concatenate(bare), original)


def test_several_subsets_and_hours(librilight, tmp_path, monkeypatch):
    # Hours are checked to a hundredth: 1.005 times as many pass.
    seconds = {"small": 12 * 7.2 * 1.005, "medium": 1.0}
    monkeypatch.setattr("wavlm_lightning.data.corpora.librilight.HOURS", {k: v / 3600 for k, v in seconds.items()})
    assert prepare("librilight", librilight, tmp_path / "c", "--subsets", "small", "medium") == 0
    corpus = Corpus.open(tmp_path / "c")
    metas = [meta for split in corpus.splits for meta in corpus.split(split).metas()]
    assert {meta["subset"] for meta in metas} == {"small", "medium"}


def test_mistakes(librilight, tmp_path, capsys):
    wrong = ("--piece-seconds", 1, "--min-seconds", 2)
    assert "--min-seconds must be" in refusal(capsys, "librilight", librilight, tmp_path / "c", *wrong)
    assert "no such folder" in refusal(capsys, "librilight", librilight, tmp_path / "c", "--subsets", "large")
    (librilight / "small" / "101" / "a_book.64kb" / "part.01.json").write_text("{")
    assert "not readable as the description of a recording" in refusal(
        capsys, "librilight", librilight, tmp_path / "c", "--allow-partial"
    )
    assert list(HOURS) == ["small", "medium", "large", "duplicate"]


@given(
    st.lists(st.tuples(st.floats(0, 3), st.floats(0.01, 9)), max_size=12),
    st.floats(0, 5),
    st.floats(0.5, 6),
)
def test_cut_loses_no_speech_and_keeps_the_limits(gaps, rest, longest):
    activity, now = [], 0.0
    for pause, length in gaps:
        activity.append((now + pause, now + pause + length))
        now += pause + length
    seconds = now + rest + 0.01
    pieces = list(cut(activity, seconds, longest))
    assert all(0 <= start < end <= seconds and end - start <= longest + 1e-9 for start, end in pieces)
    assert all(one[1] <= two[0] + 1e-9 for one, two in pairwise(pieces))
    for start, end in activity or [(0.0, seconds)]:
        covered = sum(max(0.0, min(end, stop) - max(start, begin)) for begin, stop in pieces)
        assert covered == pytest.approx(end - start, abs=1e-6)
    edges = {edge for stretch in activity or [(0.0, seconds)] for edge in stretch}
    for start, end in pieces:
        inside = [stretch for stretch in activity if stretch[0] >= start and stretch[1] <= end]
        assert all(two[0] - one[1] <= LONGEST_PAUSE for one, two in pairwise(inside))
        # A piece begins and ends with speech, unless it is a part of one long stretch.
        assert {start, end} <= edges or any(
            b - a > longest and a - 1e-4 <= start < b for a, b in activity or [(0, seconds)]
        )
