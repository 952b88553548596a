"""Speech in noise (`noisy`): clean training speech, and a test with each sentence clean, in noise at four levels and in rooms.

Noise is of a `seen` kind (coloured noise, babble; what `AddNoise` adds in training without a corpus of noise) or of an `unseen`
one (a motor, ticking). Every utterance of valid and test has the further audio `clean`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from scipy.signal import fftconvolve

from wavlm_lightning.augment.transforms.levels import at_ratio, fitted
from wavlm_lightning.data.corpus import Utterance
from wavlm_lightning.data.mini import grammar
from wavlm_lightning.data.mini.effects import Conditions, motor, noise, ticking
from wavlm_lightning.data.mini.plans import SPLITS, Plan, Size
from wavlm_lightning.data.mini.readings import inventory, readers, sentences
from wavlm_lightning.data.mini.scripted_utterance import ComposedUtterance, ScriptedUtterance, Studio, speak
from wavlm_lightning.data.mini.seeding import generator

LEVELS_DB = (20, 10, 5, 0)  # ratio of speech to noise, over the whole utterance
CLEAN, SEEN, UNSEEN, ROOM = "clean", "seen", "unseen", "room"
CONDITIONS = (
    CLEAN,
    *(f"{kind}_{level}dB" for kind in (SEEN, UNSEEN) for level in LEVELS_DB),
    ROOM,
    *(f"{ROOM}_{level}dB" for level in LEVELS_DB),
)
_VALID = tuple(name for name in CONDITIONS if name == CLEAN or name.startswith(f"{SEEN}_"))
_RECORDED = Conditions(room=0.0, noise=0.0, gain_db=3.0)
_PEAK = 0.9
_TALKERS = 4  # of babble
_UNSEEN: tuple[Callable[[int, np.random.Generator], np.ndarray], ...] = (motor, ticking)


def noisy(size: Size, seed: int) -> Plan:
    """Plan clean training sentences; the conditions of valid take turns, and the test has every sentence in each of 14.

    No two splits share a speaker, a voice variant, a sentence or a room. The noise of a sentence is the same at every level.
    """
    scripts: dict[str, list[ScriptedUtterance]] = {}
    for split, count, group_size in zip(SPLITS, size.noisy, size.speakers, strict=True):
        texts = sentences(("noisy", split), split, count, seed)
        spoken = zip(readers("noisy", split, group_size, count, seed), texts, strict=True)
        scripts[split] = [
            ScriptedUtterance(
                f"noisy-{split}-{i:04d}",
                speaker,
                grammar.written([text]),
                ("noisy", split),
                {"condition": CLEAN},
                _RECORDED,
            )
            for i, (speaker, text) in enumerate(spoken)
        ]
    valid = [
        ComposedUtterance(script.key, partial(_heard, scripts["valid"], i, _VALID[i % len(_VALID)], script.key))
        for i, script in enumerate(scripts["valid"])
    ]
    test = [
        ComposedUtterance(key, partial(_heard, scripts["test"], i, condition, key))
        for i, script in enumerate(scripts["test"])
        for condition in CONDITIONS
        for key in (f"{script.key}-{condition}",)
    ]
    splits: dict[str, list[Any]] = {"train": scripts["train"], "valid": valid, "test": test}
    return Plan(splits, {**inventory(scripts), "conditions": list(CONDITIONS)})


def _heard(scripts: list[ScriptedUtterance], number: int, condition: str, key: str, studio: Studio) -> Utterance:
    """One sentence of a split under a condition."""
    script = scripts[number]
    plain = script.render(studio)
    clean, split = plain.waveform, script.origin[1]
    kind, _, level = condition.partition("_")
    recording: dict[str, Any] = {**plain.meta["recording"]}
    heard = clean
    if kind == ROOM:
        rooms = studio.rooms(split)
        response = rooms[generator(studio.seed, "noisy", split, script.key, ROOM).integers(len(rooms))]
        wet = fftconvolve(clean, response)[: len(clean)].astype(np.float32)
        heard, recording["room"] = at_ratio(clean, wet, 0.0), True
    if level:
        recording["snr_db"] = float(level.removesuffix("dB"))
        rng = generator(studio.seed, "noisy", split, script.key, UNSEEN if kind == UNSEEN else SEEN)
        if kind == UNSEEN:
            recording["noise"] = _UNSEEN[number % 2].__name__
            added = _UNSEEN[number % 2](len(clean), rng)
        elif number % 2:
            recording["noise"] = "babble"
            added = _babble(scripts, number, len(clean), studio, rng)
        else:
            recording["noise"] = "coloured"
            added = noise(len(clean), rng.uniform(0.0, 2.0), -26.0, rng)
        heard = heard + at_ratio(heard, added, recording["snr_db"])
    gain = min(1.0, _PEAK / float(max(np.abs(heard).max(), np.abs(clean).max())))
    clean, heard = clean * np.float32(gain), heard * np.float32(gain)
    meta = {**plain.meta, "condition": condition, "recording": recording}
    return Utterance(key, heard, meta, audio={"clean": clean})


def _babble(
    scripts: list[ScriptedUtterance], number: int, samples: int, studio: Studio, rng: np.random.Generator
) -> np.ndarray:
    """Other sentences of the split at once, all at the same power, float32 `(samples,)`."""
    mixed, one = np.zeros(samples, np.float32), np.ones(1, np.float32)
    others = [script for script in scripts if script.speaker != scripts[number].speaker] or scripts
    for place in rng.integers(len(others), size=_TALKERS):
        spoken = speak(others[int(place)], studio.synthesiser, rng).waveform
        mixed += at_ratio(one, fitted(spoken, samples, rng), 0.0)
    return mixed
