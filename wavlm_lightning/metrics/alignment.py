"""Alignment of two sequences of words, phones or letters: kinds of errors, confusions, lines that people can read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, cast

SEPARATOR = "\x1f"  # in no unit
Kind = Literal["equal", "substitute", "delete", "insert"]
MARKS = {"equal": "", "substitute": "S", "delete": "D", "insert": "I"}


class Edits(NamedTuple):
    """Errors of answers against references of some units."""

    units: int = 0
    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0

    @property
    def errors(self) -> int:
        return self.substitutions + self.deletions + self.insertions


def total(edits: Iterable[Edits]) -> Edits:
    """The sum of all counts."""
    columns = list(zip(*edits, strict=True))
    return Edits(*map(sum, columns)) if columns else Edits()


@dataclass(frozen=True)
class Alignment:
    """The units of a reference and an answer side by side.

    Attributes:
        steps: kind, unit of the reference (empty for an insertion), unit of the answer (empty for a deletion).
    """

    steps: Sequence[tuple[Kind, str, str]]

    @property
    def edits(self) -> Edits:
        counts = Counter(kind for kind, _, _ in self.steps)
        units = len(self.steps) - counts["insert"]
        return Edits(units, counts["substitute"], counts["delete"], counts["insert"])

    @property
    def confusions(self) -> Counter[tuple[str, str]]:
        """Number of each pair of a wrong unit and what stands in its place; one of them is empty without a counterpart."""
        return Counter((one, other) for kind, one, other in self.steps if kind != "equal")

    def lines(self, width: int = 100) -> list[str]:
        """Lines REF, HYP and EVAL, the units below each other; `*` stands where one has nothing, S, D and I mark errors."""
        found: list[str] = []
        rows: list[list[str]] = [[], [], []]
        used = 0
        for kind, one, other in self.steps:
            longest = max(len(one), len(other))
            cells = (one or "*" * longest, other or "*" * longest, MARKS[kind])
            if used + longest + 1 > width and rows[0]:
                found += _labelled(rows)
                rows, used = [[], [], []], 0
            for row, cell in zip(rows, cells, strict=True):
                row.append(cell.ljust(longest))
            used += longest + 1
        return found + _labelled(rows)


def _labelled(rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"{name:<5} {' '.join(row)}".rstrip() for name, row in zip(("REF:", "HYP:", "EVAL:"), rows, strict=True)]


def aligned(reference: Sequence[str], answer: Sequence[str]) -> Alignment:
    """Align an answer with a reference at the least number of edits, by jiwer.

    Example:
        >>> aligned("THE CAT SAT".split(), "A CAT".split()).edits
        Edits(units=3, substitutions=1, deletions=1, insertions=0)
    """
    if not reference:  # which jiwer refuses
        return Alignment([("insert", "", unit) for unit in answer])
    import jiwer

    units = jiwer.Compose([jiwer.ReduceToListOfListOfWords(word_delimiter=SEPARATOR)])
    made = jiwer.process_words(SEPARATOR.join(reference), SEPARATOR.join(answer), units, units)
    steps: list[tuple[Kind, str, str]] = []
    for chunk in made.alignments[0]:
        theirs = reference[chunk.ref_start_idx : chunk.ref_end_idx]
        ours = answer[chunk.hyp_start_idx : chunk.hyp_end_idx]
        for place in range(max(len(theirs), len(ours))):
            one = theirs[place] if chunk.type != "insert" else ""
            other = ours[place] if chunk.type != "delete" else ""
            steps.append((cast(Kind, chunk.type), one, other))
    return Alignment(steps)
