"""Spoken commands: `ic` (intents, as in Fluent Speech Commands) and `sf` (slots, as in Audio SNIPS)."""

from itertools import product
from typing import Any

import numpy as np

from wavlm_lightning.data.mini.plans import SPLITS, Plan, Size
from wavlm_lightning.data.mini.readings import inventory, readers
from wavlm_lightning.data.mini.scripted_utterance import ScriptedUtterance
from wavlm_lightning.data.mini.seeding import generator
from wavlm_lightning.data.mini.synthesis.voices import Speaker

_LOCATIONS = ("none", "kitchen", "bedroom", "garden")
_PHRASES: dict[str, list[str]] = {
    "activate": ["turn on the {o}", "switch the {o} on", "start the {o}", "could you turn the {o} on", "{o} on"],
    "deactivate": ["turn off the {o}", "switch the {o} off", "stop the {o}", "could you turn the {o} off", "{o} off"],
    "increase": ["turn up the {o}", "increase the {o}", "make the {o} stronger", "raise the {o}", "more {o}"],
    "decrease": ["turn down the {o}", "decrease the {o}", "make the {o} weaker", "lower the {o}", "less {o}"],
    "bring": ["bring me the {o}", "fetch the {o}", "i need the {o}", "could you get the {o}", "hand me the {o}"],
    "change": ["change the {o}", "give me another {o}", "choose a new {o}", "swap the {o}", "i want a different {o}"],
}
_OBJECTS: dict[str, tuple[str, ...]] = {
    "activate": ("light", "music", "heat"),
    "deactivate": ("light", "music", "heat"),
    "increase": ("light", "music", "heat", "volume"),
    "decrease": ("light", "music", "heat", "volume"),
    "bring": ("newspaper", "shoes"),
    "change": ("music", "light", "newspaper"),
}

_SLOTS: dict[str, list[str]] = {
    kind: line.split(", ")
    for kind, line in {
        "city": "london, paris, tokyo, berlin, madrid, dublin, oslo, cairo, boston, lisbon, vienna, denver",
        "date": "today, tomorrow, tonight, on monday, on tuesday, on friday, on sunday, next week, next month, "
        "this weekend, on thursday, in july",
        "time": "at noon, at midnight, at two, at three thirty, at seven, at half past nine, at ten, in the morning, "
        "in the evening, at quarter past four, before lunch, after dinner",
        "artist": "the beatles, madonna, queen, bob dylan, nina simone, joan baez, elvis, the doors, miles davis, "
        "ella, johnny cash, chuck berry",
        "number": "two, three, four, five, six, seven, eight, nine, ten, eleven, twelve, twenty",
    }.items()
}
_REQUESTS = (
    "book a table for {number} in {city} {date}",
    "play a song by {artist}",
    "what is the weather in {city} {date}",
    "wake me {date} {time}",
    "i want {number} tickets to {city}",
    "play {number} songs by {artist} {time}",
    "remind me {time} to call the office in {city}",
    "find a train to {city} {date} {time}",
    "when does {artist} sing in {city}",
    "add {artist} to my list",
)


def ic(size: Size, seed: int) -> Plan:
    """Plan commands of an action, an object and a location.

    A fifth of the phrasings and an eighth of the combinations occur in the test alone, beside known ones.
    """
    combinations = [(a, o, where) for a in _PHRASES for o, where in product(_OBJECTS[a], _LOCATIONS)]
    # Every eighth combination is held out; each of its three values occurs in others.
    held_out = set(combinations[3::8])
    splits = {}
    for split, count, group_size in zip(SPLITS, size.ic, size.speakers, strict=True):
        allowed = combinations if split == "test" else [c for c in combinations if c not in held_out]
        rng = generator(seed, "ic", split, "commands")
        utterances = []
        for i, speaker in enumerate(readers("ic", split, group_size, count, seed)):
            # Random order, with every combination equally frequent.
            if i % len(allowed) == 0:
                order = rng.permutation(len(allowed))
            action, item, location = allowed[int(order[i % len(allowed)])]
            phrases = _PHRASES[action] if split == "test" else _PHRASES[action][:-1]
            text = phrases[rng.integers(len(phrases))].format(o=item)
            if location != "none":
                place = f"in the {location}"
                text = f"{place} {text}" if rng.random() < 0.3 else f"{text} {place}"
            intent = {"action": action, "object": item, "location": location}
            utterances.append(_utterance("ic", split, i, speaker, text, {"intent": intent}))
        splits[split] = utterances
    intents = {
        "action": list(_PHRASES),
        "object": sorted({item for items in _OBJECTS.values() for item in items}),
        "location": list(_LOCATIONS),
    }
    return Plan(splits, {**inventory(splits), "intents": intents})


def sf(size: Size, seed: int) -> Plan:
    """Plan requests with slots, listed in the order of the text.

    A quarter of each slot's values occurs in the test alone.
    """
    splits = {}
    for split, count, group_size in zip(SPLITS, size.sf, size.speakers, strict=True):
        rng = generator(seed, "sf", split, "requests")
        utterances = []
        for i, speaker in enumerate(readers("sf", split, group_size, count, seed)):
            words, slots = [], []
            for word in _REQUESTS[i % len(_REQUESTS)].split():
                if word.startswith("{"):
                    kind = word.strip("{}")
                    word = _value(kind, split, rng)
                    slots.append([kind, word])
                words.append(word)
            utterances.append(_utterance("sf", split, i, speaker, " ".join(words), {"slots": slots}))
        splits[split] = utterances
    return Plan(splits, {**inventory(splits), "slots": sorted(_SLOTS)})


def _value(kind: str, split: str, rng: np.random.Generator) -> str:
    values = _SLOTS[kind]
    known = len(values) * 3 // 4
    return values[rng.integers(len(values) if split == "test" else known)]


def _utterance(
    dataset: str, split: str, number: int, speaker: Speaker, text: str, labels: dict[str, Any]
) -> ScriptedUtterance:
    return ScriptedUtterance(
        key=f"{dataset}-{split}-{number:04d}",
        speaker=speaker,
        text=text[0].upper() + text[1:] + ".",
        origin=(dataset, split),
        labels=labels,
    )
