"""Speech translation (`translation`): English sentences, read aloud, and their German text by a grammar of two languages.

German inflects articles and adjectives by gender and case, puts the verb second or last and counts units before tens, so that
word for word is not enough. The test asks for three kinds of what training lacks, in equal parts: new sentences of known
words, values (a number, a time of day, an adjective with a noun) that are made of known words, and sentence patterns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

import numpy as np

from wavlm_lightning.data.mini.plans import SPLITS, Plan, Size
from wavlm_lightning.data.mini.readings import inventory, readers
from wavlm_lightning.data.mini.scripted_utterance import ScriptedUtterance
from wavlm_lightning.data.mini.seeding import generator, stable_hash

UNSEEN = ("new_sentence", "new_value", "new_pattern")
"""What a test sentence has that training lacks: the sentence alone, a value in it, its pattern."""


T = TypeVar("T")


class Noun(NamedTuple):
    """A noun in both languages; the gender is m, f or n, the plurals are those of nominative and accusative."""

    english: str
    plural: str
    german: str
    gender: str
    german_plural: str


class Verb(NamedTuple):
    """A verb with an accusative object: infinitive, past; in German infinitive, past of the third person, participle."""

    english: str
    past: str
    german: str
    german_past: str
    participle: str


def _table(kind: type[T], lines: str) -> tuple[T, ...]:
    return tuple(kind(*line.split()) for line in lines.strip().splitlines())


PEOPLE: tuple[Noun, ...] = _table(
    Noun,
    """
    teacher teachers Lehrer m Lehrer
    doctor doctors Arzt m Ärzte
    brother brothers Bruder m Brüder
    mother mothers Mutter f Mütter
    daughter daughters Tochter f Töchter
    queen queens Königin f Königinnen
    girl girls Mädchen n Mädchen
    child children Kind n Kinder
    """,
)
THINGS: tuple[Noun, ...] = _table(
    Noun,
    """
    table tables Tisch m Tische
    key keys Schlüssel m Schlüssel
    hat hats Hut m Hüte
    lamp lamps Lampe f Lampen
    bottle bottles Flasche f Flaschen
    watch watches Uhr f Uhren
    book books Buch n Bücher
    bicycle bicycles Fahrrad n Fahrräder
    window windows Fenster n Fenster
    picture pictures Bild n Bilder
    """,
)
ANIMALS: tuple[Noun, ...] = _table(
    Noun,
    """
    dog dogs Hund m Hunde
    bird birds Vogel m Vögel
    fish fish Fisch m Fische
    cat cats Katze f Katzen
    goat goats Ziege f Ziegen
    mouse mice Maus f Mäuse
    horse horses Pferd n Pferde
    sheep sheep Schaf n Schafe
    """,
)
PLACES: tuple[tuple[str, str], ...] = (
    ("in the garden", "im Garten"),
    ("in the forest", "im Wald"),
    ("in the kitchen", "in der Küche"),
    ("at the station", "am Bahnhof"),
    ("behind the school", "hinter der Schule"),
    ("under the bridge", "unter der Brücke"),
    ("near the river", "am Fluss"),
    ("in the museum", "im Museum"),
)
_OF_ALL = (("old", "alt"), ("small", "klein"), ("big", "groß"), ("beautiful", "schön"), ("strange", "seltsam"))
OF_LIFE: tuple[tuple[str, str], ...] = (*_OF_ALL, ("young", "jung"), ("hungry", "hungrig"), ("fast", "schnell"))
OF_THINGS: tuple[tuple[str, str], ...] = (*_OF_ALL, ("red", "rot"), ("green", "grün"), ("cheap", "billig"))
VERBS: tuple[Verb, ...] = _table(
    Verb,
    """
    buy bought kaufen kaufte gekauft
    sell sold verkaufen verkaufte verkauft
    find found finden fand gefunden
    carry carried tragen trug getragen
    forget forgot vergessen vergaß vergessen
    paint painted malen malte gemalt
    wash washed waschen wusch gewaschen
    hide hid verstecken versteckte versteckt
    look-for looked-for suchen suchte gesucht
    bring brought bringen brachte gebracht
    """,
)
DAYS: tuple[tuple[str, str], ...] = (
    ("yesterday", "gestern"),
    ("last week", "letzte Woche"),
    ("on monday", "am Montag"),
    ("on friday", "am Freitag"),
    ("this morning", "heute Morgen"),
    ("last summer", "letzten Sommer"),
)

_NUMERALS = """
    1 one ein, 2 two zwei, 3 three drei, 4 four vier, 5 five fünf, 6 six sechs, 7 seven sieben, 8 eight acht, 9 nine neun,
    10 ten zehn, 11 eleven elf, 12 twelve zwölf, 13 thirteen dreizehn, 14 fourteen vierzehn, 15 fifteen fünfzehn,
    16 sixteen sechzehn, 17 seventeen siebzehn, 18 eighteen achtzehn, 19 nineteen neunzehn, 20 twenty zwanzig,
    30 thirty dreißig, 40 forty vierzig
