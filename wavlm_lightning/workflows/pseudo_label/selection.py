"""Which transcripts of a teacher become pseudo-labels: by share or threshold of a score; their errors where truth exists."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from wavlm_lightning.tasks.components.confidence import LengthNormalisation, Scores, as_record
from wavlm_lightning.workflows.pseudo_label.hearing import Hearing, true_text

SHARE = 0.7  # of the first round; a choice, as no paper states it


class Candidate(NamedTuple):
    """A usable transcript."""

    split: str
    shard: int
    place: int
    key: str
    text: str
    scores: dict[str, float]
    tokens: int
    errors: int | None
    units: int

    def order(self, score: str) -> tuple[float, str, str]:
        """The best first, equal ones by key."""
        return (-self.scores[score], self.key, self.split)


def chosen(
    candidates: Sequence[Candidate], score: str, share: float | None, threshold: float | None
) -> tuple[list[Candidate], list[Candidate]]:
    """All candidates, best first, and those that are selected."""
    ordered = sorted(candidates, key=lambda each: each.order(score))
    if threshold is not None:
        return ordered, [each for each in ordered if each.scores[score] >= threshold]
    count = max(1, round((SHARE if share is None else share) * len(ordered))) if ordered else 0
    return ordered, ordered[:count]


def error_rate(candidates: Sequence[Candidate], missed: int = 0) -> float | None:
    """Wrong words or phones in percent of the true ones, over the transcripts with true ones; None if none has.

    `missed` are words of further utterances in which nothing was heard: each is a deletion.
    """
    known = [each for each in candidates if each.errors is not None]
    units = missed + sum(each.units for each in known)
    return round(100 * (missed + sum(each.errors or 0 for each in known)) / units, 4) if units else None


def usable(hearing: Hearing, normalisation: LengthNormalisation | None) -> tuple[list[Candidate], Counter[str], int]:
    """The usable transcripts, why the others are not, and how many true words or phones the empty ones have missed."""
    found: list[Candidate] = []
    counts: Counter[str] = Counter()
    missed = 0
    for split, number in hearing.places:
        rows = hearing.rows(split, number)
        assert rows is not None, "every shard has been heard"
        for place, row in enumerate(rows):
            counts[row.get("why", "usable")] += 1
            if row.get("why") == "empty":
                meta = hearing.corpus.split(split).shards[number].meta(place)
                missed += len((true_text(hearing.teacher.task, meta) or "").split())
            if "why" in row:
                continue
            scores = Scores(*(row[name] for name in Scores._fields))
            truth = row.get("errors"), row.get("units", 0)
            record = as_record(scores, normalisation)
            found.append(Candidate(split, number, place, row["key"], row["text"], record, scores.tokens, *truth))
    return found, counts, missed
