"""Speaker diarization (`sd`): two speakers in one room, with pauses and overlaps; turns are exact by construction."""

from functools import partial
from typing import Any

import numpy as np

from wavlm_lightning.data.corpus import Utterance
from wavlm_lightning.data.mini import grammar
from wavlm_lightning.data.mini.effects import Conditions, record, set_level
from wavlm_lightning.data.mini.plans import SPLITS, Plan, Size
from wavlm_lightning.data.mini.readings import readers, sentences, talker_pairs
from wavlm_lightning.data.mini.scripted_utterance import ComposedUtterance, ScriptedUtterance, Studio, rows, speak
from wavlm_lightning.data.mini.seeding import generator
from wavlm_lightning.data.mini.synthesis.phones import PHONES, SILENCE
from wavlm_lightning.data.mini.synthesis.speech import SAMPLE_RATE, Segment, Speech, spoken_words
from wavlm_lightning.data.mini.synthesis.voices import Speaker

_OVERLAP = (0.11, 0.24)
_LONGEST_PAUSE_INSIDE_A_TURN = 0.25
_CONDITIONS = Conditions(noise=0.8, snr=(10.0, 25.0), gain_db=3.0)
_SENTENCES = 14

Talk = tuple[Speaker, str, Speech]
"""A sentence: who says it, its text, how it sounds."""


def sd(size: Size, seed: int) -> Plan:
    """Plan dialogues of two speakers; no two splits share a speaker."""
    splits: dict[str, list[ComposedUtterance]] = {}
    heard: dict[str, list[str]] = {}
    for split, count, group_size in zip(SPLITS, size.sd, size.speakers, strict=True):
        texts = sentences(("sd", split), split, count * _SENTENCES, seed)
        # Neighbours in a speaker table are alike; dealing shuffles them, so that a dialogue pairs any two.
        group = readers("sd", split, group_size, 2 * count, seed)
        dialogues = []
        for i, pair in enumerate(talker_pairs(group)):
            key = f"sd-{split}-{i:04d}"
            lines = texts[i * _SENTENCES : (i + 1) * _SENTENCES]
            dialogues.append(ComposedUtterance(key, partial(_dialogue, key, split, pair, lines, size.sd_seconds)))
        splits[split] = dialogues
        heard[split] = sorted({speaker.name for speaker in group})
    return Plan(splits, {"phones": list(PHONES), "speakers": heard})


def _dialogue(
    key: str, split: str, pair: tuple[Speaker, Speaker], lines: list[str], limits: tuple[float, float], studio: Studio
) -> Utterance:
    rng = generator(studio.seed, "sd", split, key)
    target = rng.uniform(limits[0] + 0.3, limits[1] - 0.3)
    talks: list[Talk] = []
    spoken = 0.0
    for number, line in enumerate(lines):
        # Speakers mostly alternate; sometimes one continues.
        speaker = pair[(number + (number > 2 and rng.random() < 0.2)) % 2]
        utterance = ScriptedUtterance(f"{key}-{number}", speaker, grammar.written([line]), ("sd", split))
        speech = speak(utterance, studio.synthesiser, rng)
        if talks and spoken + speech.seconds > target:
            break
        talks.append((speaker, line, speech))
        spoken += speech.seconds
    starts = timetable([(s.name, speech.seconds) for s, _, speech in talks], limits, rng)
    end = max(start + speech.seconds for start, (_, _, speech) in zip(starts, talks, strict=True))
    dry = np.zeros(round(min(limits[1], max(limits[0], end + 0.2)) * SAMPLE_RATE), dtype=np.float32)
    level = {speaker.name: -26.0 + rng.uniform(-2.5, 2.5) for speaker in pair}
    meta = overlay(dry, talks, starts, level)
    waveform, recording = record(dry, _CONDITIONS, studio.rooms(split), rng)
    return Utterance(key, waveform, {**meta, "recording": recording})


def overlay(dry: np.ndarray, talks: list[Talk], starts: list[float], level: dict[str, float]) -> dict[str, Any]:
    """Add sentences to a recording in place, and return the metadata of the conversation.

    Args:
        dry: the recording, float32 `(samples,)`.
        talks: speaker, text and speech of each sentence.
        starts: of each, in seconds.
        level: speaker -> level in dB of full scale.
    """
    turns: list[Segment] = []
    words: list[Segment] = []
    for start, (speaker, _, speech) in zip(starts, talks, strict=True):
        first = round(start * SAMPLE_RATE)
        dry[first : first + len(speech.waveform)] += set_level(speech.waveform, level[speaker.name])[0]
        shift = first / SAMPLE_RATE
        turns += [turn.moved(shift) for turn in activity(speech, speaker.name)]
        words += [word.moved(shift) for word in speech.words]
    return {
        "speakers": sorted(level),
        "language": "en",
        "text": " ".join(" ".join(spoken_words(line)) for _, line, _ in talks),
        "turns": rows(sorted(turns, key=lambda turn: turn.start)),
        "words": rows(sorted(words, key=lambda word: word.start)),
        "overlap": round(overlap(turns), 4),
    }


def timetable(talks: list[tuple[str, float]], limits: tuple[float, float], rng: np.random.Generator) -> list[float]:
    """Start times, in seconds, of sentences (speaker, seconds) with pauses and interruptions.

    Draws both up to 400 times, until 11 to 24 % of the speech is overlapped and the end is below the upper limit.
    Sentences of one speaker never overlap.
    """
    best: tuple[float, list[float]] = (np.inf, [])
    for _ in range(400):
        starts: list[float] = []
        ends: dict[str, float] = {}
        now = rng.uniform(0.1, 0.5)
        for speaker, seconds in talks:
            others = [end for name, end in ends.items() if name != speaker]
            if others and rng.random() < 0.7:
                start = max(others) - rng.uniform(0.2, 0.75) * min(seconds, 2.5)
            else:
                start = now + rng.uniform(0.1, 0.6)
            # After the speaker's previous sentence, and in the order of the script.
            start = max(start, ends.get(speaker, 0.0) + 0.1, starts[-1] + 0.2 if starts else 0.1)
            starts.append(start)
            ends[speaker] = start + seconds
            now = max(ends.values())
        share = overlap([Segment(n, s, s + d) for (n, d), s in zip(talks, starts, strict=True)])
        miss = max(0.0, _OVERLAP[0] - share, share - _OVERLAP[1]) + 10 * max(0.0, now + 0.1 - limits[1])
        if miss < best[0]:
            best = (miss, starts)
        if miss == 0:
            break
    return best[1]


def activity(speech: Speech, speaker: str) -> list[Segment]:
    """A speaker's turns: the phones, joined across pauses of at most a quarter of a second."""
    turns: list[Segment] = []
    for phone in speech.phones:
        if phone.name == SILENCE:
            continue
        if turns and phone.start - turns[-1].end <= _LONGEST_PAUSE_INSIDE_A_TURN:
            turns[-1] = turns[-1]._replace(end=phone.end)
        else:
            turns.append(Segment(speaker, phone.start, phone.end))
    return turns


def overlap(turns: list[Segment]) -> float:
    """Share of all speech time, 0 to 1, in which two or more turns overlap."""
    events = sorted([(t.start, 1) for t in turns] + [(t.end, -1) for t in turns])
    active, since, speech, double = 0, 0.0, 0.0, 0.0
    for time, change in events:
        speech += (time - since) * (active > 0)
        double += (time - since) * (active > 1)
        active, since = active + change, time
    return double / speech if speech else 0.0
