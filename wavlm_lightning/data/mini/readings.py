"""Read sentences: `pretrain` (two in each recording) and `pr` (phones and text, for PR and ASR)."""

from collections.abc import Iterator, Sequence

from wavlm_lightning.data.mini import grammar
from wavlm_lightning.data.mini.plans import SPLITS, Plan, Size
from wavlm_lightning.data.mini.scripted_utterance import ScriptedUtterance
from wavlm_lightning.data.mini.seeding import generator
from wavlm_lightning.data.mini.synthesis.phones import PHONES
from wavlm_lightning.data.mini.synthesis.voices import Speaker, speakers


def sentences(origin: tuple[str, str], split: str, count: int, seed: int) -> list[str]:
    """`count` different sentences of a split; `origin`, such as data set and split, seeds the list."""
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


def readers(dataset: str, split: str, group_size: int, count: int, seed: int) -> list[Speaker]:
    """The speakers of a split, dealt to `count` utterances of a data set."""
    return dealt(speakers(split, split, group_size, seed), count, seed, dataset, split)


def talker_pairs(group: Sequence[Speaker]) -> list[tuple[Speaker, Speaker]]:
    """Two different speakers for each of `len(group) / 2` mixtures, from speakers dealt by `readers`."""
    pairs = []
    for i in range(len(group) // 2):
        pair = (group[2 * i], group[2 * i + 1])
        if pair[0] == pair[1]:  # the last of one round can be the first of the next
            pair = (pair[0], group[2 * i - 1] if i else group[2 * i + 2])
        pairs.append(pair)
    return pairs


def pretrain(size: Size, seed: int) -> Plan:
    """Plan recordings of two sentences, 4.8 s on average; single sentences are too short for random crops."""
    splits = {}
    groups = (size.pretrain_speakers, size.speakers[1])
    for split, count, group_size in zip(("train", "valid"), size.pretrain, groups, strict=True):
        splits[split] = [
            ScriptedUtterance(f"pretrain-{split}-{i:05d}", speaker, text, ("pretrain", split))
            for i, (speaker, text) in enumerate(_read("pretrain", split, count, 2, group_size, seed))
        ]
    return Plan(splits, inventory(splits))


def pr(size: Size, seed: int) -> Plan:
    """Plan single sentences; valid and test have speakers, voice variants and sentences of their own."""
    splits = {}
    for split, count, group_size in zip(SPLITS, size.pr, size.speakers, strict=True):
        splits[split] = [
            ScriptedUtterance(f"pr-{split}-{i:04d}", speaker, text, ("pr", split))
            for i, (speaker, text) in enumerate(_read("pr", split, count, 1, group_size, seed))
        ]
    return Plan(splits, inventory(splits))


def _read(dataset: str, split: str, count: int, each: int, group_size: int, seed: int) -> Iterator[tuple[Speaker, str]]:
    """A speaker and a text of `each` sentences for each of `count` utterances."""
    texts = sentences((dataset, split), split, each * count, seed)
    for i, speaker in enumerate(readers(dataset, split, group_size, count, seed)):
        yield speaker, grammar.written(texts[each * i : each * (i + 1)])


def inventory(splits: dict[str, list[ScriptedUtterance]]) -> dict[str, list[str] | dict[str, list[str]]]:
    """The inventories of every spoken data set: phones, and speakers by split."""
    return {
        "phones": list(PHONES),
        "speakers": {split: sorted({script.speaker.name for script in part}) for split, part in splits.items()},
    }
