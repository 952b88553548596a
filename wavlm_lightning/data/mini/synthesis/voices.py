"""The synthetic speakers: their voices, and the split that each may appear in.

A speaker is an espeak-ng variant with its own accent, pitch, tempo and vocal-tract length. Each variant belongs to one
pool for good, near-duplicates (`steph`, `steph2`) to the same one, so that an encoder pre-trained on `train` has never
heard the voice of a test speaker. Robots, whispers, croaks and `klatt` are left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from wavlm_lightning.data.mini.seeding import generator

ACCENTS: tuple[str, ...] = ("en-US", "en", "en-GB-x-rp", "en-GB-scotland", "en-029", "en-US-nyc")

# Variant and its median pitch in Hz at espeak-ng's pitch 50 (measured by autocorrelation on one sentence).
_POOLS: dict[str, str] = {
    "train": """
        steph 184 steph2 184 steph3 184 Alicia 251 Andrea 245 f1 179 f3 210 f5 204 grandma 199 Nguyen 149
        Alex 104 Andy 96 AnxiousAndy 102 Denis 99 Gene 95 Gene2 115 Henrique 109 Jacky 114 Marco 130 Michael 107
        RicishayMax 104 RicishayMax2 100 RicishayMax3 101 Storm 85 adam 102 benjamin 102 boris 102 ed 125 grandpa 106
        ian 85 m1 94 m3 105 m5 103 m7 106 marcelo 98 michel 105 pablo 114 paul 86 quincy 90 sandro 98
    """,
    "valid": "f2 195 aunty 172 zac 350 Diogo 105 Reed 116 m2 101 m8 86 david 75 norbert 101 travis 104 Mario 108",
    "test": """
        linda 230 belinda 230 Annie 232 anika 266 f4 179 shelby 179
        Hugo 110 Lee 96 Mike 90 mike2 91 Tweaky 101 announcer 67 antonio 111 edward 102 edward2 102 gustave 108 john 101
        kaukovalta 101 m4 94 m6 101 max 102 miguel 111 pedro 103 rob 110 robert 100 victor 95
    """,
}


def _variants(pool: str) -> dict[str, float]:
    fields = _POOLS[pool].split()
    return dict(zip(fields[::2], map(float, fields[1::2]), strict=True))


VARIANTS: dict[str, dict[str, float]] = {pool: _variants(pool) for pool in _POOLS}
_MEDIAN_PITCH = {variant: hertz for pool in VARIANTS.values() for variant, hertz in pool.items()}
_HIGH_PITCH = 145.0


@dataclass(frozen=True)
class Speaker:
    """One voice; pitch, pitch range and tract are as in `speech.SpeechRequest`."""

    name: str  # unique over all data sets
    variant: str  # voice variant of espeak-ng
    accent: str  # language file of espeak-ng
    pitch: float
    pitch_range: float
    rate: float  # words a minute
    tract: float

    @property
    def pitch_class(self) -> str:
        """`low` or `high`: the side of 145 Hz on which the median pitch lies."""
        # Around 50, a step of espeak-ng's pitch parameter changes the base pitch by about 1 %.
        return "high" if _MEDIAN_PITCH[self.variant] * self.tract * 1.01 ** (self.pitch - 50) > _HIGH_PITCH else "low"

    @property
    def labels(self) -> dict[str, str]:
        """The speaker's part of an utterance's metadata."""
        return {"speaker": self.name, "accent": self.accent, "variant": self.variant, "pitch_class": self.pitch_class}


def speakers(pool: str, prefix: str, count: int, seed: int, variants: Sequence[str] | None = None) -> list[Speaker]:
    """Draw the speakers of one group of a pool (`train`, `valid`, `test`), named `prefix000`, `prefix001`, ...

    The first n of a larger group are the group of n. Beyond the number of variants, variants recur with another accent
    and pitch; `variants` restricts them, for groups that must not share any. Neighbours (0 and 1, 2 and 3, ...) share
    accent and, where the variants allow, pitch class: they are hard impostors for each other.
    """
    allowed = VARIANTS[pool] if variants is None else {v: VARIANTS[pool][v] for v in variants}
    table: list[Speaker] = []
    cycle = 0
    while len(table) < count:
        rng = generator(seed, "voices", prefix, cycle)
        # Interleave high and low pairs, so that a small group has both.
        high = [str(v) for v in rng.permutation([v for v in allowed if allowed[v] > _HIGH_PITCH])]
        low = [str(v) for v in rng.permutation([v for v in allowed if allowed[v] <= _HIGH_PITCH])]
        order: list[str] = []
        while high or low:
            order += [*low[:2], *high[:2]]
            low, high = low[2:], high[2:]
        for variant in order:
            rng = generator(seed, "voices", prefix, cycle, variant)
            accent = ACCENTS[(len(table) // 2 + cycle) % len(ACCENTS)]
            low_tract, high_tract = (0.88, 1.05) if allowed[variant] > 300 else (0.86, 1.16)
            table.append(
                Speaker(
                    name=f"{prefix}{len(table):03d}",
                    variant=variant,
                    accent=accent,
                    pitch=rng.uniform(35, 65),
                    pitch_range=rng.uniform(35, 70),
                    rate=rng.uniform(157, 200),
                    tract=rng.uniform(low_tract, high_tract),
                )
            )
        cycle += 1
    # Give neighbours a similar pitch parameter too, which makes them harder impostors.
    for index in range(1, count, 2):
        near = generator(seed, "voices", prefix, index, "near").uniform(-8, 8)
        table[index] = replace(table[index], pitch=table[index - 1].pitch + near)
    return table[:count]
