"""Segments of frames, and their errors against pyannote.metrics, a count of frames, and by hand."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from pyannote.core import Annotation, Segment, Timeline
from pyannote.metrics.diarization import DiarizationErrorRate as PyannoteRate
from pyannote.metrics.diarization import JaccardErrorRate as PyannoteJaccard
from scipy.signal import medfilt

from wavlm_lightning.metrics import (
    DiarizationErrors,
    PyannoteErrors,
    SystemErrors,
    diarization_errors,
    frames_to_segments,
    pyannote_errors,
)


def conversation(rng, speakers, turns, end=20.0):
    """Turns in hundredths of a second; those of one speaker may overlap and touch."""
    segments = []
    for speaker in range(speakers):
        for _ in range(rng.integers(0, turns + 1)):
            start = round(rng.uniform(0, end - 5), 2)
            segments.append((f"speaker{speaker}", start, round(start + rng.uniform(0.05, 5), 2)))
    return segments


def annotation(segments, prefix=""):
    result = Annotation()
    for track, (speaker, start, end) in enumerate(segments):
        result[Segment(start, end), track] = prefix + speaker
    return result.support()


def on_frames(segments, collar=0.0, frames=3000):
    """Speakers' activity on a grid of 10 ms `(speakers, frames)`, and where no collar lies."""
    names = sorted({speaker for speaker, _, _ in segments})
    active = np.zeros((len(names), frames), dtype=bool)
    for speaker, start, end in segments:
        active[names.index(speaker), round(start * 100) : round(end * 100)] = True
    scored = np.ones(frames, dtype=bool)
    padded = np.pad(active, ((0, 0), (1, 1)))
    for edge in np.argwhere(padded[:, 1:] != padded[:, :-1])[:, 1] if collar else ():
        scored[max(0, edge - round(collar * 100)) : edge + round(collar * 100)] = False
    return active, scored


def counted(reference, hypothesis, collar=0.0):
    """Every mapping tried, every frame looked at."""
    (speaking, scored), (heard, _) = on_frames(reference, collar), on_frames(hypothesis)
    width = max(len(speaking), len(heard))
    speaking, heard = (np.pad(a, ((0, width - len(a)), (0, 0))) for a in (speaking, heard))
    best = max(permutations(range(width)), key=lambda order: (speaking & heard[list(order)]).sum())
    missed = alarm = confusion = total = 0
    for truth, claim, keep in zip(speaking.T, heard[list(best)].T, scored, strict=True):
        if keep:
            missed += max(truth.sum() - claim.sum(), 0)
            alarm += max(claim.sum() - truth.sum(), 0)
            confusion += min(truth.sum(), claim.sum()) - (truth & claim).sum()
            total += truth.sum()
    return np.array([missed, alarm, confusion, total]) / 100


def as_array(errors):
    return np.array([errors.missed, errors.false_alarm, errors.confusion, errors.total])


@pytest.mark.parametrize("seed", range(40))
def test_against_pyannote(seed):
    rng = np.random.default_rng(seed)
    reference, hypothesis = conversation(rng, rng.integers(1, 4), 4), conversation(rng, rng.integers(1, 5), 5)
    errors = diarization_errors(reference, hypothesis)
    theirs = PyannoteRate(collar=0, skip_overlap=False)(
        annotation(reference),
        annotation(hypothesis, "found"),
        detailed=True,
        uem=Timeline([Segment(0, 30)]),
    )
    expected = [theirs["missed detection"], theirs["false alarm"], theirs["confusion"], theirs["total"]]
    assert as_array(errors) == pytest.approx(np.array(expected), abs=1e-6)
    assert errors.rate == pytest.approx(theirs["diarization error rate"], abs=1e-6)


@pytest.mark.parametrize("seed", range(15))
@pytest.mark.parametrize("collar", [0.0, 0.25])
def test_against_a_count_of_frames(seed, collar):
    rng = np.random.default_rng(100 + seed)
    reference, hypothesis = conversation(rng, rng.integers(1, 4), 4), conversation(rng, rng.integers(1, 4), 5)
    errors = diarization_errors(reference, hypothesis, collar)
    assert as_array(errors) == pytest.approx(counted(reference, hypothesis, collar), abs=1e-6)


def test_collar_is_half_of_pyannotes():
    """One clear mapping, so that it does not matter on which part of the time it is chosen."""
    reference = [("anna", 1.0, 6.0), ("ben", 5.0, 12.0), ("anna", 14.0, 18.0)]
    hypothesis = [("0", 0.6, 5.6), ("1", 5.5, 13.0), ("0", 14.1, 17.0), ("1", 16.0, 19.0)]
    errors = diarization_errors(reference, hypothesis, collar=0.25)
    theirs = PyannoteRate(collar=0.5)(
        annotation(reference), annotation(hypothesis), detailed=True, uem=Timeline([Segment(0, 30)])
    )
    expected = [theirs["missed detection"], theirs["false alarm"], theirs["confusion"], theirs["total"]]
    assert as_array(errors) == pytest.approx(np.array(expected), abs=1e-6)
    assert errors.total < diarization_errors(reference, hypothesis).total