"""
NUMERALS: dict[int, tuple[str, str]] = {
    int(value): (english, german) for value, english, german in (each.split() for each in _NUMERALS.split(","))
}
_LARGEST = 49  # number; training has each one that is not held out several times
_HELD_OUT = 4  # a quarter of the values, by their hashes, is for the test alone
_SHARES = {"train": range(0, 70), "valid": range(70, 80), "test": range(80, 100)}

# Articles by case, then by gender; the endings of an adjective behind them.
_THE = {"nom": {"m": "der", "f": "die", "n": "das"}, "acc": {"m": "den", "f": "die", "n": "das"}}
_AFTER_THE = {"nom": {"m": "e", "f": "e", "n": "e"}, "acc": {"m": "en", "f": "e", "n": "e"}}
_A = {"nom": {"m": "", "f": "e", "n": ""}, "acc": {"m": "en", "f": "e", "n": ""}}
_AFTER_A = {"nom": {"m": "er", "f": "e", "n": "es"}, "acc": {"m": "en", "f": "e", "n": "es"}}


def number(value: int) -> tuple[str, str]:
    """A number from 2 to 49 in words: 23 as "twenty three" and "dreiundzwanzig"."""
    if value in NUMERALS:
        return NUMERALS[value]
    tens, unit = NUMERALS[value // 10 * 10], NUMERALS[value % 10]
    return f"{tens[0]} {unit[0]}", f"{unit[1]}und{tens[1]}"


def time_of_day(minute: int, hour: int) -> tuple[str, str]:
    """A time of day: minute 30 of hour 3 as "half past three" and "halb vier"; minutes are 0, 10, 15, 30, 45 or 50."""
    english, german = NUMERALS[hour]
    next_english, next_german = NUMERALS[hour % 12 + 1]
    if minute == 0:
        return f"{english} o'clock", f"{german} Uhr"
    # "ein Uhr", but "halb eins".
    german, next_german = ("eins" if one == "ein" else one for one in (german, next_german))
    return {
        10: (f"ten past {english}", f"zehn nach {german}"),
        15: (f"quarter past {english}", f"Viertel nach {german}"),
        30: (f"half past {english}", f"halb {next_german}"),
        45: (f"quarter to {next_english}", f"Viertel vor {next_german}"),
        50: (f"ten to {next_english}", f"zehn vor {next_german}"),
    }[minute]


def is_held_out(*value: object) -> bool:
    """Whether a value of several parts, such as `("number", 23)`, is in the test alone; values of one word never are."""
    return stable_hash("translation", *value) % _HELD_OUT == 0


@dataclass
class _Draw:
    """Draws the parts of one sentence, and remembers whether one of its values is held out."""

    rng: np.random.Generator
    new_values: bool  # whether values that are held out may occur
    held_out: bool = field(default=False, init=False)

    def one(self, words: tuple[T, ...]) -> T:
        return words[int(self.rng.integers(len(words)))]

    def _value(self, draw: Callable[[], tuple[tuple[object, ...], bool]]) -> tuple[object, ...]:
        """A value by its name; one that is made of several words may be held out."""
        while True:
            value, of_parts = draw()
            if not of_parts or not is_held_out(*value):
                return value
            if self.new_values:
                self.held_out = True
                return value

    def count(self) -> tuple[str, str]:
        def draw() -> tuple[tuple[object, ...], bool]:
            value = int(self.rng.integers(2, _LARGEST + 1))
            return ("number", value), value > 20 and value % 10 > 0

        return number(int(str(self._value(draw)[1])))

    def clock(self) -> tuple[str, str]:
        def draw() -> tuple[tuple[object, ...], bool]:
            minute = int(self.rng.choice([0, 10, 15, 30, 45, 50]))
            return ("time", minute, int(self.rng.integers(1, 13))), True

        _, minute, hour = self._value(draw)
        return time_of_day(int(str(minute)), int(str(hour)))

    def thing(self, nouns: tuple[Noun, ...], case: str, article: str) -> tuple[str, str]:
        """A noun with an adjective behind `the`, `a` or `my`."""

        def draw() -> tuple[tuple[object, ...], bool]:
            return ("noun", self.one(OF_THINGS if nouns is THINGS else OF_LIFE), self.one(nouns)), True

        _, adjective, noun = self._value(draw)
        assert isinstance(adjective, tuple) and isinstance(noun, Noun)
        return self.named(noun, case, article, adjective)

    def plain(self, nouns: tuple[Noun, ...], case: str, article: str) -> tuple[str, str]:
        return self.named(self.one(nouns), case, article)

    @staticmethod
    def named(noun: Noun, case: str, article: str, adjective: tuple[str, str] | None = None) -> tuple[str, str]:
        """A noun with its article, in German inflected by case (`nom` or `acc`) and gender."""
        definite = article == "the"
        ending = (_AFTER_THE if definite else _AFTER_A)[case][noun.gender]
        said = _THE[case][noun.gender] if definite else {"a": "ein", "my": "mein"}[article] + _A[case][noun.gender]
        english = [article, *([adjective[0]] if adjective else []), noun.english]
        if article == "a" and english[1][0] in "aeiou":
            english[0] = "an"
        return " ".join(english), " ".join([said, *([adjective[1] + ending] if adjective else []), noun.german])


Pair = tuple[str, str]


def _who_did(draw: _Draw) -> Pair:
    who, what, verb = draw.thing(PEOPLE, "nom", "the"), draw.plain(THINGS, "acc", "the"), draw.one(VERBS)
    return f"{who[0]} {verb.past} {what[0]}", f"{who[1]} {verb.german_past} {what[1]}"


def _day_first(draw: _Draw) -> Pair:
    day, who, what = draw.one(DAYS), draw.plain(PEOPLE, "nom", "my"), draw.thing(THINGS, "acc", "a")
    verb = draw.one(VERBS)
    return f"{day[0]} {who[0]} {verb.past} {what[0]}", f"{day[1]} hat {who[1]} {what[1]} {verb.participle}"


def _must(draw: _Draw) -> Pair:
    who, what, when = draw.plain(PEOPLE, "nom", "the"), draw.plain(THINGS, "acc", "the"), draw.clock()
    verb = draw.one(VERBS)
    return (
        f"{who[0]} must {verb.english} {what[0]} at {when[0]}",
        f"{who[1]} muss {what[1]} um {when[1]} {verb.german}",
    )


def _there_are(draw: _Draw) -> Pair:
    many, animal, where = draw.count(), draw.one(ANIMALS), draw.one(PLACES)
    return f"there are {many[0]} {animal.plural} {where[0]}", f"{where[1]} sind {many[1]} {animal.german_plural}"


def _we_need(draw: _Draw) -> Pair:
    many, thing = draw.count(), draw.one(THINGS)
    return f"we need {many[0]} {thing.plural}", f"wir brauchen {many[1]} {thing.german_plural}"


def _can_you_see(draw: _Draw) -> Pair:
    animal, where = draw.thing(ANIMALS, "acc", "the"), draw.one(PLACES)
    return f"can you see {animal[0]} {where[0]}?", f"kannst du {animal[1]} {where[1]} sehen?"


def _i_think(draw: _Draw) -> Pair:
    who, what, verb = draw.plain(PEOPLE, "nom", "the"), draw.thing(THINGS, "acc", "the"), draw.one(VERBS)
    return (
        f"i think that {who[0]} {verb.past} {what[0]}",
        f"ich glaube, dass {who[1]} {what[1]} {verb.german_past}",
    )


def _why(draw: _Draw) -> Pair:
    who, what, verb = draw.thing(PEOPLE, "nom", "the"), draw.plain(THINGS, "acc", "my"), draw.one(VERBS)
    return f"why did {who[0]} {verb.english} {what[0]}?", f"warum hat {who[1]} {what[1]} {verb.participle}?"


def _train_leaves(draw: _Draw) -> Pair:
    when, day = draw.clock(), draw.one(DAYS[2:4])
    return f"the train leaves {day[0]} at {when[0]}", f"der Zug fährt {day[1]} um {when[1]} ab"


def _why_must(draw: _Draw) -> Pair:
    who, what, verb = draw.plain(PEOPLE, "nom", "my"), draw.thing(THINGS, "acc", "the"), draw.one(VERBS)
    return f"why must {who[0]} {verb.english} {what[0]}?", f"warum muss {who[1]} {what[1]} {verb.german}?"


def _i_think_there_are(draw: _Draw) -> Pair:
    many, animal, where = draw.count(), draw.one(ANIMALS), draw.one(PLACES)
    return (
        f"i think that there are {many[0]} {animal.plural} {where[0]}",
        f"ich glaube, dass {where[1]} {many[1]} {animal.german_plural} sind",
    )


def _can_you_bring(draw: _Draw) -> Pair:
    what, when, verb = draw.plain(THINGS, "acc", "the"), draw.clock(), draw.one(VERBS)
    return f"can you {verb.english} {what[0]} at {when[0]}?", f"kannst du {what[1]} um {when[1]} {verb.german}?"


PATTERNS: tuple[Callable[[_Draw], Pair], ...] = (
    _who_did,
    _day_first,
    _must,
    _there_are,
    _we_need,
    _can_you_see,
    _i_think,
    _why,
    _train_leaves,
)
NEW_PATTERNS: tuple[Callable[[_Draw], Pair], ...] = (_why_must, _i_think_there_are, _can_you_bring)
"""Of the test alone; training knows each of their parts."""


def sentence(split: str, unseen: str, rng: np.random.Generator) -> Pair:
    """An English sentence of a split and its German translation, both as they are written; see `UNSEEN`.

    Two splits never share a sentence. In `train` and `valid`, `unseen` is always "new_sentence".
    """
    patterns = NEW_PATTERNS if unseen == "new_pattern" else PATTERNS
    while True:
        draw = _Draw(rng, new_values=unseen == "new_value")
        english, german = patterns[int(rng.integers(len(patterns)))](draw)
        if draw.held_out == (unseen == "new_value") and stable_hash("translation", english) % 100 in _SHARES[split]:
            return _written(english.replace("-", " ")), _written(german)


def _written(text: str) -> str:
    text = " ".join(word.capitalize() if word in ("monday", "friday", "i") else word for word in text.split())
    return text[0].upper() + text[1:] + ("" if text.endswith("?") else ".")


def translation(size: Size, seed: int) -> Plan:
    """Plan sentences with their translations; valid and test have speakers, voice variants and sentences of their own.

    `condition` of a test utterance says which of `UNSEEN` it is.
    """
    splits = {}
    for split, count, group_size in zip(SPLITS, size.translation, size.speakers, strict=True):
        rng = generator(seed, "translation", split, "sentences")
        kinds = [UNSEEN[i % len(UNSEEN)] if split == "test" else UNSEEN[0] for i in range(count)]
        drawn: dict[Pair, str] = {}
        for kind in kinds:
            while (pair := sentence(split, kind, rng)) in drawn:
                pass
            drawn[pair] = kind
        splits[split] = [
            ScriptedUtterance(
                f"translation-{split}-{i:04d}",
                speaker,
                english,
                ("translation", split),
                {
                    "translation": german,
                    "translation_language": "de",
                    **({"condition": kind} if split == "test" else {}),
                },
            )
            for i, (((english, german), kind), speaker) in enumerate(
                zip(drawn.items(), readers("translation", split, group_size, count, seed), strict=True)
            )
        ]
    return Plan(splits, {**inventory(splits), "languages": ["en"], "translation_languages": ["de"]})
