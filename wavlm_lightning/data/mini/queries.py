"""Query by example (`qbe`): spoken terms, and documents that other voices read."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from wavlm_lightning.data.mini import grammar
from wavlm_lightning.data.mini.effects import Conditions
from wavlm_lightning.data.mini.plans import Plan, Size
from wavlm_lightning.data.mini.readings import dealt, inventory
from wavlm_lightning.data.mini.scripted_utterance import ScriptedUtterance
from wavlm_lightning.data.mini.seeding import generator
from wavlm_lightning.data.mini.synthesis.voices import VARIANTS, Speaker, speakers

_TERM_GROUPS = ("adjective", "thing", "animal", "person", "place")
# Words under five letters are too short to be found.
_SHORTEST = 5
_LARGEST_SHARE = 0.2
_PAIR_SHARE = 0.25
_CONDITIONS = Conditions(noise=0.5, snr=(15.0, 30.0))


def qbe(size: Size, seed: int) -> Plan:
    """Plan documents of two sentences, and queries of one content word or an adjective with its noun.

    Every term occurs in at least one document and in at most a fifth of them; the terms of the two query splits
    differ; documents and the two query splits have three disjoint groups of voice variants. Inflected forms count as the term.
    """
    documents, queries = size.qbe
    rng = generator(seed, "qbe", "documents", "sentences")
    pairs = _featured_pairs(seed, max(2, queries // 4))
    # A quarter of the documents contains one of a few adjective-noun pairs, which would hardly recur by chance.
    texts: list[tuple[str, str]] = []
    for number in range(documents):
        first = grammar.sentence("test", rng)
        if rng.random() < _PAIR_SHARE or number < len(pairs):
            adjective, noun = pairs[number % len(pairs)]
            first = grammar.sentence(
                "test", rng, f"the {{person}} {{past}} the {adjective} {noun} {{preposition}} the {{place}}"
            )
        texts.append((first, grammar.sentence("test", rng)))
    words = [set(" ".join(text).split()) for text in texts]
    frequency = Counter(word for document in words for word in document)
    candidates = {word for group in _TERM_GROUPS for word in grammar.WORDS[group] if len(word) >= _SHORTEST}
    usable = sorted(w for w in candidates if 1 <= frequency[w] <= max(1, _LARGEST_SHARE * documents))
    singles = [str(w) for w in generator(seed, "qbe", "terms").permutation(usable)]
    terms: dict[str, list[str]] = {}
    for split, own in (("queries-valid", pairs[0::2]), ("queries-test", pairs[1::2])):
        joint = [f"{adjective} {noun}" for adjective, noun in own][: queries // 2]
        taken = singles[: queries - len(joint)]
        singles = singles[len(taken) :]
        terms[split] = joint + taken
    everything = [term for split in terms.values() for term in split]

    test = list(VARIANTS["test"])
    readers = speakers("test", "doc", size.speakers[2], seed, variants=test[0::2])
    turns = dealt(readers, documents, seed, "qbe", "documents")
    splits: dict[str, list[ScriptedUtterance]] = {"documents": []}
    for i, (speaker, text) in enumerate(zip(turns, texts, strict=True)):
        labels = {"terms": [term for term in everything if contains_term(text, term)]}
        splits["documents"].append(_read(f"qbe-document-{i:04d}", speaker, text, "documents", labels))
    askers = {
        "queries-valid": speakers("valid", "ask-valid", size.speakers[1], seed),
        "queries-test": speakers("test", "ask-test", size.speakers[2], seed, variants=test[1::2]),
    }
    for split, group in askers.items():
        turns = dealt(group, len(terms[split]), seed, "qbe", split)
        splits[split] = [
            _read(f"qbe-{split}-{term.replace(' ', '-')}", speaker, (term,), split, {"term": term})
            for term, speaker in zip(terms[split], turns, strict=True)
        ]
    return Plan(splits, {**inventory(splits), "terms": sorted(everything)})


def _read(key: str, speaker: Speaker, text: tuple[str, ...], split: str, labels: dict[str, Any]) -> ScriptedUtterance:
    return ScriptedUtterance(key, speaker, grammar.written(list(text)), ("qbe", split), labels, _CONDITIONS)


def _featured_pairs(seed: int, count: int) -> list[tuple[str, str]]:
    rng = generator(seed, "qbe", "pairs")
    adjectives = rng.permutation(grammar.WORDS["adjective"])[:count]
    nouns = rng.permutation(grammar.WORDS["thing"])[:count]
    return [(str(a), str(n)) for a, n in zip(adjectives, nouns, strict=True)]


def contains_term(sentences: Sequence[str], term: str) -> bool:
    """Whether a sentence has the term, its last word inflected or not: `ladder` is heard in `ladders`, `quiet` in `quietly`.

    So counts QUESST 2014, whose queries of type 2 differ from what is said by a short suffix or prefix.
    """
    return any(f" {term}" in f" {text}" for text in sentences)
