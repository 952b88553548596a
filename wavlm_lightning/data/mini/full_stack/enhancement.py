"""Noisy speech and the same without noise (`enhancement`), laid out as VoiceBank-DEMAND: the test has noises of its own."""

from functools import partial
from typing import Any

import numpy as np

from wavlm_lightning.data.corpus import Utterance
from wavlm_lightning.data.mini import grammar
from wavlm_lightning.data.mini.effects import Conditions, motor, noise, record, ticking
from wavlm_lightning.data.mini.plans import SPLITS, Plan, Size
from wavlm_lightning.data.mini.readings import inventory, readers, sentences
from wavlm_lightning.data.mini.scripted_utterance import (
    ComposedUtterance,
    ScriptedUtterance,
    Studio,
    padded,
    rows,
    speak,
)
from wavlm_lightning.data.mini.seeding import generator
from wavlm_lightning.data.mini.synthesis.speech import spoken_words
from wavlm_lightning.data.mini.synthesis.voices import Speaker

# The reference is the microphone's signal without noise: coloured by a frequency response, but without a room.
_CLEAN = Conditions(room=0.0, noise=0.0)
_RATIOS_DB = {"train": (0.0, 5.0, 10.0, 15.0), "valid": (0.0, 5.0, 10.0, 15.0), "test": (2.5, 7.5, 12.5, 17.5)}
_NOISES = {"train": ("coloured", "babble"), "valid": ("coloured", "babble"), "test": ("motor", "ticking")}
_TALKERS = 3  # of babble, each heard twice
_PEAK = 0.9
_STEPS = 32_768  # of a 16-bit file


def enhancement(size: Size, seed: int) -> Plan:
    """Plan sentences in noise at the ratios of VoiceBank-DEMAND; no two splits share a speaker, a voice variant or a sentence.

    Training and validation have coloured noise and babble, the test a motor and ticking.
    """
    splits: dict[str, list[ComposedUtterance]] = {}
    scripts: dict[str, list[ScriptedUtterance]] = {}
    for split, count, group_size in zip(SPLITS, size.enhancement, size.speakers, strict=True):
        texts = sentences(("enhancement", split), split, count, seed)
        group = readers("enhancement", split, group_size, count, seed)
        scripts[split] = [
            ScriptedUtterance(f"enhancement-{split}-{i:04d}", speaker, grammar.written([text]), ("enhancement", split))
            for i, (speaker, text) in enumerate(zip(group, texts, strict=True))
        ]
        kinds, ratios = _NOISES[split], _RATIOS_DB[split]
        splits[split] = []
        for i, script in enumerate(scripts[split]):
            # Every kind of noise at every ratio, equally often.
            kind, ratio = kinds[i % len(kinds)], ratios[i // len(kinds) % len(ratios)]
            # Babble is what others of the same split say.
            others = [scripts[split][(i + step) % count].speaker for step in range(1, _TALKERS + 1)]
            splits[split].append(ComposedUtterance(script.key, partial(_render, script, kind, ratio, others)))
    return Plan(splits, inventory(scripts))


def _render(script: ScriptedUtterance, kind: str, ratio_db: float, others: list[Speaker], studio: Studio) -> Utterance:
    rng = generator(studio.seed, *script.origin, script.key)
    speech = padded(speak(script, studio.synthesiser, rng), *rng.uniform(0.1, 0.4, 2))
    clean, recording = record(speech.waveform, _CLEAN, studio.rooms(script.rooms), rng)
    background = _noise(kind, len(clean), script, others, studio, rng)
    power = np.mean(np.square(clean, dtype=np.float64)) * 10 ** (-ratio_db / 10)
    background = background * np.float32(np.sqrt(power / np.mean(np.square(background, dtype=np.float64))))
    gain = min(1.0, _PEAK / float(np.abs(clean + background).max()))
    # Whole steps of the file, so that speech and noise add up to the recording without an error.
    clean, background = (
        np.round(part * np.float32(gain * _STEPS)) / np.float32(_STEPS) for part in (clean, background)
    )
    meta: dict[str, Any] = {
        **script.speaker.labels,
        "language": "en",
        "text": " ".join(spoken_words(script.text)),
        "phones": rows(speech.phones),
        "words": rows(speech.words),
        "recording": {**recording, "noise": kind, "snr_db": ratio_db},
    }
    return Utterance(script.key, clean + background, meta, audio={"clean": clean})


def _noise(
    kind: str, samples: int, script: ScriptedUtterance, others: list[Speaker], studio: Studio, rng: np.random.Generator
) -> np.ndarray:
    """Noise of a kind, float32 `(samples,)`, of no given level."""
    if kind == "coloured":
        return noise(samples, rng.uniform(0.0, 2.0), -26.0, rng)
    if kind == "motor":
        return motor(samples, rng)
    if kind == "ticking":
        return ticking(samples, rng)
    total = np.zeros(samples, np.float32)
    for number, talker in enumerate(others):
        line = grammar.written([grammar.sentence(script.origin[1], rng)])
        said = ScriptedUtterance(f"{script.key}-babble-{number}", talker, line, script.origin)
        speech = speak(said, studio.synthesiser, rng).waveform
        speech = speech / np.float32(np.sqrt(np.mean(np.square(speech, dtype=np.float64))))
        looped = np.resize(speech, samples)
        total += np.roll(looped, rng.integers(samples)) + np.roll(looped, rng.integers(samples))
    return total
