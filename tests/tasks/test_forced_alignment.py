"""Forced alignment: torchaudio's paths, all paths of small transcripts, times of labels, one round of realignment."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from wavlm_lightning.data.alignments import Segment, frame_classes
from wavlm_lightning.tasks.components import forced_alignment
from wavlm_lightning.tasks.components.forced_alignment import (
    NO_PLACE,
    Run,
    Transcript,
    align,
    at_double_rate,
    runs,
    search,
    segments,
)
from wavlm_lightning.tasks.components.realignment import train_classifier


def log_probabilities(frames: int, labels: int, seed: int) -> torch.Tensor:
    return torch.randn(frames, labels, generator=torch.Generator().manual_seed(seed)).log_softmax(-1)


def test_the_search_finds_the_paths_of_torchaudio():
    rng = np.random.default_rng(0)
    none = 0
    for seed in range(150):
        frames, count = int(rng.integers(2, 30)), int(rng.integers(2, 6))
        labels = rng.integers(1, count, int(rng.integers(1, 9))).tolist()
        scores, transcript = log_probabilities(frames, count, seed), Transcript([[(label,)] for label in labels])
        theirs, ours = align(scores, transcript), search(scores.numpy(), transcript.with_blanks)
        assert (theirs is None) == (ours is None) == (frames < transcript.shortest())
        if theirs is None or ours is None:
            none += 1
            continue
        assert (theirs.labels == ours.labels).all() and (theirs.places == ours.places).all()
        heard = ours.labels > 0
        assert (theirs.slots[heard] == ours.slots[heard]).all() and theirs.score == pytest.approx(ours.score, abs=1e-4)
        assert [run.label for run in runs(ours)] == labels
    assert 10 < none < 140  # both kinds were there


def test_without_torchaudio_the_search_stands_in(monkeypatch):
    scores, transcript = log_probabilities(12, 5, 1), Transcript([[(1, 2)], [(2, 4)]])
    theirs = align(scores, transcript)
    monkeypatch.setattr(forced_alignment, "_torchaudio", lambda *_: None)
    ours = align(scores, transcript)
    assert theirs is not None and ours is not None and (theirs.places == ours.places).all()


def expansions(transcript: Transcript) -> list[list[int]]:
    return [[label for choice in chosen for label in choice] for chosen in itertools.product(*transcript.slots)]


@pytest.mark.parametrize("seed", range(8))
def test_choices_cost_no_better_path(seed):
    transcript = Transcript([[(), (1,)], [(2, 3), (3,), (2, 2)], [(), (1,)], [(3,)], [(), (1,)]])
    scores = log_probabilities(9, 4, seed)
    found = align(scores, transcript)
    each = [align(scores, Transcript([[tuple(labels)]])) for labels in expansions(transcript)]
    best = max((path for path in each if path is not None), key=lambda path: path.score)
    assert found is not None and found.score == pytest.approx(best.score, abs=1e-4)
    assert (found.labels == best.labels).all()
    assert (
        transcript.shortest() == min(Transcript([[tuple(labels)]]).shortest() for labels in expansions(transcript)) == 3
    )


@pytest.mark.parametrize("seed", range(4))
def test_without_blanks_every_frame_has_a_label(seed):
    labels, scores = [1, 2, 2, 0], log_probabilities(7, 3, seed).double()
    best = -np.inf
    for cuts in itertools.combinations(range(1, 7), 3):
        edges = [0, *cuts, 7]
        total = sum(
            float(scores[begin:end, label].sum()) for label, begin, end in zip(labels, edges, edges[1:], strict=False)
        )
        best = max(best, total)
    path = search(scores.numpy(), Transcript([[(label,)] for label in labels]).without_blanks)
    assert path is not None and path.score == pytest.approx(best) and (path.places != NO_PLACE).all()
    assert [run.label for run in runs(path)] == labels
    assert search(scores[:3].numpy(), Transcript([[(label,)] for label in labels]).without_blanks) is None


def test_every_frame_gets_the_nearest_label():
    found = [Run(1, 0, 2, 3), Run(2, 0, 8, 8), Run(1, 0, 11, 12)]
    times = segments(found, ["", "a", "b"], 50.0, 0.3)
    assert times == [Segment("a", 0.0, pytest.approx(0.1225)), Segment("b", pytest.approx(0.1225), pytest.approx(0.2025)),
                     Segment("a", pytest.approx(0.2025), 0.3)]  # fmt: skip
    classes = frame_classes(times, 14, 50, {"a": 1, "b": 2, "SIL": 0})
    spikes = {frame: run.label for run in found for frame in range(run.first, run.last + 1)}
    for frame, number in enumerate(classes):
        nearest = min(spikes, key=lambda spike: abs(spike - frame))
        assert number == spikes[nearest]


def test_scores_at_twice_the_rate_lie_on_the_grid():
    scores = log_probabilities(4, 3, 0)
    doubled = at_double_rate(scores)
    assert doubled.shape == (7, 3) and torch.equal(doubled[::2], scores)
    assert torch.allclose(doubled[1], (scores[0] + scores[1]) / 2)


def test_a_classifier_corrects_boundaries_that_are_off():
    """Tones of two pitches and silence: the lessons are off by up to 50 ms, the second round is not."""
    rng, second = np.random.default_rng(0), np.arange(16_000) / 16_000
    lessons = []
    for number in range(40):
        cuts = np.sort(rng.uniform([0.1, 0.4, 0.7], [0.25, 0.55, 0.85]))
        wave = rng.normal(0, 1e-3, 16_000)
        for low, high, pitch in ((cuts[0], cuts[1], 400), (cuts[1], cuts[2], 1500)):
            wave += 0.3 * np.sin(2 * np.pi * pitch * second) * ((second >= low) & (second < high))
        off = cuts + rng.uniform(-0.05, 0.05, 3)
        edges = [0.0, *(cuts if number == 39 else off), 1.0]
        names = ["SIL", "low", "high", "SIL"]
        lessons.append((wave.astype("f4"), [Segment(n, *edges[i : i + 2]) for i, n in enumerate(names)]))
    model = train_classifier(("SIL", "high", "low"), 100.0, lessons[:39])
    wave, true = lessons[39]
    found = model.realign(wave, true)
    assert found is not None and [name for name, *_ in found] == [name for name, *_ in true]
    assert max(abs(one.start - other.start) for one, other in zip(found, true, strict=True)) < 0.025
    again = train_classifier(("SIL", "high", "low"), 100.0, lessons[:39])
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))
