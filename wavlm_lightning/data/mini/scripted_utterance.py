"""A take: all that decides an utterance before a sample exists, and the studio that turns takes into utterances."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from wavlm_lightning.data.corpus import Utterance
from wavlm_lightning.data.mini import rooms
from wavlm_lightning.data.mini.effects import Conditions, record
from wavlm_lightning.data.mini.phones import SILENCE
from wavlm_lightning.data.mini.seeding import generator
from wavlm_lightning.data.mini.speech import (
    SAMPLE_RATE,
    Segment,
    Speech,
    SpeechRequest,
    Synthesiser,
    spoken_words,
)
from wavlm_lightning.data.mini.voices import Speaker

_FADE = 80
_LONGEST_SHARE = 0.96


@dataclass(frozen=True)
class Jitter:
    """How much one speaker varies from utterance to utterance; without it speaker tasks saturate.

    Attributes:
        pitch: Largest change of espeak-ng's pitch (0 to 99).
        rate: Largest relative change of the tempo.
        tract: Largest relative change of the vocal-tract factor.
    """

    pitch: float = 6.0
    rate: float = 0.08
    tract: float = 0.0


@dataclass(frozen=True)
class Prosody:
    """What a speaker does on purpose in one utterance: additions to pitch, factors on tempo, or a range of its own."""

    pitch: float = 0.0
    rate: float = 1.0
    pitch_range: float | None = None


@dataclass(frozen=True)
class Studio:
    """A voice and the rooms it can be heard in."""

    synthesiser: Synthesiser
    seed: int

    def rooms(self, name: str) -> np.ndarray:
        """The impulse responses of one split, (rooms, taps)."""
        return rooms.pool(self.seed, name)


@dataclass(frozen=True)
class Take:
    """One utterance of one speaker.

    Attributes:
        key: Unique within the split.
        speaker: Who speaks.
        text: What, with punctuation and capitals.
        origin: Data set and split, which seed all that is random here.
        rooms: Name of the pool of rooms.
        labels: Metadata besides what every utterance carries.
        conditions: How it is recorded.
        jitter: How much the speaker varies.
        prosody: How the speaker means to sound.
        seconds: Length of the waveform; None leaves a short random silence before and after.
    """

    key: str
    speaker: Speaker
    text: str
    origin: tuple[str, str]
    rooms: str
    labels: dict[str, Any] = field(default_factory=dict)
    conditions: Conditions = field(default_factory=Conditions)
    jitter: Jitter = field(default_factory=Jitter)
    prosody: Prosody = field(default_factory=Prosody)
    seconds: float | None = None

    def perform(self, studio: Studio) -> Utterance:
        """Speaks and records the take: the same seed and take give the same samples, whoever performs it."""
        rng = generator(studio.seed, *self.origin, self.key)
        speech = speak(self, studio.synthesiser, rng)
        if self.seconds is None:
            speech = padded(speech, *rng.uniform(0.04, 0.2, 2))
        else:
            speech = placed(speech, self.seconds, rng)
        waveform, recording = record(speech.waveform, self.conditions, studio.rooms(self.rooms), rng)
        return Utterance(
            self.key,
            waveform,
            {
                **self.speaker.labels,
                "language": "en",
                "text": " ".join(spoken_words(self.text)),
                "phones": rows(speech.phones),
                "words": rows(speech.words),
                "recording": recording,
                **self.labels,
            },
        )


@dataclass(frozen=True)
class Act:
    """An utterance that is more than one take, such as a dialogue: a key and a function of the studio."""

    key: str
    perform: Callable[[Studio], Utterance]


def speak(take: Take, synthesiser: Synthesiser, rng: np.random.Generator) -> Speech:
    """Returns clean speech for a take, its silent margins cut, never longer than `take.seconds`."""
    speaker, jitter, prosody = take.speaker, take.jitter, take.prosody
    wide = speaker.pitch_range if prosody.pitch_range is None else prosody.pitch_range
    request = SpeechRequest(
        text=take.text,
        accent=speaker.accent,
        variant=speaker.variant,
        rate=speaker.rate * prosody.rate * (1 + rng.uniform(-jitter.rate, jitter.rate)),
        pitch=float(np.clip(speaker.pitch + prosody.pitch + rng.uniform(-jitter.pitch, jitter.pitch), 5, 95)),
        pitch_range=float(np.clip(wide, 0, 99)),
        tract=speaker.tract * (1 + rng.uniform(-jitter.tract, jitter.tract)),
        seed=int(rng.integers(2**31)),
    )
    speech = trimmed(synthesiser.speak(request))
    longest = _LONGEST_SHARE * take.seconds if take.seconds else np.inf
    for _ in range(3):
        if speech.seconds <= longest:
            break
        request = replace(request, rate=request.rate * 1.1 * speech.seconds / longest)
        speech = trimmed(synthesiser.speak(request))
    return speech


def trimmed(speech: Speech) -> Speech:
    """Returns the speech from its first phone to its last."""
    voiced = [phone for phone in speech.phones if phone.name != SILENCE]
    if not voiced:
        raise ValueError("the synthesiser gave nothing but silence")
    first = round(voiced[0].start * SAMPLE_RATE)
    last = max(round(voiced[-1].end * SAMPLE_RATE), first + 1)
    inside = [p for p in speech.phones if p.start >= voiced[0].start and p.end <= voiced[-1].end]
    shift = -first / SAMPLE_RATE
    return Speech(
        _faded(speech.waveform[first:last]),
        tuple(phone.moved(shift) for phone in inside),
        tuple(word.moved(shift) for word in speech.words),
    )


def padded(speech: Speech, before: float, after: float) -> Speech:
    """Returns the speech with silence, in seconds, before and after it."""
    lead, trail = round(before * SAMPLE_RATE), round(after * SAMPLE_RATE)
    start = lead / SAMPLE_RATE
    end = start + speech.seconds
    phones = [phone.moved(start) for phone in speech.phones]
    if phones:
        phones[0], phones[-1] = phones[0]._replace(start=start), phones[-1]._replace(end=end)
    if lead:
        phones.insert(0, Segment(SILENCE, 0.0, start))
    if trail:
        phones.append(Segment(SILENCE, end, end + trail / SAMPLE_RATE))
    waveform = np.pad(speech.waveform, (lead, trail))
    return Speech(waveform, tuple(phones), tuple(word.moved(start) for word in speech.words))


def placed(speech: Speech, seconds: float, rng: np.random.Generator) -> Speech:
    """Returns exactly `seconds` with the speech at a random place.

    Raises:
        ValueError: The speech is longer than that.
    """
    total = round(seconds * SAMPLE_RATE)
    room = total - len(speech.waveform)
    if room < 0:
        raise ValueError(f"speech of {speech.seconds:.2f} s does not fit into {seconds} s")
    lead = int(rng.integers(room + 1))
    return padded(speech, lead / SAMPLE_RATE, (room - lead) / SAMPLE_RATE)


def rows(segments: tuple[Segment, ...] | list[Segment]) -> list[list[Any]]:
    """Returns segments as JSON rows `[name, start_s, end_s]`, times to a tenth of a millisecond."""
    return [[name, round(start, 4), round(end, 4)] for name, start, end in segments]


def _faded(waveform: np.ndarray) -> np.ndarray:
    ramp = np.linspace(0, 1, min(_FADE, len(waveform) // 2), dtype=np.float32)
    faded = waveform.copy()
    faded[: len(ramp)] *= ramp
    faded[len(faded) - len(ramp) :] *= ramp[::-1]
    return faded
