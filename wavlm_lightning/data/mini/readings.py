"""Sentences read aloud: `pretrain` (two a recording, no labels needed) and `pr` (phones and text, for PR and ASR)."""

from wavlm_lightning.data.mini import grammar
from wavlm_lightning.data.mini.phones import PHONES
from wavlm_lightning.data.mini.plans import SPLITS, Plan, Size
from wavlm_lightning.data.mini.scripted_utterance import Take
from wavlm_lightning.data.mini.seeding import generator
from wavlm_lightning.data.mini.voices import Speaker, speakers


def sentences(origin: tuple[str, str], split: str, count: int, seed: int) -> list[str]:
    """Returns `count` different sentences of a split, drawn for one data set.

    Args:
        origin: Data set and split (or whatever else tells this list from others).
        split: `train`, `valid` or `test`, whose sentences are taken.
        count: How many.
        seed: Of the corpus.
    """
    rng = generator(seed, *origin, "sentences")
    drawn: dict[str, None] = {}
    while len(drawn) < count:
        drawn[grammar.sentence(split, rng)] = None
    return list(drawn)


def dealt(group: list[Speaker], count: int, *origin: object) -> list[Speaker]:
    """Returns `count` speakers: everyone in turn, in an order that is new every round."""
    order: list[Speaker] = []
    while len(order) < count:
        rng = generator(*origin, "turns", len(order))
        order += [group[int(i)] for i in rng.permutation(len(group))]
    return order[:count]


def pretrain(size: Size, seed: int) -> Plan:
    """Plans recordings of two sentences, 4.8 s on average: single ones are too short for random crops."""
    splits = {}
    for split, count, heads in zip(
        ("train", "valid"), size.pretrain, (size.pretrain_speakers, size.speakers[1]), strict=True
    ):
        texts = sentences(("pretrain", split), split, 2 * count, seed)
        group = speakers(split, split, heads, seed)
        splits[split] = [
            Take(
                key=f"pretrain-{split}-{i:05d}",
                speaker=speaker,
                text=grammar.written(texts[2 * i : 2 * i + 2]),
                origin=("pretrain", split),
                rooms=split,
            )
            for i, speaker in enumerate(dealt(group, count, seed, "pretrain", split))
        ]
    return Plan(splits, inventory(splits))


def pr(size: Size, seed: int) -> Plan:
    """Plans single sentences; valid and test have speakers, voice variants and sentences of their own."""
    splits = {}
    for split, count, heads in zip(SPLITS, size.pr, size.speakers, strict=True):
        texts = sentences(("pr", split), split, count, seed)
        group = speakers(split, split, heads, seed)
        splits[split] = [
            Take(
                key=f"pr-{split}-{i:04d}",
                speaker=speaker,
                text=grammar.written([texts[i]]),
                origin=("pr", split),
                rooms=split,
            )
            for i, speaker in enumerate(dealt(group, count, seed, "pr", split))
        ]
    return Plan(splits, inventory(splits))


def inventory(splits: dict[str, list[Take]]) -> dict[str, list[str] | dict[str, list[str]]]:
    """Returns the inventories that every spoken data set has: phones, and speakers by split."""
    return {
        "phones": list(PHONES),
        "speakers": {split: sorted({take.speaker.name for take in takes}) for split, takes in splits.items()},
    }
