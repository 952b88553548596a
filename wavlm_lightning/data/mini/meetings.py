"""Meetings (`meetings`): two to four speakers in one room, with pauses, overlaps and noise; turns are exact by construction."""

from functools import partial

import numpy as np

from wavlm_lightning.data.corpus import Utterance
from wavlm_lightning.data.mini import grammar
from wavlm_lightning.data.mini.dialogues import Talk, overlay, timetable
from wavlm_lightning.data.mini.effects import Conditions, motor, record, set_level, ticking
from wavlm_lightning.data.mini.plans import SPLITS, Plan, Size
from wavlm_lightning.data.mini.readings import readers, sentences
from wavlm_lightning.data.mini.scripted_utterance import ComposedUtterance, ScriptedUtterance, Studio, speak
from wavlm_lightning.data.mini.seeding import generator
from wavlm_lightning.data.mini.synthesis.phones import PHONES
from wavlm_lightning.data.mini.synthesis.speech import SAMPLE_RATE
from wavlm_lightning.data.mini.synthesis.voices import Speaker

_SPEAKERS = (2, 3, 4)  # of a meeting, in turn
_SENTENCES = 24
_SNR_DB = (10.0, 25.0)
_NOISY = 0.8  # share of the meetings
# Coloured noise, as the other sets have it; in the test the noise is of other kinds.
_SEEN = Conditions(noise=_NOISY, snr=_SNR_DB, gain_db=3.0)
_QUIET = Conditions(noise=0.0, gain_db=3.0)


def meetings(size: Size, seed: int) -> Plan:
    """Plan meetings of two, three and four speakers in turn; no two splits share a speaker, a room or a sentence."""
    splits: dict[str, list[ComposedUtterance]] = {}
    heard: dict[str, list[str]] = {}
    for split, count, group_size in zip(SPLITS, size.meetings, size.speakers, strict=True):
        texts = sentences(("meetings", split), split, count * _SENTENCES, seed)
        group = readers("meetings", split, group_size, count * max(_SPEAKERS) + group_size, seed)
        splits[split], used = [], 0
        for i in range(count):
            present: list[Speaker] = []
            while len(present) < min(_SPEAKERS[i % len(_SPEAKERS)], group_size):
                # The last of one round can be among the first of the next.
                if group[used % len(group)] not in present:
                    present.append(group[used % len(group)])
                used += 1
            key = f"meetings-{split}-{i:04d}"
            lines = texts[i * _SENTENCES : (i + 1) * _SENTENCES]
            splits[split].append(
                ComposedUtterance(key, partial(_meeting, key, split, present, lines, size.meeting_seconds))
            )
        heard[split] = sorted({speaker.name for speaker in group[: max(used, 1)]})
    return Plan(splits, {"phones": list(PHONES), "speakers": heard})


def _meeting(
    key: str, split: str, present: list[Speaker], lines: list[str], limits: tuple[float, float], studio: Studio
) -> Utterance:
    rng = generator(studio.seed, "meetings", split, key)
    target = rng.uniform(limits[0] + 0.3, limits[1] - 0.3)
    talks: list[Talk] = []
    spoken, last = 0.0, -1
    for number, line in enumerate(lines):
        # Everybody speaks once, then the next is anyone but mostly not who spoke last.
        turn = number if number < len(present) else int(rng.integers(len(present)))
        if turn == last and rng.random() < 0.8:
            turn = (turn + 1) % len(present)
        utterance = ScriptedUtterance(f"{key}-{number}", present[turn], grammar.written([line]), ("meetings", split))
        speech = speak(utterance, studio.synthesiser, rng)
        if len(talks) >= len(present) and spoken + speech.seconds > target:
            break
        talks.append((present[turn], line, speech))
        spoken, last = spoken + speech.seconds, turn
    starts = timetable([(speaker.name, speech.seconds) for speaker, _, speech in talks], limits, rng)
    end = max(start + speech.seconds for start, (_, _, speech) in zip(starts, talks, strict=True))
    dry = np.zeros(round(max(limits[0], end + 0.2) * SAMPLE_RATE), dtype=np.float32)
    level = {speaker.name: -26.0 + rng.uniform(-3.0, 3.0) for speaker in present}
    meta = overlay(dry, talks, starts, level)
    waveform, recording = record(dry, _QUIET if split == "test" else _SEEN, studio.rooms(split), rng)
    if split == "test" and rng.random() < _NOISY:
        recording["snr_db"] = round(rng.uniform(*_SNR_DB), 1)
        noise = (motor, ticking)[int(rng.integers(2))](len(waveform), rng)
        power = np.mean(np.square(waveform, dtype=np.float64)) * 10 ** (-recording["snr_db"] / 10)
        noise *= np.float32(np.sqrt(power / np.mean(np.square(noise, dtype=np.float64))))
        waveform, recording["level_db"] = set_level(waveform + noise, float(recording["level_db"]))
    return Utterance(key, waveform, {**meta, "recording": recording})
