"""Detection of speech and overlap against pyannote.metrics, scikit-learn and a plain loop."""

import numpy as np
import pytest
import torch
from pyannote.core import Annotation, Segment, Timeline
from pyannote.metrics.detection import DetectionErrorRate, DetectionPrecision, DetectionRecall
from sklearn.metrics import average_precision_score

from wavlm_lightning.metrics.detection import (
    EVENTS,
    DetectionErrors,
    DetectionSetting,
    regions_of_scores,
    regions_of_turns,
)

Turns = list[tuple[str, float, float]]


def drawn(rng: np.random.Generator, speakers: int, seconds: float = 10.0) -> Turns:
    """Turns on a grid of 10 ms, so that some touch and some begin together; speakers' own turns may overlap, too."""
    turns = []
    for speaker in range(speakers):
        for _ in range(rng.integers(0, 4)):
            start, length = rng.integers(0, 900) / 100, rng.integers(1, 300) / 100
            turns.append((f"s{speaker}", start, min(start + length, seconds)))
    return turns


def timeline(regions: np.ndarray) -> Annotation:
    return Timeline([Segment(*row) for row in regions]).to_annotation()


@pytest.mark.parametrize("speakers", [0, 1, 2, 4])
def test_counts_are_those_of_pyannote_metrics(speakers: int) -> None:
    rng = np.random.default_rng(speakers)
    setting = DetectionSetting(0.6, 0.4, 0.1, 0.2)
    metric = DetectionErrors(50.0, 0.0125, [setting])
    errors = {event: DetectionErrorRate() for event in EVENTS}
    precisions = {event: DetectionPrecision() for event in EVENTS}
    recalls = {event: DetectionRecall() for event in EVENTS}
    truth: dict[str, list[np.ndarray]] = {event: [] for event in EVENTS}
    heard: dict[str, list[np.ndarray]] = {event: [] for event in EVENTS}
    for _ in range(5):
        turns = drawn(rng, speakers)
        # Ties: a few levels alone.
        scores = torch.from_numpy(rng.integers(0, 6, (500, 2)) / 5).float()
        metric.update(scores, turns)
        union = Timeline([Segment(0, 20)])
        everyone = Annotation()
        for number, (speaker, start, end) in enumerate(turns):
            everyone[Segment(start, end), number] = speaker
        for number, event in enumerate(EVENTS):
            found = timeline(regions_of_scores(scores[:, number].numpy(), 50.0, *setting, centre=0.0125))
            merged = Annotation()
            for speaker in everyone.labels():
                for place, stretch in enumerate(everyone.label_timeline(speaker).support()):
                    merged[stretch, f"{speaker}{place}"] = speaker
            lines = merged.get_timeline(copy=True).support() if event == "speech" else merged.get_overlap()
            reference = lines.to_annotation()
            assert timeline(regions_of_turns(turns, number + 1)).get_timeline() == reference.get_timeline().support()
            for measure in (errors, precisions, recalls):
                measure[event](reference, found, uem=union)
            middles = 0.0125 + np.arange(500) / 50
            truth[event].append(np.array([any(s.start <= t < s.end for s in lines) for t in middles]))
            heard[event].append(scores[:, number].numpy())
    for event in EVENTS:
        counts = metric.counts(event, 0)
        if counts.hit + counts.missed > 0:
            assert counts.error == pytest.approx(abs(errors[event]), abs=1e-6)
            assert counts.precision == pytest.approx(abs(precisions[event]), abs=1e-6)
            assert counts.recall == pytest.approx(abs(recalls[event]), abs=1e-6)
            both = counts.precision + counts.recall
            assert counts.f1 == pytest.approx(2 * counts.precision * counts.recall / both)
            expected = average_precision_score(np.concatenate(truth[event]), np.concatenate(heard[event]))
            assert metric.average_precision(event) == pytest.approx(expected, abs=1e-6)
            assert metric.share(event) == pytest.approx(np.concatenate(truth[event]).mean())
        else:
            assert (counts.error, counts.recall, metric.average_precision(event)) == (1.0, 1.0, 0.0)


def test_regions_are_those_of_a_plain_loop() -> None:
    rng = np.random.default_rng(1)
    for _ in range(200):
        scores = rng.integers(0, 11, rng.integers(0, 40)) / 10
        onset = rng.integers(3, 10) / 10
        offset = onset - rng.integers(0, 3) / 10
        shortest, gap = rng.integers(0, 4, 2) / 10
        on, spans = False, []
        for place, value in enumerate(scores):
            now = value >= offset if on and value <= onset else value > onset
            if now and not on:
                spans.append([place, place])
            if now:
                spans[-1][1] = place + 1
            on = now
        joined: list[list[float]] = []
        for start, end in spans:
            if joined and (start - joined[-1][1]) / 10 < gap - 1e-9:
                joined[-1][1] = end
            else:
                joined.append([start, end])
        expected = [(start / 10, end / 10) for start, end in joined if (end - start) / 10 >= shortest - 1e-9]
        found = regions_of_scores(scores, 10, onset, offset, shortest, gap)
        assert np.allclose(found, np.array(expected).reshape(-1, 2)), (scores, onset, offset, shortest, gap)


def test_a_frame_stands_for_the_time_around_its_middle() -> None:
    found = regions_of_scores(np.array([0.0, 1.0, 1.0, 0.0]), 50, 0.5, centre=0.0125)
    assert np.allclose(found, [[0.0225, 0.0625]])
    # The first frame stands for time from 0 on.
    assert np.allclose(regions_of_scores(np.array([1.0]), 20, 0.5, centre=0.0125), [[0.0, 0.0375]])


def test_touching_turns_of_one_speaker_are_no_overlap() -> None:
    turns = [("a", 0.0, 1.0), ("a", 1.0, 2.0), ("a", 1.5, 2.5), ("b", 2.5, 3.0)]
    assert np.allclose(regions_of_turns(turns), [[0.0, 3.0]])
    assert regions_of_turns(turns, 2).shape == (0, 2)


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match="must not be above"):
        regions_of_scores(np.zeros(3), 10, 0.3, 0.5)
    with pytest.raises(ValueError, match="scores \\(frames,\\)"):
        regions_of_scores(np.zeros((3, 1)), 10, 0.3)
    with pytest.raises(ValueError, match="positive"):
        regions_of_scores(np.zeros(3), 0, 0.3)
