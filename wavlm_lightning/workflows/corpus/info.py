"""Describe a corpus: hours, speakers, lengths and labels, from the indices and metadata beside the shards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from wavlm_lightning.audio import SAMPLE_RATE
from wavlm_lightning.codebooks.labels import label_head, label_sets
from wavlm_lightning.data.alignments import OWN, AlignmentSet
from wavlm_lightning.data.alignments.alignment_set import Coverage, alignment_sets
from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.data.label_sets import COLUMNS
from wavlm_lightning.data.remote.mirror import is_remote
from wavlm_lightning.data.split import Split

FEW = 20_000  # largest split whose speakers are counted by default; reading that metadata takes about a second
NO_CLASSES = {"text", "file", "id", "split"}
COMMONEST = 10  # classes of a field that are shown
BINS = 12
WIDTH = 40


def info(corpus: Corpus | Path | str, speakers: bool = False, labels: Sequence[str] = ()) -> list[str]:
    """Lines of text that describe a corpus.

    Args:
        corpus: folder or URL.
        speakers: count the speakers of large splits, too, which reads the metadata of every utterance.
        labels: names of the label sets to show; all sets in the folder by default.

    Raises:
        UserError: there is no label set of such a name.
    """
    corpus = corpus if isinstance(corpus, Corpus) else Corpus.open(corpus)
    remote = is_remote(corpus.directory)
    lines = [f"{corpus.name} ({corpus.directory}), licence: {corpus.body['licence']}"]
    every = []
    classes = Classes()
    for name in corpus.splits:
        split = corpus.split(name)
        seconds = split.samples / SAMPLE_RATE
        every.append(seconds)
        voices = ""
        if speakers or (len(split) <= FEW and not remote):
            voices = f"{classes.add(split)} speakers, "
        low, middle, high = np.percentile(seconds, [5, 50, 95])
        lines.append(
            f"  {name}: {len(split):,} utterances, {split.seconds / 3600:,.3f} h, {voices}{len(split.shards):,} shards; "
            f"length {seconds.min():.2f} to {seconds.max():.2f} s, 5 % {low:.2f} s, median {middle:.2f} s, "
            f"95 % {high:.2f} s"
            + (f"; further audio: {', '.join(further)}" if (further := split.audio_members) else "")
        )
    for name, known in corpus.inventories.items():
        if isinstance(known, dict):
            lines.append(f"  {name}: " + ", ".join(f"{key} {len(values)}" for key, values in known.items()))
        else:
            lines.append(f"  {name}: {len(known)}")
    lines += classes.lines()
    if remote and not labels:
        lines.append("  frame labels: a server does not list them; name them with --labels")
    for name in labels or ([] if remote else label_sets(corpus)):
        head = label_head(corpus, name)
        lines.append(
            f"  frame labels {name}: {head['size']} units at {head['rate']:g} a second, "
            f"codebook {head['codebook_sha256'][:12]}"
        )
    if not remote:  # they are read from a folder; the times of the corpus itself are part of its metadata
        lines += [_alignments(AlignmentSet.open(corpus, name)) for name in alignment_sets(corpus) if name != OWN]
    return lines + histogram(np.concatenate(every))


def _alignments(times: AlignmentSet) -> str:
    """The line of a set of alignments."""
    of = Coverage.sum(map(times.coverage, times.splits))
    aligned = (
        f"{of.aligned:,} of {of.utterances:,} utterances of {', '.join(times.splits)} ({of.seconds / 3600:,.3f} h)"
    )
    return f"  alignments {times.name}: {times.about['kind']}, {aligned}, {len(times.inventory)} phones"


class Classes:
    """Counts the values of the metadata fields that sort utterances into classes."""

    def __init__(self) -> None:
        self.counts: dict[str, Counter[str]] = {}
        self.utterances = 0

    def add(self, split: Split) -> int:
        """Count the utterances of a split; returns its number of speakers."""
        voices = set()
        for shard in split.shards:
            for place in range(len(shard.keys)):
                meta = shard.meta(place)
                voices.add(meta.get("speaker"))
                slots = meta.get("intent")
                fields = {f"intent {slot}": value for slot, value in slots.items()} if isinstance(slots, dict) else {}
                for name, value in {**meta, **fields}.items():
                    if isinstance(value, str) and value and name not in NO_CLASSES:
                        self.counts.setdefault(name, Counter())[value] += 1
        self.utterances += len(split)
        return len(voices - {None})

    def lines(self) -> list[str]:
        """For each field its classes, the commonest first; a field with a value of its own for most utterances is none."""
        lines = []
        for name, counts in sorted(self.counts.items()):
            if name not in COLUMNS.values() and 2 * len(counts) > counts.total():
                continue
            shown = ", ".join(f"{value} {count}" for value, count in counts.most_common(COMMONEST))
            more = f", and {len(counts) - COMMONEST} more" if len(counts) > COMMONEST else ""
            without = self.utterances - counts.total()
            lines.append(f"  classes of {name}: {shown}{more}" + (f"; {without} utterances without" if without else ""))
        return lines


def histogram(seconds: np.ndarray) -> list[str]:
    """Lines of a histogram of utterance lengths `(utterances,)`: a heading and at most a dozen rows.

    The last row includes all longer utterances.
    """
    # The longest 0.5 % would stretch the rows. The width is 1, 2 or 5 times a power of ten.
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
