"""Read sentences: `pretrain` (two in each recording) and `pr` (phones and text, for PR and ASR)."""

from wavlm_lightning.data.mini import grammar
from wavlm_lightning.data.mini.phones import PHONES
from wavlm_lightning.data.mini.plans import SPLITS, Plan, Size
from wavlm_lightning.data.mini.scripted_utterance import ScriptedUtterance
from wavlm_lightning.data.mini.seeding import generator
from wavlm_lightning.data.mini.voices import Speaker, speakers


def sentences(origin: tuple[str, str], split: str, count: int, seed: int) -> list[str]:
    """`count` different sentences of a split, drawn for one data set.

    Args:
        origin: Data set and split, or another pair of names, which seeds the list.
        split: `train`, `valid` or `test`, whose sentences are drawn.
        count: Number of sentences.
        seed: Of the corpus.
    """
    rng = generator(seed, *origin, "sentences")
    drawn: dict[str, None] = {}
    while len(drawn) < count:
        drawn[grammar.sentence(split, rng)] = None
    return list(drawn)


def dealt(group: list[Speaker], count: int, *origin: object) -> list[Speaker]:
    """`count` speakers: rounds through the whole group, each in a new order."""
    order: list[Speaker] = []
    while len(order) < count:
        rng = generator(*origin, "turns", len(order))
        order += [group[int(i)] for i in rng.permutation(len(group))]
    return order[:count]


def pretrain(size: Size, seed: int) -> Plan:
    """Plan recordings of two sentences, 4.8 s on average; single sentences are too short for random crops."""
    splits = {}
    for split, count, group_size in zip(
        ("train", "valid"), size.pretrain, (size.pretrain_speakers, size.speakers[1]), strict=True
    ):
        texts = sentences(("pretrain", split), split, 2 * count, seed)
        group = speakers(split, split, group_size, seed)
        splits[split] = [
            ScriptedUtterance(
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
    """Plan single sentences; valid and test have speakers, voice variants and sentences of their own."""
    splits = {}
    for split, count, group_size in zip(SPLITS, size.pr, size.speakers, strict=True):
        texts = sentences(("pr", split), split, count, seed)
        group = speakers(split, split, group_size, seed)
        splits[split] = [
            ScriptedUtterance(
                key=f"pr-{split}-{i:04d}",
                speaker=speaker,
                text=grammar.written([texts[i]]),
                origin=("pr", split),
                rooms=split,
            )
            for i, speaker in enumerate(dealt(group, count, seed, "pr", split))
        ]
    return Plan(splits, inventory(splits))


def inventory(splits: dict[str, list[ScriptedUtterance]]) -> dict[str, list[str] | dict[str, list[str]]]:
    """The inventories of every spoken data set: phones, and speakers by split."""
    return {
        "phones": list(PHONES),
        "speakers": {
            split: sorted({utterance.speaker.name for utterance in utterances}) for split, utterances in splits.items()
        },
    }
