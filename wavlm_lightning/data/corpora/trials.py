"""Random trials (pairs of utterances) for speaker verification, for corpora without an official list."""

from __future__ import annotations

import random
from math import comb

Trial = tuple[int, str, str]


def draw_trials(by_speaker: dict[str, list[str]], count: int, most_speakers: int, seed: int = 1337) -> list[Trial]:
    """Draw pairs of utterances without repetition, target and impostor alternately, as (1 same speaker or 0, key, key).

    Like the development list of s3prl (`downstream/sv_voxceleb1/dev_meta_data`: 20,000 pairs of 40 training speakers,
    half of them target), which is not part of VoxCeleb. Fewer than `count` are returned if either kind has too few.

    Example:
        >>> sorted(same for same, _, _ in draw_trials({"a": ["a1", "a2"], "b": ["b1", "b2"]}, 4, 2))
        [0, 0, 1, 1]
    """
    rng = random.Random(seed)
    names = sorted(by_speaker)
    speakers = sorted(rng.sample(names, min(most_speakers, len(names))))
    keys = {speaker: sorted(by_speaker[speaker]) for speaker in speakers}
    repeated = [speaker for speaker in speakers if len(keys[speaker]) > 1]
    total = sum(map(len, keys.values()))
    targets = sum(comb(len(keys[speaker]), 2) for speaker in speakers)
    each = min(count // 2, targets, comb(total, 2) - targets)
    seen: set[frozenset[str]] = set()
    trials: list[Trial] = []

    def add(same: int) -> None:
        while True:
            if same:
                one, other = rng.sample(keys[rng.choice(repeated)], 2)
            else:
                one, other = (rng.choice(keys[speaker]) for speaker in rng.sample(speakers, 2))
            if frozenset((one, other)) not in seen:
                break
        seen.add(frozenset((one, other)))
        trials.append((same, one, other))

    for _ in range(each):
        add(1)
        add(0)
    return trials
