"""What tasks of voice conversion share: the test beside the target's own recordings, and its judges."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from wavlm_lightning.audio import SAMPLE_RATE, griffin_lim, synthesis_mel
from wavlm_lightning.data.batch import Targets, TaskBatch, Waveforms
from wavlm_lightning.data.split import Split
from wavlm_lightning.metrics.speech.cepstra import aligned, distortion
from wavlm_lightning.metrics.speech.conversion import (
    ACCEPTED,
    CONVERTED,
    COPY,
    PARALLEL,
    SOURCE,
    TARGET,
    ConversionMeasures,
    plain,
)
from wavlm_lightning.metrics.speech.judges import can_judge, install_judge, voice_of
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks.base import Direction, Task, Unit
from wavlm_lightning.tasks.ctc import CtcTask
from wavlm_lightning.tasks.scored_utterances import contribution, headline_of, metric_of_this_process
from wavlm_lightning.tasks.trained_run import run_of_key
from wavlm_lightning.tasks.transformers_form import TransformersForm
from wavlm_lightning.tasks.waveform import WaveformTask
from wavlm_lightning.upstreams import Upstream

PARALLEL_AUDIO = "target"  # further audio of an utterance: the target's own recording of it
ENOUGH = 20  # recordings of a voice, of which a judge takes the mean


def opened(key: str, run: str) -> tuple[Task, float]:
    """The frozen head of a run that a key names, and the gain of an amplitude with which it hears recordings."""
    task = run_of_key(key, run)
    return task.requires_grad_(False).eval(), task.trained_level


class ConversionTask(WaveformTask):
    """What an utterance says, in the voice of its target.

    The utterances of validation and test are other speakers' and have the further audio `target`, the target's own recording of
    the same sentence, of any length; their metadata may name the target (`target_speaker`). The training split holds recordings
    of the target, or of several (`speaker`). A subclass trains on them and implements `enhance`.

    Scores are means over utterances: `mcd` and `mcd_c0` (mel-cepstral distortion in dB without and with c0), `f0_correlation` and
    `voicing_error`; `similarity`, `accepted` and `told_apart` where resemblyzer is installed; `content`, the error rate of the
    recogniser of `content`; `quality`. See `ConversionMeasures`. Validation computes `mcd` alone. The `details` of the card hold
    the same of the unprocessed source, of the target's own recording, and of that recording through the vocoder
    (`copy_synthesis`).

    Args:
        upstream: where features come from.
        learning_rate: of Adam.
        content: run of `PhonemeRecognition`, `SpeechRecognition` or another CTC head, whose errors say what is understood.
        quality: let DistillMOS judge, which takes a second an utterance.
        settings: see `Task`.
    """

    reconstructs = True
    answer_sounds: ClassVar[tuple[str, ...]] = ("converted",)
    target_audio: ClassVar[tuple[str, ...]] = ("recording",)
    metric, better = "mcd", "lower"
    others: ClassVar[dict[str, Direction]] = {
        "mcd_c0": "lower",
        "f0_correlation": "higher",
        "voicing_error": "lower",
        "similarity": "higher",
        ACCEPTED: "higher",
        "told_apart": "higher",
        "content": "lower",
        "quality": "higher",
    }
    units: ClassVar[dict[str, Unit]] = {
        **{name: Unit("dB", 1.0) for name in ("mcd", "mcd_c0")},
        **{name: Unit("", 1.0) for name in ("f0_correlation", "similarity", "quality")},
    }

    def __init__(
        self,
        upstream: Upstream,
        learning_rate: float = 1e-4,
        content: str | None = None,
        quality: bool = False,
        **settings: Any,
    ) -> None:
        super().__init__(upstream, learning_rate, **settings)
        self.content, self.quality = content, quality
        self._listener: tuple[CtcTask, float] | None = None  # not a module: its weights stay in their run
        self._known: dict[str, np.ndarray | None] = {}  # voices of the targets, as the judge hears them

    def transformers_form(self) -> TransformersForm | str:
        return "it answers with a waveform, which no head of transformers does"

    def loss(self, outputs: Tensor, lengths: Tensor, targets: Targets) -> Tensor:
        raise UserError(f"{self.name}: learns from recordings of the target in a way of its own; train it alone")

    def configure_model(self) -> None:
        super().configure_model()
        self._recorded, self._known = None, {}  # of another corpus, if this object has been in a run before

    def vocoded(self, recording: Tensor) -> Tensor:
        """A recording `(samples,)` through what makes the answers audible, `(samples,)`."""
        hop = round(SAMPLE_RATE / self.upstream.frame_rate)
        return griffin_lim(synthesis_mel(recording[None], hop), hop, len(recording))[0]

    # The utterances of validation and test, and the voices of their targets.

    def targets_of(self, keys: Sequence[str]) -> list[tuple[dict[str, Any], Tensor]]:
        """The metadata of utterances of the evaluated split, and the target's own recordings `(samples,)`."""
        return [self._target_of(key) for key in keys]

    def _target_of(self, key: str) -> tuple[dict[str, Any], Tensor]:
        assert self.data is not None
        stage = "test" if self.trainer.testing else "valid"
        split = self.data.opened[stage]
        shard, place = split.locate(self._numbers(split)[key])
        if PARALLEL_AUDIO not in shard.audio_members or shard.members.further[PARALLEL_AUDIO][place] is None:
            raise UserError(
                f"{self.name}: utterance {key!r} of split {split.name} has no audio {PARALLEL_AUDIO!r}, the target's own "
                "recording of it, with which its conversion is compared; write it with the corpus (`wavlm prepare folder --help`)"
            )
        recording = shard.waveform(place, member=PARALLEL_AUDIO) * np.float32(self.data.factor)
        return shard.meta(place), torch.from_numpy(recording).to(self.device)

    def _numbers(self, split: Split) -> dict[str, int]:
        if self._places[0] is not split:
            self._places = (split, {key: number for number, key in enumerate(split.keys)})
        return self._places[1]

    _places: tuple[Split | None, dict[str, int]] = (None, {})

    @property
    def recorded(self) -> dict[str | None, list[int]]:
        """The speakers of the training split, each with the numbers of its first recordings."""
        assert self.data is not None
        if self._recorded is None:
            self._recorded = {}
            for number, meta in enumerate(self.data.training().metas()):
                numbers = self._recorded.setdefault(meta.get("speaker"), [])
                if len(numbers) < ENOUGH:
                    numbers.append(number)
        return self._recorded

    _recorded: dict[str | None, list[int]] | None = None

    def recordings_of(self, speaker: str | None) -> Iterator[Tensor]:
        """The first recordings, `(samples,)`, of a speaker of the training split; of the only one if None."""
        assert self.data is not None
        split = self.data.training()
        if speaker is None:
            if len(self.recorded) > 1:
                raise UserError(
                    f"{self.name}: split {split.name} has {len(self.recorded)} speakers, and an utterance does not say which "
                    "is its target; write `target_speaker` into its metadata, or train on one speaker"
                )
            (speaker,) = self.recorded
        for number in self.recorded.get(speaker, []):
            shard, place = split.locate(number)
            yield torch.from_numpy(shard.waveform(place) * np.float32(self.data.factor))

    def _voice(self, speaker: str | None) -> np.ndarray | None:
        key = speaker or ""
        if key not in self._known:
            self._known[key] = voice_of([plain(each) for each in self.recordings_of(speaker)])
        return self._known[key]

    @property
    def level(self) -> float:
        """The gain of an amplitude between recordings and what the head hears: of its data, or else of the run it comes from."""
        return self.trained_level if self.data is None else self.data.level

    # The recogniser.

    @property
    def listener(self) -> tuple[CtcTask, float]:
        """The recogniser of `content`, and the gain of an amplitude with which it hears recordings."""
        if self._listener is None:
            assert self.content is not None
            where = f"model.content {self.content}"
            task, factor = opened("model.content", self.content)
            if not isinstance(task, CtcTask):
                raise UserError(f"{where}: holds a head for {task.name}; give a run of phone or speech recognition")
            self._listener = task, factor
        return self._listener

    @torch.no_grad()
    def errors_of(self, waveform: Tensor, key: str, meta: dict[str, Any]) -> tuple[int, int] | None:
        """Errors of the recogniser on a waveform `(samples,)`, and the number of units; None without one."""
        if self.content is None:
            return None
        task, factor = self.listener
        task.to(waveform.device)
        length = torch.tensor([len(waveform)], device=waveform.device)
        target = Targets.pad([task.read_target(meta)]).to(waveform.device)
        # The waveform is at the level at which this task hears.
        batch = TaskBatch((key,), Waveforms(waveform[None] * (factor / self.level), length), target)
        outputs, lengths = task(batch.inputs)
        metric = metric_of_this_process(task, waveform.device)
        task.update_metric(metric, outputs, lengths, batch)
        errors, units = contribution(headline_of(metric, task.metric), task.metric)
        return round(errors), round(units)

    # Scores.

    @cached_property
    def _measured(self) -> list[str]:
        """The measures that can be computed here."""
        asked = {"similarity": can_judge("similarity"), "quality": self.quality, "content": self.content is not None}
        return [*PARALLEL, *(name for name, wanted in asked.items() if wanted)]

    def build(self, labels: Any) -> None:
        fresh = self.labels is None
        super().build(labels)
        if fresh:
            self.valid_metric = ConversionMeasures([self.metric])

    def build_metric(self) -> Metric:
        return ConversionMeasures(self._measured)

    def on_test_start(self) -> None:
        super().on_test_start()
        if self.content is not None:
            _ = self.listener  # before anything is converted

    def evaluate(self, batch: TaskBatch, metric: Metric, stage: Literal["valid", "test"]) -> None:
        """As of `Task`, without a loss: the target has no frames that go with those of the source."""
        outputs, lengths = self.answers(batch.inputs)
        self.update_metric(metric, outputs, lengths, batch)
        if stage == "test":
            self.scored.add(self, outputs, lengths, batch)

    def update_metric(self, metric: Metric, outputs: Tensor, lengths: Tensor, batch: TaskBatch) -> None:
        assert isinstance(metric, ConversionMeasures) and isinstance(batch.inputs, Waveforms)
        heard = self.answer_rows(outputs, lengths)
        sources = self.answer_rows(batch.inputs.audio, batch.inputs.lengths)
        for key, answer, source, (meta, target) in zip(
            batch.keys, heard, sources, self.targets_of(batch.keys), strict=True
        ):
            rows = {CONVERTED: answer}
            if metric is self.test_metric:
                rows |= {SOURCE: source, COPY: self.vocoded(target), TARGET: target}
            voice = self._voice(meta.get("target_speaker")) if "similarity" in metric.names else None
            for row, waveform in rows.items():
                errors = self.errors_of(waveform, key, meta) if "content" in metric.names else None
                metric.update(waveform, target, voice, errors, row)

    def playable(self, outputs: Tensor, lengths: Tensor, batch: TaskBatch) -> list[dict[str, Tensor]]:
        """Source, answer, and the target's own recording."""
        assert isinstance(batch.inputs, Waveforms)
        sources = self.answer_rows(batch.inputs.audio, batch.inputs.lengths)
        rows = zip(sources, self.answer_rows(outputs, lengths), self.targets_of(batch.keys), strict=True)
        return [
            {"source": source, self.answer_sounds[0]: answer, "target": target} for source, answer, (_, target) in rows
        ]

    def utterance_scores(
        self, outputs: Tensor, lengths: Tensor, batch: TaskBatch
    ) -> Sequence[tuple[float, ...]] | None:
        """The mel-cepstral distortion of each utterance, and 1; without weight where silence has none."""
        found = []
        for answer, (_, target) in zip(self.answer_rows(outputs, lengths), self.targets_of(batch.keys), strict=True):
            pairs = aligned(plain(answer), plain(target))
            found.append((0.0, 0.0) if pairs is None else (distortion(pairs), 1.0))
        return found

    def score(self, metric: Metric, stage: Literal["valid", "test"]) -> dict[str, Tensor]:
        """As of `WaveformTask`; `details` also say which judges are not installed, and whose recogniser listened."""
        values = super().score(metric, stage)
        if self.metric not in values:
            raise UserError(
                f"{self.name}: no target's own recording has speech, so that no conversion has a distortion; check the corpus"
            )
        if stage == "test":
            self.details |= {"recogniser": self.content} if self.content else {}
            self.details |= {} if can_judge("similarity") else {"not_measured": {"similarity": install_judge()}}
        return values