def test_by_hand():
    reference = [["anna", 0, 10], ["ben", 8, 14]]  # lists, as turns come from JSON
    assert diarization_errors(reference, [("x", 0, 10), ("y", 8, 14)]) == DiarizationErrors(0, 0, 0, 16)
    assert diarization_errors(reference, []) == DiarizationErrors(missed=16, total=16)
    assert diarization_errors([], [("x", 1, 3)]) == DiarizationErrors(false_alarm=2)
    assert diarization_errors([], []) == DiarizationErrors()
    everybody_is_x = diarization_errors(reference, [("x", 0, 14)])
    assert everybody_is_x == DiarizationErrors(missed=2, confusion=4, total=16)
    assert everybody_is_x.rate == pytest.approx(6 / 16)
    three_for_one = diarization_errors([("anna", 0, 9)], [("x", 0, 4), ("y", 4, 7), ("z", 7, 9)])
    assert three_for_one == DiarizationErrors(confusion=5, total=9)


def test_segments_of_a_speaker_merge():
    whole = diarization_errors([("anna", 0, 6)], [("x", 0, 6)], collar=0.5)
    parts = diarization_errors([("anna", 4, 6), ("anna", 0, 3), ("anna", 2, 4), ("anna", 5, 5)], [("x", 0, 6)], 0.5)
    assert parts == whole == DiarizationErrors(total=5)


def test_sum_and_rates():
    total = DiarizationErrors(1, 2, 3, 10) + DiarizationErrors(0, 1, 0, 10)
    assert total == DiarizationErrors(1, 3, 3, 20)
    assert total.rate == pytest.approx(0.35)
    assert DiarizationErrors().rate == 0
    assert DiarizationErrors(false_alarm=1).rate == 1


@pytest.mark.parametrize("segment", [("anna", 2, 1), ("anna", 0, float("nan")), ("anna", float("-inf"), 1)])
def test_refuses_broken_segments(segment):
    with pytest.raises(ValueError, match="an end after the start"):
        diarization_errors([segment], [])


def test_refuses_a_negative_collar():
    with pytest.raises(ValueError, match="collar"):
        diarization_errors([], [], collar=-0.1)


@pytest.mark.filterwarnings("ignore:kernel_size exceeds")
@pytest.mark.parametrize("width", [1, 3, 11, 101])
@pytest.mark.parametrize("frames", [0, 1, 7, 200])
def test_median_filter_against_scipy(width, frames):
    rng = np.random.default_rng(width + frames)
    scores = rng.random((frames, 3))
    decisions = np.zeros((frames, 3))
    for speaker, start, end in frames_to_segments(scores, frame_rate=1, threshold=0.4, median_filter=width):
        decisions[int(start) : int(end), int(speaker)] = 1
    expected = medfilt((scores > 0.4).astype(float), (width, 1)) if frames else decisions
    np.testing.assert_array_equal(decisions, expected)


def test_segments_by_hand():
    scores = np.array([[0.9, 0.5], [0.6, 0.5], [0.2, 0.6], [0.7, 0.7]])
    assert frames_to_segments(scores, 50) == [("0", 0, 0.04), ("0", 0.06, 0.08), ("1", 0.04, 0.08)]
    assert frames_to_segments(scores, 50, median_filter=3) == [("0", 0, 0.06), ("1", 0.04, 0.08)]
    assert frames_to_segments(scores, 50, threshold=0.9) == []  # strictly above
    assert frames_to_segments(np.zeros((0, 2)), 50) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scores": np.zeros(4), "frame_rate": 50}, "frames, speakers"),
        ({"scores": np.zeros((4, 2)), "frame_rate": 50, "median_filter": 10}, "odd"),
        ({"scores": np.zeros((4, 2)), "frame_rate": 0}, "frame rate"),
    ],
)
def test_segments_refuse(arguments, message):
    with pytest.raises(ValueError, match=message):
        frames_to_segments(**arguments)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("collar", [0.0, 0.5])
def test_pyannote_scores_recordings_from_begin_to_end(seed, collar):
    """Also without speech on either side, with one speaker, and with two who speak at the same times (a tie)."""
    rng = np.random.default_rng(seed)
    one, tie = [("a", 1.0, 4.0)], [("a", 1.0, 4.0), ("b", 1.0, 4.0)]
    pairs = [
        (conversation(rng, 3, 4), conversation(rng, 4, 5)),
        *(([], []), ([], one), (one, []), (one, one), (tie, tie), (tie, one)),
    ]
    der, jer = PyannoteRate(collar=collar), PyannoteJaccard(collar=collar)
    total = PyannoteErrors()
    for reference, hypothesis in pairs:
        found = pyannote_errors(reference, hypothesis, 30.0, collar)
        total += found
        for metric in (der, jer):
            metric(annotation(reference), annotation(hypothesis, "found"), uem=Timeline([Segment(0, 30)]))
        if not collar:
            assert as_array(found.diarization) == pytest.approx(as_array(diarization_errors(reference, hypothesis)))
    assert total.diarization.rate == pytest.approx(abs(der))
    assert total.jaccard_rate == pytest.approx(abs(jer))


def test_pyannote_errors_add_up_over_recordings_and_processes():
    found = pyannote_errors([("anna", 0, 4)], [("0", 1, 5)], 5.0)
    metric = SystemErrors(3)
    metric.update(1, found)
    metric.update(1, pyannote_errors([("anna", 0, 12)], [("0", 0, 12)], 12.0))
    assert metric.errors_of(1).diarization.rate == pytest.approx(2 / 16)  # sums of seconds, and no mean of recordings
    assert metric.errors_of(1).jaccard_rate == pytest.approx((2 / 5 + 0) / 2)
    assert metric.compute().tolist() == pytest.approx([0.0, 0.125, 0.0])
    assert metric.errors_of(0) == PyannoteErrors()
    with pytest.raises(ValueError, match="collar"):
        pyannote_errors([], [], collar=-1)
