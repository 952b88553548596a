"""Emotion recognition (`er`) by prosody alone: every speaker reads every text in every emotion; five folds of speakers.

The classes are prosody classes: pitch range, tempo, loudness and punctuation overlap between them, and the base pitch is
shifted at random, so that absolute pitch does not reveal the class.
"""

from itertools import product

import numpy as np

from wavlm_lightning.data.mini import grammar
from wavlm_lightning.data.mini.effects import Conditions
from wavlm_lightning.data.mini.plans import Plan, Size
from wavlm_lightning.data.mini.readings import inventory, sentences
from wavlm_lightning.data.mini.scripted_utterance import Prosody, ScriptedUtterance
from wavlm_lightning.data.mini.seeding import generator
from wavlm_lightning.data.mini.synthesis.voices import VARIANTS, speakers

# SUPERB's order of IEMOCAP's four classes.
EMOTIONS = ("neutral", "happy", "angry", "sad")
FOLDS = tuple(f"fold{number}" for number in range(1, 6))

# Mean pitch range, mean tempo factor, loudness in dB, final mark.
_MANNERS: dict[str, tuple[float, float, float, str]] = {
    "neutral": (42.0, 1.0, 0.0, "."),
    "happy": (84.0, 1.06, 2.0, "!"),
    "angry": (62.0, 1.22, 4.0, "!"),
    "sad": (16.0, 0.82, -4.0, "."),
}


def er(size: Size, seed: int) -> Plan:
    """Plan five folds that share neither speakers nor voice variants."""
    texts = sentences(("er", "texts"), "test", size.er_texts, seed)
    # Deal variants in order of their pitch, so that every fold has high and low ones.
    ranked = sorted(VARIANTS["test"], key=lambda variant: VARIANTS["test"][variant])
    splits: dict[str, list[ScriptedUtterance]] = {}
    for number, fold in enumerate(FOLDS):
        group = speakers("test", f"er{number + 1}-", size.er_speakers, seed, variants=ranked[number :: len(FOLDS)])
        utterances = []
        for speaker, (text_number, text), emotion in product(group, enumerate(texts), EMOTIONS):
            key = f"er-{fold}-{speaker.name}-{text_number:02d}-{emotion}"
            rng = generator(seed, "er", key, "prosody")
            wide, rate, loudness, mark = _MANNERS[emotion]
            prosody = Prosody(
                pitch=rng.uniform(-15, 15),
                rate=rate * rng.uniform(0.93, 1.07),
                pitch_range=float(np.clip(wide + rng.normal(0, 9), 5, 99)),
            )
            said = grammar.written([text])[:-1] + mark
            conditions = Conditions(loudness_db=loudness, gain_db=4.0)
            utterances.append(
                ScriptedUtterance(key, speaker, said, ("er", fold), {"emotion": emotion}, conditions, prosody=prosody)
            )
        splits[fold] = utterances
    return Plan(splits, {**inventory(splits), "emotions": list(EMOTIONS)})
