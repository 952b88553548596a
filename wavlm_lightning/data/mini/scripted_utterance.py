"""Scripted utterances: text, speaker and conditions from which an utterance is rendered, sample by sample the same."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from wavlm_lightning.data.corpus import Utterance
from wavlm_lightning.data.mini import rooms
from wavlm_lightning.data.mini.effects import Conditions, record
from wavlm_lightning.data.mini.seeding import generator
from wavlm_lightning.data.mini.synthesis.phones import SILENCE
from wavlm_lightning.data.mini.synthesis.speech import (
    SAMPLE_RATE,
    Segment,
    Speech,
    SpeechRequest,
    Synthesiser,
    spoken_words,
)
from wavlm_lightning.data.mini.synthesis.voices import Speaker

_FADE = 80
_LONGEST_SHARE = 0.96


@dataclass(frozen=True)
class Jitter:
    """Random variation of one speaker between utterances; without it, speaker tasks saturate."""

    pitch: float = 6.0  # largest change of espeak-ng's pitch (0 to 99)
    rate: float = 0.08  # largest relative change of the tempo
    tract: float = 0.0  # largest relative change of the vocal-tract factor


@dataclass(frozen=True)
class Prosody:
    """Intended prosody of one utterance."""

    pitch: float = 0.0  # added to the speaker's
    rate: float = 1.0  # factor on the speaker's
    pitch_range: float | None = None  # in place of the speaker's


@dataclass(frozen=True)
class Studio:
    """A synthesiser, and the seed that its rooms are made from."""

    synthesiser: Synthesiser
    seed: int

    def rooms(self, name: str) -> np.ndarray:
        """The impulse responses of one split, (rooms, taps)."""
        return rooms.pool(self.seed, name)


@dataclass(frozen=True)
class ScriptedUtterance:
    """One utterance of one speaker, before it is rendered."""

    key: str
    speaker: Speaker
    text: str  # with punctuation and capitals
    origin: tuple[str, str]  # data set and split, which seed all randomness
    labels: dict[str, Any] = field(default_factory=dict)  # metadata besides that of every utterance
    conditions: Conditions = field(default_factory=Conditions)
    jitter: Jitter = field(default_factory=Jitter)
    prosody: Prosody = field(default_factory=Prosody)
    seconds: float | None = None  # of the waveform; None adds a short random silence before and after

    @property
    def rooms(self) -> str:
        return self.origin[1]  # other rooms in every split, so that a room does not reveal the speaker

    def render(self, studio: Studio) -> Utterance:
        """Synthesise and record. The same seed and script give the same samples in any process and order."""
        rng = generator(studio.seed, *self.origin, self.key)
        speech = speak(self, studio.synthesiser, rng)
        if self.seconds is None:
            speech = padded(speech, *rng.uniform(0.04, 0.2, 2))
        else:
            speech = placed(speech, self.seconds, rng)
        waveform, recording = record(speech.waveform, self.conditions, studio.rooms(self.rooms), rng)
        heard = {"language": "en", "text": " ".join(spoken_words(self.text))}
        aligned = {"phones": rows(speech.phones), "words": rows(speech.words), "recording": recording}
        return Utterance(self.key, waveform, {**self.speaker.labels, **heard, **aligned, **self.labels})


@dataclass(frozen=True)
class ComposedUtterance:
    """An utterance made by a function of its own, such as a dialogue or noise: its key and that function of the studio."""

    key: str
    render: Callable[[Studio], Utterance]


def speak(utterance: ScriptedUtterance, synthesiser: Synthesiser, rng: np.random.Generator) -> Speech:
    """Clean speech of an utterance without its silent margins, never longer than `utterance.seconds`."""
    speaker, jitter, prosody = utterance.speaker, utterance.jitter, utterance.prosody
    wide = speaker.pitch_range if prosody.pitch_range is None else prosody.pitch_range
    request = SpeechRequest(
        text=utterance.text,
        accent=speaker.accent,
        variant=speaker.variant,
        rate=speaker.rate * prosody.rate * (1 + rng.uniform(-jitter.rate, jitter.rate)),
        pitch=float(np.clip(speaker.pitch + prosody.pitch + rng.uniform(-jitter.pitch, jitter.pitch), 5, 95)),
        pitch_range=float(np.clip(wide, 0, 99)),
        tract=speaker.tract * (1 + rng.uniform(-jitter.tract, jitter.tract)),
        seed=int(rng.integers(2**31)),
    )
    speech = trimmed(synthesiser.speak(request))
    longest = _LONGEST_SHARE * utterance.seconds if utterance.seconds else np.inf
    for _ in range(3):
        if speech.seconds <= longest:
            break
        request = replace(request, rate=request.rate * 1.1 * speech.seconds / longest)
        speech = trimmed(synthesiser.speak(request))
    return speech


def trimmed(speech: Speech) -> Speech:
    """The speech from its first phone to its last."""
    voiced = [phone for phone in speech.phones if phone.name != SILENCE]
    if not voiced:
        raise ValueError("the synthesiser returned only silence")
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
    """The speech with silence, in seconds, before and after it."""
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
    """Exactly `seconds`, with the speech at a random place; `ValueError` if the speech is longer."""
    total = round(seconds * SAMPLE_RATE)
    room = total - len(speech.waveform)
    if room < 0:
        raise ValueError(f"speech of {speech.seconds:.2f} s does not fit into {seconds} s")
    lead = int(rng.integers(room + 1))
    return padded(speech, lead / SAMPLE_RATE, (room - lead) / SAMPLE_RATE)


def rows(segments: tuple[Segment, ...] | list[Segment]) -> list[list[Any]]:
    """Segments as JSON rows `[name, start_s, end_s]`, times to a tenth of a millisecond."""
    return [[name, round(start, 4), round(end, 4)] for name, start, end in segments]


def _faded(waveform: np.ndarray) -> np.ndarray:
    ramp = np.linspace(0, 1, min(_FADE, len(waveform) // 2), dtype=np.float32)
    faded = waveform.copy()
    faded[: len(ramp)] *= ramp
    faded[len(faded) - len(ramp) :] *= ramp[::-1]
    return faded
