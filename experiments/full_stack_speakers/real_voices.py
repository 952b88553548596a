"""Corpora of real voices for tests alone: dialogues and mixtures cut from recordings of single speakers.

`--speech` is a folder with `manifest.csv` (path, speaker, language, text, seconds) and the recordings. Turns are known by
construction: where a clip lies, from its first to its last loud frame. Nothing is rated, transcribed or annotated here.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterable, Iterator
from itertools import cycle
from pathlib import Path
from typing import NamedTuple

import numpy as np

from wavlm_lightning.audio import SAMPLE_RATE, load_mono
from wavlm_lightning.data.corpus import Corpus, CorpusWriter
from wavlm_lightning.data.mini.dialogues import overlap, timetable
from wavlm_lightning.data.mini.effects import set_level
from wavlm_lightning.data.mini.scripted_utterance import rows
from wavlm_lightning.data.mini.synthesis.speech import Segment
from wavlm_lightning.data.shards import Utterance
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks.components.spoken_text import spoken_text
from wavlm_lightning.tasks.content.letters import LETTERS

LEVEL = -26.0  # dB of speech, as in the mini corpus
FRAME = SAMPLE_RATE // 100
QUIET_DB = 35.0  # below the loud frames of a clip, its 90th percentile, from where its ends count as silence
CLIP = (1.5, 8.0)  # seconds of the clips that are used
LIMITS = (25.0, 40.0)  # seconds of a dialogue
COLUMNS = ("path", "speaker", "language", "text", "seconds")
SPLITS = ("train", "valid", "test")  # of which only the test is used; `TaskData` looks for all three


class Clip(NamedTuple):
    """A recording of one speaker, and where in it speech begins and ends, in seconds."""

    speaker: str
    language: str
    text: str
    waveform: np.ndarray
    spoken: tuple[float, float]

    @property
    def seconds(self) -> float:
        """Its length."""
        return len(self.waveform) / SAMPLE_RATE


def spoken(waveform: np.ndarray) -> tuple[float, float]:
    """Seconds from the start of a recording to the beginning of its first and the end of its last loud frame of 10 ms."""
    frames = waveform[: len(waveform) // FRAME * FRAME].reshape(-1, FRAME).astype(np.float64)
    powers = np.mean(frames**2, 1)
    loud = np.flatnonzero(powers >= np.percentile(powers, 90) * 10 ** (-QUIET_DB / 10))
    return int(loud[0]) * FRAME / SAMPLE_RATE, (int(loud[-1]) + 1) * FRAME / SAMPLE_RATE


def identity(speech: Path) -> str:
    """Changes with the table of a folder of recordings, and with the names of its noises."""
    noises = [path.name for path in sorted((speech / "noise").glob("*.flac"))]
    return hashlib.sha256((speech / "manifest.csv").read_bytes() + "\n".join(noises).encode()).hexdigest()


def read_clips(speech: Path, rng: np.random.Generator) -> dict[str, list[Clip]]:
    """Speaker -> clips of usable length in random order; at least two speakers."""
    manifest = speech / "manifest.csv"
    if not manifest.is_file():
        raise UserError(f"{manifest}: no such file; --speech is a folder of recordings with this table")
    with manifest.open(encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    if missing := [name for name in COLUMNS if table and name not in table[0]]:
        raise UserError(f"{manifest}: has no column {', '.join(missing)}; it needs {', '.join(COLUMNS)}")
    clips: dict[str, list[Clip]] = {}
    for row in table:
        if not CLIP[0] <= float(row["seconds"]) <= CLIP[1]:
            continue
        wave, _ = set_level(load_mono(speech / row["path"]), LEVEL)
        clip = Clip(row["speaker"], row["language"], row["text"], wave, spoken(wave))
        clips.setdefault(clip.speaker, []).append(clip)
    if len(clips) < 2:
        raise UserError(f"{speech}: clips of {len(clips)} speaker; a dialogue needs two")
    for speaker, some in clips.items():
        clips[speaker] = [some[place] for place in rng.permutation(len(some))]
    return clips


def turn(clip: Clip, start: float) -> Segment:
    """Where a clip speaks that begins at `start`."""
    first, last = clip.spoken
    return Segment(clip.speaker, start + first, start + last)


def dialogue(key: str, talks: list[Clip], rng: np.random.Generator) -> Utterance:
    """Clips in turn, with pauses and interruptions as in the mini corpus."""
    starts = timetable([(clip.speaker, clip.seconds) for clip in talks], LIMITS, rng)
    end = max(start + clip.seconds for start, clip in zip(starts, talks, strict=True))
    audio, turns = np.zeros(round((end + 0.2) * SAMPLE_RATE) + 1, np.float32), []
    for start, clip in zip(starts, talks, strict=True):
        first = round(start * SAMPLE_RATE)
        audio[first : first + len(clip.waveform)] += clip.waveform
        turns.append(turn(clip, first / SAMPLE_RATE))
    meta = {
        "speakers": sorted({clip.speaker for clip in talks}),
        "turns": rows(turns),
        "overlap": round(overlap(turns), 4),
    }
    return Utterance(key, audio / max(1.0, float(np.abs(audio).max())), meta)


def mixture(key: str, asked: Clip, rest: Clip, enrolment: Clip, rng: np.random.Generator) -> Utterance:
    """Two clips at once; the second begins while the first speaks."""
    two = (asked, rest)
    wait = rng.uniform(0.05, 0.7) * min(clip.seconds for clip in two)
    starts = (0.1, 0.1 + wait) if rng.random() < 0.5 else (0.1 + wait, 0.1)
    places = [round(start * SAMPLE_RATE) for start in starts]
    samples = max(place + len(clip.waveform) for place, clip in zip(places, two, strict=True)) + 1600
    parts = [
        np.pad(clip.waveform, (place, samples - place - len(clip.waveform)))
        for place, clip in zip(places, two, strict=True)
    ]
    gain = min(1.0, 0.9 / float(np.abs(parts[0] + parts[1]).max()))
    clean, other = (np.round(part * gain * 32768).astype(np.float32) / np.float32(32768) for part in parts)
    turns = [turn(clip, place / SAMPLE_RATE) for place, clip in zip(places, two, strict=True)]
    meta = {
        "speaker": asked.speaker,
        "interferer": rest.speaker,
        "language": asked.language,
        "text": asked.text.lower(),
        "turns": rows(sorted(turns, key=lambda each: each.start)),
        "overlap": round(overlap(turns), 4),
    }
    audio = {"clean": clean, "other": other, "enrolment": enrolment.waveform}
    return Utterance(key, clean + other, meta, audio=audio)


def spelled(clip: Clip) -> bool:
    """Whether the recognisers of the mini corpus could write what is said: English, in their letters."""
    words = spoken_text(clip.text)
    return clip.language.startswith("en") and bool(words) and set(words) <= {*LETTERS, " "}


def kept_or_written(
    place: Path, name: str, source: str, count: int, seed: int, speech: Path, made: Iterable[Utterance]
) -> Corpus:
    """The corpus in a folder, or a new one whose test is all utterances; the other splits, which `TaskData` looks for, hold two.

    Raises:
        UserError: the corpus that is there has another number of utterances than `count`, or is of another `speech`.
    """
    of = identity(speech)
    if (place / "corpus.json").is_file():
        there = Corpus.open(place)
    else:
        utterances = list(made)
        writer = CorpusWriter(place, name, "that of the recordings", {"recipe": source, "seed": seed, "speech": of})
        for split in SPLITS:
            writer.write_split(split, utterances if split == "test" else utterances[:2])
        speakers = {name for each in utterances for name in each.meta.get("speakers", [each.meta.get("speaker")])}
        there = writer.finish({"speakers": sorted(speakers)})
    if (held := len(there.split("test").keys)) != count:
        raise UserError(f"{place}: holds {held} recordings, not {count}; give --real {held}, or another --out")
    if there.body["source"].get("speech", of) != of:  # older versions have not kept it
        raise UserError(f"{place}: was made of other recordings than those of {speech}; give another --out")
    return there


def make(speech: Path, out: Path, count: int, seed: int = 0) -> dict[str, Corpus]:
    """Corpora of `count` utterances below `out`, unless they are there, by the name of a mini data set, or of one task.

    `meetings` are dialogues, `target` mixtures. Those of `ts_asr` are mixtures in which the recogniser can write what the asked
    speaker says; empty where no speaker has such clips.
    """
    clips = read_clips(speech, np.random.default_rng(seed))
    voices = sorted(clips)[:2]

    def dialogues() -> Iterator[Utterance]:
        rng = np.random.default_rng((seed, 1))
        one, two = (cycle(clips[voice]) for voice in voices)
        for number in range(count):
            talks = [next(voice) for _ in range(4) for voice in (one, two)]
            yield dialogue(f"real-dialogue-{number:03d}", talks[: int(rng.integers(5, 9))], rng)

    def mixtures() -> Iterator[Utterance]:
        rng = np.random.default_rng((seed, 2))
        one, two = (cycle(clips[voice]) for voice in voices)
        for number in range(count):
            asked, rest = (one, two) if number % 2 == 0 else (two, one)
            yield mixture(f"real-mixture-{number:03d}", next(asked), next(rest), next(asked), rng)

    writable = {voice: [clip for clip in clips[voice] if spelled(clip)] for voice in voices}
    reader = max(voices, key=lambda voice: len(writable[voice]))

    def recognisable() -> Iterator[Utterance]:
        rng = np.random.default_rng((seed, 3))
        (other,) = (voice for voice in voices if voice != reader)
        asked, rest = cycle(writable[reader]), cycle(clips[other])
        for number in range(count):
            yield mixture(f"real-mixture-{number:03d}", next(asked), next(rest), next(asked), rng)

    parts = {"meetings": dialogues, "target": mixtures}
    if len(writable[reader]) > 1:
        parts["ts_asr"] = recognisable
    return {
        name: kept_or_written(out / name, f"real voices/{name}", "full_stack_speakers", count, seed, speech, made())
        for name, made in parts.items()
    }
