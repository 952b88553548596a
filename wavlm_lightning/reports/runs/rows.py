"""What the rows of a report are called: the labels of its upstreams, told apart or put together where needed."""

import re
from collections.abc import Iterable

from wavlm_lightning.reports.cards import ResultCard

SEED = re.compile(r"[-_ ]?\d+$")


def weights_of(card: ResultCard) -> str:
    """What tells encoders of one label apart: their sha256; spectral features with other options stay one upstream."""
    return card.upstream["sha256"] if card.upstream["parameters"] else ""


def row_names(
    cards: Iterable[ResultCard], problems: list[str], group_seeds: bool = False
) -> dict[tuple[str, str], str]:
    """(label, `weights_of`) of each upstream -> the name of its row.

    Args:
        cards: the results.
        problems: gets a sentence where names hide something.
        group_seeds: labels that differ only by a number at the end ("full-0", "full-1") share a row, and so do
            different weights of one label.
    """
    hashes: dict[str, list[str]] = {}
    for card in cards:
        known = hashes.setdefault(card.upstream["label"], [])
        if weights_of(card) not in known:
            known.append(weights_of(card))
    stems = seed_stems(hashes)
    if group_seeds:
        return {(label, sha): stems[label] for label, some in hashes.items() for sha in some}
    for label, some in hashes.items():
        if len(some) > 1:
            problems.append(
                f"{label} names {len(some)} encoders with different weights, so each has a row of its own; "
                "`--group-seeds` takes them for seeds of one."
            )
    alike = [label for label, stem in stems.items() if label != stem]
    if alike:
        problems.append(
            f"{', '.join(alike[:2])} and {len(alike) - 2} more labels end in a number; `--group-seeds` takes those that "
            "differ in nothing else for seeds of one upstream and shows their mean."
            if len(alike) > 2
            else f"{' and '.join(alike)} differ by a number alone; `--group-seeds` takes them for seeds of one upstream."
        )
    return {
        (label, sha): f"{label} ({sha[:6] or 'no weights'})" if len(some) > 1 else label
        for label, some in hashes.items()
        for sha in some
    }


def seed_stems(labels: Iterable[str]) -> dict[str, str]:
    """Label -> the label without the number at its end, if another one differs from it by that number alone."""
    labels = list(labels)
    stems = {label: SEED.sub("", label) or label for label in labels}
    counts: dict[str, int] = {}
    for stem in stems.values():
        counts[stem] = counts.get(stem, 0) + 1
    return {label: stem if counts[stem] > 1 else label for label, stem in stems.items()}
