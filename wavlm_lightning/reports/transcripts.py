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
        conditions: under which each was recorded (accent, noise), `condition` in the corpus; empty if it names none.
    """

    keys: Sequence[str]
    references: Sequence[str]
    answers: Mapping[str, Sequence[str]]
    speakers: Sequence[object]
    conditions: Sequence[str] = ()

    def of_condition(self, condition: str) -> Transcripts:
        """The part of one condition."""
        kept = [place for place, found in enumerate(self.conditions) if found == condition]
        answers = {metric: [texts[place] for place in kept] for metric, texts in self.answers.items()}
        columns = [[column[place] for place in kept] for column in (self.keys, self.references, self.speakers)]
        return Transcripts(columns[0], columns[1], answers, columns[2], (condition,) * len(kept))

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

    def by_condition(self, unit: str, letters: bool) -> dict[str, dict[str, float]]:
        """Utterances, reference units and error rates in percent of each condition; empty if the corpus names none.

        Args:
            unit: what the answers' metrics count, in the plural.
            letters: add the character error rate of the first metric, as `cer`.
        """
        found: dict[str, dict[str, float]] = {}
        for condition in dict.fromkeys(self.conditions):
            part = self.of_condition(condition)
            counts = {metric: part.counts(metric, "words") for metric in part.answers}
            if letters:
                counts["cer"] = part.counts(next(iter(part.answers)), "letters")
            found[condition] = {"utterances": len(part.keys), unit: sum(next(iter(counts.values()))[1])}
            for metric, (errors, units) in counts.items():
                found[condition][metric] = round(100 * sum(errors) / max(sum(units), 1), 4)
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
