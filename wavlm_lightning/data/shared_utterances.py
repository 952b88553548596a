"""Which utterances two corpora share, by their keys; and which splits are held out from training, by their names."""

from __future__ import annotations

from collections.abc import Sequence

from wavlm_lightning.audio import SAMPLE_RATE
from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.system.errors import UserError

HELD_OUT = ("valid", "dev", "test", "eval")  # beginnings of the names of splits that nothing may be trained on
TOLERANCE = 0.1  # seconds by which two copies of a recording may differ: decoders and resamplers round


def training_splits(corpus: Corpus) -> list[str]:
    """The splits of a corpus whose names are not those of validation and test."""
    return [name for name in corpus.splits if not name.startswith(HELD_OUT)]


def shared_keys(corpus: Corpus, splits: Sequence[str], other: Corpus, option: str) -> set[str]:
    """Keys of the utterances in `splits` of a corpus that another corpus has in any of its splits.

    Args:
        corpus: whose utterances.
        splits: of `corpus`.
        other: the other corpus.
        option: that names the other corpus, for the message.

    Raises:
        UserError: one of them lasts longer or shorter there, so that it is another recording of the same name.
    """
    lengths: dict[str, int] = {}
    for name in other.splits:
        there = other.split(name)
        lengths |= dict(zip(there.keys, there.samples.tolist(), strict=True))
    found: set[str] = set()
    for name in splits:
        here = corpus.split(name)
        for key, samples in zip(here.keys, here.samples.tolist(), strict=True):
            if key not in lengths:
                continue
            if abs(samples - lengths[key]) > TOLERANCE * SAMPLE_RATE:
                raise UserError(
                    f"{option} {other.directory}: its utterance {key!r} lasts {lengths[key] / SAMPLE_RATE:.2f} s, and that of "
                    f"{corpus.directory} {samples / SAMPLE_RATE:.2f} s, so they are two recordings of one name; prepare one "
                    "corpus from files of other names"
                )
            found.add(key)
    return found
