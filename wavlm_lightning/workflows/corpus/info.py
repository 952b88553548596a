"""`wavlm data info CORPUS`: hours, speakers, lengths and labels, from what is written beside the shards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # help must come at once
    from wavlm_lightning.data.corpus import Corpus, Split

FEW = 20_000
"""Utterances whose metadata is read without being asked: about a second."""
BINS = 12
WIDTH = 40


def info(corpus: Corpus, speakers: bool = False, labels: Sequence[str] = ()) -> int:
    """Print what a corpus holds.

    Args:
        corpus: which one.
        speakers: count the speakers of each split, however many files must be read for it.
        labels: names of the label sets to show; without, all there are, as far as files can be listed.

    Raises:
        UserError: there is no label set of such a name.
    """
    from wavlm_lightning.audio import SAMPLE_RATE
    from wavlm_lightning.codebooks.labels import label_head, label_sets
    from wavlm_lightning.data.remote.mirror import is_remote

    remote = is_remote(corpus.directory)
    print(f"{corpus.name} ({corpus.directory}), licence: {corpus.body['licence']}")
    every = []
    for name in corpus.splits:
        split = corpus.split(name)
        seconds = split.samples / SAMPLE_RATE
        every.append(seconds)
        voices = f"{_speakers(split)} speakers, " if speakers or (len(split) <= FEW and not remote) else ""
        low, middle, high = np.percentile(seconds, [5, 50, 95])
        print(
            f"  {name}: {len(split):,} utterances, {split.seconds / 3600:,.3f} h, {voices}{len(split.shards):,} shards; "
            f"length {seconds.min():.2f} to {seconds.max():.2f} s, 5 % {low:.2f} s, median {middle:.2f} s, "
            f"95 % {high:.2f} s"
        )
    for name, classes in corpus.inventories.items():
        if isinstance(classes, dict):
            print(f"  {name}: " + ", ".join(f"{key} {len(values)}" for key, values in classes.items()))
        else:
            print(f"  {name}: {len(classes)}")
    if remote and not labels:
        print("  frame labels: a server does not list them; name them with --labels")
    for name in labels or ([] if remote else label_sets(corpus)):
        head = label_head(corpus, name)
        print(
            f"  frame labels {name}: {head['size']} units at {head['rate']:g} a second, "
            f"codebook {head['codebook_sha256'][:12]}"
        )
    print("\n".join(histogram(np.concatenate(every))))
    return 0


def _speakers(split: Split) -> int:
    """Different speakers; one metadata at a time is held in memory."""
    voices = {shard.meta(place).get("speaker") for shard in split.shards for place in range(len(shard.keys))}
    return len(voices - {None})


def histogram(seconds: np.ndarray) -> list[str]:
    """Lines that show how utterances and hours are spread over lengths.

    Args:
        seconds: length of each utterance, `(utterances,)`.

    Returns:
        A heading and at most a dozen rows; the last takes whatever is longer.
    """
    # The longest 0.5 % would stretch the rows; the width is one that reads well.
    least = max(float(np.percentile(seconds, 99.5)) / BINS, 1e-3)
    power = 10.0 ** np.floor(np.log10(least))
    width = power * min(step for step in (1, 2, 5, 10) if step * power >= least * (1 - 1e-9))
    rows = np.minimum((seconds / width).astype(np.int64), BINS - 1)
    counts = np.bincount(rows, minlength=rows.max() + 1)
    hours = np.bincount(rows, weights=seconds / 3600, minlength=len(counts))
    lines = [f"  {'seconds':>15}  {'utterances':>12}  {'hours':>12}"]
    for row, (count, total) in enumerate(zip(counts, hours, strict=True)):
        end = max(seconds.max(), width * (row + 1)) if row == BINS - 1 else width * (row + 1)
        bar = "#" * round(WIDTH * count / counts.max())
        lines.append(f"  {width * row:6.4g} - {end:6.4g}  {count:12,}  {total:12,.3f}  {bar}".rstrip())
    return lines
