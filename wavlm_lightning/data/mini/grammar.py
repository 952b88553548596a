"""The mini corpus' English: about 400 words that cover every phone, and sentence templates.

Every sentence belongs to one split for good (by a hash of its words), whatever the data set: no training set contains a
test sentence. A fifth of the content words is rare in training sentences and ordinary elsewhere.
"""

import hashlib
import json

import numpy as np

from wavlm_lightning.data.mini.seeding import stable_hash

WORDS: dict[str, list[str]] = {
    group: line.split()
    for group, line in {
        "adjective": """
            azure beige bitter blue brave bright broken calm careful cheap clever cold crooked curious dark deep dusty
            early empty enormous faithful famous fresh gentle golden green heavy hidden hollow hungry jealous joyful
            large lazy little lonely long loud lucky modern narrow nervous noisy old orange patient pleasant proud pure
            purple quick quiet rough round royal shallow sharp short silver smooth spoiled strange thick thin tiny
            usual vague warm wild wooden yellow young
        """,
        "thing": """
            anchor apple basket bell bicycle blanket book bottle boot bowl branch bridge brush button cabbage cage
            camera candle carpet carriage chain chair cheese clock coin cookie cushion diamond dish engine envelope
            feather flower fork garage guitar hammer hat jacket jewel journal key kitchen knife ladder lantern leather
            lemon letter machine magazine measure mirror mixture necklace needle oil onion oyster package painting
            pencil piano pillow pitcher plough potato pudding puzzle ribbon ring rope rouge sandwich saucer shovel sugar
            suitcase table thimble ticket torch towel toy treasure trumpet umbrella vase vehicle violin wagon watch
            wheel window yarn zipper
        """,
        "animal": """
            badger bear beaver camel chicken donkey dove eagle elephant fox giraffe goat goose hedgehog horse kitten
            lion lizard monkey mouse otter owl panther pigeon puppy rabbit raven salmon shark sheep spider squirrel
            thrush tiger tortoise turkey walrus whale wolf zebra
        """,
        "person": """
            actor author baker boy brother captain child cousin daughter doctor driver farmer father fisher girl
            guard judge king lawyer mother nephew nurse painter pilot poet queen sailor singer soldier student tailor
            teacher uncle visitor voyager
        """,
        "place": """
            beach castle cathedral church cottage desert factory field forest garden harbour highway hospital island
            jungle lake library market meadow mountain museum office palace prairie river school shore station theatre
            tower valley village
        """,
        "past": """
            admired borrowed bought brought carried chased counted cooked described destroyed enjoyed examined followed
            forgot found guarded ignored joined kissed launched measured mentioned noticed offered painted pushed
            remembered repaired shook sold studied touched trusted understood watched washed
        """,
        "verb": """
            admire avoid borrow choose collect cover enjoy follow gather judge measure notice offer push
            remember show thank watch wash
        """,
        "manner": "calmly carefully eagerly gently happily loudly nervously often quietly rarely slowly suddenly",
        "time": "today tomorrow tonight yesterday again always later nowadays soon together",
        "preposition": "above across behind below beneath beside beyond inside near outside past through toward under",
        "number": "two three four five six seven eight nine ten eleven twelve thirteen twenty thirty",
    }.items()
}

TEMPLATES: tuple[str, ...] = (
    "the {adjective} {animal} {past} the {thing}",
    "the {person} {manner} {past} a {adjective} {thing}",
    "my {adjective} {person} {past} a {thing} {time}",
    "we should {verb} the {thing} and the {thing}",
    "they {past} {number} {animal+s} {preposition} the {place}",
    "why did the {person} {verb} this {adjective} {thing}",
    "there was a {animal} {preposition} the {adjective} {place}",
    "she {manner} {past} the {adjective} {thing} {time}",
    "could your {person} {verb} the {animal} {preposition} the {place}",
    "he {past} {number} {thing+s} while the {animal} {past} us",
    "you would never {verb} the {adjective} {person}",
    "every {person} {past} the {animal} with the {thing}",
)

_SHARES = {"train": range(0, 60), "valid": range(60, 80), "test": range(80, 100)}
_CONTENT = ("adjective", "thing", "animal", "person", "place", "past", "verb")
_RARE_IN_TRAIN = 0.12


def plural(noun: str) -> str:
    """Plural of a noun of the grammar, regular or one of a few irregular ones."""
    irregular = {"mouse": "mice", "goose": "geese", "sheep": "sheep", "knife": "knives", "wolf": "wolves"}
    irregular |= {"salmon": "salmon"}
    if noun in irregular:
        return irregular[noun]
    if noun.endswith(("s", "x", "ch", "sh", "z")):
        return noun + "es"
    return noun[:-1] + "ies" if noun.endswith("y") and noun[-2] not in "aeiou" else noun + "s"


def vocabulary() -> list[str]:
    """Every word that a sentence can contain, sorted."""
    words = {word for group in WORDS.values() for word in group}
    words |= {plural(noun) for group in ("thing", "animal") for noun in WORDS[group]}
    words |= {word for template in TEMPLATES for word in template.split() if "{" not in word} | {"an"}
    return sorted(words)


def rare_words() -> set[str]:
    """The fifth of the content words that is rare in training sentences."""
    return {word for group in _CONTENT for word in WORDS[group] if stable_hash("rare", word) % 5 == 0}


_RARE = rare_words()


def split_of(sentence: str) -> str:
    """The split of a sentence, by its hash: 60 % train, 20 % valid, 20 % test."""
    bucket = stable_hash("sentence", sentence) % 100
    return next(split for split, buckets in _SHARES.items() if bucket in buckets)


def sentence(split: str, rng: np.random.Generator, template: str | None = None) -> str:
    """A sentence of `train`, `valid` or `test` in lower case, such as "the lazy fox chased the goat".

    Two splits never share a sentence. `template` replaces a random one; each `{group}` is filled from `WORDS`, and
    `{group+s}` by a plural.
    """
    while True:
        words: list[str] = []
        for slot in (template or str(rng.choice(TEMPLATES))).split():
            words.append(_fill(slot, split, rng) if slot.startswith("{") else slot)
        if len(set(words) - {"the", "a", "and"}) < len([w for w in words if w not in ("the", "a", "and")]):
            continue  # a content word occurs twice
        for index in range(len(words) - 1):
            if words[index] == "a" and words[index + 1][0] in "aeiou" and words[index + 1] != "usual":
                words[index] = "an"
        text = " ".join(words)
        if split_of(text) == split:
            return text


def written(sentences: list[str]) -> str:
    """Sentences with capitals and punctuation: espeak-ng pauses only before a capital."""
    marks = ["?" if s.startswith(("why", "could")) else "." for s in sentences]
    return " ".join(s[0].upper() + s[1:] + mark for s, mark in zip(sentences, marks, strict=True))


def fingerprint() -> str:
    """Hash of words and templates, stored with every corpus."""
    return hashlib.sha256(json.dumps([WORDS, TEMPLATES], sort_keys=True).encode()).hexdigest()[:16]


def _fill(slot: str, split: str, rng: np.random.Generator) -> str:
    group, _, ending = slot.strip("{}").partition("+")
    words = WORDS[group]
    while True:
        word = words[rng.integers(len(words))]
        if split == "train" and word in _RARE and rng.random() > _RARE_IN_TRAIN:
            continue
        return plural(word) if ending else word
