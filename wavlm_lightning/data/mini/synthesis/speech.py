"""The interface of speech synthesisers: requests, aligned speech."""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

SAMPLE_RATE = 16_000


class Segment(NamedTuple):
    """A named stretch of time, in seconds from the start of the waveform."""

    name: str
    start: float
    end: float

    def moved(self, seconds: float) -> "Segment":
        """The same segment `seconds` later."""
        return Segment(self.name, self.start + seconds, self.end + seconds)


# `formant_synth` seeds its noise with the repr of a request: a renamed class or field would change the tests' corpus.
@dataclass(frozen=True)
class SpeechRequest:
    """One text read by one voice."""

    text: str  # a sentence after the first must begin with a capital to be preceded by a pause
    accent: str  # language file of espeak-ng, for example `en-US`
    variant: str  # voice variant of espeak-ng, for example `f2`
    rate: float  # words a minute
    pitch: float  # 0 to 99, 50 is the variant's own
    pitch_range: float  # 0 (monotone) to 99, 50 is the variant's own
    tract: float = 1.0  # factor on all formants and on the pitch; above 1 a shorter vocal tract
    seed: int = 0  # of breath and other noise of the voice


@dataclass(frozen=True)
class Speech:
    """Clean speech, float32 (samples,) at 16 kHz within [-1, 1], with its alignment."""

    waveform: np.ndarray
    phones: tuple[Segment, ...]  # contiguous over the waveform, names from `phones.PHONES` or `SIL`
    words: tuple[Segment, ...]  # in order; a group without a boundary of its own, such as "in the", is one

    @property
    def seconds(self) -> float:
        return len(self.waveform) / SAMPLE_RATE


class Synthesiser(Protocol):
    """Synthesises one request at a time; the same request always gives the same samples."""

    name: str

    def speak(self, request: SpeechRequest) -> Speech:
        """The speech of a request."""

    def close(self) -> None:
        """Free the synthesiser's resources."""


def spoken_words(text: str) -> list[str]:
    """The words of a text in lower case without punctuation, as in a transcript."""
    return "".join(c if c.isalnum() or c == "'" else " " for c in text.lower()).split()
