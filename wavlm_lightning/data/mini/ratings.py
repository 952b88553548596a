"""Speech of known quality (`mos`): degradations at several severities, and what simulated listeners say. No human rated it.

A system is a degradation at one severity, or clean speech. Its quality, 1 to 5, is written down in `degradations`; a simulated
listener hears it with a bias, a scale and noise of his own and answers with a whole number. Four of twenty listeners rate
a clip, as listening tests do (BVCC has eight of 304).
"""

from dataclasses import dataclass
from functools import partial

import numpy as np

from wavlm_lightning.data.corpus import Utterance
from wavlm_lightning.data.mini import grammar
from wavlm_lightning.data.mini.degradations import BEST, KNOWN, UNSEEN, Degradation
from wavlm_lightning.data.mini.effects import Conditions, set_level
from wavlm_lightning.data.mini.plans import Plan, Size
from wavlm_lightning.data.mini.readings import readers, sentences
from wavlm_lightning.data.mini.scripted_utterance import ComposedUtterance, ScriptedUtterance, Studio
from wavlm_lightning.data.mini.seeding import generator
from wavlm_lightning.data.mini.synthesis.phones import PHONES

LISTENERS, EACH = 20, 4  # listeners in all, and of one clip
SCALE = (1, 5)
CLEAN = "clean"
_SPREAD = 0.4  # of the severity of a clip, as a share of the step between two systems
_LEVEL_DB = -26.0
# Clean speech without room and noise, which are degradations here.
_CONDITIONS = Conditions(room=0.0, noise=0.0, equaliser_db=3.0, gain_db=0.0)
# Split -> pool of speakers, degradations. `known` tells unseen speakers from unseen degradations.
_SPLITS = {"train": ("train", KNOWN), "valid": ("valid", KNOWN), "test": ("test", UNSEEN), "known": ("test", KNOWN)}


@dataclass(frozen=True)
class Listener:
    """A simulated listener, who scores `3 + bias + scale * (quality - 3) + noise`, rounded and limited to the scale."""

    name: str
    bias: float
    scale: float
    noise: float  # standard deviation

    def score(self, quality: float, rng: np.random.Generator) -> int:
        middle = sum(SCALE) / 2
        heard = middle + self.bias + self.scale * (quality - middle) + self.noise * rng.standard_normal()
        return int(np.clip(np.rint(heard), *SCALE))


def listeners(seed: int) -> list[Listener]:
    """The panel: biases of half a point, scales around 1, noise of a third to two thirds of a point."""
    rng = generator(seed, "mos", "listeners")
    return [
        Listener(f"listener{n:02d}", rng.normal(0, 0.45), rng.uniform(0.7, 1.2), rng.uniform(0.35, 0.65))
        for n in range(LISTENERS)
    ]


def mos(size: Size, seed: int) -> Plan:
    """Plan clips of every system of a split: 8 degradations in training, 4 others in the test, and clean speech in both.

    Split `known` has the degradations of the training and the speakers of the test.
    """
    panel = listeners(seed)
    splits: dict[str, list[ComposedUtterance]] = {}
    heard: dict[str, list[str]] = {}
    systems: dict[str, None] = {}
    groups = (*size.speakers, size.speakers[2])
    for (split, (pool, known)), clips, group_size in zip(_SPLITS.items(), size.mos, groups, strict=True):
        planned: list[tuple[str, str, int]] = [(CLEAN, CLEAN, 0)]
        planned += [(f"{name}-{step}", name, step) for name in known for step in range(1, size.mos_severities + 1)]
        takes = [system for system in planned for _ in range(clips)]
        texts = sentences(("mos", split), pool, len(takes), seed)
        voices = readers("mos", pool, group_size, len(takes), seed)
        utterances = []
        for number, ((system, name, step), text, speaker) in enumerate(zip(takes, texts, voices, strict=True)):
            key = f"mos-{split}-{number:04d}"
            script = ScriptedUtterance(key, speaker, grammar.written([text]), ("mos", split), conditions=_CONDITIONS)
            rng = generator(seed, "mos", split, key, "severity")
            step_size = 1 / size.mos_severities
            severity = 0.0 if name == CLEAN else step_size * (step - _SPREAD * rng.random())
            degradation = known.get(name)
            utterances.append(ComposedUtterance(key, partial(_rated, script, system, degradation, severity, panel)))
        if utterances:
            splits[split] = utterances
            heard[split] = sorted({speaker.name for speaker in voices})
            systems |= dict.fromkeys(system for system, _, _ in planned)
    inventories = {
        "phones": list(PHONES),
        "speakers": heard,
        "systems": list(systems),
        "listeners": [listener.name for listener in panel],
        "rating_scale": list(SCALE),
    }
    return Plan(splits, inventories)


def _rated(
    script: ScriptedUtterance,
    system: str,
    degradation: Degradation | None,
    severity: float,
    panel: list[Listener],
    studio: Studio,
) -> Utterance:
    clean = script.render(studio)
    rng = generator(studio.seed, *script.origin, script.key, "rating")
    waveform, quality = clean.waveform, BEST
    if degradation is not None:
        waveform = degradation.apply(waveform, severity, rng).astype(np.float32)
        quality = degradation.quality(severity)
    waveform, level = set_level(waveform, _LEVEL_DB)
    asked = [panel[place] for place in sorted(rng.choice(len(panel), EACH, replace=False))]
    ratings = {listener.name: listener.score(quality, rng) for listener in asked}
    found = {"system": system, "rating": float(np.mean(list(ratings.values()))), "ratings": ratings}
    known = {"severity": round(severity, 4), "quality": round(quality, 4)}
    recording = {**clean.meta["recording"], "level_db": level}
    return Utterance(script.key, waveform, {**clean.meta, **found, **known, "recording": recording})
