"""Two talkers at once and each alone (`separation`), laid out as Libri2Mix `sep_clean` in mode min."""

from functools import partial

import numpy as np

from wavlm_lightning.data.corpus import Utterance
from wavlm_lightning.data.mini import grammar
from wavlm_lightning.data.mini.effects import Conditions, record
from wavlm_lightning.data.mini.plans import SPLITS, Plan, Size
from wavlm_lightning.data.mini.readings import readers, sentences, talker_pairs
from wavlm_lightning.data.mini.scripted_utterance import ComposedUtterance, ScriptedUtterance, Studio, padded, speak
from wavlm_lightning.data.mini.seeding import generator
from wavlm_lightning.data.mini.synthesis.phones import PHONES
from wavlm_lightning.data.mini.synthesis.speech import spoken_words
from wavlm_lightning.data.mini.synthesis.voices import Speaker

_TALKER = Conditions(room=0.0, noise=0.0, gain_db=0.0)
_RATIO_DB = 5.0  # largest level difference of the two talkers
_PEAK = 0.9
_STEPS = 32_768  # of a 16-bit file


def separation(size: Size, seed: int) -> Plan:
    """Plan pairs of talkers, each alone as further audio `s1` and `s2`; the mixture ends where the shorter sentence ends.

    No two splits share a speaker, a voice variant or a sentence.
    """
    splits: dict[str, list[ComposedUtterance]] = {}
    heard: dict[str, list[str]] = {}
    for split, count, group_size in zip(SPLITS, size.separation, size.speakers, strict=True):
        texts = sentences(("separation", split), split, 2 * count, seed)
        group = readers("separation", split, group_size, 2 * count, seed)
        splits[split] = []
        for i, pair in enumerate(talker_pairs(group)):
            key = f"separation-{split}-{i:04d}"
            render = partial(_render, key, split, pair, texts[2 * i : 2 * i + 2])
            splits[split].append(ComposedUtterance(key, render))
        heard[split] = sorted({speaker.name for speaker in group})
    return Plan(splits, {"phones": list(PHONES), "speakers": heard})


def _render(key: str, split: str, pair: tuple[Speaker, Speaker], lines: list[str], studio: Studio) -> Utterance:
    rng = generator(studio.seed, "separation", split, key)
    alone, said = [], []
    for number, (speaker, line) in enumerate(zip(pair, lines, strict=True), start=1):
        text = grammar.written([line])
        script = ScriptedUtterance(f"{key}-{number}", speaker, text, ("separation", split))
        speech = padded(speak(script, studio.synthesiser, rng), *rng.uniform(0.0, 0.3, 2))
        alone.append(record(speech.waveform, _TALKER, studio.rooms(split), rng)[0])
        said.append(" ".join(spoken_words(text)))
    ratio = rng.uniform(-_RATIO_DB, _RATIO_DB)
    samples = min(len(waveform) for waveform in alone)
    parts = [
        waveform[:samples] * np.float32(10 ** (ratio * sign / 40))
        for waveform, sign in zip(alone, (1, -1), strict=True)
    ]
    gain = min(1.0, _PEAK / float(np.abs(parts[0] + parts[1]).max()))
    # Whole steps of the file, so that the parts add up to the mixture without an error.
    first, second = (np.round(part * np.float32(gain * _STEPS)) / np.float32(_STEPS) for part in parts)
    meta = {
        "speakers": [speaker.name for speaker in pair],
        "same_pitch_class": pair[0].pitch_class == pair[1].pitch_class,
        "language": "en",
        "texts": said,
        "recording": {"ratio_db": round(ratio, 1)},
    }
    return Utterance(key, first + second, meta, audio={"s1": first, "s2": second})
