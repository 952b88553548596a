"""Speaker tasks: `sid` (identification in a closed set) and `sv` (verification of pairs of unseen speakers)."""

from itertools import combinations

from wavlm_lightning.data.mini import grammar
from wavlm_lightning.data.mini.effects import Conditions
from wavlm_lightning.data.mini.plans import SPLITS, Plan, Size, Trial
from wavlm_lightning.data.mini.readings import inventory, sentences
from wavlm_lightning.data.mini.scripted_utterance import Jitter, ScriptedUtterance
from wavlm_lightning.data.mini.seeding import generator
from wavlm_lightning.data.mini.synthesis.voices import Speaker, speakers

# Synthetic speakers are far more consistent than people. With these values FBANK identifies about 68 % of 60 speakers.
_VARIED = Jitter(pitch=10.0, rate=0.15, tract=0.03)
_SPOILT = Conditions(room=0.7, noise=0.8, snr=(5.0, 25.0))


def _utterances(dataset: str, split: str, group: list[Speaker], each: int, seed: int) -> list[ScriptedUtterance]:
    texts = sentences((dataset, split), split, each * len(group), seed)
    return [
        ScriptedUtterance(
            key=f"{dataset}-{split}-{speaker.name}-{i:02d}",
            speaker=speaker,
            text=grammar.written([texts[number * each + i]]),
            origin=(dataset, split),
            conditions=_SPOILT,
            jitter=_VARIED,
        )
        for i in range(each)
        for number, speaker in enumerate(group)
    ]


def sid(size: Size, seed: int) -> Plan:
    """Plan a closed set of speakers, with variants that `pretrain` never uses.

    Every split has sentences and rooms of its own.
    """
    group = speakers("test", "sid", size.sid_speakers, seed)
    splits = {split: _utterances("sid", split, group, n, seed) for split, n in zip(SPLITS, size.sid, strict=True)}
    return Plan(splits, {**inventory(splits), "speakers": [speaker.name for speaker in group]})


def sv(size: Size, seed: int) -> Plan:
    """Plan unseen speakers in valid and test, and trials: half of them target, a quarter hard impostors."""
    splits: dict[str, list[ScriptedUtterance]] = {}
    for split, each, group_size in zip(SPLITS, size.sv, size.sv_speakers, strict=True):
        group = speakers(split, f"sv-{split}", group_size, seed)
        splits[split] = _utterances("sv", split, group, each, seed)
    trials = {s: pairs(splits[s], count, seed, s) for s, count in zip(SPLITS[1:], size.sv_trials, strict=True)}
    return Plan(splits, inventory(splits), trials)


def pairs(utterances: list[ScriptedUtterance], count: int, seed: int, split: str) -> list[Trial]:
    """`count` trials without repetition, or fewer if there are too few pairs.

    Half are target pairs; half of the others pair speakers of one accent and pitch class, as far as there are any.
    """
    same, hard, easy = [], [], []
    for a, b in combinations(utterances, 2):
        one, other = a.speaker, b.speaker
        if one.name == other.name:
            same.append((1, a.key, b.key))
        elif (one.accent, one.pitch_class) == (other.accent, other.pitch_class):
            hard.append((0, a.key, b.key))
        else:
            easy.append((0, a.key, b.key))
    rng = generator(seed, "sv", split, "trials")

    def draw(pool: list[Trial], wanted: int) -> list[Trial]:
        return [pool[int(i)] for i in rng.permutation(len(pool))[:wanted]]

    targets = draw(same, min(count // 2, len(same), len(hard) + len(easy)))
    chosen_hard = draw(hard, len(hard))
    wanted = max(len(targets) // 2, len(targets) - len(easy))
    impostors = chosen_hard[:wanted]
    impostors += draw(easy, len(targets) - len(impostors))
    mixed = [*targets, *impostors]
    return draw(mixed, len(mixed))
