"""ABX error of features or units: how often a phone is nearer to another phone than to itself, without any training.

Reading order: `items` (which stretches of which utterances are compared; Libri-Light's item files), `score` (cells, caps and
averages), `kernel` (compiled loops: time warping, triples). Definition: Schatz et al., Interspeech 2013; Libri-Light (arXiv
1912.07875); fastabx (arXiv 2505.02692), whose selection of frames and averages are followed.

Importing the package loads only numpy; numba is imported at the first score.
"""

from wavlm_lightning.metrics.abx.items import (
    HEADER,
    SILENCES,
    Item,
    frames_of,
    items_from_alignments,
    read_items,
    write_items,
)
from wavlm_lightning.metrics.abx.score import MOST_ITEMS, MOST_SPEAKERS, AbxScore, AbxTask

__all__ = [
    "HEADER",
    "MOST_ITEMS",
    "MOST_SPEAKERS",
    "SILENCES",
    "AbxScore",
    "AbxTask",
    "Item",
    "frames_of",
    "items_from_alignments",
    "read_items",
    "write_items",
]
