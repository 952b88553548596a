"""Corpora of real voices for tests alone: dialogues and mixtures cut from recordings of single speakers.

`--speech` is a folder with `manifest.csv` (path, speaker, language, text) and the recordings. Turns are known by construction:
where a clip lies, without the silence at its ends. Nothing is rated, transcribed or annotated here.
"""

from __future__ import annotations

import csv
from itertools import cycle
from pathlib import Path

import numpy as np

from wavlm_lightning.audio import SAMPLE_RATE, load_mono
from wavlm_lightning.data.corpus import Corpus, CorpusWriter
from wavlm_lightning.data.mini.dialogues import overlap, timetable
from wavlm_lightning.data.mini.effects import set_level
from wavlm_lightning.data.mini.scripted_utterance import rows
from wavlm_lightning.data.mini.synthesis.speech import Segment
from wavlm_lightning.data.shards import Utterance
from wavlm_lightning.system.errors import UserError

LEVEL = -26.0  # dB of speech, as in the mini corpus
OUTER = 0.15  # seconds of silence at each end of a clip, which no turn includes
CLIP = (1.5, 8.0)  # seconds of the clips that are used
LIMITS = (25.0, 40.0)  # seconds of a dialogue
SPLITS = ("train", "valid", "test")  # of which only the test is used; `TaskData` looks for all three

Clip = tuple[str, str, str, np.ndarray]  # speaker, language, text, waveform


def read_clips(speech: Path, rng: np.random.Generator) -> dict[str, list[Clip]]:
    """Speaker -> clips of usable length in random order; at least two speakers."""
    with (speech / "manifest.csv").open(encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    clips: dict[str, list[Clip]] = {}
    for row in table:
        if not CLIP[0] <= float(row["seconds"]) <= CLIP[1]:
            continue
        wave, _ = set_level(load_mono(speech / row["path"]), LEVEL)
        clips.setdefault(row["speaker"], []).append((row["speaker"], row["language"], row["text"], wave))
    if len(clips) < 2:
        raise UserError(f"{speech}: clips of {len(clips)} speaker; a dialogue needs two")
    for some in clips.values():
        rng.shuffle(some)  # type: ignore[arg-type]
    return clips


def turn(speaker: str, start: float, seconds: float) -> Segment:
    """Where a clip speaks."""
    return Segment(speaker, start + OUTER, start + seconds - OUTER)


def dialogue(key: str, talks: list[Clip], rng: np.random.Generator) -> Utterance:
    """Clips in turn, with pauses and interruptions as in the mini corpus."""
    seconds = [len(wave) / SAMPLE_RATE for *_, wave in talks]
    starts = timetable([(speaker, length) for (speaker, *_), length in zip(talks, seconds, strict=True)], LIMITS, rng)
    end = max(start + length for start, length in zip(starts, seconds, strict=True))
    audio, turns = np.zeros(round((end + 0.2) * SAMPLE_RATE) + 1, np.float32), []
    for start, length, (speaker, _, _, wave) in zip(starts, seconds, talks, strict=True):
        first = round(start * SAMPLE_RATE)
        audio[first : first + len(wave)] += wave
        turns.append(turn(speaker, first / SAMPLE_RATE, length))
    meta = {
        "speakers": sorted({speaker for speaker, *_ in talks}),
        "turns": rows(turns),
        "overlap": round(overlap(turns), 4),
    }
    return Utterance(key, audio / max(1.0, float(np.abs(audio).max())), meta)


def mixture(key: str, asked: Clip, rest: Clip, enrolment: Clip, rng: np.random.Generator) -> Utterance:
    """Two clips at once; the second begins while the first speaks."""
    wait = rng.uniform(0.05, 0.7) * min(len(asked[3]), len(rest[3])) / SAMPLE_RATE
    starts = (0.1, 0.1 + wait) if rng.random() < 0.5 else (0.1 + wait, 0.1)
    places = [round(start * SAMPLE_RATE) for start in starts]
    samples = max(place + len(clip[3]) for place, clip in zip(places, (asked, rest), strict=True)) + 1600
    parts = [
        np.pad(clip[3], (place, samples - place - len(clip[3])))
        for place, clip in zip(places, (asked, rest), strict=True)
    ]
    gain = min(1.0, 0.9 / float(np.abs(parts[0] + parts[1]).max()))
    clean, other = (np.round(part * gain * 32768).astype(np.float32) / np.float32(32768) for part in parts)
    turns = [
        turn(clip[0], place / SAMPLE_RATE, len(clip[3]) / SAMPLE_RATE)
        for place, clip in zip(places, (asked, rest), strict=True)
    ]
    meta = {
        "speaker": asked[0],
        "interferer": rest[0],
        "language": asked[1],
        "text": asked[2].lower(),
        "turns": rows(sorted(turns, key=lambda each: each.start)),
        "overlap": round(overlap(turns), 4),
    }
    return Utterance(key, clean + other, meta, audio={"clean": clean, "other": other, "enrolment": enrolment[3]})


def make(speech: Path, out: Path, count: int, seed: int = 0) -> dict[str, Corpus]:
    """Write the corpora `meetings` (`count` dialogues) and `target` (`count` mixtures) below `out`, unless they are there."""
    rng = np.random.default_rng(seed)
    clips = read_clips(speech, rng)
    voices = sorted(clips)[:2]
    one, two = (cycle(clips[voice]) for voice in voices)
    found = {}
    for name in ("meetings", "target"):
        utterances = []
        for number in range(count):
            if name == "meetings":
                talks = [next(voice) for _ in range(4) for voice in (one, two)]
                utterances.append(dialogue(f"real-dialogue-{number:03d}", talks[: int(rng.integers(5, 9))], rng))
            else:
                asked, rest = (one, two) if number % 2 == 0 else (two, one)
                parts = (next(asked), next(rest), next(asked))
                utterances.append(mixture(f"real-mixture-{number:03d}", *parts, rng))
        if (out / name / "corpus.json").is_file():
            found[name] = Corpus.open(out / name)
            continue
        source = {"recipe": "full_stack_speakers", "seed": seed}
        writer = CorpusWriter(out / name, f"real voices/{name}", "that of the recordings", source)
        for split in SPLITS:
            writer.write_split(split, utterances if split == "test" else utterances[:2])
        found[name] = writer.finish({"speakers": voices})
    return found
