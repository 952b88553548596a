"""What a head has heard in a test, beside the card: `transcripts/` with references, answers and speakers, for `wavlm score`."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from wavlm_lightning.metrics.alignment import aligned, total
from wavlm_lightning.system.files import finish_replacing, replace_folder

FOLDER = "transcripts"  # in the run folder
REFERENCE, SPEAKERS = "reference.txt", "utt2spk"


@dataclass(frozen=True)
class Transcripts:
    """References and answers of a test, in the order of the split.

    Attributes:
        keys: of the utterances.
        references: words or phones separated by blanks.
        answers: by metric (`wer`, `wer_lm`), one for each utterance.
        speakers: of each utterance; None where the corpus does not name them.
    """

    keys: Sequence[str]
    references: Sequence[str]
    answers: Mapping[str, Sequence[str]]
    speakers: Sequence[object]

    def errors(self, metric: str, unit: str) -> dict[str, int]:
        """Units of all references, and substitutions, deletions and insertions of the answers of a metric."""
        pairs = zip(self.references, self.answers[metric], strict=True)
        found = total(aligned(one.split(), other.split()).edits for one, other in pairs)
        return {
            unit: found.units,
            "substitutions": found.substitutions,
            "deletions": found.deletions,
            "insertions": found.insertions,
        }

    def rates_by(self, groups: Sequence[str], units: Mapping[str, str]) -> dict[str, dict[str, float]]:
        """Error rates of the utterances of each group, in the order in which groups first occur.

        Args:
            groups: the group of each utterance.
            units: metric -> what it counts: `letters` (of the first answers), or whatever blanks separate. Every further answer
                (`wer_lm`) is counted like the first.

        Returns:
            Group -> `utterances`, the number of units of the first metric, and the rates as fractions.
        """
        first, unit = next(iter(units.items()))
        columns = {**units, **{name: unit for name in self.answers if name not in units}}
        counts = {
            name: self.counts(name if name in self.answers else first, "letters" if of == "letters" else "words")
            for name, of in columns.items()
        }
        found: dict[str, dict[str, float]] = {}
        for group in dict.fromkeys(groups):
            rows = [row for row, other in enumerate(groups) if other == group]
            sums = {name: [sum(column[row] for row in rows) for column in both] for name, both in counts.items()}
            rates = {name: round(errors / max(total, 1), 6) for name, (errors, total) in sums.items()}
            found[group] = {"utterances": len(rows), unit: sums[first][1], **rates}
        return found

    def counts(self, metric: str, unit: Literal["words", "letters"]) -> tuple[list[int], list[int]]:
        """Errors of each answer of a metric, and units of its reference."""
        split: Callable[[str], list[str]] = list if unit == "letters" else str.split
        pairs = zip(self.references, self.answers[metric], strict=True)
        found = [aligned(split(one), split(other)).edits for one, other in pairs]
        return [each.errors for each in found], [each.units for each in found]


def write_transcripts(run: Path, transcripts: Transcripts | None) -> None:
    """Replace `RUN/transcripts`: Kaldi's `text` for references and answers (`wer.txt`), and `utt2spk`; without any, remove it.

    Keys lose their white space, which separates them from the text.
    """
    place, fresh = run / FOLDER, run / f"{FOLDER}.part"
    shutil.rmtree(fresh, ignore_errors=True)  # of a process that was killed
    if transcripts is None:
        shutil.rmtree(place, ignore_errors=True)
        return
    fresh.mkdir(parents=True)
    names = ["_".join(key.split()) for key in transcripts.keys]
    columns = {REFERENCE: transcripts.references, **{f"{name}.txt": rows for name, rows in transcripts.answers.items()}}
    if all(speaker is not None for speaker in transcripts.speakers):
        columns[SPEAKERS] = ["_".join(str(speaker).split()) for speaker in transcripts.speakers]
    for name, rows in columns.items():
        lines = (f"{key} {row}".rstrip() + "\n" for key, row in zip(names, rows, strict=True))
        (fresh / name).write_text("".join(lines), encoding="utf-8")
    replace_folder(fresh, place)


def transcript_files(run: Path) -> tuple[Path, list[Path], Path | None]:
    """The references of a run's test, its answers (with a language model first), and its speakers if they are known.

    All are absent, `[]` for the answers, if the run was not tested or has no transcripts.
    """
    place = run / FOLDER
    finish_replacing(place)
    answers = sorted(
        (path for path in place.glob("*.txt") if path.name != REFERENCE), key=lambda path: "_lm" not in path.stem
    )
    speakers = place / SPEAKERS
    return place / REFERENCE, answers, speakers if speakers.is_file() else None
