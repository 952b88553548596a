"""Recognition out of domain (`accents`): training in one accent, tests in others, at other rates, and in another language.

Every English condition of the test has the same sentences, read by the same speakers, so that errors differ by the condition
alone. Spanish has sentences of its own, and the labels of a head that is trained on English lack some of its letters.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from wavlm_lightning.data.mini import grammar
from wavlm_lightning.data.mini.plans import SPLITS, Plan, Size
from wavlm_lightning.data.mini.readings import inventory, readers, sentences
from wavlm_lightning.data.mini.scripted_utterance import Prosody, ScriptedUtterance
from wavlm_lightning.data.mini.seeding import generator

HOME = "en-US"


@dataclass(frozen=True)
class Condition:
    """How a sentence of the test is read: a voice of espeak-ng, and a factor on the speaker's rate."""

    voice: str = HOME
    rate: float = 1.0
    language: str = "en"


CONDITIONS: dict[str, Condition] = {
    HOME: Condition(),
    # Accents that other speakers of the mini corpus have, so that pre-training hears them.
    "en-GB-scotland": Condition("en-GB-scotland"),
    "en-029": Condition("en-029"),  # Caribbean
    # Accents that no other data set has: Lancaster, West Midlands.
    "en-GB-x-gbclan": Condition("en-GB-x-gbclan"),
    "en-GB-x-gbcwmd": Condition("en-GB-x-gbcwmd"),
    "slow": Condition(rate=0.65),
    "fast": Condition(rate=1.5),
    "es": Condition("es", language="es"),
}

# Nouns with their article; adjectives end in o or a with the noun, or are the same for both.
_PEOPLE = "el niño, la niña, el médico, la maestra, el señor, la señora, el pintor, la reina, mi hermano, tu prima"
_THINGS = "el libro, la mesa, el reloj, la carta, el sombrero, la guitarra, el espejo, la cuchara, el vaso, la llave"
_PLACES = "el jardín, la cocina, el puente, la plaza, el mercado, la montaña, el río, la estación"
_ADJECTIVES = "nuevo, viejo, rojo, pequeño, hermoso, grande, verde, azul, antiguo, alegre"
_VERBS = "busca, compra, pinta, lleva, olvida, lava, encuentra, vende, mira, esconde"
_TIMES = "hoy, mañana, ahora, siempre, por la noche, cada domingo"
_GROUPS = {
    "person": _PEOPLE.split(", "),
    "thing": _THINGS.split(", "),
    "place": _PLACES.split(", "),
    "adjective": _ADJECTIVES.split(", "),
    "verb": _VERBS.split(", "),
    "time": _TIMES.split(", "),
}
_SPANISH = (
    "{person} {verb} {thing} {adjective}",
    "{time} {person} {verb} {thing}",
    "{person} {adjective} {verb} {thing} cerca de {place}",
    "hay {number} pájaros detrás de {place}",
    "{thing} está en {place} {time}",
)
_NUMBERS = ("dos", "tres", "cuatro", "cinco", "siete", "ocho", "nueve", "diez", "quince", "veinte")


def accents(size: Size, seed: int) -> Plan:
    """Plan sentences in the accent `HOME` for training and validation, and a test in all `CONDITIONS`, called `condition`."""
    splits: dict[str, list[ScriptedUtterance]] = {}
    for split, count, group_size in zip(SPLITS, size.accents, size.speakers, strict=True):
        texts = sentences(("accents", split), split, count, seed)
        group = readers("accents", split, group_size, count, seed)
        splits[split] = []
        for name, condition in (CONDITIONS if split == "test" else {HOME: CONDITIONS[HOME]}).items():
            here = texts if condition.language == "en" else spanish_sentences(count, seed)
            for number, (text, speaker) in enumerate(zip(here, group, strict=True)):
                script = ScriptedUtterance(
                    f"accents-{split}-{name}-{number:04d}",
                    replace(speaker, accent=condition.voice),
                    grammar.written([text]) if condition.language == "en" else f"{text[0].upper()}{text[1:]}.",
                    ("accents", split),
                    {"condition": name, "language": condition.language},
                    prosody=Prosody(rate=condition.rate),
                )
                splits[split].append(script)
    return Plan(splits, {**inventory(splits), "conditions": list(CONDITIONS)})


def spanish_sentences(count: int, seed: int) -> list[str]:
    """`count` different sentences in lower case, such as "la reina compra el espejo nuevo"."""
    rng = generator(seed, "accents", "es", "sentences")
    drawn: dict[str, None] = {}
    while len(drawn) < count:
        drawn[_spanish(rng)] = None
    return list(drawn)


def _spanish(rng: np.random.Generator) -> str:
    words: list[str] = []
    feminine = False
    for slot in str(rng.choice(_SPANISH)).split():
        kind = slot.strip("{}")
        if not slot.startswith("{"):
            words.append(slot)
        elif kind == "number":
            words.append(str(rng.choice(_NUMBERS)))
        elif kind == "adjective":
            adjective = str(rng.choice(_GROUPS[kind]))
            words.append(f"{adjective[:-1]}a" if feminine and adjective.endswith("o") else adjective)
        else:
            words.append(str(rng.choice(_GROUPS[kind])))
            if kind in ("person", "thing"):
                feminine = words[-1].startswith("la ") or words[-1] == "tu prima"
    # "de el" is contracted.
    return " ".join(words).replace("de el ", "del ")
