"""DIAR: who speaks when in long recordings of any number of speakers: windows, embeddings, clustering, stitched turns."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from wavlm_lightning.audio import SAMPLE_RATE
from wavlm_lightning.data.batch import TaskBatch, Waveforms
from wavlm_lightning.metrics.detection import smoothed
from wavlm_lightning.metrics.diarization import (
    PyannoteErrors,
    Segment,
    diarization_errors,
    frames_to_segments,
    pyannote_errors,
)
from wavlm_lightning.metrics.diarization_rate import SystemErrors
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks.base import Direction
from wavlm_lightning.tasks.components.clustering import Clusters, assign, centroids, dendrogram, thinned
from wavlm_lightning.tasks.components.powerset import best_orders
from wavlm_lightning.tasks.components.reference_turns import ReferenceTurns
from wavlm_lightning.tasks.components.stitching import speaker_count, stitch
from wavlm_lightning.tasks.speaker.speaker_segmentation import SpeakerSegmentation, activity_of
from wavlm_lightning.tasks.speaker.voice_embeddings import (
    VerificationEmbeddings,
    Voices,
    clean_seconds,
    heard_frames,
    mean_vectors,
)
from wavlm_lightning.upstreams import Upstream

Stage = Literal["valid", "test"]
Oracle = Literal["segmentation", "clustering", "count"]
CLEAN_SHARE = 0.2  # of a window: those who are alone for less are not clustered, only assigned (pyannote)


class Pipeline(NamedTuple):
    """What is fitted on validation: how embeddings become persons, and frames turns.

    Attributes:
        threshold: mean cosine distance above which two clusters stay apart.
        smallest: members of a cluster; see `Clusters`.
        longest_gap: seconds; shorter silences of a speaker are filled.
        shortest: seconds; shorter turns are dropped.
    """

    threshold: float
    smallest: int
    longest_gap: float
    shortest: float


THRESHOLDS = tuple(round(float(value), 3) for value in np.geomspace(0.02, 1.3, 24))
SMALLEST = (1, 3, 12)
DURATIONS = ((0.0, 0.0), (0.25, 0.0), (0.5, 0.0), (0.0, 0.1), (0.25, 0.1), (0.5, 0.1), (0.25, 0.25), (0.5, 0.25))
PIPELINES = tuple(
    Pipeline(threshold, smallest, *durations)
    for threshold, smallest, durations in product(THRESHOLDS, SMALLEST, DURATIONS)
)
# Until one is fitted: pyannote 3.1's threshold and cluster size, no change of turns.
USUAL = Pipeline(0.7, 12, 0.0, 0.0)
WINDOWS, STITCHED, ORACLES = 0, 1, 2  # rows of the metric: of windows, of recordings, of the first oracle and so on


class Heard(NamedTuple):
    """A recording after its windows.

    Attributes:
        activity: who speaks in each window, bool `(windows, frames, speakers)`.
        starts: first frame of each window.
        voices: the embeddings.
        frames: of the recording.
        logits: of the windows, `(windows, frames, classes)`; of an evaluation.
    """

    activity: np.ndarray
    starts: np.ndarray
    voices: Voices
    frames: int
    logits: Tensor | None = None


class Tree(NamedTuple):
    """Embeddings that are clustered, `(embeddings, dim)`, and their dendrogram."""

    vectors: np.ndarray
    linkage: np.ndarray


class MeetingDiarization(SpeakerSegmentation):
    """Diarization of recordings of any length and number of speakers; see `SpeakerSegmentation` for what is trained.

    A recording is divided into windows. In each, the best class of a frame says which of the window's speakers speak. Each of
    them gets an embedding of the frames where nobody else speaks. The embeddings of those who are alone for a fifth of a window
    are clustered, every speaker goes to the nearest cluster (two of a window never to one), and the windows are stitched: as
    many speakers at a frame as the windows find on average, those whom most of the windows hear (pyannote 3.1; the linkage is
    average instead of centroid). Time and memory grow with the length of the recording.

    The threshold and size of clusters and the least durations of gaps and turns are those with the lowest error on valid; the
    checkpoint keeps them. Errors are those of pyannote.metrics from the begin to the end of each recording, overlapped speech
    included: the diarization error rate is the sum of errors over the sum of speech, the Jaccard error rate (`jer`) the mean
    over speakers. `window_der`, the error of windows with the best order of speakers in each, chooses the checkpoint.

    Args:
        upstream: where features come from.
        learning_rate: of Adam.
        embeddings: folder of a run of `SpeakerVerification` or `EcapaVerification`, whose head makes the embeddings, also
            in tests and predictions; null takes the mean features of the upstream, which tell voices apart poorly.
        count: speakers of every recording, where that is known: a number, or [least, most]; null finds it by the threshold.
        oracles: in a test, the error as well with the true `segmentation` of windows, with the true `clustering` of the
            windows' speakers, or with the true `count` of speakers of each recording.
        collar: seconds around boundaries of the reference that a test does not score, the whole width as in pyannote:
            NIST's 250 ms on either side are 0.5.
        settings: see `SpeakerSegmentation` and `Task`.
    """

    name = "DIAR"
    metric = "der"
    better = "lower"
    others: ClassVar[dict[str, Direction]] = {"jer": "lower", "window_der": "lower"}

    def __init__(
        self,
        upstream: Upstream,
        learning_rate: float = 1e-3,
        embeddings: str | None = None,
        count: int | list[int] | None = None,
        oracles: list[Oracle] | None = None,
        collar: float = 0.0,
        **settings: Any,
    ) -> None:
        super().__init__(upstream, learning_rate, **settings)
        self.embeddings, self.collar = embeddings, collar
        self.count = checked_count(count)
        self.oracles = tuple(dict.fromkeys(oracles or ()))
        if unknown := set(self.oracles) - {"segmentation", "clustering", "count"}:
            raise UserError(f"DIAR: model.oracles names {min(unknown)!r}; give segmentation, clustering or count")
        if not collar >= 0:
            raise UserError(f"DIAR: model.collar {collar:g} must not be below 0")
        self.others = {**self.others, **{f"der_oracle_{oracle}": "lower" for oracle in self.oracles}}  # type: ignore[misc]
        self.headlines = ("der", "jer")  # type: ignore[misc]
        self._embedder: VerificationEmbeddings | None = None
        self._references = ReferenceTurns(self.name)
        self._sums: list[PyannoteErrors] = []  # of each recording of the last batch

    @property
    def monitor(self) -> tuple[str, str]:
        """The error of windows: it needs no threshold, and few recordings hold many windows."""
        return "valid/window_der", "min"

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_embedder": None}

    # What the embeddings need.

    def on_fit_start(self) -> None:
        super().on_fit_start()
        self._open_embeddings()

    def on_test_start(self) -> None:
        self._open_embeddings()

    def _open_embeddings(self) -> None:
        """Load the verification head, and refuse data that it would hear at another level than in its training."""
        if self.embeddings is None:
            return
        self._embeddings()
        if self.data is not None and (self.data.factor != 1 or self.data.processing):
            raise UserError(
                "DIAR: the audio is changed before the windows (data.gain_db, or gain and trimming of the corpus), so that "
                f"model.embeddings {self.embeddings} would not hear it as in its training; set data.gain_db: 0 and prepare the "
                "corpus without them"
            )

    def _embeddings(self) -> VerificationEmbeddings:
        if self._embedder is None:
            assert self.embeddings is not None
            self._embedder = VerificationEmbeddings(self.embeddings)
            kept = self.fitted.get("embeddings")
            if kept is not None and kept != self._embedder.fingerprint():
                raise UserError(
                    f"DIAR: model.embeddings {self.embeddings} is not the head with which the thresholds of this checkpoint "
                    "were fitted; give that run, or train again"
                )
        return self._embedder

    # The windows of a recording.

    @torch.no_grad()
    def hear(self, waveform: Tensor, keep_logits: bool = False, truth: Tensor | None = None) -> Heard:
        """The windows of a recording `(samples,)`: who speaks in them, and with what voice.

        Args:
            waveform: in eval mode, on the device of the task.
            keep_logits: also return them.
            truth: who speaks in each window, 0 and 1 `(windows, frames, speakers)`, to be taken instead of the head's answer.
        """
        starts = self.starts(len(waveform))
        activities, vectors, logits = [], [], []
        for part in self.heard_windows(waveform, starts):
            own = slice(part.first, part.first + len(part.audio))
            found = self.powerset.activity(part.logits) if truth is None else truth[own]
            activity = found.bool().cpu().numpy()
            activities.append(activity)
            vectors.append(self._vectors(part.audio, part.layers, activity))
            if keep_logits:
                logits.append(part.logits)
        activity = np.concatenate(activities)
        spoken = np.asarray(activity.any(1))
        # Of a part in which nobody speaks, the width of an embedding is not known.
        width = max(each.shape[2] for each in vectors)
        vectors = [each if each.any() else np.zeros((*each.shape[:2], width), np.float32) for each in vectors]
        voices = Voices(np.concatenate(vectors), clean_seconds(activity, self.hop), spoken)
        frames = int(starts[-1]) + activity.shape[1]
        return Heard(activity, starts, voices, frames, torch.cat(logits) if logits else None)

    def _vectors(self, audio: Tensor, layers: Any, activity: np.ndarray) -> np.ndarray:
        """The embedding of each speaker of some windows, `(windows, speakers, dim)`; zeros of those who do not speak."""
        if self.embeddings is None:
            features, rate = self.weighted_sum(layers), self.upstream.frame_rate
        else:
            embedder = self._embeddings()
            # A trained upstream changes, so that its hidden states are not those of a run.
            features = embedder.features(audio, layers, self.upstream.fingerprint() if self.upstream.frozen else "")
            rate = embedder.frame_rate
        places = [
            (window, int(speaker)) for window, own in enumerate(activity) for speaker in np.flatnonzero(own.any(0))
        ]
        stretches = []
        for window, speaker in places:
            frames = heard_frames(activity[window], speaker, self.upstream.frame_rate, rate, features.shape[1])
            stretches.append(features[window, torch.from_numpy(frames).to(features.device)])
        if not stretches:
            return np.zeros((*activity[:, 0].shape, 1), dtype=np.float32)
        found = mean_vectors(stretches) if self.embeddings is None else self._embeddings().vectors(stretches)
        vectors = np.zeros((*activity[:, 0].shape, found.shape[1]), dtype=np.float32)
        for (window, speaker), vector in zip(places, found.float().cpu().numpy(), strict=True):
            vectors[window, speaker] = vector
        return vectors

    # From windows to turns.

    def people(self, heard: Heard, how: Pipeline, tree: Tree, count: tuple[int, int] | None) -> np.ndarray:
        """The person behind each local speaker, int64 `(windows, speakers)`; -1 for nobody."""
        if not len(tree.vectors):
            return np.full(heard.voices.active.shape, -1, dtype=np.int64)
        means = centroids(tree.vectors, tree.linkage, Clusters(how.threshold, how.smallest), count)
        return assign(heard.voices.vectors, heard.voices.active, means)

    def tree(self, heard: Heard) -> Tree:
        """The dendrogram of those who are heard alone for long enough; of all who speak, where nobody is."""
        voices = heard.voices
        enough = voices.clean >= CLEAN_SHARE * heard.activity.shape[1] * self.hop / SAMPLE_RATE
        chosen = voices.active & (enough if enough.any() else True)
        windows, speakers = np.nonzero(chosen)
        kept = thinned(len(windows))
        vectors = voices.vectors[windows[kept], speakers[kept]]
        return Tree(vectors, dendrogram(vectors, windows[kept]))

    def active(self, heard: Heard, people: np.ndarray, how: Pipeline) -> np.ndarray:
        """Who speaks at each frame of a recording, bool `(frames, persons)`."""
        count = speaker_count(heard.activity, heard.starts, heard.frames)
        stitched = stitch(heard.activity, people, heard.starts, count)
        gap, shortest = (round(each * self.upstream.frame_rate) for each in (how.longest_gap, how.shortest))
        return smoothed(stitched, gap, shortest)

    @property
    def pipeline(self) -> Pipeline:
        """As fitted on valid, or the usual one."""
        kept = self.fitted.get("pipeline")
        return Pipeline(**kept) if kept else USUAL

    def segments(self, active: np.ndarray) -> list[Segment]:
        return frames_to_segments(active, self.upstream.frame_rate)

    # Training and evaluation.

    def heard(self, inputs: Any, window: float) -> tuple[Tensor, Tensor]:
        """Who speaks at each frame, 0 and 1 `(batch, frames, persons)`, and frames; the windows are its own, not `window`."""
        waveforms = self._waveforms(inputs)
        rows = []
        for audio, length in zip(waveforms.audio, waveforms.lengths.tolist(), strict=True):
            heard = self.hear(audio[:length])
            tree = self.tree(heard)
            rows.append(self.active(heard, self.people(heard, self.pipeline, tree, self.count), self.pipeline))
        return self._answer(rows, waveforms.audio.device)

    def _waveforms(self, inputs: Any) -> Waveforms:
        if not isinstance(inputs, Waveforms):
            raise UserError("DIAR: needs audio, of which it hears windows; train it alone, and set data.cache: null")
        return inputs

    @staticmethod
    def _answer(rows: Sequence[np.ndarray], device: torch.device) -> tuple[Tensor, Tensor]:
        lengths = torch.tensor([len(row) for row in rows])
        outputs = torch.zeros(len(rows), int(lengths.max()), max(row.shape[1] for row in rows))
        for place, row in zip(outputs, rows, strict=True):
            place[: len(row), : row.shape[1]] = torch.from_numpy(row)
        return outputs.to(device), lengths.to(device)

    def build_metric(self) -> SystemErrors:
        """One row for windows, one for recordings, one for each oracle, and on valid one for each pipeline that is tried."""
        return SystemErrors(ORACLES + len(self.oracles) + len(PIPELINES))

    def update_metric(self, metric: Any, outputs: Tensor, lengths: Tensor, batch: TaskBatch) -> None:
        raise UserError("DIAR: is scored by the windows of a recording, not by its answer; test it alone")

    def evaluate(self, batch: TaskBatch, metric: Any, stage: Stage) -> None:
        waveforms = self._waveforms(batch.inputs)
        self._sums, rows = [], []
        assert self.data is not None
        turns = self._references.of(self.data.opened[stage])
        for row, key in enumerate(batch.keys):
            samples = int(waveforms.lengths[row])
            waveform, bits = waveforms.audio[row, :samples], batch.targets.values[row]
            bits = bits[: int(batch.targets.lengths[row])]
            rows.append(self._evaluate(metric, stage, waveform, bits, turns[key]))
        self.answered = self._answer(rows, waveforms.audio.device)
        if stage == "test":
            self.scored.what = "recordings"
            self.scored.add(self, *self.answered, batch)

    def _evaluate(
        self, metric: SystemErrors, stage: Stage, waveform: Tensor, bits: Tensor, turns: Sequence[Any]
    ) -> np.ndarray:
        """Score one recording; who speaks at each frame, bool `(frames, persons)`."""
        heard = self.hear(waveform, keep_logits=True)
        assert heard.logits is not None
        reference = self.reference_windows(bits, heard.starts, heard.activity.shape[1])
        activity = torch.from_numpy(heard.activity).to(reference)
        everywhere = torch.ones(activity.shape[:2], dtype=torch.bool, device=activity.device)
        self.log_mean(stage, "loss", self.window_loss(heard.logits, reference, everywhere), len(activity))
        metric.update(WINDOWS, PyannoteErrors(self.window_errors(activity, reference)))
        seconds, tree = len(waveform) / SAMPLE_RATE, self.tree(heard)
        people = self.people(heard, self.pipeline, tree, self.count)
        active = self.active(heard, people, self.pipeline)
        if stage == "valid":
            self._try_all(metric, heard, tree, turns)
            return active
        found = pyannote_errors(turns, self.segments(active), seconds, self.collar)
        metric.update(STITCHED, found)
        self._sums.append(found)
        for number, oracle in enumerate(self.oracles):
            hypothesis = self._with_oracle(oracle, heard, tree, waveform, bits, reference)
            metric.update(ORACLES + number, pyannote_errors(turns, hypothesis, seconds, self.collar))
        return active

    def _with_oracle(
        self, oracle: Oracle, heard: Heard, tree: Tree, waveform: Tensor, bits: Tensor, reference: Tensor
    ) -> list[Segment]:
        """The turns when one of the steps knows the truth."""
        number = activity_of(bits).shape[-1]
        if oracle == "segmentation":
            heard = self.hear(waveform, truth=reference)
            people = self.people(heard, self.pipeline, self.tree(heard), self.count)
        elif oracle == "count":
            people = self.people(heard, self.pipeline, tree, (number, number) if number else self.count)
        else:
            people = true_people(heard, bits, number)
        return self.segments(self.active(heard, people, self.pipeline))

    def _try_all(self, metric: SystemErrors, heard: Heard, tree: Tree, turns: Sequence[Any]) -> None:
        """Add the errors of every pipeline on a recording; pipelines that answer alike are scored once."""
        known: dict[bytes, np.ndarray] = {}
        scored: dict[tuple[bytes, float, float], PyannoteErrors] = {}
        first = ORACLES + len(self.oracles)
        for number, how in enumerate(PIPELINES):
            cut = np.array([how.threshold, how.smallest]).tobytes()
            if cut not in known:
                known[cut] = self.people(heard, how, tree, self.count)
            people = known[cut]
            name = (people.tobytes(), how.longest_gap, how.shortest)
            if name not in scored:
                segments = self.segments(self.active(heard, people, how))
                scored[name] = PyannoteErrors(diarization_errors(turns, segments))
            metric.update(first + number, scored[name])

    def utterance_scores(
        self, outputs: Tensor, lengths: Tensor, batch: TaskBatch
    ) -> Sequence[tuple[float, ...]] | None:
        """Seconds of error and of speech of each recording."""
        sums = [each.diarization for each in self._sums]
        return [(each.missed + each.false_alarm + each.confusion, each.total) for each in sums]

    def fit_on_validation(self, metric: Any) -> dict[str, Any]:
        """The pipeline with the lowest error, the first of equals, and which embeddings it is for."""
        with metric.sync_context():
            number = self._best(metric)
        fitted: dict[str, Any] = {"pipeline": PIPELINES[number]._asdict()}
        if self.embeddings is not None:
            fitted["embeddings"] = self._embeddings().fingerprint()
        return fitted

    def _best(self, metric: SystemErrors) -> int:
        first = ORACLES + len(self.oracles)
        rates = [metric.errors_of(first + number).diarization.rate for number in range(len(PIPELINES))]
        return int(np.argmin(rates))

    def score(self, metric: Any, stage: Stage) -> dict[str, Tensor]:
        """Rates of recordings (on valid with the pipeline just fitted, by frames), of windows and of oracles."""
        with metric.sync_context():
            stitched, windows = metric.errors_of(STITCHED), metric.errors_of(WINDOWS)
            if not windows.diarization.total:
                rank_zero_warn(
                    "DIAR: nobody speaks in the recordings that were evaluated, so the error rates say nothing"
                )
            found = {"window_der": windows.diarization.rate}
            if stage == "valid":
                best = ORACLES + len(self.oracles) + self._best(metric)
                return {
                    name: torch.tensor(v)
                    for name, v in {**found, "der": metric.errors_of(best).diarization.rate}.items()
                }
            found |= {"der": stitched.diarization.rate, "jer": stitched.jaccard_rate}
            for number, oracle in enumerate(self.oracles):
                found[f"der_oracle_{oracle}"] = metric.errors_of(ORACLES + number).diarization.rate
        speech = max(stitched.diarization.total, 1e-9)
        self.details = {
            "missed": stitched.diarization.missed / speech,
            "false_alarm": stitched.diarization.false_alarm / speech,
            "confusion": stitched.diarization.confusion / speech,
            "seconds_of_speech": stitched.diarization.total,
            "speakers": stitched.speakers,
            "collar": self.collar,
            "overlap": "scored",
            "pipeline": self.pipeline._asdict(),
            "pipeline_chosen_on": "valid" if self.fitted else "nothing",
        }
        return {name: torch.tensor(value) for name, value in found.items()}

    def readable(self, outputs: Tensor, lengths: Tensor) -> list[dict[str, Any]]:
        """The turns, ordered by start; persons are numbered in the order in which they begin to speak."""
        rows = []
        for row, length in zip(outputs.detach().cpu().numpy(), lengths.tolist(), strict=True):
            found = sorted(self.segments(row[:length]), key=lambda segment: (segment[1], segment[2]))
            names = {who: f"speaker{number + 1}" for number, who in enumerate(dict.fromkeys(who for who, *_ in found))}
            rows.append({"turns": [[names[who], round(start, 3), round(end, 3)] for who, start, end in found]})
        return rows


def checked_count(count: int | Sequence[int] | None) -> tuple[int, int] | None:
    """Least and most speakers of a recording; a `UserError` if that is no range."""
    if count is None:
        return None
    given = [count, count] if isinstance(count, int) else list(count)
    if len(given) != 2 or not 1 <= given[0] <= given[1]:
        raise UserError(f"DIAR: a count of speakers of {count}: give a number from 1, or the least and the most")
    return given[0], given[1]


def true_people(heard: Heard, bits: Tensor, number: int) -> np.ndarray:
    """The speaker of the reference behind each local speaker, int64 `(windows, speakers)`; -1 for those who are nobody.

    Args:
        heard: the windows.
        bits: who speaks at each frame, one bit for each speaker, int64 `(frames,)`.
        number: speakers of the recording.
    """
    frames, local = heard.activity.shape[1:]
    truth = activity_of(bits).cpu().numpy().astype(bool)
    truth = np.pad(truth, ((0, max(0, heard.frames - len(truth))), (0, 0)))
    people = np.full(heard.voices.active.shape, -1, dtype=np.int64)
    # As many columns on both sides, so that every local speaker finds one.
    width = max(number, local)
    for window, start in enumerate(heard.starts.tolist()):
        mine, theirs = np.zeros((2, 1, frames, width), dtype=np.float32)
        mine[0, :, :local] = heard.activity[window]
        theirs[0, :, :number] = truth[start : start + frames]
        (order,) = best_orders(
            torch.from_numpy(mine), torch.from_numpy(theirs), torch.ones(1, frames, dtype=torch.bool)
        )
        for speaker in np.flatnonzero(heard.voices.active[window]):
            mapped = int(order[speaker])
            if mapped < number and (mine[0, :, speaker] * theirs[0, :, mapped]).any():
                people[window, speaker] = mapped
    return people
