"""Keyword spotting (`ks`): ten words, near-homophones as `_unknown_`, coloured noise as `_silence_`; one-second clips."""

from functools import partial

import numpy as np

from wavlm_lightning.data.corpus import Utterance
from wavlm_lightning.data.mini.effects import Conditions, noise
from wavlm_lightning.data.mini.plans import SPLITS, Plan, Size
from wavlm_lightning.data.mini.readings import readers
from wavlm_lightning.data.mini.scripted_utterance import ComposedUtterance, ScriptedUtterance, Studio
from wavlm_lightning.data.mini.seeding import generator
from wavlm_lightning.data.mini.synthesis.phones import PHONES, SILENCE
from wavlm_lightning.data.mini.synthesis.speech import SAMPLE_RATE

WORDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
UNKNOWN, NOISE = "_unknown_", "_silence_"
# SUPERB's order.
KEYWORDS = (*WORDS, UNKNOWN, NOISE)

# Each list begins with near-homophones of the keywords.
UNKNOWN_WORDS: dict[str, list[str]] = {
    where: line.split()
    for where, line in {
        "everywhere": "yet nope cup town lift ride cough shop grow bed bird happy three seven tree",
        "training only": "guess note pup gown laughed rice dawn step goat cat dog house wow four six",
        "test only": "chess mow us drown raft rhyme own top glow sheila",
    }.items()
}

_CONDITIONS = Conditions(noise=0.8, snr=(5.0, 25.0))


def ks(size: Size, seed: int) -> Plan:
    """Plan equally many clips of every class; ten of the 25 unknown words of the test are in no training set.

    Validation uses the unknown words of training, as SUPERB's does, so it is easier than the test by design.
    """
    splits: dict[str, list[ScriptedUtterance | ComposedUtterance]] = {}
    heard: dict[str, list[str]] = {}
    for split, count, group_size in zip(SPLITS, size.ks, size.speakers, strict=True):
        unknown = UNKNOWN_WORDS["everywhere"] + UNKNOWN_WORDS["test only" if split == "test" else "training only"]
        unknown = [str(word) for word in generator(seed, "ks", split, "unknown").permutation(unknown)]
        texts = [(word, word) for word in WORDS for _ in range(count)]
        texts += [(UNKNOWN, unknown[i % len(unknown)]) for i in range(count)]
        group = readers("ks", split, group_size, len(texts), seed)
        clips: list[ScriptedUtterance | ComposedUtterance] = [
            ScriptedUtterance(
                key=f"ks-{split}-{keyword.strip('_')}-{i:04d}",
                speaker=speaker,
                text=word.capitalize() + ".",
                origin=("ks", split),
                labels={"keyword": keyword},
                conditions=_CONDITIONS,
                seconds=1.0,
            )
            for i, ((keyword, word), speaker) in enumerate(zip(texts, group, strict=True))
        ]
        for i in range(count):
            key = f"ks-{split}-silence-{i:04d}"
            clips.append(ComposedUtterance(key, partial(_silence, key, split)))
        # Shuffled, so that every part of a split holds every class.
        order = generator(seed, "ks", split, "order").permutation(len(clips))
        splits[split] = [clips[int(i)] for i in order]
        heard[split] = sorted({speaker.name for speaker in group})
    return Plan(splits, {"keywords": list(KEYWORDS), "phones": list(PHONES), "speakers": heard})


def _silence(key: str, split: str, studio: Studio) -> Utterance:
    rng = generator(studio.seed, "ks", split, key)
    colour, level = rng.uniform(0.0, 2.0), rng.uniform(-50.0, -25.0)
    waveform = noise(SAMPLE_RATE, colour, level, rng)
    # A slow swell, as of a passing car, so that the level varies.
    swell = 1 + 0.5 * np.sin(2 * np.pi * (rng.uniform(0.2, 1.0) * np.arange(SAMPLE_RATE) / SAMPLE_RATE + rng.random()))
    labels = {"keyword": NOISE, "language": "en", "text": "", "phones": [[SILENCE, 0.0, 1.0]], "words": []}
    recording = {"colour": round(colour, 2), "level_db": round(level, 1)}
    return Utterance(key, (waveform * (swell / 1.5)).astype(np.float32), {**labels, "recording": recording})
