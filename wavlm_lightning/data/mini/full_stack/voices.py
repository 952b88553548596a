"""Voices to convert to (`voices`): minutes of each target, and what other speakers say beside the target's own reading of it."""

from dataclasses import replace
from functools import partial

from wavlm_lightning.data.corpus import Utterance
from wavlm_lightning.data.mini import grammar
from wavlm_lightning.data.mini.effects import Conditions
from wavlm_lightning.data.mini.plans import SPLITS, Plan, Size
from wavlm_lightning.data.mini.readings import sentences
from wavlm_lightning.data.mini.scripted_utterance import ComposedUtterance, ScriptedUtterance, Studio
from wavlm_lightning.data.mini.synthesis.phones import PHONES
from wavlm_lightning.data.mini.synthesis.voices import Speaker, speakers

# As in a studio: a room or a frequency response would be learned as part of the voice.
_STUDIO = Conditions(room=0.0, noise=0.0, equaliser=0.0, gain_db=0.0)


def voices(size: Size, seed: int) -> Plan:
    """Plan the splits `train_1`, `valid_1`, `test_1`, `train_2`, ... of each target voice.

    `train_N` holds readings of target N. In `valid_N` and `test_N` other speakers read sentences of that split, the same for
    every target; the further audio `target` is the reading of target N, and `target_speaker` names it. Targets, and sources of
    the test, have voices of the pool `test`, sources of valid those of `valid`; `pretrain` never trains on them.
    """
    targets, each, lines = size.voices, size.voice_sentences, dict(zip(SPLITS[1:], size.voice_pairs, strict=True))
    group = speakers("test", "voices", targets + size.voice_sources[1], seed)
    sources = {
        "valid": speakers("valid", "voices-valid", size.voice_sources[0], seed),
        "test": group[targets:],
    }
    texts = sentences(("voices", "train"), "train", targets * each, seed)
    pairs = {split: sentences(("voices", split), split, lines[split] * len(sources[split]), seed) for split in lines}
    splits: dict[str, list[ScriptedUtterance | ComposedUtterance]] = {}
    for number, target in enumerate(group[:targets]):
        own = texts[number * each : (number + 1) * each]
        splits[f"train_{number + 1}"] = [_reading(target, "train", i, text) for i, text in enumerate(own)]
        for split, count in lines.items():
            splits[f"{split}_{number + 1}"] = [
                _pair(source, target, split, i, pairs[split][s * count + i])
                for s, source in enumerate(sources[split])
                for i in range(count)
            ]
    named = {"targets": group[:targets], **sources}
    heard = {name: [speaker.name for speaker in part] for name, part in named.items()}
    return Plan(splits, {"phones": list(PHONES), "speakers": heard})


def _reading(speaker: Speaker, split: str, number: int, text: str) -> ScriptedUtterance:
    key = f"voices-{split}-{speaker.name}-{number:03d}"
    return ScriptedUtterance(key, speaker, grammar.written([text]), ("voices", split), conditions=_STUDIO)


def _pair(source: Speaker, target: Speaker, split: str, number: int, text: str) -> ComposedUtterance:
    """A sentence of a source, and the same of the target; the source's is sample by sample the same beside every target."""
    said, wanted = (_reading(speaker, split, number, text) for speaker in (source, target))
    # A reading of its own for each source, whose sentences have the same numbers.
    wanted = replace(wanted, key=f"{wanted.key}-for-{source.name}")
    key = f"{said.key}-as-{target.name}"
    return ComposedUtterance(key, partial(_render, key, said, wanted))


def _render(key: str, said: ScriptedUtterance, wanted: ScriptedUtterance, studio: Studio) -> Utterance:
    spoken, parallel = said.render(studio), wanted.render(studio)
    meta = {**spoken.meta, "target_speaker": wanted.speaker.name}
    return Utterance(key, spoken.waveform, meta, audio={"target": parallel.waveform})
