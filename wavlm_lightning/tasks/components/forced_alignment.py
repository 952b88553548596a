"""Forced alignment of CTC outputs: the best path through a transcript, and the time of each of its labels.

`Transcript` is what was said, with choices (an optional pause, several pronunciations); `align` finds the best path, `segments`
turns it into times: the boundary between two labels lies midway between the last frame of the one and the first of the next.
Sources: Graves et al. 2006 (paths with blanks); for the fill, the measurements in `experiments/alignment`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from wavlm_lightning.data.alignments import Segment
from wavlm_lightning.data.alignments.segments import WINDOW_CENTRE
from wavlm_lightning.tasks.search.compiled_dtw import compiled

BLANK = 0  # index of the CTC blank
NO_PLACE = -1  # the place of a blank in the transcript


class Transcript:
    """A sequence of slots; each holds one of several sequences of labels, of which an empty one makes the slot optional.

    Args:
        slots: of each slot its choices, sequences of label indices, none of which is the blank.

    Example:
        >>> Transcript([[(), (3,)], [(1, 2)]])  # an optional pause 3, then the labels 1 and 2
    """

    def __init__(self, slots: Sequence[Sequence[Sequence[int]]]) -> None:
        self.slots = [[tuple(choice) for choice in slot] for slot in slots]

    @property
    def plain(self) -> list[int] | None:
        """The labels in order, if there is no choice; None otherwise."""
        return [label for (choice,) in self.slots for label in choice] if self._single else None

    @property
    def _single(self) -> bool:
        return all(len(slot) == 1 for slot in self.slots)

    def shortest(self, blank: bool = True) -> int:
        """Fewest frames of any path: one a label and, with blanks, one between two equal labels."""
        best: dict[int, int] = {NO_PLACE: 0}  # last label -> frames
        for slot in self.slots:
            found: dict[int, int] = {}
            for choice in slot:
                for last, frames in best.items():
                    end = last
                    for label in choice:
                        frames, end = frames + 1 + (blank and label == end), label
                    found[end] = min(frames, found.get(end, frames))
            best = found
        return min(best.values())

    @cached_property
    def with_blanks(self) -> Graph:
        """The states of CTC: a blank may stand before, between and behind all labels, and must between two equal ones."""
        return _graph(self, True)

    @cached_property
    def without_blanks(self) -> Graph:
        """One state a label: every frame belongs to a label of the transcript."""
        return _graph(self, False)


class Graph(NamedTuple):
    """States of a search, in an order in which each follows its predecessors."""

    labels: np.ndarray  # of each state, int64 `(states,)`
    places: np.ndarray  # number of the label in the transcript, counted over all choices; NO_PLACE of blanks, int64
    slots: np.ndarray  # number of the slot of each state, int64; that of the label behind it for a blank
    begins: np.ndarray  # whether a path may begin there, bool
    ends: np.ndarray  # whether a path may end there, bool
    first: np.ndarray  # where the predecessors of a state begin in `sources`, int64 `(states + 1,)`
    sources: np.ndarray  # predecessors of all states, the state itself among them, int64


def _graph(transcript: Transcript, blank: bool) -> Graph:
    labels: list[int] = []
    places: list[int] = []
    slots: list[int] = []
    begins: list[bool] = []
    before: list[list[int]] = []

    def add(label: int, place: int, slot: int, sources: list[int], begin: bool) -> int:
        state = len(labels)
        labels.append(label)
        places.append(place)
        slots.append(slot)
        begins.append(begin)
        before.append([*sources, state])
        return state

    place = 0
    open_ends: list[int] = []  # states of labels behind which the path stands
    at_start = True  # whether nothing need have been said so far
    for number, slot in enumerate(transcript.slots):
        ends: list[int] = []
        stays = False
        for choice in slot:
            sources, begin = open_ends, at_start
            for label in choice:
                own = list(sources) if not blank else [state for state in sources if labels[state] != label]
                if blank:
                    own.append(add(BLANK, NO_PLACE, number, sources, begin))
                sources, begin = [add(label, place, number, own, begin)], False
                place += 1
            if choice:
                ends += sources
            else:
                stays = True
        open_ends = ends + open_ends if stays else ends
        at_start = at_start and stays
    last = set(open_ends)
    if blank:
        last.add(add(BLANK, NO_PLACE, len(transcript.slots), open_ends, at_start))
    ending = np.array([state in last for state in range(len(labels))], dtype=bool)
    first = np.concatenate([[0], np.cumsum([len(each) for each in before])]).astype(np.int64)
    sources_of = np.array([source for each in before for source in each], dtype=np.int64)
    return Graph(
        np.array(labels, dtype=np.int64),
        np.array(places, dtype=np.int64),
        np.array(slots, dtype=np.int64),
        np.array(begins, dtype=bool),
        ending,
        first,
        sources_of,
    )


class Path(NamedTuple):
    """The best path through a transcript.

    Attributes:
        labels: of each frame, the blank included, int64 `(frames,)`.
        places: number of the label in the transcript, NO_PLACE in a blank, int64 `(frames,)`.
        slots: number of its slot, int64 `(frames,)`; of a blank, any.
        score: sum of the log-probabilities along the path.
    """

    labels: np.ndarray
    places: np.ndarray
    slots: np.ndarray
    score: float


class Run(NamedTuple):
    """The frames of one label on a path, from `first` to `last`."""

    label: int
    slot: int
    first: int
    last: int


def align(scores: Tensor, transcript: Transcript) -> Path | None:
    """The best path of CTC through a transcript.

    A transcript without choices goes through `torchaudio.functional.forced_align`; any other, and all on a torchaudio without it,
    through the search of this module, which finds the same path.

    Args:
        scores: log-probabilities, float `(frames, labels)` on the CPU; the blank is index 0.
        transcript: what was said.

    Returns:
        None if there are too few frames (`Transcript.shortest`), or if every path has probability 0.
    """
    labels = transcript.plain
    if len(scores) < transcript.shortest():
        return None
    if not labels or (aligned := _torchaudio(scores, labels)) is None:
        return search(scores.numpy(), transcript.with_blanks)
    path, score = aligned
    if not np.isfinite(score):
        return None
    repeats = path[1:] == path[:-1]
    begins = np.concatenate([[path[0] != BLANK], (path[1:] != BLANK) & ~repeats])
    places = np.where(path == BLANK, NO_PLACE, np.cumsum(begins) - 1)
    owners = np.array([number for number, (choice,) in enumerate(transcript.slots) for _ in choice], dtype=np.int64)
    return Path(path, places, owners[np.maximum(places, 0)], score)


def _torchaudio(scores: Tensor, labels: list[int]) -> tuple[np.ndarray, float] | None:
    """The labels of each frame and the score of the path; None where torchaudio has no forced alignment."""
    try:
        from torchaudio.functional import forced_align
    except ImportError:
        return None
    path, frames = forced_align(scores[None].contiguous(), torch.tensor([labels], dtype=torch.int32), blank=BLANK)
    return path[0].numpy().astype(np.int64), float(frames.double().sum())


def search(scores: np.ndarray, graph: Graph) -> Path | None:
    """The best path through the states of a transcript, by Viterbi's algorithm; None if there is none.

    Args:
        scores: log-probabilities, or any scores that add up, `(frames, labels)`.
        graph: `Transcript.with_blanks` or `without_blanks`.
    """
    if not len(graph.labels) or not len(scores):
        return None
    states = np.empty(len(scores), dtype=np.int64)
    score = _viterbi(
        np.ascontiguousarray(scores, dtype=np.float64),
        graph.labels,
        graph.begins,
        graph.ends,
        graph.first,
        graph.sources,
        states,
    )
    if not np.isfinite(score):
        return None
    return Path(graph.labels[states], graph.places[states], graph.slots[states], float(score))


@compiled
def _viterbi(scores, labels, begins, ends, first, sources, states):
    frames, count = len(scores), len(labels)
    back = np.empty((frames, count), np.int32)
    now = np.full(count, -np.inf)
    for state in range(count):
        if begins[state]:
            now[state] = scores[0, labels[state]]
    for frame in range(1, frames):
        new = np.empty(count)
        for state in range(count):
            best, where = -np.inf, state
            for edge in range(first[state], first[state + 1]):
                if now[sources[edge]] > best:
                    best, where = now[sources[edge]], sources[edge]
            new[state] = best + scores[frame, labels[state]]
            back[frame, state] = where
        now = new
    best, state = -np.inf, 0
    for each in range(count):
        if ends[each] and now[each] > best:
            best, state = now[each], each
    for frame in range(frames - 1, -1, -1):
        states[frame] = state
        state = back[frame, state] if frame else state
    return best


def runs(path: Path) -> list[Run]:
    """The labels of a path in order, without blanks, each with its frames."""
    change = np.flatnonzero(np.diff(path.places)) + 1
    starts, stops = np.concatenate([[0], change]), np.concatenate([change, [len(path.places)]])
    return [
        Run(int(path.labels[start]), int(path.slots[start]), int(start), int(stop) - 1)
        for start, stop in zip(starts, stops, strict=True)
        if path.places[start] != NO_PLACE
    ]


def segments(found: Sequence[Run], names: Sequence[str], rate: float, seconds: float) -> list[Segment]:
    """Times of the labels: every moment belongs to the label whose frames are nearest, from 0 to the end of the audio.

    Frame t lies at 0.0125 + t / rate seconds, the middle of its window of 25 ms.

    Args:
        found: labels with their frames, in order.
        names: of all labels.
        rate: frames per second.
        seconds: length of the audio.
    """
    cuts = [WINDOW_CENTRE + (one.last + other.first) / 2 / rate for one, other in itertools.pairwise(found)]
    edges = [0.0, *cuts, seconds]
    return [Segment(names[run.label], edges[n], edges[n + 1]) for n, run in enumerate(found)]


def at_double_rate(scores: Tensor) -> Tensor:
    """Scores between each two frames as well, their mean: `(2 frames - 1, labels)`; frame t becomes frame 2t.

    A label then needs half a frame, which quick speech with many short phones has and whole frames have not.
    """
    between = (scores[1:] + scores[:-1]) / 2
    doubled = scores.new_empty(2 * len(scores) - 1, scores.shape[1])
    doubled[0::2], doubled[1::2] = scores, between
    return doubled
