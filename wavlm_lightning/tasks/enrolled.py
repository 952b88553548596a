"""Tasks about one speaker among others, whom a second recording, the enrolment, makes known (TS-SUPERB)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from wavlm_lightning.audio import SAMPLE_RATE
from wavlm_lightning.data.batch import Waveforms
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks.base import Task
from wavlm_lightning.tasks.components.enrolment import SpeakerVector
from wavlm_lightning.tasks.windows import LONGEST_WHOLE
from wavlm_lightning.upstreams import Upstream

ENROLMENT = "enrolment"


class EnrolledTask(Task):
    """Another base of a task whose corpus has an `enrolment` beside each utterance: another recording of the target speaker.

    The upstream hears both. `make_speaker_vector` adds the component that turns the enrolment into a vector; within `beside`,
    `self.voice` is that vector, one row for each utterance of the batch. A cache keeps features of the utterances alone: the
    upstream hears the enrolments at every step.

    Args:
        upstream: where features come from, those of the enrolment too.
        learning_rate: of Adam.
        enrolment_seconds: training hears a stretch of the enrolment of this length, at a random place; null for all of it, as
            validation and test always do. 3 in TS-SUPERB.
        settings: see `Task`, and the other base.
    """

    extra_audio: ClassVar[tuple[str, ...]] = (ENROLMENT,)
    added_parts: ClassVar[tuple[str, ...]] = ("speaker_vector.",)
    _voice: Tensor | None = None

    def __init__(
        self, upstream: Upstream, learning_rate: float, enrolment_seconds: float | None = 3.0, **settings: Any
    ) -> None:
        super().__init__(upstream, learning_rate, **settings)
        if enrolment_seconds is not None and round(enrolment_seconds * SAMPLE_RATE) < upstream.shortest:
            raise UserError(
                f"model.enrolment_seconds {enrolment_seconds}: shorter than a frame of the encoder; give seconds, or null for "
                "whole enrolments"
            )
        self.enrolment_seconds = enrolment_seconds

    def make_speaker_vector(self, width: int) -> None:
        """To be called in `build_head`: adds the component that turns an enrolment into a vector `(width,)`."""
        normalize = self.weighted_sum.normalize
        self.speaker_vector = SpeakerVector(self.upstream.num_layers, self.upstream.dim, width, normalize=normalize)

    @property
    def voice(self) -> Tensor:
        """The vectors of the target speakers, `(batch, width)`, within `beside`; a `UserError` elsewhere."""
        if self._voice is None:
            raise UserError(
                f"{self.name}: no enrolment says which speaker is meant; give `wavlm predict` one with --enrolment FILE"
            )
        return self._voice

    @contextlib.contextmanager
    def beside(self, extra: Mapping[str, Waveforms]) -> Iterator[None]:
        """Within this context the answers are about the speakers of `extra["enrolment"]`; see `Task.beside`."""
        if ENROLMENT in extra:
            heard = self._stretch(extra[ENROLMENT])
            self._voice = self.speaker_vector(self.upstream(heard.audio, heard.lengths))
        try:
            yield
        finally:
            self._voice = None

    def _stretch(self, enrolments: Waveforms) -> Waveforms:
        """What is heard of the enrolments: in training a stretch of each, drawn by the generator of the step."""
        shortest, longest = int(enrolments.lengths.min()), int(enrolments.lengths.max())
        if shortest < self.upstream.shortest:
            raise UserError(
                f"{self.name}: an enrolment has {shortest} samples, less than a frame of the encoder; give a longer one"
            )
        most = None if self.enrolment_seconds is None or not self.training else self.enrolment_seconds
        if most is None and longest > LONGEST_WHOLE * SAMPLE_RATE:
            raise UserError(
                f"{self.name}: an enrolment has {longest / SAMPLE_RATE:.0f} s, and at most {LONGEST_WHOLE:g} s are heard; cut it"
            )
        if most is None or longest <= round(most * SAMPLE_RATE):
            return enrolments
        samples = round(most * SAMPLE_RATE)
        lengths = enrolments.lengths.clamp(max=samples)
        # On the CPU, so that a run draws the same on any device.
        starts = (torch.rand(len(lengths)).to(lengths.device) * (enrolments.lengths - lengths + 1)).long()
        places = starts[:, None] + torch.arange(samples, device=starts.device)
        audio = enrolments.audio.gather(1, places.clamp(max=enrolments.audio.shape[1] - 1))
        inside = torch.arange(samples, device=starts.device) < lengths[:, None]
        return Waveforms(audio * inside, lengths)
